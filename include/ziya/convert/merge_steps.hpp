// SPDX-License-Identifier: Apache-2.0
// What every merge does, whatever it writes: compare, count, hash, record.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/audited_source.hpp"
#include "ziya/convert/checklist.hpp"
#include "ziya/convert/merge_check.hpp"
#include "ziya/convert/merge_options.hpp"
#include "ziya/convert/merge_pair.hpp"
#include "ziya/convert/stream.hpp"
#include "ziya/convert/verify_archives.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/output_directory.hpp"
#include "ziya/io/platform.hpp"
#include "ziya/io/safetensors.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN
namespace detail {

/// @throws ArgumentError ZIYA-601 when base and delta are the same, or the target is one of them,
/// or a target folder holds one or lies in one
inline void refuse_same_paths(const std::filesystem::path& base, const std::filesystem::path& delta,
                              const std::filesystem::path& target) {
  std::error_code ignored;
  if (std::filesystem::equivalent(expand_home(base), expand_home(delta), ignored)) {
    throw ArgumentError("ZIYA-601", utf8_from_path(base) + ": base and delta are the same");
  }
  const bool one_file = target.extension() == ".gguf";
  refuse_overlap(target, base, one_file);
  refuse_overlap(target, delta, one_file);
}

/// Adds what a check found. @throws FormatError with the first finding's id under `strict`
inline void judge(MergeReport& report, std::vector<MergeFinding> findings, bool strict) {
  if (strict && !findings.empty()) {
    std::string text = findings.front().text;
    for (std::size_t i = 1; i < findings.size(); ++i) text += "; " + findings[i].text;
    throw FormatError(findings.front().id, "merge: " + text);
  }
  for (MergeFinding& finding : findings) report.findings.push_back(std::move(finding));
}

/// Compares base and delta, unless the options say not to, and counts the target's tensors.
/// @throws FormatError as judge(), ZIYA-221, ZIYA-615; Error ZIYA-606
inline MergeReport begin_merge(const MergePair& pair, const MergeOptions& options) {
  MergeReport report;
  report.notes = pair.notes;
  if (options.checksums) {
    std::vector<std::filesystem::path> files = pair.base.files;
    files.insert(files.end(), pair.delta.files.begin(), pair.delta.files.end());
    if (!pair.base.checklist.empty()) {
      const std::int64_t listed = verify_checklist(
          pair.base.checklist, [](const std::string& file) { return file != "tokenizer.model"; },
          {}, options.cancel);
      report.notes.push_back("checklist.chk: " + std::to_string(listed) +
                             " files are what it lists");
    }
    const std::int64_t compared = verify_archives(files, {}, options.cancel);
    report.notes.push_back("checksums of " + std::to_string(compared) + " of " +
                           std::to_string(files.size()) +
                           " files compared; the others record none");
  }
  if (options.check && pair.sign == MergeSign::add) {
    judge(report,
          MergeCheck(*pair.base.source, *pair.delta.source, pair.heads(), options.limits).run(),
          options.strict);
  }
  for (const TensorSpec& tensor : pair.tensors) {
    ++report.tensors;
    ++(is_copied_from_delta(tensor.name) ? report.copied : report.added);
    report.bytes += tensor.bytes();
  }
  if (pair.sign == MergeSign::add) {
    report.licence = {"Ziya-LLaMA's delta is published under GPL-3.0.",
                      "LLaMA's licence allows research only, no commercial use.",
                      "The merged weights are derived from both and may not be published."};
  }
  return report;
}

/// @param bytes at the target
inline ConversionNeeds merge_needs(const MergePair& pair, const MergeOptions& options,
                                   std::int64_t bytes) {
  const std::int64_t threads = stream_threads(options.threads);
  ConversionNeeds needs;
  needs.disk = bytes;
  needs.memory = stream_memory(threads);
  for (const auto* opened : {&pair.base, &pair.delta}) {
    for (const TensorSpec& tensor : opened->source->tensors()) needs.read += tensor.bytes();
  }
  return needs;
}

/// What does not fit into half of the memory leaves the page cache as it is read and is written
/// past it, so that a merge does not push everything else out of it and never waits for room.
inline void pass_through(const MergePair& pair, const ConversionNeeds& needs, WriteHooks& hooks) {
  if (2 * (needs.read + needs.disk) <= platform::physical_memory()) return;
  pair.base.source->expect_one_pass();
  pair.delta.source->expect_one_pass();
  hooks.past_cache = true;
}

/// Both inputs and the target, hashed while they are read.
struct MergeAudits {
  std::shared_ptr<const AuditedSource> base, delta, target;

  [[nodiscard]] std::vector<TensorMemory> memories() const {
    return {memory_of(target), memory_of(base), memory_of(delta)};
  }
  /// What nobody has read is read, and the hashes are in the report.
  void complete(MergeReport& report, const MergeOptions& options) const {
    base->read_rest(options.streaming());
    delta->read_rest(options.streaming());
    report.fingerprint = target->fingerprint().model();
    report.base_fingerprint = base->fingerprint().model();
    report.delta_fingerprint = delta->fingerprint().model();
    for (std::size_t i = 0; i < target->tensors().size(); ++i) {
      if (target->non_finite(i) == 0) continue;
      report.notes.push_back(target->tensors()[i].name + " has " +
                             std::to_string(target->non_finite(i)) + " infinite or NaN elements");
    }
  }
};

/// What was made of what, by which rule and version; no time, path or host. Hashes that the report
/// does not have yet are zeros of their length.
inline safetensors::Metadata merge_provenance(const MergePair& pair, const MergeReport& report) {
  const bool add = pair.sign == MergeSign::add;
  const auto digits = [](const std::string& text) {
    return text.empty() ? std::string(64, '0') : text;
  };
  return {{add ? "ziya.merge" : "ziya.make_delta", merge_rule(pair.type, pair.sign)},
          {"ziya.version", ZIYA_VERSION},
          {"ziya.fingerprint", digits(report.fingerprint)},
          {"ziya.base.fingerprint", digits(report.base_fingerprint)},
          {add ? "ziya.delta.fingerprint" : "ziya.model.fingerprint",
           digits(report.delta_fingerprint)}};
}

}  // namespace detail
ZIYA_NAMESPACE_END
