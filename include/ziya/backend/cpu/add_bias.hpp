// SPDX-License-Identifier: Apache-2.0
// add_bias on the CPU.
#pragma once

#include <cstdint>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

inline void add_bias(Context<Cpu>& ctx, View<float> y, View<const float> bias) {
  ctx.parallel_for(y.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t j = 0; j < y.columns(); ++j) y.row(i)[j] += bias.data()[j];
    }
  });
}

}  // namespace backend
ZIYA_NAMESPACE_END
