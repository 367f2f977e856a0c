// SPDX-License-Identifier: Apache-2.0
// A checkpoint in as many files as it takes, with the index that says which tensor lies where.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// @throws ArgumentError ZIYA-215 for a name that occurs twice
inline void check_names(const std::vector<TensorSpec>& tensors) {
  std::set<std::string_view> names;
  for (const TensorSpec& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      throw ArgumentError("ZIYA-215", "writer: there can be only one tensor " + tensor.name);
    }
  }
}

/// `<stem><extension>`, or where the tensors do not fit one file `<stem>-00001-of-0000n<extension>`
/// … with `<stem><extension>.index.json`. No file bears its name before commit().
/// @tparam Writer of one file: constructed from (path, tensors, hooks), with stem and extension
template <class Writer>
class ShardedWriter {
 public:
  /// @param max_shard_bytes of the tensors in one file; a larger tensor has a file of its own
  /// @throws IoError, ArgumentError ZIYA-215
  ShardedWriter(std::filesystem::path directory, const std::vector<TensorSpec>& tensors,
                std::int64_t max_shard_bytes, WriteHooks hooks = {})
      : directory_(std::move(directory)), hooks_(std::move(hooks)), tensors_(tensors) {
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
    open_next();
  }

  [[nodiscard]] std::size_t shards() const { return plan_.size(); }
  [[nodiscard]] std::int64_t total_bytes() const { return total_bytes_; }
  /// All tensors, in the order in which they must be written.
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const { return tensors_; }

  /// The next bytes of tensor `name`; see Writer::write.
  void write(std::string_view name, std::span<const std::byte> data) {
    if (data.empty()) return;
    while (writers_.back().complete() && writers_.size() < plan_.size()) open_next();
    writers_.back().write(name, data);
  }

  /// All files get their names, the index last. @throws ArgumentError ZIYA-215 when tensors are
  /// missing, IoError
  void commit() {
    while (writers_.back().complete() && writers_.size() < plan_.size()) open_next();
    for (Writer& writer : writers_) writer.finish();
    std::optional<OutputFile> index;  // on the disk before any file has its name
    if (plan_.size() > 1) {
      const std::string name = std::string(Writer::stem) + std::string(Writer::extension);
      index.emplace(directory_ / (name + ".index.json"), hooks_);
      index->write(make_index());
      index->finish();
    }
    for (Writer& writer : writers_) writer.commit();
    if (index) index->commit();
  }

 private:
  void open_next() {
    if (!writers_.empty()) writers_.back().finish();
    std::string name(Writer::stem);
    if (plan_.size() > 1) {
      std::array<char, 48> text{};
      std::snprintf(text.data(), text.size(), "-%05zu-of-%05zu", writers_.size() + 1, plan_.size());
      name += text.data();
    }
    name += Writer::extension;
    writers_.emplace_back(directory_ / name, plan_[writers_.size()], hooks_);
  }
  [[nodiscard]] std::string make_index() const {
    nlohmann::json index;
    index["metadata"]["total_size"] = total_bytes_;
    for (const Writer& writer : writers_) {
      for (const TensorSpec& tensor : writer.tensors()) {
        index["weight_map"][tensor.name] = utf8_from_path(writer.path().filename());
      }
    }
    return index.dump(2) + "\n";
  }

  std::filesystem::path directory_;
  WriteHooks hooks_;
  std::vector<std::vector<TensorSpec>> plan_;  // by shard
  std::vector<TensorSpec> tensors_;
  std::deque<Writer> writers_;
  std::int64_t total_bytes_ = 0;
};

ZIYA_NAMESPACE_END
