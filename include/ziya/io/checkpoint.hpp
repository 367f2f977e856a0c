// SPDX-License-Identifier: Apache-2.0
// A checkpoint: named tensors in one file or in shards, mapped or read by slices.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/shape.hpp"
#include "ziya/io/checkpoint_files.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/tensor_entry.hpp"
#include "ziya/io/tensor_file.hpp"

ZIYA_NAMESPACE_BEGIN

/// Elements of a tensor in row-major order; `owner` keeps them alive.
struct MappedTensor {
  DType dtype = DType::f32;
  Shape shape;
  const std::byte* data = nullptr;
  std::shared_ptr<const void> owner;
};

/// What is known of a tensor without reading it.
struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::filesystem::path file;

  [[nodiscard]] std::int64_t bytes() const { return bytes_of(dtype, shape.elements()); }
};

/// Reads safetensors, PyTorch and GGUF checkpoints, single or sharded. Opening reads headers only.
/// Immutable; all members may be called from several threads at once.
class Checkpoint {
 public:
  /// A file of tensors, or a Hugging Face folder (see resolve_model_path). Where safetensors and
  /// PyTorch files are both present, safetensors is taken; format() says which it was.
  /// @throws IoError, FormatError naming the file, tensor or shard that is not right
  static Checkpoint open(const std::filesystem::path& path);

  /// Whether a file or folder holds weights that open() would try. False for a folder with
  /// nothing but a tokenizer and a config. @throws nothing
  static bool exists(const std::filesystem::path& path) noexcept {
    try {
      const std::filesystem::path local = expand_home(path);
      return !find_weights(local).empty() || has_named_shards(local);
    } catch (...) {
      return false;
    }
  }

  /// The folder or file that was opened, after `~` and hub caches were resolved.
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] CheckpointFormat format() const { return files_.front()->format(); }
  /// The files the tensors lie in.
  [[nodiscard]] const std::vector<std::shared_ptr<const TensorFile>>& files() const {
    return files_;
  }
  /// `__metadata__` of the first file; empty for PyTorch, of GGUF what describes the model.
  [[nodiscard]] const safetensors::Metadata& metadata() const { return files_.front()->metadata(); }
  /// All metadata of a GGUF checkpoint; nullptr for other formats.
  [[nodiscard]] const gguf::Metadata* gguf_metadata() const {
    return files_.front()->gguf_metadata();
  }
  /// What was chosen or guessed when the files were found.
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }
  /// Sorted by name.
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const { return tensors_; }
  /// Nullptr when there is no tensor of that name.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const {
    const auto found = std::lower_bound(
        tensors_.begin(), tensors_.end(), name,
        [](const TensorInfo& tensor, std::string_view wanted) { return tensor.name < wanted; });
    return found != tensors_.end() && found->name == name ? &*found : nullptr;
  }
  /// Sum over all tensors.
  [[nodiscard]] std::int64_t bytes() const {
    std::int64_t sum = 0;
    for (const TensorInfo& tensor : tensors_) sum += tensor.bytes();
    return sum;
  }

  /// The tensor as memory: the mapped file itself, or a copy when its elements are strided or
  /// not aligned for their type. @throws ArgumentError ZIYA-236 for an unknown name, IoError
  [[nodiscard]] MappedTensor map(std::string_view name) const {
    const Place place = at(name);
    const TensorEntry& entry = *place.entry;
    const std::int64_t alignment = is_quantised(entry.dtype) ? alignof(Half) : entry.item_bytes();
    if (entry.contiguous() && entry.offset % alignment == 0) {
      auto mapped = place.file->mapped();
      return {entry.dtype, entry.shape, mapped->bytes().data() + entry.offset, mapped};
    }
    const auto bytes = static_cast<std::size_t>(entry.bytes());
    const std::shared_ptr<void> copy(Memory<Cpu>::allocate(bytes), Memory<Cpu>::release);
    auto* data = static_cast<std::byte*>(copy.get());
    read(name, {data, bytes});
    return {entry.dtype, entry.shape, data, copy};
  }

  /// The whole tensor, row-major. @throws ArgumentError ZIYA-236, ZIYA-238, IoError
  void read(std::string_view name, std::span<std::byte> out) const {
    read_elements(name, 0, at(name).entry->shape.elements(), out);
  }

  /// Rows [begin, end) along dimension `dim`, row-major: shape with extent end − begin there. Along
  /// the last dimension of a quantised tensor, whole blocks.
  /// @throws ArgumentError ZIYA-236, ZIYA-238, IoError
  void read(std::string_view name, int dim, std::int64_t begin, std::int64_t end,
            std::span<std::byte> out) const {
    const Place place = at(name);
    const Shape& shape = place.entry->shape;
    check_argument(
        name, dim >= 0 && dim < shape.rank() && begin >= 0 && begin <= end && end <= shape[dim],
        "slice [" + std::to_string(begin) + ", " + std::to_string(end) + ") of dimension " +
            std::to_string(dim) + " is outside " + shape.to_string());
    const std::int64_t block =
        dim + 1 == shape.rank() ? info(place.entry->dtype).block_elements : 1;
    check_blocks(name, block, begin, end);
    FileRectangle rectangle = whole(*place.entry);
    const auto d = static_cast<std::size_t>(dim);
    rectangle.offset += begin / block * rectangle.strides[d] * rectangle.item_bytes;
    rectangle.extents[d] = (end - begin) / block;
    const std::int64_t count = shape[dim] == 0 ? 0 : shape.elements() / shape[dim] * (end - begin);
    check_size(name, bytes_of(place.entry->dtype, count), out);
    read_rectangle(place.file->file(), rectangle, out);
  }

  /// `count` elements of the row-major order from element `first` on, of a quantised tensor whole
  /// blocks; how a tensor of any size is streamed. @throws ArgumentError ZIYA-236, ZIYA-238,
  /// IoError
  void read_elements(std::string_view name, std::int64_t first, std::int64_t count,
                     std::span<std::byte> out) const {
    const Place place = at(name);
    const std::int64_t all = place.entry->shape.elements();
    check_argument(name, first >= 0 && count >= 0 && first <= all - count,
                   "elements " + std::to_string(first) + " + " + std::to_string(count) + " of " +
                       std::to_string(all));
    const std::int64_t block = info(place.entry->dtype).block_elements;
    check_blocks(name, block, first, count);
    check_size(name, bytes_of(place.entry->dtype, count), out);
    if (count == 0) return;
    read_range(place.file->file(), whole(*place.entry), 0, first / block, count / block, out);
  }

 private:
  struct Place {
    const TensorFile* file;
    const TensorEntry* entry;
  };

  explicit Checkpoint(CheckpointFiles files)
      : path_(std::move(files.path)),
        files_(std::move(files.files)),
        notes_(std::move(files.notes)) {
    std::vector<Place> places;
    std::map<std::string, std::size_t, std::less<>> by_name;  // in places
    for (const auto& file : files_) {
      for (const TensorEntry& entry : file->tensors()) {
        by_name[entry.name] = places.size();
        places.push_back({file.get(), &entry});
      }
    }
    for (const auto& [name, index] : by_name) {
      const Place& place = places[index];
      places_.push_back(place);
      tensors_.push_back({name, place.entry->dtype, place.entry->shape, place.file->file().path()});
    }
  }

  [[nodiscard]] Place at(std::string_view name) const {
    const TensorInfo* tensor = find(name);
    if (tensor == nullptr) {
      throw ArgumentError("ZIYA-236",
                          utf8_from_path(path_) + ": has no tensor \"" + std::string(name) + "\"");
    }
    return places_[static_cast<std::size_t>(tensor - tensors_.data())];
  }

  void check_argument(std::string_view name, bool good, const std::string& message) const {
    if (!good) {
      throw ArgumentError("ZIYA-238",
                          utf8_from_path(path_) + ": tensor " + std::string(name) + ": " + message);
    }
  }
  void check_size(std::string_view name, std::int64_t bytes, std::span<std::byte> out) const {
    check_argument(
        name, static_cast<std::int64_t>(out.size()) == bytes,
        "room for " + std::to_string(out.size()) + " bytes, expected " + std::to_string(bytes));
  }

  void check_blocks(std::string_view name, std::int64_t block, std::int64_t first,
                    std::int64_t count) const {
    check_argument(name, first % block == 0 && count % block == 0,
                   std::to_string(first) + " and " + std::to_string(count) +
                       " are no multiples of its blocks of " + std::to_string(block) + " elements");
  }

  /// Counts blocks along the last dimension; a block is one element but for quantised types.
  static FileRectangle whole(const TensorEntry& entry) {
    const auto shape = entry.shape.extents();
    std::vector<std::int64_t> extents(shape.begin(), shape.end());
    if (!extents.empty()) extents.back() /= info(entry.dtype).block_elements;
    auto strides = entry.contiguous() ? row_major_strides(extents) : entry.strides;
    return {entry.offset, entry.item_bytes(), std::move(extents), std::move(strides)};
  }

  /// Splits a range of the row-major order into rectangles: whole rows of dimension `dim`, and
  /// the parts of rows before and after them.
  static void read_range(const InputFile& file, FileRectangle rectangle, std::size_t dim,
                         std::int64_t first, std::int64_t count, std::span<std::byte> out) {
    if (dim == rectangle.extents.size()) return read_rectangle(file, rectangle, out);
    std::int64_t inner = 1;
    for (std::size_t i = dim + 1; i < rectangle.extents.size(); ++i) {
      inner *= rectangle.extents[i];
    }
    while (count > 0) {
      FileRectangle part = rectangle;
      const std::int64_t within = first % inner;
      const bool whole_rows = within == 0 && count >= inner;
      const std::int64_t taken =
          whole_rows ? count / inner * inner : std::min(count, inner - within);
      const auto bytes = static_cast<std::size_t>(taken * rectangle.item_bytes);
      part.offset += first / inner * part.strides[dim] * part.item_bytes;
      part.extents[dim] = whole_rows ? taken / inner : 1;
      if (whole_rows) {
        read_rectangle(file, part, out.first(bytes));
      } else {
        read_range(file, part, dim + 1, within, taken, out.first(bytes));
      }
      out = out.subspan(bytes);
      first += taken, count -= taken;
    }
  }

  std::filesystem::path path_;
  std::vector<std::shared_ptr<const TensorFile>> files_;
  std::vector<std::string> notes_;
  std::vector<TensorInfo> tensors_;
  std::vector<Place> places_;  // of tensors_
};

#if ZIYA_DEFINITIONS
ZIYA_INLINE Checkpoint Checkpoint::open(const std::filesystem::path& path) {
  return Checkpoint(checkpoint_files(path));
}
#endif

ZIYA_NAMESPACE_END
