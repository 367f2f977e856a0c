// SPDX-License-Identifier: Apache-2.0
// `ziya merge-delta`: base + delta = model.
#include <atomic>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "commands.hpp"
#include "terminal.hpp"
#include "ziya/convert/delta_merger.hpp"

namespace cli {
namespace {

std::atomic<bool> cancelled{false};

/// Ctrl-C and SIGTERM let the merge take away what it has written.
void catch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { cancelled = true; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
}

/// "4GB", "500 MB", "1GiB", "4000000000"
std::int64_t size_from_text(const std::string& text) {
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
  throw UsageError("ZIYA-701",
                   "--max-shard-size " + text + ": expected a size such as 4GB or 500MB");
}

}  // namespace

int run(const MergeOptions& options) {
  ProgressBar bar("merging");
  ziya::MergeOptions merge;
  merge.overwrite = options.overwrite;
  if (!options.max_shard_size.empty()) {
    merge.max_shard_bytes = size_from_text(options.max_shard_size);
  }
  merge.cancel = &cancelled;
  merge.progress = [&bar](const ziya::ProgressEvent& event) {
    bar.update(event.bytes, event.total, event.tensor);
  };
  catch_signals();
  const ziya::MergeReport report =
      ziya::DeltaMerger(ziya::path_from_utf8(options.base), ziya::path_from_utf8(options.delta),
                        ziya::path_from_utf8(options.target), merge)
          .run();
  bar.finish();
  for (const std::string& line : report.notes) note("note: " + printable(line));
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, "%.1f s", report.seconds);
  note("merged " + options.base + " + " + options.delta + " -> " + options.target + ": " +
       std::to_string(report.tensors) + " tensors (" + std::to_string(report.added) + " sums, " +
       std::to_string(report.copied) + " from the delta), " + bytes_text(report.bytes) + " in " +
       std::to_string(report.shards) + (report.shards == 1 ? " file, " : " files, ") + seconds);
  note("licences of the weights:");
  for (const std::string& line : report.licence) note("  " + line);
  note("next: ziya generate " + options.target + " -p \"...\"");
  return 0;
}

}  // namespace cli
