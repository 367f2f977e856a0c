// SPDX-License-Identifier: Apache-2.0
// Which tensors of a conversion are on the disk, with their hashes and what was learned of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/audited_source.hpp"
#include "ziya/convert/digest.hpp"
#include "ziya/convert/fingerprint.hpp"
#include "ziya/convert/model_source.hpp"
#include "ziya/convert/stream.hpp"
#include "ziya/convert/tensor_memory.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/sharded_writer.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/io/work_directory.hpp"

ZIYA_NAMESPACE_BEGIN

/// The journal of a WorkDirectory: its first line says what is being made, each further one that
/// tensors of a file are on the disk. What it says is never trusted: hashes are compared.
class ConversionJournal {
 public:
  /// @param written the tensors as they are written, hashed while they are read
  /// @param identity one line; the same inputs and options give the same
  /// @param prefix of the files this is about, where several share the folder: "part_0/"
  /// @throws ArgumentError ZIYA-643 when the folder is to be resumed but holds other work; IoError
  ConversionJournal(WorkDirectory& directory, std::shared_ptr<const AuditedSource> written,
                    std::vector<TensorMemory> memories, const std::string& identity,
                    std::string prefix = {})
      : directory_(directory),
        written_(std::move(written)),
        memories_(std::move(memories)),
        prefix_(std::move(prefix)) {
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

  /// Shards of earlier processes that are whole: every tensor is read and its hash compared. What
  /// is not whole is no error, it is made again. @throws Error ZIYA-606 when cancelled
  const std::vector<std::string>& verify_shards(const StreamOptions& options) {
    for (const auto& [file, tensors] : recorded()) {
      try {
        const CheckpointSource source(Checkpoint::open(directory_.path() / path_from_utf8(file)));
        const Fingerprint found = fingerprint(source, options);
        bool whole = found.tensors.size() == tensors.size();
        for (const auto& [name, digits] : found.tensors) {
          const auto said = tensors.find(name);
          whole = whole && said != tensors.end() && said->second.at(0) == digits;
        }
        if (!whole) continue;
        for (const auto& [name, saved] : tensors) learn(name, saved);
        kept_.push_back(file);
        kept_bytes_ += InputFile(directory_.path() / path_from_utf8(file)).size();
      } catch (const Error& error) {
        if (error.id() == "ZIYA-606") throw;
      } catch (const nlohmann::json::exception&) {  // no line of this class
      }
    }
    return kept_;
  }
  [[nodiscard]] const std::vector<std::string>& kept() const { return kept_; }
  /// Of the shards that are kept.
  [[nodiscard]] std::int64_t kept_bytes() const { return kept_bytes_; }

  /// How many tensors, from the front of `source`, are what the journal says of `file`.
  /// @throws Error ZIYA-606 when cancelled; what the source throws
  std::size_t verify_front(const std::string& file, const TensorSource& source,
                           const StreamOptions& options) {
    const auto files = recorded();
    const auto tensors = files.find(prefix_ + file);
    if (tensors == files.end()) return 0;
    const Fingerprint found = fingerprint(source, options);
    std::size_t count = 0;
    for (const TensorSpec& tensor : source.tensors()) {
      const auto said = tensors->second.find(tensor.name);
      if (said == tensors->second.end() || said->second.empty() ||
          said->second.at(0) != found.tensors.at(tensor.name)) {
        break;
      }
      learn(tensor.name, said->second);
      ++count;
    }
    return count;
  }

  /// These tensors are written. @param file without the prefix   @throws IoError ZIYA-206
  void finished(const std::string& file, std::span<const TensorSpec> tensors) {
    nlohmann::json line;
    line["file"] = prefix_ + file;
    nlohmann::json& all = line["tensors"];
    for (const TensorSpec& tensor : tensors) {
      nlohmann::json& saved = all[tensor.name];
      saved.push_back(written_->digest(find_tensor(*written_, tensor.name)));
      for (const TensorMemory& memory : memories_) saved.push_back(memory.save(tensor.name));
    }
    directory_.journal().append(line.dump());
  }

  /// For the writer of shards: those kept are not written, others are noted.
  /// @param keep_unfinished see WorkDirectory
  [[nodiscard]] ShardEvents events(bool keep_unfinished) {
    if (keep_unfinished && !kept_.empty()) directory_.keep_unfinished();
    ShardEvents events;
    events.keep = [this](const std::string& file, const Shard&) {
      return std::find(kept_.begin(), kept_.end(), prefix_ + file) != kept_.end();
    };
    events.finished = [this, keep_unfinished](const std::string& file, const Shard& shard) {
      finished(file, shard);
      if (keep_unfinished) directory_.keep_unfinished();
    };
    return events;
  }

 private:
  using Tensors = std::map<std::string, nlohmann::json>;

  /// file → tensor → what was saved of it. Lines that are none of this class are passed over.
  [[nodiscard]] std::map<std::string, Tensors> recorded() const {
    std::map<std::string, Tensors> files;
    const auto& lines = directory_.journal().lines();
    for (std::size_t i = 1; i < lines.size(); ++i) {
      try {
        const auto line = parse_json(lines[i], "journal");
        const auto file = json_get<std::string>(line, "file", "journal");
        if (!file.starts_with(prefix_)) continue;
        for (const auto& [name, saved] : line.at("tensors").items()) files[file][name] = saved;
      } catch (const Error&) {
      } catch (const nlohmann::json::exception&) {
      }
    }
    return files;
  }
  void learn(const std::string& name, const nlohmann::json& saved) const {
    for (std::size_t i = 0; i < memories_.size(); ++i) {
      if (!saved.at(i + 1).is_null()) memories_[i].load(name, saved.at(i + 1));
    }
  }

  WorkDirectory& directory_;
  std::shared_ptr<const AuditedSource> written_;
  std::vector<TensorMemory> memories_;
  std::string prefix_;
  std::vector<std::string> kept_;
  std::int64_t kept_bytes_ = 0;
};

/// What a conversion of a model is, as one line. @param form everything that decides about the
/// bytes but the contents of the tensors   @throws ArgumentError ZIYA-644 for `resume` of a model
/// that does not say what it is read from
inline std::string conversion_identity(const ModelSource& model, const std::string& form,
                                       bool resume) {
  if (resume && model.identity.empty()) {
    throw ArgumentError("ZIYA-644", model.name +
                                        ": does not say what its tensors are made from, so no "
                                        "conversion of it can be resumed; run it again without "
                                        "resuming");
  }
  Sha256 hash;
  hash.update(form);
  nlohmann::json json;
  json["ziya"] = ZIYA_VERSION;
  json["inputs"] = model.identity;
  json["form"] = hash.hex_value();
  return identity_text(json);
}

ZIYA_NAMESPACE_END
