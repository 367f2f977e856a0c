// SPDX-License-Identifier: Apache-2.0
// When an answer ends: reasons, stop strings, and cancellation from any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/text/utf8.hpp"

ZIYA_NAMESPACE_BEGIN

/// Why an answer ended.
enum class FinishReason {
  eos,       ///< the model gave one of the end ids
  length,    ///< max_new_tokens, or the end of the context
  stop,      ///< a stop string appeared
  cancelled  ///< somebody asked for it
};

constexpr std::string_view name(FinishReason reason) {
  switch (reason) {
    case FinishReason::eos:
      return "eos";
    case FinishReason::length:
      return "length";
    case FinishReason::stop:
      return "stop";
    default:
      return "cancelled";
  }
}

/// Watches a text for stop strings. What may be the beginning of one is held back until it is known
/// not to be. The stop string that is complete first ends the text (of two at once, the one that
/// begins first), so the result does not depend on how the text is cut into pieces.
class StopStrings {
 public:
  StopStrings() = default;
  /// @throws ArgumentError for an empty stop string, and for one that is not UTF-8
  explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
    for (const std::string& stop : strings_) {
      if (stop.empty()) throw ArgumentError("ZIYA-524", "stop strings: one of them is empty");
      if (!is_valid_utf8(stop)) {
        throw ArgumentError("ZIYA-524", "stop strings: one of them is not UTF-8");
      }
    }
  }

  /// Of several stop strings the one that is complete first ends the text; of those that end
  /// together, the longest.
  /// @returns the text that is certainly before any stop string; nothing once one was found
  std::string push(std::string_view text) {
    if (found_) return {};
    held_ += text;
    std::size_t begin = held_.size() - possible_beginning(), end = std::string::npos;
    for (const std::string& stop : strings_) {
      const std::size_t at = held_.find(stop);
      if (at == std::string::npos || std::pair(at + stop.size(), at) > std::pair(end, begin)) {
        continue;
      }
      begin = at, end = at + stop.size();
    }
    found_ = end != std::string::npos;
    std::string ready = held_.substr(0, begin);
    held_.erase(0, begin);
    return ready;
  }
  [[nodiscard]] bool found() const { return found_; }

  /// @returns what was held back and can no longer become a stop string
  std::string flush() { return found_ ? std::string() : std::exchange(held_, {}); }

 private:
  /// Bytes at the end that some stop string begins with.
  [[nodiscard]] std::size_t possible_beginning() const {
    std::size_t longest = 0;
    for (const std::string& stop : strings_) {
      for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n) {
        if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) longest = n;
      }
    }
    return longest;
  }

  std::vector<std::string> strings_;
  std::string held_;
  bool found_ = false;
};

/// Somebody's wish that generation ends, from another thread or a signal handler. It is looked at
/// between tokens, and between the chunks of a long prompt.
class Cancellation {
 public:
  Cancellation() = default;
  Cancellation(std::stop_token token) : token_(std::move(token)) {}
  /// @param flag outlives the call; a signal handler may set it
  Cancellation(const std::atomic<bool>& flag) : flag_(&flag) {}

  [[nodiscard]] bool requested() const {
    return token_.stop_requested() || (flag_ != nullptr && flag_->load(std::memory_order_relaxed));
  }

 private:
  std::stop_token token_;
  const std::atomic<bool>* flag_ = nullptr;
};

ZIYA_NAMESPACE_END
