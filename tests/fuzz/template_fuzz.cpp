// SPDX-License-Identifier: Apache-2.0
// Prompt templates as people write them, and what they make of a question.
#include "ziya/text/prompt_template.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "fuzz/small_tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ziya::Tokenizer tokens = fuzz::small_tokenizer();
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto made = ziya::PromptTemplate::parse(text, "fuzz");
    std::vector<std::int32_t> ids = made.start_ids(tokens);
    const bool fits = made.fits(tokens);
    try {
      for (const bool first : {true, false}) {
        for (const std::int32_t id : made.query_ids(tokens, " a question ", first)) {
          ids.push_back(id);
        }
      }
      for (const std::int32_t id : made.query_ids(tokens, "b", true, "own")) ids.push_back(id);
      for (const std::int32_t id : made.answer_ids(tokens, " an answer ")) ids.push_back(id);
      for (const std::int32_t id : made.closing_ids(tokens)) ids.push_back(id);
    } catch (const ziya::ArgumentError&) {
      if (fits) std::abort();  // refused although the tokenizer has all of its tokens
    }
    for (const std::int32_t id : ids) {
      if (!tokens.contains(id)) std::abort();
    }
  } catch (const ziya::Error&) {
  }
  return 0;
}
