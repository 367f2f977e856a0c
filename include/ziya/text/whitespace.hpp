// SPDX-License-Identifier: Apache-2.0
// White space as Python's str.strip sees it: the reference strips prompts and added tokens with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "ziya/config.hpp"
#include "ziya/text/utf8.hpp"

ZIYA_NAMESPACE_BEGIN

/// Whether Python's `str.isspace` holds for the character.
constexpr bool is_whitespace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

/// `text.lstrip()`. Bytes that are not UTF-8 are not white space.
inline std::string_view strip_left(std::string_view text) {
  while (!text.empty()) {
    const Utf8Sequence first = read_utf8(text);
    if (!first.valid() || !is_whitespace(first.character)) break;
    text.remove_prefix(first.bytes);
  }
  return text;
}

/// `text.rstrip()`
inline std::string_view strip_right(std::string_view text) {
  while (!text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && text.size() - begin < 4 && is_utf8_continuation(text[begin])) --begin;
    const Utf8Sequence last = read_utf8(text.substr(begin));
    const bool whole = last.valid() && begin + last.bytes == text.size();
    if (!whole || !is_whitespace(last.character)) break;
    text.remove_suffix(last.bytes);
  }
  return text;
}

/// `text.strip()`
inline std::string_view strip(std::string_view text) { return strip_right(strip_left(text)); }

ZIYA_NAMESPACE_END
