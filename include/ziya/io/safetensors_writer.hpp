// SPDX-License-Identifier: Apache-2.0
// Writes a checkpoint of safetensors files with their index, tensor by tensor, shard by shard.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/safetensors.hpp"
#include "ziya/io/safetensors_file_writer.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// How work that may be interrupted takes part in writing the shards of a checkpoint.
struct ShardEvents {
  using Shard = std::vector<TensorSpec>;  ///< in the order of the data
  /// Metadata of this shard alone, beside that of all.
  std::function<safetensors::Metadata(const Shard&)> metadata{};
  /// Whether the file is there already and right; then it is not written.
  std::function<bool(const std::string& file, const Shard&)> keep{};
  /// The file is whole, on the disk and bears its name. Without this, files get their names
  /// together, by commit().
  std::function<void(const std::string& file, const Shard&)> finished{};
};

/// A checkpoint as Transformers writes it: `model.safetensors`, or where it does not fit one file
/// `model-00001-of-0000n.safetensors` … with `model.safetensors.index.json`.
class ShardedSafetensorsWriter {
 public:
  /// @param max_shard_bytes of the tensors in one file; a larger tensor has a file of its own
  /// @throws IoError, ArgumentError ZIYA-215, and what `events.keep` throws
  ShardedSafetensorsWriter(std::filesystem::path directory, const std::vector<TensorSpec>& tensors,
                           std::int64_t max_shard_bytes, safetensors::Metadata metadata = {},
                           WriteHooks hooks = {}, ShardEvents events = {})
      : directory_(std::move(directory)),
        metadata_(std::move(metadata)),
        hooks_(std::move(hooks)),
        events_(std::move(events)) {
    safetensors::check_names(tensors);
    plan_.emplace_back();
    std::int64_t bytes = 0;
    for (const TensorSpec& tensor : tensors) {
      if (!plan_.back().empty() && bytes > max_shard_bytes - tensor.bytes()) {
        plan_.emplace_back();
        bytes = 0;
      }
      plan_.back().push_back(tensor);
      bytes += tensor.bytes();
      total_bytes_ += tensor.bytes();
    }
    for (std::size_t i = 0; i < plan_.size(); ++i) {
      plan_[i] = safetensors::aligned_order(std::move(plan_[i]));
      if (events_.keep && events_.keep(file_name(i), plan_[i])) continue;
      missing_.push_back(i);
      tensors_.insert(tensors_.end(), plan_[i].begin(), plan_[i].end());
    }
    open_next();
  }

  [[nodiscard]] std::size_t shards() const { return plan_.size(); }
  /// Of these, how many were there already.
  [[nodiscard]] std::size_t kept_shards() const { return plan_.size() - missing_.size(); }
  [[nodiscard]] std::int64_t total_bytes() const { return total_bytes_; }
  /// All tensors of the shards that have to be written, in the order of writing.
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const { return tensors_; }
  /// Files of all shards, and the tensors in each in the order of its data.
  [[nodiscard]] std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < plan_.size(); ++i) names.push_back(file_name(i));
    return names;
  }
  [[nodiscard]] const std::vector<std::vector<TensorSpec>>& plan() const { return plan_; }

  /// The next bytes of tensor `name`; see SafetensorsWriter::write.
  void write(std::string_view name, std::span<const std::byte> data) {
    if (data.empty()) return;
    while (writer_ && writer_->complete() && next_ < missing_.size()) open_next();
    if (!writer_)
      throw ArgumentError("ZIYA-215", "tensor " + std::string(name) + " is not missing");
    writer_->write(name, data);
  }

  /// All files have their names, the index last. @throws ArgumentError ZIYA-215 when tensors are
  /// missing, IoError
  void commit() {
    while (writer_ && writer_->complete() && next_ < missing_.size()) open_next();
    finish();
    std::optional<OutputFile> index;  // on the disk before any file has its name
    if (plan_.size() > 1) {
      index.emplace(directory_ / "model.safetensors.index.json", hooks_);
      index->write(make_index());
      index->finish();
    }
    for (SafetensorsWriter& writer : waiting_) writer.commit();
    if (index) index->commit();
  }

 private:
  [[nodiscard]] std::string file_name(std::size_t shard) const {
    if (plan_.size() == 1) return "model.safetensors";
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "model-%05zu-of-%05zu.safetensors", shard + 1,
                  plan_.size());
    return text.data();
  }
  void open_next() {
    finish();
    if (next_ == missing_.size()) return;
    const std::size_t shard = missing_[next_++];
    safetensors::Metadata metadata = metadata_;
    if (events_.metadata) metadata.merge(events_.metadata(plan_[shard]));
    writer_.emplace(directory_ / file_name(shard), plan_[shard], std::move(metadata), hooks_);
  }
  /// The shard being written is whole.
  void finish() {
    if (!writer_) return;
    writer_->finish();
    const std::size_t shard = missing_[next_ - 1];
    if (events_.finished) {
      writer_->commit();
      writer_.reset();
      events_.finished(file_name(shard), plan_[shard]);
    } else {
      waiting_.push_back(std::move(*writer_));
      writer_.reset();
    }
  }
  [[nodiscard]] std::string make_index() const {
    nlohmann::json index;
    index["metadata"]["total_size"] = total_bytes_;
    for (std::size_t i = 0; i < plan_.size(); ++i) {
      for (const TensorSpec& tensor : plan_[i]) index["weight_map"][tensor.name] = file_name(i);
    }
    return index.dump(2) + "\n";
  }

  std::filesystem::path directory_;
  safetensors::Metadata metadata_;
  WriteHooks hooks_;
  ShardEvents events_;
  std::vector<std::vector<TensorSpec>> plan_;  // by shard
  std::vector<TensorSpec> tensors_;
  std::vector<std::size_t> missing_;  // shards to write
  std::size_t next_ = 0;              // of missing_
  std::optional<SafetensorsWriter> writer_;
  std::deque<SafetensorsWriter> waiting_;  // for their names
  std::int64_t total_bytes_ = 0;
};

ZIYA_NAMESPACE_END
