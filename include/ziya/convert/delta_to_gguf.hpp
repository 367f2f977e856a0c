// SPDX-License-Identifier: Apache-2.0
// base + delta straight to one GGUF file, quantised or not, with no merged model in between.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/convert/convert_options.hpp"
#include "ziya/convert/gguf_model.hpp"
#include "ziya/convert/merge_options.hpp"
#include "ziya/convert/merge_pair.hpp"
#include "ziya/convert/merge_steps.hpp"
#include "ziya/convert/open_source.hpp"
#include "ziya/convert/quantisation_plan.hpp"
#include "ziya/convert/quantised_source.hpp"
#include "ziya/core/error.hpp"

ZIYA_NAMESPACE_BEGIN

/// Merges, quantises and writes in one pass, a few megabytes at a time. The tensors are those of
/// merging to a folder (DeltaMerger, in mix.type where it is f32, f16 or bf16, else in f16, the
/// reference's type) and quantising that; norms are f32, as in every GGUF file. Inputs and target
/// are hashed on the way and the hashes stand in the metadata, so that the file is refused as a
/// base. The same inputs give the same bytes at any number of threads and after any number of
/// interruptions. @throws as DeltaMerger::run; ArgumentError ZIYA-208 when the target exists;
/// FormatError ZIYA-130 for a weight that is not finite; ConfigError from the delta's config
inline MergeReport merge_delta_to_gguf(const std::filesystem::path& base,
                                       const std::filesystem::path& delta,
                                       const std::filesystem::path& target,
                                       const QuantisationMix& mix, const MergeOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  refuse_existing(target, options.overwrite);
  detail::refuse_same_paths(base, delta, target);
  MergePair pair = MergePair::open(base, delta, is_plain_float(mix.type) ? mix.type : DType::f16,
                                   MergeSign::add, options.limits.kind);
  const bool tied = read_llama_shape(pair.folder()).tied_head;
  std::erase_if(pair.tensors, [tied](
                                  const TensorSpec& tensor) {  // the format has no place for them
    return llama_names::is_rotary_cache(tensor.name) || (tied && tensor.name == llama_names::head);
  });
  MergeReport report = detail::begin_merge(pair, options);

  detail::MergeAudits audits{std::make_shared<const AuditedSource>(pair.base.source),
                             std::make_shared<const AuditedSource>(pair.delta.source), nullptr};
  const auto merged = std::make_shared<const MergedSource>(audits.base, audits.delta, pair.tensors);
  const auto quantised =
      std::make_shared<const QuantisedSource>(merged, QuantisationPlan(mix, merged->tensors()));
  audits.target = std::make_shared<const AuditedSource>(quantised, true);
  ModelSource model = pair.model();
  model.tensors = audits.target;
  model.provenance = detail::merge_provenance(pair, report);
  report.bytes = 0;
  for (const TensorSpec& tensor : quantised->tensors()) report.bytes += tensor.bytes();
  const ConversionNeeds needs = detail::merge_needs(pair, options, report.bytes);
  model.identity = pair.identity("gguf " + mix.name);
  model.memories = audits.memories();
  model.memories.push_back(memory_of(quantised));

  model.seal = [&](const std::filesystem::path& written) {
    audits.complete(report, options);
    if (options.verify) {
      detail::judge(report, options.verify(open_source(written).source, pair.folder()),
                    options.strict);
    }
    return detail::merge_provenance(pair, report);
  };

  ConvertOptions writing;
  writing.overwrite = options.overwrite;
  writing.resume = options.resume;
  writing.keep_unfinished = options.keep_unfinished;
  writing.threads = options.threads;
  if (options.needs) {
    writing.needs = [&](const ConversionNeeds& file) {
      ConversionNeeds all = needs;
      all.disk_done = file.disk_done;
      options.needs(all);
    };
  }
  writing.progress = options.progress;
  writing.cancel = options.cancel;
  writing.hooks = options.hooks;
  detail::pass_through(pair, needs, writing.hooks);
  const ConvertReport wrote = write_gguf_model(model, target, writing);
  report.target = target;
  report.shards = wrote.files;
  if (is_quantised(mix.type)) report.quantised = quantised->report();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

ZIYA_NAMESPACE_END
