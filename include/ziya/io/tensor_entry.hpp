// SPDX-License-Identifier: Apache-2.0
// Where a tensor lies in a file, and how any rectangle of it is read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/shape.hpp"
#include "ziya/io/file.hpp"

ZIYA_NAMESPACE_BEGIN

/// One tensor of a file, its place already checked against the file's size.
struct TensorEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  /// In elements, one per dimension; empty when the elements lie row-major without gaps.
  std::vector<std::int64_t> strides;
  /// Of the first element, from the start of the file.
  std::int64_t offset = 0;

  /// Of one element, or of one block of a quantised type.
  [[nodiscard]] std::int64_t item_bytes() const { return info(dtype).block_bytes; }
  /// Of the elements in row-major order, which is not what a strided tensor occupies.
  [[nodiscard]] std::int64_t bytes() const { return bytes_of(dtype, shape.elements()); }
  [[nodiscard]] bool contiguous() const { return strides.empty(); }
};

/// The order of the file; of entries at one place those without bytes come first.
inline bool lies_before(const TensorEntry& a, const TensorEntry& b) {
  return a.offset != b.offset ? a.offset < b.offset : a.bytes() < b.bytes();
}

/// Strides, in elements, of a row-major tensor without gaps.
inline std::vector<std::int64_t> row_major_strides(std::span<const std::int64_t> extents) {
  std::vector<std::int64_t> strides(extents.size(), 1);
  for (std::size_t i = extents.size(); i-- > 1;) strides[i - 1] = strides[i] * extents[i];
  return strides;
}

/// A rectangle of elements in a file: what `read_rectangle` brings into row-major order.
struct FileRectangle {
  std::int64_t offset = 0;      ///< of the first element, bytes
  std::int64_t item_bytes = 1;  ///< of one element
  std::vector<std::int64_t> extents;
  std::vector<std::int64_t> strides;  ///< in elements
};

/// Fills `out` (product of extents × item_bytes) in row-major order. Long runs are read straight
/// into `out`; scattered elements are visited in the file's order through a small window.
/// @throws IoError when the file cannot be read or is shorter than it was
inline void read_rectangle(const InputFile& file, const FileRectangle& rectangle,
                           std::span<std::byte> out) {
  if (out.empty()) return;
  const std::int64_t item = rectangle.item_bytes;
  const auto packed = row_major_strides(rectangle.extents);
  std::vector<std::size_t> dims;  // those that are walked
  for (std::size_t i = 0; i < packed.size(); ++i) {
    if (rectangle.extents[i] != 1) dims.push_back(i);
  }
  // Strides of a dimension in the file and in `out`, bytes.
  const auto from_stride = [&](std::size_t dim) { return rectangle.strides[dim] * item; };
  const auto to_stride = [&](std::size_t dim) { return packed[dim] * item; };
  std::int64_t run = item;  // bytes adjacent in the file and in `out`
  while (!dims.empty() && from_stride(dims.back()) == run && to_stride(dims.back()) == run) {
    run *= rectangle.extents[dims.back()];
    dims.pop_back();
  }
  constexpr std::int64_t window_bytes = 1 << 20, direct_bytes = 4096;
  const bool direct = run >= direct_bytes || dims.empty();
  for (std::size_t i = 1; !direct && i < dims.size(); ++i) {  // a handful: insertion sorts them
    for (std::size_t at = i; at > 0; --at) {
      const std::int64_t before = from_stride(dims[at - 1]), here = from_stride(dims[at]);
      if (before > here) break;
      if (before == here && to_stride(dims[at - 1]) >= to_stride(dims[at])) break;
      std::swap(dims[at - 1], dims[at]);
    }
  }
  // A window pays only where neighbours in the file's order are near one another.
  const std::int64_t ahead =
      !direct && from_stride(dims.back()) <= direct_bytes ? window_bytes : run;

  std::vector<std::byte> window;
  std::int64_t window_begin = 0;
  const auto copy_run = [&](std::int64_t from, std::int64_t to) {
    std::byte* target = out.data() + to;
    if (direct) return file.read(from, {target, static_cast<std::size_t>(run)});
    const auto window_end = window_begin + static_cast<std::int64_t>(window.size());
    if (from < window_begin || from + run > window_end) {
      window.resize(static_cast<std::size_t>(
          std::clamp<std::int64_t>(file.size() - from, run, std::max(ahead, run))));
      file.read(from, window);
      window_begin = from;
    }
    std::memcpy(target, window.data() + (from - window_begin), static_cast<std::size_t>(run));
  };

  std::vector<std::int64_t> index(dims.size(), 0);
  std::int64_t from = rectangle.offset, to = 0;
  while (true) {
    copy_run(from, to);
    std::size_t d = dims.size();
    while (d-- > 0) {
      const std::int64_t extent = rectangle.extents[dims[d]];
      from += from_stride(dims[d]), to += to_stride(dims[d]);
      if (++index[d] < extent) break;
      from -= extent * from_stride(dims[d]), to -= extent * to_stride(dims[d]);
      index[d] = 0;
    }
    if (d == static_cast<std::size_t>(-1)) return;
  }
}

ZIYA_NAMESPACE_END
