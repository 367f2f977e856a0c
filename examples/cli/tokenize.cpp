// SPDX-License-Identifier: Apache-2.0
// `ziya tokenize`: text to ids, or ids to text.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "commands.hpp"
#include "input.hpp"
#include "json_text.hpp"
#include "terminal.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/text/tokenizer.hpp"
#include "ziya/text/whitespace.hpp"

namespace cli {
namespace {

ziya::TokenizerMode mode_from_name(const std::string& name) {
  if (name == "transformers") return ziya::TokenizerMode::transformers;
  if (name == "plain") return ziya::TokenizerMode::plain;
  return ziya::TokenizerMode::legacy;
}

/// "1,2,3", with blanks and as a JSON list too; nothing is no id.
std::vector<std::int32_t> ids_from_text(const std::string& text) {
  const std::string_view list = ziya::strip(text);
  const auto refuse = [&]() -> UsageError {
    return {"ZIYA-701", "--decode " + printable(text) + ": expected ids, for example 1,2,3"};
  };
  nlohmann::json json;
  try {
    json = ziya::parse_json(
        list.starts_with("[") ? std::string(list) : "[" + std::string(list) + "]", "--decode");
  } catch (const ziya::FormatError&) {
    throw refuse();
  }
  std::vector<std::int32_t> ids;
  for (const nlohmann::json& id : json) {
    if (!ziya::json_is<std::int32_t>(id)) throw refuse();
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

}  // namespace

int run(const TokenizeOptions& options) {
  const auto folder = ziya::resolve_model_folder(ziya::path_from_utf8(options.model));
  const ziya::Tokenizer tokenizer = ziya::Tokenizer::load(folder);
  if (options.decode) {
    print(JsonObject().add("text", tokenizer.decode(ids_from_text(*options.decode))).line());
    return 0;
  }
  const std::string text = options.text
                               ? *options.text
                               : read_input(options.text_file.empty() ? "-" : options.text_file);
  ziya::EncodeOptions encoding{.mode = mode_from_name(options.mode)};
  if (!options.add_bos) encoding.add_bos = false;
  if (options.add_eos) encoding.add_eos = true;
  const std::vector<std::int32_t> ids = tokenizer.encode(text, encoding);
  std::vector<std::string> pieces;
  for (const std::int32_t id : ids) pieces.push_back(tokenizer.piece(id));
  if (options.json) {
    print(JsonObject().add("ids", ids).add("pieces", pieces).line());
    return 0;
  }
  std::string table;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    table += std::to_string(ids[i]) + "\t" + printable(pieces[i]) + "\n";
  }
  print(table);
  return 0;
}

}  // namespace cli
