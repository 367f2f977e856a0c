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

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace eigen {

using Array = Eigen::Map<Eigen::ArrayXf>;
using ConstArray = Eigen::Map<const Eigen::ArrayXf>;

inline constexpr std::int64_t block = 256;

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
  with_elements(m.dtype, m.weight, [&](const auto* w) {
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t t = 0; t < m.tokens; ++t) {
        m.y[t * m.y_stride + r] = dot_of(m.x + t * m.x_stride, w + r * m.columns, m.columns);
      }
    }
  });
}

inline void add_scaled(float* y, float factor, DType dtype, const std::byte* x,
                       std::int64_t count) {
  with_elements(dtype, x, [&](const auto* elements) {
    float buffer[block];
    for (std::int64_t i = 0; i < count; i += block) {
      const std::int64_t n = std::min(block, count - i);
      Array(y + i, n) += factor * ConstArray(widened(elements + i, n, buffer), n);
    }
  });
}

inline float exp_sum(float* values, float shift, std::int64_t count) {
  Array v(values, count);
  v = (v - shift).exp();
  return v.sum();
}

inline void silu_mul(float* y, const float* gate, const float* up, std::int64_t count) {
  const ConstArray g(gate, count), u(up, count);
  Array(y, count) = g / (1.0f + (-g).exp()) * u;
}

inline constexpr CpuKernels kernels{&matmul, &dot, &add_scaled, &exp_sum, &silu_mul};

}  // namespace eigen
ZIYA_NAMESPACE_END
