// SPDX-License-Identifier: Apache-2.0
// UTF-8 read, streamed and repaired; white space as Python sees it.
#include "ziya/text/utf8.hpp"

#include <catch2/catch.hpp>

#include <random>
#include <set>
#include <string>

#include "ziya/text/utf8_stream.hpp"
#include "ziya/text/whitespace.hpp"

namespace utf8_test {

using ziya::read_utf8;
using ziya::Utf8Sequence;

/// The encoding of any number as if it were a character, valid or not.
std::string encode(char32_t c) {
  const auto byte = [](char32_t value) { return static_cast<char>(value); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xC0 | c >> 6), byte(0x80 | (c & 0x3F))};
  if (c < 0x10000) {
    return {byte(0xE0 | c >> 12), byte(0x80 | (c >> 6 & 0x3F)), byte(0x80 | (c & 0x3F))};
  }
  return {byte(0xF0 | c >> 18), byte(0x80 | (c >> 12 & 0x3F)), byte(0x80 | (c >> 6 & 0x3F)),
          byte(0x80 | (c & 0x3F))};
}

bool is_character(char32_t c) { return c < 0xD800 || (c > 0xDFFF && c <= 0x10FFFF); }

TEST_CASE("utf8: every number is read or refused", "[text]") {
  std::size_t wrong = 0;
  for (char32_t c = 0; c < 0x200000; ++c) {
    const std::string bytes = encode(c);
    const Utf8Sequence read = read_utf8(bytes);
    const bool right = is_character(c)
                           ? read.valid() && read.character == c && read.bytes == bytes.size() &&
                                 ziya::is_valid_utf8(bytes)
                           : read.state == Utf8Sequence::State::invalid;
    if (!right) ++wrong;
    // Every proper beginning of a character waits for more.
    for (std::size_t n = 1; is_character(c) && n < bytes.size(); ++n) {
      const Utf8Sequence part = read_utf8(bytes.substr(0, n));
      if (part.state != Utf8Sequence::State::incomplete || part.bytes != n) ++wrong;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("utf8: overlong forms and stray bytes are invalid", "[text]") {
  for (const char* bytes : {"\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF",
                            "\xF0\x80\x80\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
                            "\xF5\x80\x80\x80", "\x80", "\xFE", "\xED\xA0\x80", "\xE4\x41"}) {
    CHECK(read_utf8(bytes).state == Utf8Sequence::State::invalid);
    CHECK_FALSE(ziya::is_valid_utf8(bytes));
  }
}

TEST_CASE("utf8: repair as Python's errors='replace'", "[text]") {
  // Made with Python 3.11: bytes.decode(errors="replace").
  CHECK(ziya::replace_invalid_utf8("a\xE4\xBD") == "a\uFFFD");
  CHECK(ziya::replace_invalid_utf8("\xE4\xBD"
                                   "a\xFF\xFE") == "\uFFFDa\uFFFD\uFFFD");
  CHECK(ziya::replace_invalid_utf8("\xF0\x9F\x98\xE4\xBD\xA0") == "\uFFFD你");
  CHECK(ziya::replace_invalid_utf8("\xC0\xAF\xED\xA0\x80") == "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(ziya::replace_invalid_utf8("你好 😀").size() == std::string("你好 😀").size());
  CHECK(ziya::replace_invalid_utf8("").empty());
}

TEST_CASE("utf8: streaming loses nothing and cuts no character", "[text]") {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    const bool valid = round % 2 == 0;
    for (int n = 0; n < 12; ++n) {
      const char32_t widths[] = {0x80, 0x800, 0x10000, 0x110000};
      char32_t c = 0;
      do c = static_cast<char32_t>(random() % widths[random() % 4]);
      while (!is_character(c));
      text += encode(c);
      if (!valid && random() % 3 == 0) text += static_cast<char>(random());
      if (!valid && random() % 3 == 0) text.pop_back();
    }
    ziya::Utf8Stream stream;
    std::string joined;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t n = 1 + random() % 5;
      const std::string piece = stream.push(std::string_view(text).substr(at, n));
      if (valid && !ziya::is_valid_utf8(piece)) CHECK(false);
      if (stream.held() > 3) CHECK(false);
      joined += piece;
      at += n;
    }
    if (valid && stream.held() != 0) CHECK(false);
    joined += stream.flush();
    if (joined != text || stream.held() != 0) CHECK(false);
  }
}

TEST_CASE("utf8: streaming holds back no byte that cannot become a character", "[text]") {
  ziya::Utf8Stream stream;
  CHECK(stream.push("\xE4\xBD").empty());
  CHECK(stream.push("\xA0") == "你");
  CHECK(stream.push("\xE4\xBD") == "");
  CHECK(stream.push("A") ==
        "\xE4\xBD"
        "A");                            // known to be broken only now
  CHECK(stream.push("\xFF") == "\xFF");  // never a beginning
  CHECK(stream.push("\x80\x80") == "\x80\x80");
  CHECK(stream.push("\xED\xA0") == "\xED\xA0");  // a surrogate in the making
  CHECK(stream.push("a\xF0\x9F\x98") == "a");
  CHECK(stream.held() == 3);
  CHECK(stream.flush() == "\xF0\x9F\x98");
}

TEST_CASE("whitespace: Python's set, and only at the ends", "[text]") {
  // Made with Python 3.11: [c for c in range(0x110000) if chr(c).isspace()]
  const std::set<char32_t> python = {0x9,    0xA,    0xB,    0xC,    0xD,    0x1C,   0x1D,   0x1E,
                                     0x1F,   0x20,   0x85,   0xA0,   0x1680, 0x2000, 0x2001, 0x2002,
                                     0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200A,
                                     0x2028, 0x2029, 0x202F, 0x205F, 0x3000};
  std::size_t wrong = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (!is_character(c)) continue;
    const bool space = python.contains(c);
    const std::string one = encode(c), text = one + "x" + one + "y" + one;
    if (ziya::is_whitespace(c) != space) ++wrong;
    if (ziya::strip(text) != (space ? "x" + one + "y" : text)) ++wrong;
    if (ziya::strip_left(text) != (space ? text.substr(one.size()) : text)) ++wrong;
    if (ziya::strip(one + one).empty() != space) ++wrong;
  }
  CHECK(wrong == 0);
  CHECK(ziya::strip("").empty());
  CHECK(ziya::strip(" \t\n\u3000").empty());
  CHECK(ziya::strip("\x85 a \xA0") == "\x85 a \xA0");  // bytes, not characters
  CHECK(ziya::strip(" \xE3\x80 ") == "\xE3\x80");
}

}  // namespace utf8_test
