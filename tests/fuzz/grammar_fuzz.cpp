// SPDX-License-Identifier: Apache-2.0
// A grammar, and behind a line of "%%" a text to read against it.
#include <cstdlib>
#include <memory>
#include <string_view>

#include "ziya/generate/grammar_matcher.hpp"
#include "ziya/generate/grammar_parser.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t end = text.find("\n%%\n");
  try {
    const auto grammar =
        std::make_shared<const ziya::Grammar>(ziya::GrammarParser::parse(text.substr(0, end)));
    if (end == std::string_view::npos) return 0;
    ziya::GrammarMatcher matcher(grammar);
    std::int32_t state = matcher.start();
    std::size_t read = 0;
    for (const char byte : text.substr(end + 4)) {
      state = matcher.next(state, static_cast<std::uint8_t>(byte));
      if (state == ziya::GrammarMatcher::dead) return 0;
      // Forgetting what was visited changes nothing.
      if (++read % 7 == 0 || matcher.crowded()) {
        const bool before = matcher.may_end(state);
        state = matcher.keep_only(state);
        if (matcher.may_end(state) != before) std::abort();
      }
    }
  } catch (const ziya::Error&) {
  }
  return 0;
}
