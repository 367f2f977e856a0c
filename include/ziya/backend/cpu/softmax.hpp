// SPDX-License-Identifier: Apache-2.0
// softmax on the CPU.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

inline void softmax(Context<Cpu>& ctx, View<float> y, View<const float> x) {
  const std::int64_t width = x.columns();
  if (width == 0) return;
  ctx.parallel_for(x.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      float* out = y.row(i);
      const float largest = *std::max_element(x.row(i), x.row(i) + width);
      std::copy(x.row(i), x.row(i) + width, out);
      const float inverse = 1.0f / ctx.kernels().exp_sum(out, largest, width);
      for (std::int64_t j = 0; j < width; ++j) out[j] *= inverse;
    }
  });
}

inline void softmax_backward(Context<Cpu>& ctx, View<float> dx, View<const float> dy,
                             View<const float> y) {
  ctx.parallel_for(y.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float mean = ctx.kernels().dot(
          dy.row(i), DType::f32, reinterpret_cast<const std::byte*>(y.row(i)), y.columns());
      for (std::int64_t j = 0; j < y.columns(); ++j) {
        dx.row(i)[j] = y.row(i)[j] * (dy.row(i)[j] - mean);
      }
    }
  });
}

}  // namespace backend
ZIYA_NAMESPACE_END
