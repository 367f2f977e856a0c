// SPDX-License-Identifier: Apache-2.0
// target = base + delta: from a base model and a published delta to the model itself.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/audited_source.hpp"
#include "ziya/convert/conversion_journal.hpp"
#include "ziya/convert/merge_options.hpp"
#include "ziya/convert/merge_pair.hpp"
#include "ziya/convert/merge_steps.hpp"
#include "ziya/convert/merged_source.hpp"
#include "ziya/convert/model_files.hpp"
#include "ziya/convert/stream.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/output_directory.hpp"
#include "ziya/io/pytorch_writer.hpp"
#include "ziya/io/safetensors_metadata.hpp"
#include "ziya/io/safetensors_writer.hpp"
#include "ziya/io/sharded_writer.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// Streams a merge tensor by tensor, a few megabytes at a time; never holds a model. The target is
/// hashed as it is written, and so are both inputs as they are read; the hashes are in the metadata
/// of its files. Config, tokenizer and texts are the delta's. See MergedSource for the rule.
/// Work happens in `<target>.partial`, shard by shard, so that it can be resumed; the same inputs
/// give the same bytes, at any number of threads and after any number of interruptions.
class DeltaMerger {
 public:
  DeltaMerger(std::filesystem::path base, std::filesystem::path delta, std::filesystem::path target,
              MergeOptions options = {})
      : base_path_(std::move(base)),
        delta_path_(std::move(delta)),
        target_path_(std::move(target)),
        options_(std::move(options)) {}

  /// Checks everything that can be checked, then writes. Whatever goes wrong, nothing is under the
  /// target's name that was not there before.
  /// @throws FormatError ZIYA-602 … 605 and what opening says, ZIYA-650 … 655 under `strict`;
  /// ArgumentError ZIYA-601, 208, 641, 643; IoError ZIYA-206 … 209; Error ZIYA-606 when cancelled
  MergeReport run() const {
    const auto begin = std::chrono::steady_clock::now();
    detail::refuse_same_paths(base_path_, delta_path_, target_path_);
    const MergePair pair = MergePair::open(base_path_, delta_path_, options_.type, options_.sign,
                                           options_.limits.kind);
    const auto small_files = model_files(pair.folder());
    MergeReport report = detail::begin_merge(pair, options_);
    OutputDirectory directory(target_path_, options_.overwrite, options_.resume, options_.hooks);
    try {
      write(pair, directory, small_files, report);
    } catch (const Error& error) {
      if (error.id() != "ZIYA-606") throw;
      throw Error("ZIYA-606",
                  "merge: cancelled; nothing was written to " + utf8_from_path(target_path_) +
                      (directory.keeps_unfinished() ? "; what is finished can be resumed" : ""));
    }
    report.target = directory.target();
    report.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return report;
  }

 private:
  static constexpr std::int64_t header_room = std::int64_t{16} << 20;

  void write(const MergePair& pair, OutputDirectory& directory,
             const std::vector<std::filesystem::path>& small_files, MergeReport& report) const {
    detail::MergeAudits audits{std::make_shared<const AuditedSource>(pair.base.source),
                               std::make_shared<const AuditedSource>(pair.delta.source), nullptr};
    audits.target = std::make_shared<const AuditedSource>(
        std::make_shared<const MergedSource>(audits.base, audits.delta, pair.tensors, pair.sign),
        true);
    const std::int64_t bytes = report.bytes + total_size(small_files) + header_room;
    write_weights(pair, directory, audits, bytes, report);
    if (options_.verify && pair.sign == MergeSign::add) {
      detail::judge(report, options_.verify(open_source(directory.path()).source, pair.folder()),
                    options_.strict);
    }
    check_cancel();
    copy_model_files(small_files, directory.path(), options_.hooks);
    directory.commit();
  }

  void write_weights(const MergePair& pair, OutputDirectory& directory,
                     const detail::MergeAudits& audits, std::int64_t bytes,
                     MergeReport& report) const {
    const bool safe = options_.format == MergeFormat::safetensors;
    ConversionJournal journal(
        directory, audits.target, audits.memories(),
        pair.identity((safe ? "safetensors " : "bin ") + std::to_string(options_.max_shard_bytes)));
    directory.keep_only(journal.verify_shards({options_.threads, {}, options_.cancel}));
    report.resumed_shards = static_cast<std::int64_t>(journal.kept().size());
    const ShardEvents events = journal.events(options_.keep_unfinished);
    ConversionNeeds needs = detail::merge_needs(pair, options_, bytes);
    needs.disk_done = journal.kept_bytes();
    if (options_.needs) options_.needs(needs);
    directory.check_space(needs.disk - needs.disk_done);
    WriteHooks hooks = options_.hooks;
    detail::pass_through(pair, needs, hooks);
    if (safe) {
      write_safetensors(pair, directory, audits, hooks, events, report);
    } else {
      write_pytorch(pair, directory, audits, hooks, events, report);
    }
  }

  /// The hashes are patched into places that the headers have for them.
  void write_safetensors(const MergePair& pair, const OutputDirectory& directory,
                         const detail::MergeAudits& audits, const WriteHooks& hooks,
                         const ShardEvents& events, MergeReport& report) const {
    ShardedSafetensorsWriter writer(
        directory.path(), pair.tensors, options_.max_shard_bytes,
        detail::merge_provenance(pair, report), hooks, events, [](const Shard& shard) {
          return safetensors::Metadata{{"ziya.sha256", std::string(shard.size() * 65 - 1, '0')}};
        });
    stream_all(writer, audits, report);
    const std::vector<std::string> files = writer.files();
    for (std::size_t i = 0; i < files.size(); ++i) {
      safetensors::Metadata known = detail::merge_provenance(pair, report);
      std::string& digits = known["ziya.sha256"];
      for (const TensorSpec& tensor : writer.plan()[i]) {
        digits += (digits.empty() ? "" : " ") +
                  audits.target->digest(find_tensor(*audits.target, tensor.name));
      }
      safetensors::patch_metadata(directory.path() / files[i], known, options_.hooks);
    }
  }

  /// PyTorch's files have no place for metadata: it stands in a file beside them.
  void write_pytorch(const MergePair& pair, const OutputDirectory& directory,
                     const detail::MergeAudits& audits, const WriteHooks& hooks,
                     const ShardEvents& events, MergeReport& report) const {
    ShardedPytorchWriter writer(directory.path(), pair.tensors, options_.max_shard_bytes, hooks,
                                events);
    stream_all(writer, audits, report);
    write_text_file(directory.path() / provenance_file_name,
                    nlohmann::json(detail::merge_provenance(pair, report)).dump(2) + "\n",
                    options_.hooks);
  }

  void stream_all(ShardedWriter& writer, const detail::MergeAudits& audits,
                  MergeReport& report) const {
    stream(writer, *audits.target, options_.streaming());
    writer.commit();
    audits.complete(report, options_);
    report.shards = static_cast<std::int64_t>(writer.shards());
  }

  void check_cancel() const {
    if (options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed)) {
      throw Error("ZIYA-606", "merge: cancelled");
    }
  }

  static std::int64_t total_size(const std::vector<std::filesystem::path>& files) {
    std::int64_t sum = 0;
    for (const auto& file : files) sum += InputFile(file).size();
    return sum;
  }

  std::filesystem::path base_path_, delta_path_, target_path_;
  MergeOptions options_;
};

/// delta = model − base, with the merge's exceptions, so that merging gives the model back. In
/// shards of 1 GB where nothing else is said; config and tokenizer are the model's.
/// @throws as DeltaMerger::run
inline MergeReport make_delta(const std::filesystem::path& base, const std::filesystem::path& model,
                              const std::filesystem::path& target,
                              MergeOptions options = {.max_shard_bytes = 1'000'000'000}) {
  options.sign = MergeSign::subtract;
  return DeltaMerger(base, model, target, std::move(options)).run();
}

ZIYA_NAMESPACE_END
