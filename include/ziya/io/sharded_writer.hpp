// SPDX-License-Identifier: Apache-2.0
// A checkpoint in as many files as it takes, with the index that says which tensor lies where.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/tensor_file_writer.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

using Shard = std::vector<TensorSpec>;  ///< in the order of the data

/// How work that may be interrupted takes part in writing the shards of a checkpoint.
struct ShardEvents {
  /// Whether the file is there already and right; then it is not written.
  std::function<bool(const std::string& file, const Shard&)> keep{};
  /// The file is whole, on the disk and bears its name. Without this, files get their names
  /// together, by commit().
  std::function<void(const std::string& file, const Shard&)> finished{};
};

/// What one file of a sharded checkpoint is.
struct ShardFormat {
  std::string stem, extension;  ///< "model", ".safetensors"
  std::function<std::unique_ptr<TensorFileWriter>(const std::filesystem::path&, const Shard&,
                                                  const WriteHooks&)>
      open{};
  Shard (*order)(Shard) = [](Shard shard) { return shard; };  ///< of the data in one file
};

/// `<stem><extension>`, or where the tensors do not fit one file `<stem>-00001-of-0000n<extension>`
/// … with `<stem><extension>.index.json`.
class ShardedWriter {
 public:
  /// @param max_shard_bytes of the tensors in one file; a larger tensor has a file of its own
  /// @throws IoError, ArgumentError ZIYA-215, and what `events.keep` throws
  ShardedWriter(ShardFormat format, std::filesystem::path directory,
                const std::vector<TensorSpec>& tensors, std::int64_t max_shard_bytes,
                WriteHooks hooks = {}, ShardEvents events = {})
      : format_(std::move(format)),
        directory_(std::move(directory)),
        hooks_(std::move(hooks)),
        events_(std::move(events)) {
    check_names(tensors);
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
      plan_[i] = format_.order(std::move(plan_[i]));
      if (events_.keep && events_.keep(file_name(i), plan_[i])) continue;
      missing_.push_back(i);
      tensors_.insert(tensors_.end(), plan_[i].begin(), plan_[i].end());
    }
    open_next();
  }

  [[nodiscard]] std::size_t shards() const { return plan_.size(); }
  [[nodiscard]] std::int64_t total_bytes() const { return total_bytes_; }
  /// All tensors of the shards that have to be written, in the order of writing.
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const { return tensors_; }
  /// Files of all shards, and the tensors in each in the order of its data.
  [[nodiscard]] std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < plan_.size(); ++i) names.push_back(file_name(i));
    return names;
  }
  [[nodiscard]] const std::vector<Shard>& plan() const { return plan_; }

  /// The next bytes of tensor `name`; see TensorFileWriter::write.
  void write(std::string_view name, std::span<const std::byte> data) {
    if (data.empty()) return;
    while (writer_ && writer_->complete() && next_ < missing_.size()) open_next();
    if (!writer_) {
      throw ArgumentError("ZIYA-215", "tensor " + std::string(name) + " is not missing");
    }
    writer_->write(name, data);
  }

  /// All files have their names, the index last. @throws ArgumentError ZIYA-215 when tensors are
  /// missing, IoError
  void commit() {
    while (writer_ && writer_->complete() && next_ < missing_.size()) open_next();
    finish();
    std::optional<OutputFile> index;  // on the disk before any file has its name
    if (plan_.size() > 1) {
      index.emplace(directory_ / (format_.stem + format_.extension + ".index.json"), hooks_);
      index->write(make_index());
      index->finish();
    }
    for (const auto& writer : waiting_) writer->commit();
    if (index) index->commit();
  }

 private:
  [[nodiscard]] std::string file_name(std::size_t shard) const {
    std::array<char, 48> number{};
    if (plan_.size() > 1) {
      std::snprintf(number.data(), number.size(), "-%05zu-of-%05zu", shard + 1, plan_.size());
    }
    return format_.stem + number.data() + format_.extension;
  }
  void open_next() {
    finish();
    if (next_ == missing_.size()) return;
    const std::size_t shard = missing_[next_++];
    writer_ = format_.open(directory_ / file_name(shard), plan_[shard], hooks_);
  }
  /// The shard being written is whole.
  void finish() {
    if (!writer_) return;
    writer_->finish();
    if (!events_.finished) {
      waiting_.push_back(std::move(writer_));
      return;
    }
    writer_->commit();
    writer_.reset();
    const std::size_t shard = missing_[next_ - 1];
    events_.finished(file_name(shard), plan_[shard]);
  }
  [[nodiscard]] std::string make_index() const {
    nlohmann::json index;
    index["metadata"]["total_size"] = total_bytes_;
    for (std::size_t i = 0; i < plan_.size(); ++i) {
      for (const TensorSpec& tensor : plan_[i]) index["weight_map"][tensor.name] = file_name(i);
    }
    return index.dump(2) + "\n";
  }

  ShardFormat format_;
  std::filesystem::path directory_;
  WriteHooks hooks_;
  ShardEvents events_;
  std::vector<Shard> plan_;
  std::vector<TensorSpec> tensors_;
  std::vector<std::size_t> missing_;  // shards to write
  std::size_t next_ = 0;              // of missing_
  std::unique_ptr<TensorFileWriter> writer_;
  std::vector<std::unique_ptr<TensorFileWriter>> waiting_;  // for their names
  std::int64_t total_bytes_ = 0;
};

ZIYA_NAMESPACE_END
