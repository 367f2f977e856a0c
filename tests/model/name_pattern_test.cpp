// SPDX-License-Identifier: Apache-2.0
// Patterns over names: what Python's re.fullmatch says of the same pairs.
#include "ziya/model/name_pattern.hpp"

#include <catch2/catch.hpp>

#include "support/errors.hpp"

namespace name_pattern_test {

using ziya::NamePattern;

TEST_CASE("patterns match whole names as Python's re does", "[lora]") {
  struct Case {
    const char *pattern, *matches, *differs;  // words between blanks
  };
  const Case cases[] = {
      {"q_proj", "q_proj", "q_pro q_projx xq_proj"},
      {"a|b|cd", "a b cd", "c ab d"},
      {"a*b*", "a aab b bb", "ba aba"},
      {"a*b*c", "c abc aac bbc", "cab ab"},
      {"(ab)*c", "c abc ababc", "abab ac"},
      {"(a|b)+c?", "a ab abac bc", "c acb"},
      {"(a*)*b", "b aab", "a aa"},
      {"((a|b)*c)*", "c abc acbc", "ab abca"},
      {"a?b??c+?", "abc c ac bcc", "ab aabc"},
      {".*\\.(self_attn\\.[qk]_proj|mlp\\.(gate|up)_proj)", "x.0.self_attn.q_proj x.mlp.up_proj",
       "x.0.self_attn.v_proj self_attn.q_proj x.mlp.up_projs"},
      {"^model\\.layers\\.\\d+\\.mlp$", "model.layers.0.mlp model.layers.39.mlp",
       "model.layers..mlp model.layers.x.mlp"},
      {"layers\\.([0-9]|1[0-5])\\.q", "layers.7.q layers.12.q", "layers.16.q"},
      {"[^.]+\\.\\w+", "ab.c_d x.Y9", "a.b.c ."},
      {"[]a-]+", "] a- -]a", "b"},
      {"(?:x|y)z", "xz yz", "z"},
      {"(.*\\.)?(down_proj)", "down_proj a.b.down_proj", "xdown_proj a.down_proj.b"},
      {"(|a)b", "b ab", "aab"},
      {"a.c", "abc a.c", "ac abbc"},
  };
  const auto words = [](const std::string& text) {
    std::vector<std::string> result;
    for (std::size_t at = 0; at < text.size();) {
      const auto end = std::min(text.find(' ', at), text.size());
      result.push_back(text.substr(at, end - at));
      at = end + 1;
    }
    return result;
  };
  for (const Case& c : cases) {
    const NamePattern pattern(c.pattern, "test");
    for (const auto& name : words(c.matches)) {
      INFO(c.pattern << " and " << name);
      CHECK(pattern.matches(name));
    }
    for (const auto& name : words(c.differs)) {
      INFO(c.pattern << " and " << name);
      CHECK(!pattern.matches(name));
    }
  }
  CHECK(NamePattern("a*", "test").matches(""));
  CHECK(NamePattern("", "test").matches(""));
}

TEST_CASE("patterns take linear time, whatever they are", "[lora]") {
  CHECK(!NamePattern("(a*)*(a*)*(a|a)*(a?)*b", "test").matches(std::string(5000, 'a')));
  CHECK(NamePattern("(.*.*.*)*", "test").matches(std::string(5000, 'a')));
}

TEST_CASE("what a pattern cannot hold here is named", "[lora]") {
  const auto refused = [](const std::string& pattern, const char* why) {
    INFO(pattern);
    REQUIRE_ERROR(NamePattern(pattern, "the config"), "ZIYA-621", why);
  };
  refused("a{2}", "{}");
  refused("(?!a)b", "(?");
  refused("(a", "parenthesis");
  refused("a)", "parenthesis");
  refused("[a", "bracket");
  refused("*a", "repeats nothing");
  refused("a**", "repeats a repetition");
  refused("a^b", "anchor");
  refused("\\", "backslash");
  refused("\\b", "\\b");
  refused(std::string(1001, 'a'), "1000");
  refused(std::string(60, '(') + std::string(60, ')'), "nested");
}

}  // namespace name_pattern_test
