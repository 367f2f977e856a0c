// SPDX-License-Identifier: Apache-2.0
// Inner loops in plain C++, for processors without a path of their own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/quantize/dequantise_row.hpp"
#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace baseline {

inline constexpr int lanes = 8;  // independent sums, which compilers turn into vectors

/// Σ a[i] · b[i] in `lanes` interleaved sums, then a tree.
template <class B>
inline float dot_of(const float* a, const B* b, std::int64_t count) {
  float sums[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (int l = 0; l < lanes; ++l) sums[l] += a[i + l] * to_float(b[i + l]);
  }
  for (int l = 0; i < count; ++i, ++l) sums[l] += a[i] * to_float(b[i]);
  for (int width = lanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) sums[l] += sums[l + width];
  }
  return sums[0];
}

inline float dot(const float* a, DType dtype, const std::byte* b, std::int64_t count) {
  return with_elements(dtype, b, [&](const auto* elements) { return dot_of(a, elements, count); });
}

/// A product with a weight that has to be made floats first, piece by piece; each piece meets every
/// token. dot(a, b, count) sums within a piece, and the pieces are added in order.
template <class Dot>
inline void matmul_dequantised(const MatmulArguments& m, std::int64_t begin, std::int64_t end,
                               Dot&& dot) {
  for (std::int64_t r = begin; r < end; ++r) {
    for (std::int64_t t = 0; t < m.tokens; ++t) m.y[t * m.y_stride + r] = 0;
    quantize::for_each_chunk(m.dtype, m.weight + bytes_of(m.dtype, r * m.weight_stride), m.columns,
                             m.row_scales != nullptr ? m.row_scales[r] : 1.0f,
                             [&](std::int64_t first, const float* w, std::int64_t count) {
                               for (std::int64_t t = 0; t < m.tokens; ++t) {
                                 m.y[t * m.y_stride + r] +=
                                     dot(m.x + t * m.x_stride + first, w, count);
                               }
                             });
  }
}

/// Row by row; each row of w meets every token while it is in the cache.
inline void matmul(const MatmulArguments& m, std::int64_t begin, std::int64_t end) {
  if (!is_plain_float(m.dtype)) return matmul_dequantised(m, begin, end, dot_of<float>);
  with_elements(m.dtype, m.weight, [&](const auto* w) {
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t t = 0; t < m.tokens; ++t) {
        m.y[t * m.y_stride + r] = dot_of(m.x + t * m.x_stride, w + r * m.weight_stride, m.columns);
      }
    }
  });
}

inline void add_scaled(float* y, float factor, DType dtype, const std::byte* x,
                       std::int64_t count) {
  with_elements(dtype, x, [&](const auto* elements) {
    for (std::int64_t i = 0; i < count; ++i) y[i] += factor * to_float(elements[i]);
  });
}

inline void add_weighted(const WeightedSumArguments& s) {
  const std::int64_t bytes = s.values_stride * info(s.dtype).block_bytes;
  for (std::int64_t t = 0; t < s.rows; ++t) {
    for (std::int64_t j = 0; j < s.count; ++j) {
      add_scaled(s.y + t * s.y_stride, s.weights[t * s.weights_stride + j], s.dtype,
                 s.values + j * bytes, s.width);
    }
  }
}

/// Sixteen at a time, side by side, for one after the other they would wait for each other.
inline float scale_and_find_largest(float* values, float scale, std::int64_t count) {
  constexpr std::int64_t lanes = 16;
  float largest[lanes];
  std::fill_n(largest, lanes, -std::numeric_limits<float>::infinity());
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::int64_t l = 0; l < lanes; ++l) {
      const float v = values[i + l] *= scale;
      largest[l] = v > largest[l] ? v : largest[l];
    }
  }
  for (; i < count; ++i) largest[0] = std::max(largest[0], values[i] *= scale);
  return *std::max_element(largest, largest + lanes);
}

inline float exp_sum(float* values, float shift, std::int64_t count) {
  float sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += values[i] = std::exp(values[i] - shift);
  return sum;
}

inline void silu_mul(float* y, const float* gate, const float* up, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

inline void dequantise(float* y, const std::byte* x, std::int64_t count) {
  quantize::dequantise_row(DType::q8_0, x, y, count);
}

inline void to_halves(Half* y, const float* x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = to_half(x[i]);
}

inline constexpr CpuKernels kernels{
    &matmul,  &dot,      &add_scaled, &add_weighted, &scale_and_find_largest,
    &exp_sum, &silu_mul, nullptr,     &dequantise,   &to_halves};

}  // namespace baseline
ZIYA_NAMESPACE_END
