// SPDX-License-Identifier: Apache-2.0
// rope on the CPU.
#pragma once

#include <algorithm>
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
  constexpr std::int64_t most = 64;
  const std::int64_t apart = pairing == RopePairing::halves ? pairs : 1;
  ctx.parallel_for(x.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const auto position = static_cast<float>(positions[static_cast<std::size_t>(t)]);
      // some pairs of one head after the other, so that neighbours are in one line
      for (std::int64_t i = 0; i < pairs; i += most) {
        const std::int64_t count = std::min(most, pairs - i);
        float c[most], s[most];
        for (std::int64_t j = 0; j < count; ++j) {
          const float angle = position * table.frequencies()[i + j];
          c[j] = std::cos(angle);
          s[j] = sign * std::sin(angle);
        }
        float* first = x.row(t) + i * step;
        for (std::int64_t h = 0; h < heads; ++h, first += head_dim) {
          for (std::int64_t j = 0; j < count; ++j) {
            const float a = first[j * step], b = first[j * step + apart];
            first[j * step] = a * c[j] - b * s[j];
            first[j * step + apart] = b * c[j] + a * s[j];
          }
        }
      }
    }
  });
}

}  // namespace backend
ZIYA_NAMESPACE_END
