// SPDX-License-Identifier: Apache-2.0
// target = base + delta: from a base model and a published delta to the model itself.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/audited_source.hpp"
#include "ziya/convert/merge_check.hpp"
#include "ziya/convert/merge_journal.hpp"
#include "ziya/convert/merge_pair.hpp"
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

/// What a merge is going to take; sent before anything is written.
struct MergeNeeds {
  std::int64_t disk = 0;       ///< bytes at the target
  std::int64_t disk_done = 0;  ///< of them, from an earlier process
  std::int64_t memory = 0;     ///< bytes, about, whatever the model's size
  std::int64_t read = 0;       ///< bytes of base and delta
};

enum class MergeFormat { safetensors, pytorch };

struct MergeOptions {
  MergeSign sign = MergeSign::add;  ///< subtract: the target is the delta of a model and its base
  MergeFormat format = MergeFormat::safetensors;  ///< of the files; only safetensors can be resumed
  DType type = DType::f16;                        ///< of the sums; see MergedSource
  bool overwrite = false;                         ///< replace an existing model at the target
  bool resume = false;                            ///< go on where an earlier process was ended
  bool keep_unfinished = false;                   ///< an error leaves finished shards for `resume`
  bool check = true;                              ///< compare base and delta before writing
  bool strict = false;                            ///< what checks find is an error
  std::int64_t max_shard_bytes = 4'000'000'000;   ///< of the tensors in one file
  int threads = 0;                                ///< see StreamOptions
  MergeLimits limits{};
  /// Called before writing; may throw: that ends the merge.
  std::function<void(const MergeNeeds&)> needs{};
  /// Called with the written weights and the folder of config and tokenizer before the target gets
  /// its name: what it returns is added to the findings. E.g. a forward pass.
  std::function<std::vector<MergeFinding>(const std::shared_ptr<const TensorSource>&,
                                          const std::filesystem::path&)>
      verify{};
  std::function<void(const ProgressEvent&)> progress{};  ///< may throw: that ends the merge
  const std::atomic<bool>* cancel = nullptr;             ///< true ends the merge
  WriteHooks hooks{};
};

struct MergeReport {
  std::filesystem::path target;
  std::int64_t tensors = 0, added = 0, copied = 0;
  std::int64_t bytes = 0;  ///< of all tensors
  std::int64_t shards = 0, resumed_shards = 0;
  double seconds = 0;
  std::string fingerprint, base_fingerprint, delta_fingerprint;
  std::vector<MergeFinding> findings;  ///< what speaks against the result
  std::vector<std::string> notes;      ///< what a person should know
  std::vector<std::string> licence;    ///< what the weights' licences demand, line by line
};

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
    refuse_same_paths();
    const MergePair pair = MergePair::open(base_path_, delta_path_, options_.type, options_.sign,
                                           options_.limits.kind);
    const auto small_files = model_files(pair.folder());
    MergeReport report;
    report.notes = pair.notes;
    if (options_.check && options_.sign == MergeSign::add) {
      judge(report,
            MergeCheck(*pair.base.source, *pair.delta.source, pair.heads(), options_.limits).run());
    }
    for (const TensorSpec& tensor : pair.tensors) {
      ++report.tensors;
      ++(is_copied_from_delta(tensor.name) ? report.copied : report.added);
      report.bytes += tensor.bytes();
    }
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
    if (options_.sign == MergeSign::add) {
      report.licence = {"Ziya-LLaMA's delta is published under GPL-3.0.",
                        "LLaMA's licence allows research only, no commercial use.",
                        "The merged weights are derived from both and may not be published."};
    }
    report.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return report;
  }

 private:
  static constexpr std::int64_t header_room = std::int64_t{16} << 20;

  void write(const MergePair& pair, OutputDirectory& directory,
             const std::vector<std::filesystem::path>& small_files, MergeReport& report) const {
    const auto base = std::make_shared<const AuditedSource>(pair.base.source);
    const auto delta = std::make_shared<const AuditedSource>(pair.delta.source);
    const auto target = std::make_shared<const AuditedSource>(
        std::make_shared<const MergedSource>(base, delta, pair.tensors, pair.sign));
    const std::int64_t bytes = report.bytes + total_size(small_files) + header_room;
    if (options_.format == MergeFormat::safetensors) {
      write_safetensors(pair, directory, *target, *base, *delta, bytes, report);
    } else {
      write_pytorch(pair, directory, *target, *base, *delta, bytes, report);
    }
    note_unusual(*target, report);
    if (options_.verify && pair.sign == MergeSign::add) {
      judge(report, options_.verify(open_source(directory.path()).source, pair.folder()));
    }
    check_cancel();
    copy_model_files(small_files, directory.path(), options_.hooks);
    directory.commit();
  }

  void write_safetensors(const MergePair& pair, OutputDirectory& directory,
                         const AuditedSource& target, const AuditedSource& base,
                         const AuditedSource& delta, std::int64_t bytes,
                         MergeReport& report) const {
    MergeJournal journal(directory, {&target, &base, &delta},
                         pair.identity(options_.max_shard_bytes));
    const std::vector<std::string> kept = journal.verify({options_.threads, {}, options_.cancel});
    directory.keep_only(kept);
    if (options_.keep_unfinished && !kept.empty()) directory.keep_unfinished();
    say_needs(pair, directory, kept, bytes);

    ShardEvents events;
    events.metadata = [](const ShardEvents::Shard& shard) {
      return safetensors::Metadata{{"ziya.sha256", std::string(shard.size() * 65 - 1, '0')}};
    };
    events.keep = [&](const std::string& file, const ShardEvents::Shard&) {
      return std::ranges::find(kept, file) != kept.end();
    };
    events.finished = [&](const std::string& file, const ShardEvents::Shard& shard) {
      journal.finished(file, shard);
      if (options_.keep_unfinished) directory.keep_unfinished();
    };
    MergeReport unknown;  // the places of hashes that are known in the end
    unknown.fingerprint = unknown.base_fingerprint = unknown.delta_fingerprint =
        std::string(64, '0');
    ShardedSafetensorsWriter writer(directory.path(), pair.tensors, options_.max_shard_bytes,
                                    provenance(pair, unknown), options_.hooks, events);
    stream_all(writer, target, base, delta, report);
    report.resumed_shards = static_cast<std::int64_t>(kept.size());
    const std::vector<std::string> files = writer.files();
    for (std::size_t i = 0; i < files.size(); ++i) {
      safetensors::Metadata known = provenance(pair, report);
      std::string& digits = known["ziya.sha256"];
      for (const TensorSpec& tensor : writer.plan()[i]) {
        digits += (digits.empty() ? "" : " ") + target.digest(find_tensor(target, tensor.name));
      }
      safetensors::patch_metadata(directory.path() / files[i], known, options_.hooks);
    }
  }

  /// PyTorch's files have no place for metadata: it stands in a file beside them.
  void write_pytorch(const MergePair& pair, OutputDirectory& directory, const AuditedSource& target,
                     const AuditedSource& base, const AuditedSource& delta, std::int64_t bytes,
                     MergeReport& report) const {
    directory.journal().clear();
    directory.keep_only({});
    say_needs(pair, directory, {}, bytes);
    ShardedWriter<PytorchWriter> writer(directory.path(), pair.tensors, options_.max_shard_bytes,
                                        options_.hooks);
    stream_all(writer, target, base, delta, report);
    write_text_file(directory.path() / provenance_file_name,
                    nlohmann::json(provenance(pair, report)).dump(2) + "\n", options_.hooks);
  }

  template <class Writer>
  void stream_all(Writer& writer, const AuditedSource& target, const AuditedSource& base,
                  const AuditedSource& delta, MergeReport& report) const {
    const StreamOptions streaming{options_.threads, options_.progress, options_.cancel};
    stream(writer, target, streaming);
    writer.commit();
    base.read_rest(streaming);
    delta.read_rest(streaming);
    report.fingerprint = target.fingerprint().model();
    report.base_fingerprint = base.fingerprint().model();
    report.delta_fingerprint = delta.fingerprint().model();
    report.shards = static_cast<std::int64_t>(writer.shards());
  }

  /// What was made of what, by which rule and version; no time, path or host.
  static safetensors::Metadata provenance(const MergePair& pair, const MergeReport& report) {
    const bool add = pair.sign == MergeSign::add;
    return {{add ? "ziya.merge" : "ziya.make_delta", merge_rule(pair.type, pair.sign)},
            {"ziya.version", ZIYA_VERSION},
            {"ziya.fingerprint", report.fingerprint},
            {"ziya.base.fingerprint", report.base_fingerprint},
            {add ? "ziya.delta.fingerprint" : "ziya.model.fingerprint", report.delta_fingerprint}};
  }

  /// @throws IoError ZIYA-209, and what the listener throws
  void say_needs(const MergePair& pair, const OutputDirectory& directory,
                 const std::vector<std::string>& kept, std::int64_t bytes) const {
    constexpr std::int64_t chunks = 3;  // per thread: the sum, the addend, what waits for its hash
    const int threads = detail::stream_threads(options_.threads);
    MergeNeeds needs;
    needs.disk = bytes;
    needs.memory = (chunks * threads + 2) * detail::stream_chunk_bytes + (std::int64_t{64} << 20);
    for (const std::string& file : kept) {
      needs.disk_done += InputFile(directory.path() / path_from_utf8(file)).size();
    }
    for (const auto* opened : {&pair.base, &pair.delta}) {
      for (const TensorSpec& tensor : opened->source->tensors()) needs.read += tensor.bytes();
    }
    if (options_.needs) options_.needs(needs);
    directory.check_space(bytes - needs.disk_done);
  }

  static void note_unusual(const AuditedSource& target, MergeReport& report) {
    for (std::size_t i = 0; i < target.tensors().size(); ++i) {
      if (target.non_finite(i) == 0) continue;
      report.notes.push_back(target.tensors()[i].name + " has " +
                             std::to_string(target.non_finite(i)) + " infinite or NaN elements");
    }
  }

  /// @throws FormatError with the first finding's id under `strict`
  void judge(MergeReport& report, std::vector<MergeFinding> findings) const {
    if (options_.strict && !findings.empty()) {
      std::string text = findings.front().text;
      for (std::size_t i = 1; i < findings.size(); ++i) text += "; " + findings[i].text;
      throw FormatError(findings.front().id, "merge: " + text);
    }
    for (MergeFinding& finding : findings) report.findings.push_back(std::move(finding));
  }

  void refuse_same_paths() const {
    const auto same = [](const std::filesystem::path& a, const std::filesystem::path& b) {
      std::error_code ignored;
      return std::filesystem::equivalent(expand_home(a), expand_home(b), ignored);
    };
    const auto refuse = [](const std::string& which) {
      throw ArgumentError("ZIYA-601", "merge: " + which + " are the same folder");
    };
    if (same(base_path_, delta_path_)) refuse("base and delta");
    if (same(target_path_, base_path_)) refuse("target and base");
    if (same(target_path_, delta_path_)) refuse("target and delta");
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
