// SPDX-License-Identifier: Apache-2.0
// rope on the CPU.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/config.hpp"
#include "ziya/core/rope_table.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

/// Angles are 32-bit products, as the reference computes them. `sign` −1 turns back.
inline void rope(Context<Cpu>& ctx, View<float> x, std::span<const std::int32_t> positions,
                 const RopeTable<Cpu>& table, RopePairing pairing, float sign) {
  const std::int64_t heads = x.extent(1), head_dim = x.extent(2), pairs = table.pairs();
  const std::int64_t step = pairing == RopePairing::halves ? 1 : 2;
  const std::int64_t apart = pairing == RopePairing::halves ? pairs : 1;
  ctx.parallel_for(x.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const auto position = static_cast<float>(positions[static_cast<std::size_t>(t)]);
      for (std::int64_t i = 0; i < pairs; ++i) {
        const float angle = position * table.frequencies()[i];
        const float c = std::cos(angle), s = sign * std::sin(angle);
        float* first = x.row(t) + i * step;
        for (std::int64_t h = 0; h < heads; ++h, first += head_dim) {
          const float a = first[0], b = first[apart];
          first[0] = a * c - b * s;
          first[apart] = b * c + a * s;
        }
      }
    }
  });
}

}  // namespace backend
ZIYA_NAMESPACE_END
