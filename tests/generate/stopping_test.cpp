// SPDX-License-Identifier: Apache-2.0
#include "ziya/generate/stopping.hpp"

#include <catch2/catch.hpp>
#include <thread>

namespace stopping_test {

using namespace ziya;

/// What comes out for a text cut into pieces of `size` bytes, and whether a stop string was found.
std::pair<std::string, bool> feed(std::vector<std::string> stops, const std::string& text,
                                  std::size_t size) {
  StopStrings watch(std::move(stops));
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += size) out += watch.push(text.substr(at, size));
  out += watch.flush();
  return {out, watch.found()};
}

TEST_CASE("the text ends before the first stop string, however the pieces are cut") {
  struct Case {
    std::vector<std::string> stops;
    std::string text, expected;
    bool found;
  };
  const std::vector<Case> cases{
      {{}, "anything", "anything", false},
      {{"STOP"}, "one STOP two", "one ", true},
      {{"STOP"}, "STOP", "", true},
      {{"STOP"}, "one STO", "one STO", false},
      {{"STOP"}, "SSTSTOSTOP!", "SSTSTO", true},
      {{"aab"}, "aaab", "a", true},
      {{"abab"}, "abaabab", "aba", true},
      {{"two", "one"}, "zero one two", "zero ", true},
      {{"b", "abc"}, "xabc", "xa", true},
      {{"abcd", "bc"}, "xabce", "xa", true},
      {{"c", "abc", "bc"}, "xabc", "x", true},
      {{"。"}, "空山不见人。但闻", "空山不见人", true},
      {{"\n<human>"}, "answer\n<bot>\n<human>:", "answer\n<bot>", true},
      {{"x"}, "", "", false},
  };
  for (const Case& c : cases) {
    for (std::size_t size = 1; size <= c.text.size() + 1; ++size) {
      INFO(c.text << ", pieces of " << size);
      CHECK(feed(c.stops, c.text, size) == std::pair(c.expected, c.found));
    }
  }
}

TEST_CASE("only what may become a stop string is held back") {
  StopStrings watch({"STOP", "\n\n"});
  CHECK(watch.push("abc") == "abc");
  CHECK(watch.push("S") == "");
  CHECK(watch.push("T") == "");
  CHECK(watch.push("x") == "STx");
  CHECK(watch.push("a\n") == "a");
  CHECK(watch.push("b") == "\nb");
  CHECK(watch.push("ST") == "");
  CHECK(watch.flush() == "ST");
  CHECK(watch.push("STOP and more") == "");
  CHECK(watch.found());
  CHECK(watch.push("nothing after it") == "");
  CHECK(watch.flush() == "");
}

TEST_CASE("stop strings that no text has are refused") {
  CHECK_THROWS_AS(StopStrings({"a", ""}), ArgumentError);
  CHECK_THROWS_AS(StopStrings({"\x80"}), ArgumentError);
  CHECK_THROWS_AS(StopStrings({"\xe7\xa9"}), ArgumentError);
}

TEST_CASE("cancellation comes from a stop token or a flag, of any thread") {
  CHECK_FALSE(Cancellation().requested());
  std::stop_source source;
  const Cancellation by_token(source.get_token());
  CHECK_FALSE(by_token.requested());
  std::thread([&] { source.request_stop(); }).join();
  CHECK(by_token.requested());
  std::atomic<bool> flag = false;
  const Cancellation by_flag(flag);
  CHECK_FALSE(by_flag.requested());
  flag = true;
  CHECK(by_flag.requested());
}

}  // namespace stopping_test
