// SPDX-License-Identifier: Apache-2.0
// cross_entropy on the CPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/backend/cpu/softmax.hpp"
#include "ziya/config.hpp"
#include "ziya/core/label.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

inline void cross_entropy(Context<Cpu>& ctx, View<float> loss, View<const float> logits,
                          std::span<const std::int32_t> labels) {
  ctx.parallel_for(logits.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int32_t label = labels[static_cast<std::size_t>(i)];
      const float* row = logits.row(i);
      loss.data()[i] = 0;
      if (label == ignored_label) continue;
      const float largest = *std::max_element(row, row + logits.columns());
      double sum = 0;
      for (std::int64_t k = 0; k < logits.columns(); ++k) {
        sum += static_cast<double>(std::exp(row[k] - largest));
      }
      loss.data()[i] = static_cast<float>(std::log(sum)) + largest - row[label];
    }
  });
}

inline void cross_entropy_backward(Context<Cpu>& ctx, View<float> dlogits, View<const float> logits,
                                   std::span<const std::int32_t> labels, float scale) {
  softmax(ctx, dlogits, logits);
  for (std::int64_t i = 0; i < logits.rows(); ++i) {
    const std::int32_t label = labels[static_cast<std::size_t>(i)];
    float* row = dlogits.row(i);
    if (label == ignored_label) {
      std::fill(row, row + dlogits.columns(), 0.0f);
      continue;
    }
    row[label] -= 1.0f;
    for (std::int64_t k = 0; k < dlogits.columns(); ++k) row[k] *= scale;
  }
}

}  // namespace backend
ZIYA_NAMESPACE_END
