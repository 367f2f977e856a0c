// SPDX-License-Identifier: Apache-2.0
// The tensors of a checkpoint, compared with the checksums of its archives while they are read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/verify_archives.hpp"
#include "ziya/core/crc32.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/tensor_entry.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/io/zip.hpp"
#include "ziya/ops/crc32.hpp"

ZIYA_NAMESPACE_BEGIN

/// A zip archive of torch.save records a CRC-32 of each storage. Where a tensor is a whole storage,
/// as in every published model, its bytes are counted as they pass, in whatever pieces and order;
/// who reads the last of them is told when the sum is not the recorded one. A storage that several
/// tensors share, or one of which a tensor is a view, is compared by itself before the first of
/// them is read. Files that record nothing cost nothing; what is mapped is not compared.
class CheckedSource final : public TensorSource {
 public:
  /// @throws FormatError ZIYA-221 when an archive's list of tensors is not what was written
  explicit CheckedSource(std::shared_ptr<const CheckpointSource> source)
      : source_(std::move(source)), storages_of_(source_->tensors().size(), nullptr) {
    for (const auto& file : source_->checkpoint().files()) {
      if (detail::is_archive(file->file())) add(*file);
    }
  }

  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override {
    return source_->tensors();
  }
  /// @throws FormatError ZIYA-221 naming file and entry, IoError
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    Storage* storage = storages_of_.at(index);
    if (storage != nullptr && !storage->follows) compare_whole(*storage);
    source_->read(index, first, out);
    if (storage != nullptr && storage->follows) {
      passed(*storage, bytes_of(tensors()[index].dtype, first), out);
    }
  }
  [[nodiscard]] MappedTensor map(std::size_t index) const override { return source_->map(index); }
  void read_mapped(const std::byte* from, std::span<std::byte> out) const override {
    source_->read_mapped(from, out);
  }
  [[nodiscard]] std::string place(std::size_t index) const override {
    return source_->place(index);
  }
  void expect_one_pass() const override { source_->expect_one_pass(); }

 private:
  struct Storage {
    const InputFile* file;
    zip::Entry entry;
    bool follows;  // one tensor is all of it
    std::mutex mutex;
    std::map<std::int64_t, std::int64_t> seen;  // begin → end of what was read, merged
    std::int64_t counted = 0;                   // bytes in `sum`
    std::uint32_t sum = 0;
    bool compared = false, damaged = false;
  };
  struct Range {
    std::int64_t begin, end;
  };

  void add(const TensorFile& file) {
    std::map<std::int64_t, Storage*> starts;  // of the storages' data in the file
    for (const zip::Entry& entry : zip::read_directory(file.file())) {
      if (!detail::records_checksum(entry)) continue;
      if (entry.name.ends_with("/data.pkl")) {
        if (!zip::intact(file.file(), entry)) detail::refuse_entry(file.file(), entry);
      } else if (entry.name.find("/data/") != std::string::npos) {
        Storage& storage = storages_.emplace_back();
        storage.file = &file.file();
        storage.entry = entry;
        storage.follows = true;
        starts.emplace(entry.offset, &storage);
      }
    }
    std::map<const Storage*, int> users;  // that are all of it
    for (const TensorEntry& tensor : file.tensors()) {
      auto place = starts.upper_bound(tensor.offset);
      if (place == starts.begin() || tensor.bytes() == 0) continue;
      Storage& storage = *std::prev(place)->second;
      const bool whole = tensor.contiguous() && tensor.offset == storage.entry.offset &&
                         tensor.bytes() == storage.entry.bytes;
      storage.follows = storage.follows && whole && ++users[&storage] == 1;
      storages_of_.at(find_tensor(*source_, tensor.name)) = &storage;
    }
  }

  static void compare_whole(Storage& storage) {
    const std::lock_guard lock(storage.mutex);
    if (!storage.compared) storage.damaged = !zip::intact(*storage.file, storage.entry);
    storage.compared = true;
    if (storage.damaged) detail::refuse_entry(*storage.file, storage.entry);
  }

  /// What of [begin, end) is seen for the first time; then all of it is.
  static std::vector<Range> claim(std::map<std::int64_t, std::int64_t>& seen, Range range) {
    std::vector<Range> fresh;
    auto next = seen.upper_bound(range.begin);
    if (next != seen.begin() && std::prev(next)->second >= range.begin) --next;
    std::int64_t at = range.begin;
    Range whole = range;
    while (next != seen.end() && next->first <= range.end) {
      if (next->first > at) fresh.push_back({at, next->first});
      at = std::max(at, next->second);
      whole = {std::min(whole.begin, next->first), std::max(whole.end, next->second)};
      next = seen.erase(next);
    }
    if (at < range.end) fresh.push_back({at, range.end});
    seen.emplace(whole.begin, whole.end);
    return fresh;
  }

  static void passed(Storage& storage, std::int64_t begin, std::span<const std::byte> bytes) {
    std::unique_lock lock(storage.mutex);
    if (!storage.compared) {
      const auto fresh =
          claim(storage.seen, {begin, begin + static_cast<std::int64_t>(bytes.size())});
      lock.unlock();
      std::uint32_t sum = 0;
      std::int64_t counted = 0;
      for (const Range& range : fresh) {
        const std::int64_t count = range.end - range.begin;
        const auto part = bytes.subspan(static_cast<std::size_t>(range.begin - begin),
                                        static_cast<std::size_t>(count));
        sum ^= crc32_followed(ops::crc32(part),
                              static_cast<std::uint64_t>(storage.entry.bytes - range.end));
        counted += count;
      }
      lock.lock();
      storage.sum ^= sum;
      storage.counted += counted;
      if (storage.counted == storage.entry.bytes) {
        storage.compared = true;
        storage.damaged = storage.sum != storage.entry.crc;
        storage.seen.clear();
      }
    }
    if (storage.damaged) detail::refuse_entry(*storage.file, storage.entry);
  }

  std::shared_ptr<const CheckpointSource> source_;
  mutable std::deque<Storage> storages_;
  std::vector<Storage*> storages_of_;  // of each tensor; null: nothing is recorded
};

/// What conversions read of a checkpoint: itself where its format records no checksums.
inline std::shared_ptr<const TensorSource> checked(std::shared_ptr<const CheckpointSource> source) {
  if (source->checkpoint().format() != CheckpointFormat::pytorch) return source;
  return std::make_shared<const CheckedSource>(std::move(source));
}
inline std::shared_ptr<const TensorSource> checked(Checkpoint checkpoint) {
  return checked(std::make_shared<const CheckpointSource>(std::move(checkpoint)));
}
inline std::vector<std::shared_ptr<const TensorSource>> checked(
    const std::vector<std::shared_ptr<const CheckpointSource>>& parts) {
  std::vector<std::shared_ptr<const TensorSource>> sources;
  for (const auto& part : parts) sources.push_back(checked(part));
  return sources;
}

ZIYA_NAMESPACE_END
