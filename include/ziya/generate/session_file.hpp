// SPDX-License-Identifier: Apache-2.0
// A conversation in a file, and what tells the model that it belongs to.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/generate/conversation.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/writer.hpp"
#include "ziya/model/sampled_fingerprint.hpp"

ZIYA_NAMESPACE_BEGIN

/// A saved conversation. The cache is not in it: it is computed again.
struct SessionFile {
  static constexpr std::string_view format = "ziya-session";
  static constexpr std::int64_t version = 1;
  static constexpr JsonLimits limits{.bytes = std::int64_t{64} << 20, .depth = 8};

  std::string model;       ///< sampled_fingerprint
  std::uint64_t seed = 0;  ///< of the next answer
  nlohmann::json conversation;

  [[nodiscard]] std::string text() const {
    nlohmann::json json;
    json["format"] = std::string(format);
    json["version"] = version;
    json["model"] = model;
    json["seed"] = seed;
    json["conversation"] = conversation;
    return json.dump() + "\n";
  }
  /// @throws FormatError ZIYA-230, 231; ZIYA-582 when it is no session, or of a later version
  static SessionFile parse(std::string_view text, const std::string& source) {
    const nlohmann::json json = parse_json(text, source, limits);
    if (json_get<std::string>(json, "format", source) != format) {
      throw FormatError("ZIYA-582", source + ": is no saved session");
    }
    const auto found = json_get<std::int64_t>(json, "version", source);
    if (found != version) {
      throw FormatError("ZIYA-582", source + ": is of version " + std::to_string(found) +
                                        ", expected " + std::to_string(version));
    }
    const nlohmann::json* conversation = json_find(json, "conversation");
    if (conversation == nullptr || !conversation->is_object()) {
      throw FormatError("ZIYA-582", source + ": holds no conversation");
    }
    return {json_get<std::string>(json, "model", source),
            json_get<std::uint64_t>(json, "seed", source), *conversation};
  }

  /// The file appears when it is complete. @throws IoError
  void write(const std::filesystem::path& path) const { write_text_file(path, text()); }
  /// @throws IoError, FormatError
  static SessionFile read(const std::filesystem::path& path) {
    return parse(read_text_file(path, limits.bytes), utf8_from_path(path));
  }
};

ZIYA_NAMESPACE_END
