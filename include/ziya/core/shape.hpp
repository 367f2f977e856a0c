// SPDX-License-Identifier: Apache-2.0
// The extents of a tensor, slowest dimension first.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"

ZIYA_NAMESPACE_BEGIN

/// Up to eight non-negative extents whose product fits an int64.
class Shape {
 public:
  static constexpr int max_rank = 8;

  Shape() = default;
  /// @throws ShapeError on a negative extent, too many dimensions, or more elements than an
  /// int64.
  Shape(std::initializer_list<std::int64_t> extents)
      : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}
  explicit Shape(std::span<const std::int64_t> extents) {
    if (extents.size() > static_cast<std::size_t>(max_rank)) {
      throw ShapeError("ZIYA-101", "shape: " + std::to_string(extents.size()) +
                                       " dimensions, expected at most " + std::to_string(max_rank));
    }
    for (const std::int64_t extent : extents) {
      if (extent < 0) {
        throw ShapeError("ZIYA-102", "shape: extent " + std::to_string(extent) + " is negative");
      }
      if (extent != 0 && elements_ > std::numeric_limits<std::int64_t>::max() / 8 / extent) {
        throw ShapeError("ZIYA-103", "shape: more elements than can be addressed");
      }
      extents_[static_cast<std::size_t>(rank_++)] = extent;
      elements_ *= extent;
    }
  }

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] std::int64_t operator[](int dim) const {
    return extents_[static_cast<std::size_t>(dim)];
  }
  /// Product of all extents; 1 for a scalar.
  [[nodiscard]] std::int64_t elements() const { return elements_; }
  [[nodiscard]] std::span<const std::int64_t> extents() const {
    return {extents_.data(), static_cast<std::size_t>(rank_)};
  }
  /// "(2, 3)"
  [[nodiscard]] std::string to_string() const {
    std::string text = "(";
    for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string((*this)[i]);
    return text + ")";
  }
  friend bool operator==(const Shape& a, const Shape& b) = default;

 private:
  std::array<std::int64_t, max_rank> extents_{};
  std::int64_t elements_ = 1;
  int rank_ = 0;
};

ZIYA_NAMESPACE_END
