// SPDX-License-Identifier: Apache-2.0
// `ziya merge-delta`: base + delta = model.
#include <cstdio>
#include <string>

#include "commands.hpp"
#include "conversion.hpp"
#include "terminal.hpp"
#include "ziya/convert/delta_merger.hpp"

namespace cli {

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
