// SPDX-License-Identifier: Apache-2.0
// `ziya embed`: texts as vectors.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "commands.hpp"
#include "input.hpp"
#include "json_text.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/text/tokenizer.hpp"
#include "ziya/text/whitespace.hpp"

namespace cli {

int run(const EmbedOptions& options) {
  const std::string text = options.text
                               ? *options.text
                               : read_input(options.text_file.empty() ? "-" : options.text_file);
  const std::vector<std::string> texts =
      options.lines ? lines_of(text) : std::vector<std::string>{text};
  for (const std::string& each : texts) {
    if (ziya::strip(each).empty()) throw ziya::ArgumentError("ZIYA-709", "embed: a text is empty");
  }
  const auto folder = ziya::resolve_model_folder(ziya::path_from_utf8(options.model.model));
  const ziya::Tokenizer tokenizer = ziya::Tokenizer::load(folder);
  std::vector<std::vector<std::int32_t>> ids;
  std::size_t longest = 0;
  for (const std::string& each : texts) {
    ids.push_back(tokenizer.encode(each, {ziya::TokenizerMode::plain, std::nullopt, false}));
    longest = std::max(longest, ids.back().size());
  }
  ScoringSetup setup{options.model, folder};
  setup.tokens = static_cast<std::int64_t>(longest);
  const auto model = make_scoring(setup);
  for (const auto& tokens : ids) {
    std::string numbers;
    for (const float value : model->embed(tokens)) {
      char number[32];
      std::snprintf(number, sizeof number, "%.9g", static_cast<double>(value));
      numbers += (numbers.empty() ? "" : options.json ? ", " : " ") + std::string(number);
    }
    print(options.json ? JsonObject()
                             .add("tokens", static_cast<std::int64_t>(tokens.size()))
                             .add_raw("embedding", "[" + numbers + "]")
                             .line()
                       : numbers + "\n");
  }
  return 0;
}

}  // namespace cli
