// SPDX-License-Identifier: Apache-2.0
// base + delta = model, with progress.
#include <cstdint>
#include <iostream>
#include <string>
#include <ziya/convert.hpp>

int main(int count, char** arguments) try {
  if (count != 4) {
    std::cerr << "usage: merge BASE DELTA TARGET\n";
    return 2;
  }
  ziya::MergeOptions options;
  options.overwrite = true;
  options.max_shard_bytes = 5'000'000;
  std::int64_t quarters = 0;
  options.progress = [&quarters](const ziya::ProgressEvent& event) {
    for (; 4 * event.bytes >= (quarters + 1) * event.total; ++quarters) {
      std::cout << 25 * (quarters + 1) << " %" << std::endl;
    }
  };
  const ziya::MergeReport report =
      ziya::DeltaMerger(arguments[1], arguments[2], arguments[3], options).run();
  std::cout << report.added << " tensors added, " << report.copied << " taken from the delta, "
            << report.shards << " files\n";
  for (const std::string& line : report.licence) std::cout << line << "\n";
} catch (const ziya::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
