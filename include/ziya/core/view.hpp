// SPDX-License-Identifier: Apache-2.0
// A rectangle of memory that somebody else owns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/shape.hpp"

ZIYA_NAMESPACE_BEGIN

/// Rows along the first dimension, `row_stride` elements apart; each row is contiguous.
/// A (tokens, heads, head_dim) view of one part of a fused projection is such a rectangle.
template <class T, class Device = Cpu>
class View {
 public:
  View() = default;
  View(T* data, const Shape& shape) : View(data, shape, shape) {}
  View(T* data, const Shape& shape, std::int64_t row_stride)
      : data_(data), shape_(shape), row_stride_(row_stride) {}
  /// Writable views read as read-only ones; no conversion crosses devices.
  template <class U, class = std::enable_if_t<std::is_same_v<const U, T>>>
  View(const View<U, Device>& other)
      : data_(other.data()), shape_(other.shape()), row_stride_(other.row_stride()) {}

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] const Shape& shape() const { return shape_; }
  [[nodiscard]] std::int64_t extent(int dim) const { return shape_[dim]; }
  [[nodiscard]] std::int64_t rows() const { return shape_.rank() == 0 ? 1 : shape_[0]; }
  /// Elements of one row: the product of all extents but the first.
  [[nodiscard]] std::int64_t columns() const {
    std::int64_t product = 1;
    for (int i = 1; i < shape_.rank(); ++i) product *= shape_[i];
    return product;
  }
  [[nodiscard]] std::int64_t row_stride() const { return row_stride_; }
  [[nodiscard]] std::int64_t elements() const { return shape_.elements(); }
  [[nodiscard]] bool empty() const { return data_ == nullptr; }
  [[nodiscard]] bool contiguous() const { return rows() <= 1 || row_stride_ == columns(); }
  [[nodiscard]] T* row(std::int64_t i) const { return data_ + i * row_stride_; }

  /// Rows [begin, begin + count).
  [[nodiscard]] View row_range(std::int64_t begin, std::int64_t count) const {
    check_range("row_range", begin, count, rows());
    Shape shape = shape_.rank() == 1 ? Shape{count} : with_first(count);
    return {row(begin), shape, row_stride_};
  }
  /// Columns [begin, begin + count) of every row, as a (rows, count) view.
  [[nodiscard]] View column_range(std::int64_t begin, std::int64_t count) const {
    check_range("column_range", begin, count, columns());
    return {data_ + begin, Shape{rows(), count}, row_stride_};
  }
  /// The same rows with another shape of a row, e.g. (tokens, width) → (tokens, heads, head_dim).
  /// @throws ShapeError when the elements of a row change, or the number of rows of a view whose
  /// rows are not adjacent
  [[nodiscard]] View reshape(const Shape& shape) const {
    const View result(data_, shape);
    if (shape.elements() != elements()) {
      throw ShapeError("ZIYA-104", "reshape: " + shape_.to_string() + " to " + shape.to_string());
    }
    if (contiguous()) return result;
    if (result.rows() != rows()) {
      throw ShapeError("ZIYA-104", "reshape: rows of " + shape_.to_string() + " are not adjacent");
    }
    return {data_, shape, row_stride_};
  }

 private:
  View(T* data, const Shape& shape, const Shape&) : data_(data), shape_(shape) {
    row_stride_ = columns();
  }
  [[nodiscard]] Shape with_first(std::int64_t count) const {
    std::array<std::int64_t, Shape::max_rank> extents{};
    for (int i = 0; i < shape_.rank(); ++i) extents[static_cast<std::size_t>(i)] = shape_[i];
    extents[0] = count;
    return Shape(
        std::span<const std::int64_t>(extents.data(), static_cast<std::size_t>(shape_.rank())));
  }
  static void check_range(const char* what, std::int64_t begin, std::int64_t count,
                          std::int64_t limit) {
    if (begin < 0 || count < 0 || begin > limit - count) {
      throw ShapeError("ZIYA-105", std::string(what) + ": " + std::to_string(begin) + " + " +
                                       std::to_string(count) + " of " + std::to_string(limit));
    }
  }

  T* data_ = nullptr;
  Shape shape_{0};
  std::int64_t row_stride_ = 0;
};

/// Read-only parameter of an op: does not take part in deduction, so tensors convert to it.
template <class T, class Device>
using In = std::type_identity_t<View<const T, Device>>;

ZIYA_NAMESPACE_END
