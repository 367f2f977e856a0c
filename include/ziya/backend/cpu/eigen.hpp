// SPDX-License-Identifier: Apache-2.0
// The portable path through Eigen, and the only header that includes Eigen.
#pragma once

#include "ziya/config.hpp"

// Under nvcc Eigen turns its SIMD off for host code too unless told not to know CUDA.
#if defined(EIGEN_CORE_H) && defined(__CUDACC__) && !defined(EIGEN_NO_CUDA)
#error "include <ziya/ziya.hpp> before Eigen, or define EIGEN_NO_CUDA, in CUDA sources"
#endif
#ifndef EIGEN_NO_CUDA
#define EIGEN_NO_CUDA
#endif
#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/baseline.hpp"
#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace eigen {

using ConstArray = Eigen::Map<const Eigen::ArrayXf>;

inline constexpr std::int64_t block = 256;

// Element-wise work goes through pieces of a fixed size, padded with zeros: Eigen gives the first
// and last elements of a longer array to scalar code, and which ones depends on its address.
inline constexpr std::int64_t lanes = 16;
using Lanes = Eigen::Map<Eigen::Array<float, lanes, 1>>;

template <class X>
inline void load(float* buffer, const X* from, std::int64_t count) {
  for (std::int64_t i = 0; i < lanes; ++i) buffer[i] = i < count ? to_float(from[i]) : 0.0f;
}

/// `count` ≤ block elements as floats: the bytes themselves, or widened into `buffer`.
inline const float* widened(const float* x, std::int64_t, float*) { return x; }
template <class X>
inline const float* widened(const X* x, std::int64_t count, float* buffer) {
  for (std::int64_t i = 0; i < count; ++i) buffer[i] = to_float(x[i]);
  return buffer;
}

/// Σ a[i] · b[i], blocks in order; within a block in Eigen's order.
template <class B>
inline float dot_of(const float* a, const B* b, std::int64_t count) {
  float buffer[block], sum = 0;
  for (std::int64_t i = 0; i < count; i += block) {
    const std::int64_t n = std::min(block, count - i);
    sum += (ConstArray(a + i, n) * ConstArray(widened(b + i, n, buffer), n)).sum();
  }
  return sum;
}

inline float dot(const float* a, DType dtype, const std::byte* b, std::int64_t count) {
  return with_elements(dtype, b, [&](const auto* elements) { return dot_of(a, elements, count); });
}

inline void matmul(const MatmulArguments& m, std::int64_t begin, std::int64_t end) {
  if (!is_plain_float(m.dtype)) {
    return baseline::matmul_dequantised(m, begin, end, dot_of<float>);
  }
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
    float a[lanes], b[lanes];
    Lanes to(a), from(b);
    for (std::int64_t i = 0; i < count; i += lanes) {
      const std::int64_t n = std::min(lanes, count - i);
      load(a, y + i, n);
      load(b, elements + i, n);
      to += factor * from;
      std::copy_n(a, n, y + i);
    }
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

/// buffer[i] = exp(buffer[i]) for `lanes` elements; Eigen's exponential of −∞ is not quite 0.
inline void exp_of(float* buffer) {
  bool vanishes[lanes];
  for (std::int64_t i = 0; i < lanes; ++i) vanishes[i] = buffer[i] < -87.33f;
  Lanes values(buffer);
  values = values.exp();
  for (std::int64_t i = 0; i < lanes; ++i) buffer[i] = vanishes[i] ? 0.0f : buffer[i];
}

inline float exp_sum(float* values, float shift, std::int64_t count) {
  float a[lanes], sums[lanes] = {}, sum = 0;
  for (std::int64_t i = 0; i < count; i += lanes) {
    const std::int64_t n = std::min(lanes, count - i);
    load(a, values + i, n);
    for (std::int64_t j = 0; j < lanes; ++j) a[j] -= shift;
    exp_of(a);
    std::copy_n(a, n, values + i);
    for (std::int64_t j = 0; j < n; ++j) sums[j] += a[j];
  }
  for (const float part : sums) sum += part;
  return sum;
}

inline void silu_mul(float* y, const float* gate, const float* up, std::int64_t count) {
  float a[lanes];
  for (std::int64_t i = 0; i < count; i += lanes) {
    const std::int64_t n = std::min(lanes, count - i);
    for (std::int64_t j = 0; j < lanes; ++j) a[j] = j < n ? -gate[i + j] : 0.0f;
    exp_of(a);
    for (std::int64_t j = 0; j < n; ++j) y[i + j] = up[i + j] * (gate[i + j] / (1.0f + a[j]));
  }
}

inline constexpr CpuKernels kernels{
    &matmul,  &dot,      &add_scaled, &add_weighted,         &baseline::scale_and_find_largest,
    &exp_sum, &silu_mul, nullptr,     &baseline::dequantise, &baseline::to_halves};

}  // namespace eigen
ZIYA_NAMESPACE_END
