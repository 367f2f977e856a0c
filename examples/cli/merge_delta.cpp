// SPDX-License-Identifier: Apache-2.0
// `ziya merge-delta`: base + delta = model; `ziya make-delta`: the way back.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "commands.hpp"
#include "conversion.hpp"
#include "memory.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/convert/delta_merger.hpp"
#include "ziya/convert/gguf_model.hpp"

namespace cli {
namespace {

void say_needs(const ziya::MergeNeeds& needs) {
  const auto free = available_memory();
  note("needs: " + bytes_text(needs.disk) + " of disk" +
       (needs.disk_done > 0 ? " (" + bytes_text(needs.disk_done) + " are there already)" : "") +
       ", about " + bytes_text(needs.memory) + " of memory" +
       (free ? " (" + bytes_text(*free) + " are free)" : "") + "; reads " + bytes_text(needs.read));
}

void say_result(const ziya::MergeReport& report, const std::string& line) {
  for (const std::string& text : report.notes) note("note: " + printable(text));
  for (const ziya::MergeFinding& finding : report.findings) {
    note("warning: " + printable(finding.text) + " [" + finding.id + "]");
  }
  char seconds[64];
  std::snprintf(seconds, sizeof seconds, "%.1f s (%.2f GB/s)", report.seconds,
                static_cast<double>(report.bytes) / 1e9 / std::max(report.seconds, 1e-9));
  note(line + ": " + std::to_string(report.tensors) + " tensors, " + bytes_text(report.bytes) +
       " in " + std::to_string(report.shards) + (report.shards == 1 ? " file, " : " files, ") +
       seconds +
       (report.resumed_shards > 0
            ? "; " + std::to_string(report.resumed_shards) + " files were whole already"
            : ""));
  note("fingerprint: " + report.fingerprint);
}

template <class Options>
ziya::MergeOptions writing(const Options& options, ProgressBar& bar) {
  ziya::MergeOptions merge;
  merge.format =
      options.format == "bin" ? ziya::MergeFormat::pytorch : ziya::MergeFormat::safetensors;
  merge.overwrite = options.overwrite;
  merge.resume = options.resume;
  merge.keep_unfinished = true;
  merge.threads = options.threads;
  if (!options.max_shard_size.empty()) {
    merge.max_shard_bytes = size_from_text(options.max_shard_size);
  }
  merge.needs = say_needs;
  merge.cancel = &cancelled;
  merge.progress = [&bar](const ziya::ProgressEvent& event) {
    bar.update(event.bytes, event.total, event.tensor);
  };
  return merge;
}

/// Straight to one GGUF file, without a folder in between.
int merge_to_gguf(const MergeOptions& options) {
  ProgressBar bar("merging");
  const auto pair = ziya::MergePair::open(
      ziya::path_from_utf8(options.base), ziya::path_from_utf8(options.delta), ziya::DType::f16,
      ziya::MergeSign::add, {options.norm_median, options.negative_share});
  if (options.check) {
    const auto findings =
        ziya::MergeCheck(*pair.base.source, *pair.delta.source, pair.heads(),
                         {options.min_cosine, options.max_off_grid, options.max_pairing, {}})
            .run();
    for (const ziya::MergeFinding& finding : findings) {
      if (options.strict) throw ziya::FormatError(finding.id, "merge: " + finding.text);
      note("warning: " + printable(finding.text) + " [" + finding.id + "]");
    }
  }
  for (const std::string& text : pair.notes) note("note: " + printable(text));
  ziya::ConvertOptions convert;
  convert.type = *ziya::dtype_from_name(options.type);
  convert.overwrite = options.overwrite;
  convert.threads = options.threads;
  convert.cancel = &cancelled;
  convert.progress = [&bar](const ziya::ProgressEvent& event) {
    bar.update(event.bytes, event.total, event.tensor);
  };
  std::int64_t bytes = 0;
  for (const ziya::TensorSpec& tensor : pair.tensors) {
    bytes += ziya::bytes_of(*convert.type, tensor.shape.elements());
  }
  note("needs: about " + bytes_text(bytes) + " of disk");
  const ziya::ConvertReport report =
      ziya::write_gguf_model(pair.model(), ziya::path_from_utf8(options.target), convert);
  bar.finish();
  for (const std::string& line : report.notes) note("note: " + printable(line));
  note("merged " + options.base + " + " + options.delta + " -> " + options.target + ": " +
       std::to_string(report.tensors) + " tensors, " + bytes_text(report.bytes));
  return 0;
}

}  // namespace

int run(const MergeOptions& options) {
  if (options.target.ends_with(".gguf")) {
    catch_signals();
    return merge_to_gguf(options);
  }
  ProgressBar bar("merging");
  ziya::MergeOptions merge = writing(options, bar);
  merge.type = *ziya::dtype_from_name(options.type);
  merge.check = options.check;
  merge.strict = options.strict;
  merge.limits = {options.min_cosine,
                  options.max_off_grid,
                  options.max_pairing,
                  {options.norm_median, options.negative_share}};
  if (options.check) {
    merge.verify = [&](const auto& source, const auto& folder) {
      bar.finish();
      return perplexity_findings(source, folder, options.max_perplexity);
    };
  }
  catch_signals();
  const ziya::MergeReport report =
      ziya::DeltaMerger(ziya::path_from_utf8(options.base), ziya::path_from_utf8(options.delta),
                        ziya::path_from_utf8(options.target), merge)
          .run();
  bar.finish();
  say_result(report, "merged " + options.base + " + " + options.delta + " -> " + options.target +
                         " (" + std::to_string(report.added) + " sums, " +
                         std::to_string(report.copied) + " from the delta)");
  note("licences of the weights:");
  for (const std::string& line : report.licence) note("  " + line);
  note("next: ziya generate " + options.target + " -p \"...\"");
  return 0;
}

int run(const MakeDeltaOptions& options) {
  ProgressBar bar("subtracting");
  catch_signals();
  const ziya::MergeReport report =
      ziya::make_delta(ziya::path_from_utf8(options.base), ziya::path_from_utf8(options.model),
                       ziya::path_from_utf8(options.delta), writing(options, bar));
  bar.finish();
  say_result(report, "made " + options.model + " - " + options.base + " -> " + options.delta);
  return 0;
}

}  // namespace cli
