// SPDX-License-Identifier: Apache-2.0
// What the program says to the person: messages and progress on standard error, text on standard
// output.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>
#include <string_view>

#include "ziya/core/error.hpp"

namespace cli {

/// Names of files and tensors come from outside: what could move the cursor becomes a space.
inline std::string printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return text;
}

/// A path as a shell takes it for one word: as it is, or between quotes.
inline std::string shell_word(const std::string& text) {
  const auto plain = [](unsigned char c) {
    return c >= 0x80 || std::isalnum(c) != 0 ||
           std::string_view("_-./~+=:,@%").find(static_cast<char>(c)) != std::string_view::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return text;
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}

/// One line on standard error.
inline void note(std::string_view line) { std::cerr << line << '\n' << std::flush; }

inline bool errors_are_a_terminal() { return isatty(STDERR_FILENO) != 0; }

/// "3.6 GB": decimal units, as disks and downloads are measured.
inline std::string bytes_text(std::int64_t bytes) {
  constexpr const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < std::size(units); ++unit) value /= 1000;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 || value >= 99.95 ? "%.0f %s" : "%.1f %s", value,
                units[unit]);
  return text;
}

/// "45 s", "12 min", "3 h 20 min"
inline std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  if (whole < 100) return std::to_string(whole) + " s";
  const std::int64_t minutes = (whole + 30) / 60;
  if (minutes < 100) return std::to_string(minutes) + " min";
  return std::to_string(minutes / 60) + " h " + std::to_string(minutes % 60) + " min";
}

/// Writes text and says so when it did not arrive (a full disk behind a redirection).
inline void print(std::string_view text) {
  std::cout << text << std::flush;
  if (!std::cout) {
    throw ziya::IoError("ZIYA-706", "standard output cannot be written to");
  }
}

/// A bar that is redrawn on a terminal; elsewhere a plain line now and then.
class ProgressBar {
 public:
  /// @param bytes that are counted; else things, by their number
  explicit ProgressBar(std::string label, bool bytes = true)
      : label_(std::move(label)), bytes_(bytes), drawn_(Clock::now() - std::chrono::hours(1)) {}
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar() { clear(); }

  /// @param what being worked on, e.g. the name of a tensor
  void update(std::int64_t done, std::int64_t total, std::string_view what) {
    const auto now = Clock::now();
    const auto interval = terminal_ ? std::chrono::milliseconds(100) : std::chrono::seconds(15);
    const bool first = drawn_ < started_;
    if (!terminal_ && first) drawn_ = now;  // quick work passes without a line
    if (now - drawn_ < interval && done < total) return;
    if (!terminal_ && done >= total) return;
    drawn_ = now;
    const double share =
        total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0)
                  : 1.0;
    const double seconds = std::chrono::duration<double>(now - started_).count();
    const auto quantity = [&](std::int64_t number) {
      return bytes_ ? bytes_text(number) : std::to_string(number);
    };
    std::string amount = std::to_string(static_cast<int>(share * 100)) + " %  " + quantity(done) +
                         " of " + quantity(total);
    if (seconds > 0.5 && share > 0) {
      amount += "  " + quantity(static_cast<std::int64_t>(static_cast<double>(done) / seconds)) +
                "/s, " + duration_text(seconds / share - seconds) + " left";
    }
    if (!terminal_) return note(label_ + ": " + amount);
    constexpr int width = 30;
    const int full = static_cast<int>(share * width);
    const std::string bar = std::string(static_cast<std::size_t>(full), '#') +
                            std::string(static_cast<std::size_t>(width - full), '.');
    std::cerr << "\r\033[K" << label_ << " [" << bar << "] " << amount << "  " << what.substr(0, 40)
              << std::flush;
    visible_ = true;
  }
  /// Leaves the full bar on the screen.
  void finish() {
    if (visible_) std::cerr << '\n' << std::flush;
    visible_ = false;
  }
  /// Takes the bar off the screen, so that other text may follow.
  void clear() {
    if (visible_) std::cerr << "\r\033[K" << std::flush;
    visible_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  bool bytes_;
  Clock::time_point started_ = Clock::now();
  Clock::time_point drawn_;
  bool terminal_ = errors_are_a_terminal();
  bool visible_ = false;
};

}  // namespace cli
