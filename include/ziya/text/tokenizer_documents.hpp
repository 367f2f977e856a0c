// SPDX-License-Identifier: Apache-2.0
// The JSON files beside a tokenizer.model, and how they spell a token.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <system_error>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/text/added_tokens.hpp"

ZIYA_NAMESPACE_BEGIN

/// One JSON file; `json` is null where the file is absent.
struct TokenizerDocument {
  std::string name;  ///< with its folder, for messages
  nlohmann::json json;

  /// @throws FormatError ZIYA-230 when it is no JSON, ZIYA-303 when it is no object
  static TokenizerDocument parse(const std::string& name, std::string_view text) {
    TokenizerDocument result{name, parse_json(text, name)};
    if (!result.json.is_object()) {
      result.refuse(std::string("is ") + result.json.type_name() + ", expected an object");
    }
    return result;
  }
  /// The same from a file that may be absent. @throws IoError
  static TokenizerDocument read(const std::filesystem::path& path) {
    std::error_code ignored;
    const bool exists = std::filesystem::exists(path, ignored);
    return exists ? parse(utf8_from_path(path), read_text_file(path))
                  : TokenizerDocument{utf8_from_path(path), nullptr};
  }

  /// The value of `key`, or null when it is absent or the document says null.
  [[nodiscard]] const nlohmann::json* find(const std::string& key) const {
    const nlohmann::json* found = json_find(json, key);
    return found == nullptr || found->is_null() ? nullptr : found;
  }
  [[noreturn]] void refuse(const std::string& why) const {
    throw FormatError("ZIYA-303", name + ": " + why);
  }
};

/// A token as a document spells it: a plain string, or an object with `content` and flags.
struct TokenSpelling {
  std::string content;
  bool plain = true;
  Stripping strips;  ///< false, false for a plain string
  bool single_word = false;
  bool special = false;

  /// @throws FormatError ZIYA-231, ZIYA-303
  static TokenSpelling read(const nlohmann::json& value, const TokenizerDocument& document) {
    TokenSpelling result;
    if (value.is_string()) {
      result.content = value.get<std::string>();
      return result;
    }
    if (!value.is_object()) {
      document.refuse("a token is " + value.dump(-1, ' ', true).substr(0, 40) +
                      ", expected a string or an object");
    }
    const auto flag = [&](const char* key) {
      return json_get<bool>(value, key, document.name, false);
    };
    result.content = json_get<std::string>(value, "content", document.name);
    result.plain = false;
    result.strips = {flag("lstrip"), flag("rstrip")};
    result.single_word = flag("single_word");
    result.special = flag("special");
    return result;
  }
};

/// All documents of one folder.
struct TokenizerDocuments {
  TokenizerDocument added_tokens;        ///< added_tokens.json: token → id
  TokenizerDocument tokenizer_config;    ///< tokenizer_config.json
  TokenizerDocument special_tokens_map;  ///< special_tokens_map.json

  static TokenizerDocuments read(const std::filesystem::path& folder) {
    return {TokenizerDocument::read(folder / "added_tokens.json"),
            TokenizerDocument::read(folder / "tokenizer_config.json"),
            TokenizerDocument::read(folder / "special_tokens_map.json")};
  }
  /// The same from texts by file name; those that are not there are absent.
  static TokenizerDocuments parse(const std::map<std::string, std::string>& files,
                                  const std::string& source) {
    const auto document = [&](const char* file) {
      const std::string name = source + ": " + file;
      const auto found = files.find(file);
      return found == files.end() ? TokenizerDocument{name, nullptr}
                                  : TokenizerDocument::parse(name, found->second);
    };
    return {document("added_tokens.json"), document("tokenizer_config.json"),
            document("special_tokens_map.json")};
  }
};

ZIYA_NAMESPACE_END
