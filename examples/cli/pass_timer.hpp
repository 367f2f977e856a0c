// SPDX-License-Identifier: Apache-2.0
// What speculation gains, measured in the answer itself.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace cli {

/// Asked before each forward pass of an answer. The first passes guess nothing, so that the time of
/// a plain one is known: a gain is told against passes of the same model, moment and context.
class PassTimer {
 public:
  /// A new answer begins.
  void restart() { *this = {}; }
  /// @returns whether to guess ahead
  bool begin_pass() {
    const auto now = Clock::now();
    if (++passes_ == 2) begun_ = now;  // the first pass is the prompt's too
    if (passes_ > 2 && guesses_ == 0) {
      plain_seconds_ += std::chrono::duration<double>(now - guessed_).count();
      ++plain_passes_;
    }
    return plain_passes_ >= least_plain;
  }
  void guessed(std::size_t count) {
    guesses_ = count;
    guessed_ = Clock::now();
  }
  /// @param tokens of the whole answer
  /// @returns (time that plain passes would have taken) / (time that it took), behind the first
  /// token; none for an answer too short to tell
  [[nodiscard]] std::optional<double> speed_up(std::int64_t tokens) const {
    if (plain_passes_ == 0 || tokens < least_tokens) return std::nullopt;
    const double took = std::chrono::duration<double>(Clock::now() - begun_).count();
    return plain_seconds_ / static_cast<double>(plain_passes_) * static_cast<double>(tokens - 1) /
           took;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::int64_t least_plain = 2, least_tokens = 8;
  Clock::time_point begun_, guessed_;
  std::size_t guesses_ = 0;
  std::int64_t passes_ = 0, plain_passes_ = 0;
  double plain_seconds_ = 0;
};

}  // namespace cli
