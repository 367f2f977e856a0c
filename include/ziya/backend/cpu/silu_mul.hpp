// SPDX-License-Identifier: Apache-2.0
// silu_mul on the CPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

inline void silu_mul(Context<Cpu>& ctx, View<float> y, View<const float> gate,
                     View<const float> up) {
  ctx.parallel_for(y.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      ctx.kernels().silu_mul(y.row(i), gate.row(i), up.row(i), y.columns());
    }
  });
}

inline void silu_mul_backward(Context<Cpu>& ctx, View<float> dgate, View<float> dup,
                              View<const float> dy, View<const float> gate, View<const float> up) {
  ctx.parallel_for(dy.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t j = 0; j < dy.columns(); ++j) {
        const float g = gate.row(i)[j], d = dy.row(i)[j];
        const float sigma = 1.0f / (1.0f + std::exp(-g));
        const float through_up = d * up.row(i)[j];
        dup.row(i)[j] = d * g * sigma;
        dgate.row(i)[j] = through_up * sigma * (1.0f + g * (1.0f - sigma));
      }
    }
  });
}

}  // namespace backend
ZIYA_NAMESPACE_END
