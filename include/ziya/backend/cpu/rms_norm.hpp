// SPDX-License-Identifier: Apache-2.0
// rms_norm on the CPU.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

/// 1 / sqrt(mean(x²) + eps)
inline float inverse_rms(const CpuKernels& kernels, const float* x, std::int64_t count, float eps) {
  const float squares = kernels.dot(x, DType::f32, reinterpret_cast<const std::byte*>(x), count);
  return 1.0f / std::sqrt(squares / static_cast<float>(count) + eps);
}

inline void rms_norm(Context<Cpu>& ctx, View<float> y, View<const float> x,
                     View<const float> weight, float eps) {
  ctx.parallel_for(x.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float *in = x.row(i), *w = weight.data();
      float* out = y.row(i);
      const float scale = inverse_rms(ctx.kernels(), in, x.columns(), eps);
      constexpr std::int64_t chunk = 16;  // through memory of its own, so that it becomes vectors
      std::int64_t j = 0;
      for (; j + chunk <= x.columns(); j += chunk) {
        float part[chunk];
        for (std::int64_t l = 0; l < chunk; ++l) part[l] = in[j + l] * scale * w[j + l];
        std::memcpy(out + j, part, sizeof part);
      }
      for (; j < x.columns(); ++j) out[j] = in[j] * scale * w[j];
    }
  });
}

/// Rows one after another, so that dweight is summed in one order.
inline void rms_norm_backward(Context<Cpu>& ctx, View<float> dx, View<float> dweight,
                              View<const float> dy, View<const float> x, View<const float> weight,
                              float eps) {
  const std::int64_t width = x.columns();
  for (std::int64_t i = 0; i < x.rows(); ++i) {
    const float r = inverse_rms(ctx.kernels(), x.row(i), width, eps);
    float mean = 0;
    for (std::int64_t j = 0; j < width; ++j) mean += weight.data()[j] * dy.row(i)[j] * x.row(i)[j];
    mean *= r * r / static_cast<float>(width);
    for (std::int64_t j = 0; j < width; ++j) {
      dweight.data()[j] += dy.row(i)[j] * x.row(i)[j] * r;
      dx.row(i)[j] = r * (weight.data()[j] * dy.row(i)[j] - x.row(i)[j] * mean);
    }
  }
}

}  // namespace backend
ZIYA_NAMESPACE_END
