// SPDX-License-Identifier: Apache-2.0
// What the commands that write models have in common: sizes in words, and being interrupted.
#pragma once

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "commands.hpp"
#include "memory.hpp"
#include "terminal.hpp"
#include "ziya/convert/convert_options.hpp"

namespace cli {

/// Set by Ctrl-C, SIGTERM and SIGHUP once catch_signals() was called.
inline std::atomic<bool> cancelled{false};

/// Lets a conversion take away what it has written.
inline void catch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { cancelled = true; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
}

/// "4GB", "500 MB", "1GiB", "4000000000". @throws UsageError ZIYA-701 naming the option
inline std::int64_t size_from_text(const std::string& text,
                                   const std::string& option = "--max-shard-size") {
  constexpr std::pair<std::string_view, double> units[] = {
      {"", 1},      {"B", 1},        {"KB", 1e3},     {"MB", 1e6},    {"GB", 1e9},
      {"TB", 1e12}, {"KIB", 0x1p10}, {"MIB", 0x1p20}, {"GIB", 0x1p30}};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit;
  for (const char* c = end; c != text.data() + text.size(); ++c) {
    if (*c != ' ') unit += static_cast<char>(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
  }
  for (const auto& [name, factor] : units) {
    const double bytes = number * factor;
    if (error == std::errc{} && unit == name && bytes >= 1 && bytes < 0x1p62) {
      return static_cast<std::int64_t>(bytes);
    }
  }
  throw UsageError("ZIYA-701", option + " " + text + ": expected a size such as 4GB or 500MB");
}

/// What a conversion is going to take, before it writes.
inline void say_needs(const ziya::ConversionNeeds& needs) {
  const auto free = available_memory();
  note("needs: " + bytes_text(needs.disk) + " of disk" +
       (needs.disk_done > 0 ? " (" + bytes_text(needs.disk_done) + " are there already)" : "") +
       ", about " + bytes_text(needs.memory) + " of memory" +
       (free ? " (" + bytes_text(*free) + " are free)" : "") +
       (needs.read > 0 ? "; reads " + bytes_text(needs.read) : ""));
}

}  // namespace cli
