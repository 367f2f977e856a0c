// SPDX-License-Identifier: Apache-2.0
// Tensors put together from rectangles of other sources' tensors: joins, splits, other orders of
// rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/io/tensor_source.hpp"

ZIYA_NAMESPACE_BEGIN

/// Where elements of a gathered tensor come from: `rows` × `columns` elements of a source's tensor
/// from (row, column) on. A vector is one row.
struct GatheredPiece {
  std::size_t source = 0, tensor = 0;
  std::int64_t row = 0, column = 0;
  std::int64_t rows = 0, columns = 0;
};

/// One tensor that is gathered.
struct GatheredTensor {
  TensorSpec spec;
  /// The largest piece whose first element is element (row, column) of this tensor.
  std::function<GatheredPiece(std::int64_t row, std::int64_t column)> locate;
};

/// Reads any range of such tensors; holds at most a megabyte. Elements are never changed, so the
/// result has the bits of its sources.
class GatheredSource final : public TensorSource {
 public:
  /// @param tensors not quantised; of one or two dimensions
  GatheredSource(std::vector<std::shared_ptr<const TensorSource>> sources,
                 std::vector<GatheredTensor> tensors)
      : sources_(std::move(sources)) {
    for (GatheredTensor& tensor : tensors) {
      specs_.push_back(std::move(tensor.spec));
      locate_.push_back(std::move(tensor.locate));
    }
  }

  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override { return specs_; }

  void expect_one_pass() const override {
    for (const auto& source : sources_) source->expect_one_pass();
  }

  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    const TensorSpec& tensor = specs_.at(index);
    const std::int64_t item = info(tensor.dtype).block_bytes, width = width_of(tensor);
    while (!out.empty()) {
      const std::int64_t row = first / width, column = first % width;
      const std::int64_t left = static_cast<std::int64_t>(out.size()) / item;
      const GatheredPiece piece = locate_[index](row, column);
      const bool whole_rows = column == 0 && left >= width;
      std::int64_t taken = 0;
      if (whole_rows && piece.columns < width) {
        const std::int64_t rows = std::min(piece.rows, left / width);
        taken = side_by_side(index, row, rows, width, item, out);
      } else {
        const std::int64_t source_width = width_of(spec_of(piece));
        const bool adjacent = whole_rows && piece.columns == width && source_width == width;
        taken =
            adjacent ? std::min(piece.rows, left / width) * width : std::min(piece.columns, left);
        sources_[piece.source]->read(piece.tensor, piece.row * source_width + piece.column,
                                     out.first(static_cast<std::size_t>(taken * item)));
      }
      out = out.subspan(static_cast<std::size_t>(taken * item));
      first += taken;
    }
  }

 private:
  static constexpr std::int64_t buffer_bytes = std::int64_t{1} << 20;

  static std::int64_t width_of(const TensorSpec& tensor) {
    return tensor.shape.rank() == 0 ? 1 : tensor.shape[tensor.shape.rank() - 1];
  }
  [[nodiscard]] const TensorSpec& spec_of(const GatheredPiece& piece) const {
    return sources_[piece.source]->tensors()[piece.tensor];
  }

  /// Whole rows that several pieces make up. Pieces that are whole rows of their own tensors are
  /// read many rows at once. @returns elements
  std::int64_t side_by_side(std::size_t index, std::int64_t row, std::int64_t rows,
                            std::int64_t width, std::int64_t item, std::span<std::byte> out) const {
    rows = std::clamp<std::int64_t>(buffer_bytes / (width * item), 1, rows);
    std::vector<std::byte> buffer;
    for (std::int64_t column = 0; column < width;) {
      const GatheredPiece piece = locate_[index](row, column);
      rows = std::min(rows, piece.rows);
      const std::int64_t source_width = width_of(spec_of(piece));
      const auto bytes = static_cast<std::size_t>(piece.columns * item);
      const bool adjacent = source_width == piece.columns;
      buffer.resize(bytes * static_cast<std::size_t>(adjacent ? rows : 1));
      for (std::int64_t r = 0; r < rows; ++r) {
        if (!adjacent || r == 0) {
          sources_[piece.source]->read(piece.tensor, (piece.row + r) * source_width + piece.column,
                                       buffer);
        }
        std::memcpy(out.data() + (r * width + column) * item,
                    buffer.data() + (adjacent ? static_cast<std::size_t>(r) * bytes : 0), bytes);
      }
      column += piece.columns;
    }
    return rows * width;
  }

  std::vector<std::shared_ptr<const TensorSource>> sources_;
  std::vector<TensorSpec> specs_;
  std::vector<std::function<GatheredPiece(std::int64_t, std::int64_t)>> locate_;
};

ZIYA_NAMESPACE_END
