// SPDX-License-Identifier: Apache-2.0
// Reading UTF-8: one character, whether a text is valid, and a valid text out of any bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// What stands at the front of some bytes.
struct Utf8Sequence {
  enum class State { valid, incomplete, invalid };
  State state = State::invalid;
  std::size_t bytes = 0;   ///< valid: of the character; else: that belong together, at least 1
  char32_t character = 0;  ///< when valid

  [[nodiscard]] constexpr bool valid() const { return state == State::valid; }
};

constexpr bool is_utf8_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

/// The first character of `bytes` (not empty). `incomplete`: all bytes are a proper beginning of
/// some character. `invalid`: `bytes` counts the longest such beginning (Unicode's "maximal
/// subpart"), or 1.
/// Source: The Unicode Standard 15.0, table 3-7
constexpr Utf8Sequence read_utf8(std::string_view bytes) {
  using State = Utf8Sequence::State;
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned lead = at(0);
  if (lead < 0x80) return {State::valid, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {State::invalid, 1};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t character = lead & (0xFFu >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {State::incomplete, i};
    // The second byte is narrower after E0, ED, F0 and F4: no overlong forms, no surrogates,
    // nothing above U+10FFFF.
    const unsigned low = i > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned high = i > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (at(i) < low || at(i) > high) return {State::invalid, i};
    character = (character << 6) | (at(i) & 0x3F);
  }
  return {State::valid, length, character};
}

inline bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Sequence first = read_utf8(text);
    if (!first.valid()) return false;
    text.remove_prefix(first.bytes);
  }
  return true;
}

/// `text` with U+FFFD for every maximal piece that is not UTF-8, as Python's
/// `bytes.decode(errors="replace")`; for JSON and terminals.
inline std::string replace_invalid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const Utf8Sequence first = read_utf8(text);
    result += first.valid() ? text.substr(0, first.bytes) : std::string_view("\xEF\xBF\xBD");
    text.remove_prefix(first.bytes);
  }
  return result;
}

ZIYA_NAMESPACE_END
