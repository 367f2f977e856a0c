// SPDX-License-Identifier: Apache-2.0
// Parts of a tensor as numbers, for looking at it without reading it whole.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/io/tensor_source.hpp"

ZIYA_NAMESPACE_BEGIN

/// Elements [first, first + count) of a tensor, widened. Empty for types that are no numbers of 16,
/// 32 or 64 bits. @throws IoError, FormatError
inline std::vector<float> read_floats(const TensorSource& source, std::size_t index,
                                      std::int64_t first, std::int64_t count) {
  const DType type = source.tensors().at(index).dtype;
  if (!is_float(type)) return {};
  std::vector<std::byte> bytes(static_cast<std::size_t>(bytes_of(type, count)));
  source.read(index, first, bytes);
  std::vector<float> values(static_cast<std::size_t>(count));
  const auto widen = [&]<class T>(T value) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof value);
      if constexpr (std::is_same_v<T, double>) {
        values[i] = static_cast<float>(value);
      } else {
        values[i] = to_float(value);
      }
    }
  };
  if (type == DType::f32) widen(0.0f);
  if (type == DType::f16) widen(Half{});
  if (type == DType::bf16) widen(BFloat16{});
  if (type == DType::f64) widen(0.0);
  return values;
}

/// The middle one of an odd number of values, of an even number the lower; 0 of none.
inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Σxy / √(Σx² Σy²); 0 where one is zero.
inline double cosine(std::span<const float> x, std::span<const float> y) {
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    const double a = static_cast<double>(x[i]), b = static_cast<double>(y[i]);
    xy += a * b, xx += a * a, yy += b * b;
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

ZIYA_NAMESPACE_END
