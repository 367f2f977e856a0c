// SPDX-License-Identifier: Apache-2.0
// `ziya merge-delta`: base + delta = model; `ziya make-delta`: the way back.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base.hpp"
#include "commands.hpp"
#include "conversion.hpp"
#include "quantised_report.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/convert/delta_merger.hpp"
#include "ziya/convert/delta_to_gguf.hpp"
#include "ziya/convert/quantisation_plan.hpp"

namespace cli {
namespace {

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

/// @throws UsageError ZIYA-701 for what only the other kind of target has
void refuse_unfit(const MergeOptions& options, const ziya::QuantisationMix& mix, bool one_file) {
  if (!one_file && ziya::is_quantised(mix.type)) {
    throw UsageError("ZIYA-701", "--type " + options.type +
                                     ": only a GGUF file holds it; name one (--output MODEL.gguf)");
  }
  if (one_file && (options.format == "bin" || !options.max_shard_size.empty())) {
    throw UsageError("ZIYA-701",
                     options.target + ": one GGUF file has neither --format nor --max-shard-size");
  }
}

}  // namespace

int run(const MergeOptions& options) {
  const ziya::QuantisationMix mix = ziya::quantisation_mix(options.type);
  const bool one_file = options.target.ends_with(".gguf");
  refuse_unfit(options, mix, one_file);
  ProgressBar bar("merging");
  ziya::MergeOptions merge = writing(options, bar);
  merge.type = mix.type;
  merge.check = options.check;
  merge.checksums = options.checksums;
  merge.strict = options.strict;
  merge.limits = {options.min_cosine,
                  options.max_off_grid,
                  options.max_pairing,
                  {options.norm_median, options.negative_share},
                  options.same_row};
  if (options.check) {
    merge.verify = [&](const auto& source, const auto& folder) {
      bar.finish();
      return perplexity_findings(source, folder, options.max_perplexity);
    };
  }
  catch_signals();
  const auto base = base_path(options.base, options.model_size),
             delta = ziya::path_from_utf8(options.delta),
             target = ziya::path_from_utf8(options.target);
  const ziya::MergeReport report = one_file
                                       ? ziya::merge_delta_to_gguf(base, delta, target, mix, merge)
                                       : ziya::DeltaMerger(base, delta, target, merge).run();
  bar.finish();
  if (!report.quantised.empty()) print_report(report.quantised, options.type);
  say_result(report, "merged " + options.base + " + " + options.delta + " -> " + options.target +
                         " (" + std::to_string(report.added) + " sums, " +
                         std::to_string(report.copied) + " from the delta)");
  note("licences of the weights:");
  for (const std::string& line : report.licence) note("  " + line);
  note("next: ziya generate " + shell_word(options.target) + " -p \"...\"");
  return 0;
}

int run(const MakeDeltaOptions& options) {
  ProgressBar bar("subtracting");
  catch_signals();
  ziya::MergeOptions make = writing(options, bar);
  make.type = *ziya::dtype_from_name(options.type);
  const ziya::MergeReport report =
      ziya::make_delta(base_path(options.base, options.model_size),
                       ziya::path_from_utf8(options.model), ziya::path_from_utf8(options.delta), make);
  bar.finish();
  say_result(report, "made " + options.model + " - " + options.base + " -> " + options.delta);
  return 0;
}

}  // namespace cli
