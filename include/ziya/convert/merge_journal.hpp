// SPDX-License-Identifier: Apache-2.0
// Which shards of a conversion are whole, with the hashes of their tensors and of their inputs'.
#pragma once

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/audited_source.hpp"
#include "ziya/convert/fingerprint.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/output_directory.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/io/tensor_spec.hpp"

ZIYA_NAMESPACE_BEGIN

/// The journal of an OutputDirectory: its first line says what is being made, each further one
/// that a shard is on the disk.
class MergeJournal {
 public:
  /// @param audits target first, then its inputs; they learn the hashes of shards that are kept
  /// @param identity one line; the same inputs and options give the same
  /// @throws ArgumentError ZIYA-643 when the folder is to be resumed but holds other work; IoError
  MergeJournal(OutputDirectory& directory, std::vector<const AuditedSource*> audits,
               const std::string& identity)
      : directory_(directory), audits_(std::move(audits)) {
    const auto& lines = directory_.journal().lines();
    if (lines.empty()) {
      directory_.journal().append(identity);
    } else if (lines.front() != identity) {
      directory_.keep_unfinished();
      throw ArgumentError("ZIYA-643", utf8_from_path(directory_.path()) +
                                          ": holds unfinished work with other inputs or options; "
                                          "run it again without resuming to begin anew");
    }
  }

  /// Files of earlier processes that are whole: every tensor is read and its hash compared. What
  /// is not whole is no error, it is made again. @throws Error ZIYA-606 when cancelled
  std::vector<std::string> verify(const StreamOptions& options) {
    std::vector<std::string> files;
    const auto& lines = directory_.journal().lines();
    for (std::size_t i = 1; i < lines.size(); ++i) {
      try {
        const auto line = parse_json(lines[i], "journal");
        const auto file = json_get<std::string>(line, "file", "journal");
        const auto& tensors = line.at("tensors");
        const CheckpointSource source(Checkpoint::open(directory_.path() / path_from_utf8(file)));
        const Fingerprint found = fingerprint(source, options);
        bool whole = found.tensors.size() == tensors.size();
        for (const auto& [name, digits] : found.tensors) {
          whole = whole && tensors.contains(name) && tensors[name].at(0) == digits;
        }
        if (!whole) continue;
        for (const auto& [name, digits] : tensors.items()) learn(name, digits);
        files.push_back(file);
      } catch (const Error& error) {
        if (error.id() == "ZIYA-606") throw;
      } catch (const nlohmann::json::exception&) {  // no line of this class
      }
    }
    return files;
  }

  /// The shard is on the disk. @throws IoError ZIYA-206
  void finished(const std::string& file, const std::vector<TensorSpec>& shard) {
    nlohmann::json tensors = nlohmann::json::object();
    for (const TensorSpec& tensor : shard) {
      auto& digits = tensors[tensor.name];
      for (const AuditedSource* audit : audits_) {
        const std::size_t i = find_tensor(*audit, tensor.name);
        digits.push_back(i < audit->tensors().size() ? audit->digest(i) : "");
      }
    }
    directory_.journal().append(nlohmann::json{{"file", file}, {"tensors", tensors}}.dump());
  }

 private:
  void learn(const std::string& name, const nlohmann::json& digits) const {
    for (std::size_t a = 0; a < audits_.size(); ++a) {
      const std::size_t i = find_tensor(*audits_[a], name);
      const auto text = digits.at(a).get<std::string>();
      if (i < audits_[a]->tensors().size() && !text.empty()) audits_[a]->set_digest(i, text);
    }
  }

  OutputDirectory& directory_;
  std::vector<const AuditedSource*> audits_;
};

ZIYA_NAMESPACE_END
