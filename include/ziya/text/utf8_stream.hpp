// SPDX-License-Identifier: Apache-2.0
// Turns bytes that arrive in pieces into pieces of whole UTF-8 characters.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/text/utf8.hpp"

ZIYA_NAMESPACE_BEGIN

/// Holds back the beginning of a character (at most 3 bytes) until it is whole. Nothing is lost or
/// replaced: everything returned, joined, is everything pushed. So bytes that can never become
/// UTF-8 come out as they are, as soon as that is known; see `replace_invalid_utf8`.
class Utf8Stream {
 public:
  /// @returns all that is whole by now; often empty
  std::string push(std::string_view bytes) {
    held_ += bytes;
    const std::size_t ready = held_.size() - unfinished(held_);
    std::string result = held_.substr(0, ready);
    held_.erase(0, ready);
    return result;
  }

  /// @returns the bytes still held back: the beginning of a character whose end never came
  std::string flush() { return std::exchange(held_, {}); }

  /// Bytes held back, 0 to 3.
  [[nodiscard]] std::size_t held() const { return held_.size(); }

 private:
  /// Bytes at the end that begin a character without ending it. A lead byte is never a
  /// continuation, so the last one in reach decides, whatever stands before it.
  static std::size_t unfinished(std::string_view bytes) {
    for (std::size_t n = 1; n <= std::min<std::size_t>(3, bytes.size()); ++n) {
      const std::string_view tail = bytes.substr(bytes.size() - n);
      if (is_utf8_continuation(tail.front())) continue;
      return read_utf8(tail).state == Utf8Sequence::State::incomplete ? n : 0;
    }
    return 0;
  }

  std::string held_;
};

ZIYA_NAMESPACE_END
