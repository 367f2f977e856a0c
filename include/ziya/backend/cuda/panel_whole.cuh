// SPDX-License-Identifier: Apache-2.0
// 64 tokens beside a panel of quantised weights whose scales are small integers, by four warps
// together. For compute capability 9.0, compiled for `sm_90a`.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/panel.cuh"
#include "ziya/backend/cuda/panel_rows.cuh"
#include "ziya/backend/cuda/warpgroup.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// The columns of x that belong to a panel as they lie in shared memory: 64 columns after another,
/// rows of 128 bytes as `describe` wants them, and behind them the means that minima meet, as
/// `PanelRows` has them: of 16 columns hi, then lo.
template <class Block>
struct WholePanel {
  using Form = Panel<Block>;
  using Rows = PanelRows<Block, 1>;
  static constexpr int N = 64;  ///< tokens
  static constexpr int means_at = N * Form::columns * 2, part = N * 16 * 2;
  static constexpr int bytes = means_at + (Form::minimum ? 2 * part : 0);

  /// Bytes to a token's mean: those of eight tokens × eight columns lie together.
  __device__ static int place(int token, int column) {
    return token / 8 * 256 + column / 8 * 128 + token % 8 * 16 + column % 8 * 2;
  }

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  /// Adds w · x to a warp's sums of its 16 rows. Quants times small integer scales are whole
  /// numbers of at most 11 bits, so that a panel has one factor in the end.
  __device__ static void add(float (&sums)[N / 2], const Panel<Block>& w, const std::byte* x) {
    const std::uint64_t columns = describe(x);
    float of_panel[N / 2];
    // One product after the other: those of a block's other warps are under way meanwhile.
#pragma unroll
    for (int group = 0; group < Form::groups; ++group) {
      unsigned operands[2][4];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        std::uint32_t pairs[4];
        w.scaled_pairs(pairs, r, group);
#pragma unroll
        for (int j = 0; j < 4; ++j) operands[j / 2][j % 2 * 2 + r] = pairs[j];
      }
      begin_products();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = group / 2 * N * 128 + group % 2 * 64 + half * 32;
        if (at == 0) {
          multiply_registers<N, true>(of_panel, operands[half], columns);
        } else {
          multiply_registers<N>(of_panel, operands[half], columns + (at >> 4));
        }
      }
      finish_products(of_panel);
    }
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      sums[i] = fmaf(w.scales.factor(i / 2 % 2) * Form::pair_unit, of_panel[i], sums[i]);
    }
    if constexpr (Form::minimum) {
      const std::uint64_t means = describe_plain(x + means_at, 128, 256);
      unsigned hi[4], lo[4];
      w.scales.offsets(hi, static_cast<int>(threadIdx.x) % 4);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const __half2 less = __hmul2(reinterpret_cast<const __half2&>(hi[i]),
                                     __float2half2_rn(1.0f / Rows::lo_times));
        lo[i] = reinterpret_cast<const unsigned&>(less);
      }
      begin_products();
      multiply_registers<N, true>(of_panel, hi, means);
      multiply_registers<N>(of_panel, lo, means + (part >> 4));
      finish_products(of_panel);
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        const float factor = w.scales.min_factor(i / 2 % 2) * -Rows::columns_of_mean;
        sums[i] = fmaf(factor, of_panel[i], sums[i]);
      }
    }
  }
#endif
};

/// x as `WholePanel` wants it, panel after panel of 64 tokens; zeros where there is none. Grid:
/// tokens of whole tiles. A thread per eight columns.
template <class Block>
ZIYA_KERNEL void make_whole_panels(std::byte* y, const Half* x, std::int64_t x_stride, int tokens,
                                   int columns, int padded) {
  using Form = Panel<Block>;
  using Whole = WholePanel<Block>;
  constexpr int N = Whole::N;
  constexpr int each = Form::columns / 8;
  release_next();
  wait_for_previous();
  const int token = static_cast<int>(blockIdx.x), row = token % N;
  const auto* from = reinterpret_cast<const std::uint32_t*>(x + token * x_stride);
  std::byte* const tile = y + std::int64_t{token / N} * (padded / Form::columns) * Whole::bytes;
  for (int i = static_cast<int>(threadIdx.x); i < padded / 8; i += static_cast<int>(blockDim.x)) {
    const int group = i / 4, step = i % 4 / 2, half = i % 2;
    std::byte* const panel = tile + std::int64_t{i / each} * Whole::bytes;
    uint4 pairs{};
    if (32 * group < columns && token < tokens) {
      const auto pair = [&](int t) {
        return from[16 * group +
                    (Form::run == 8 ? 4 * t + 2 * step + half : 8 * step + 2 * t + half)];
      };
      pairs = {pair(0), pair(1), pair(2), pair(3)};
    }
    reinterpret_cast<uint4*>(panel)[(i % each / 8 * N + row) * 8 + (i % 8 ^ row % 8)] = pairs;
    if constexpr (Form::minimum) {
      float mean = 0;
      for (const std::uint32_t two : {pairs.x, pairs.y, pairs.z, pairs.w}) {
        mean += half_at(two, 0) + half_at(two, 1);
      }
      mean += __shfl_xor_sync(~0u, mean, 1);
      if constexpr (Form::steps == 1) mean += __shfl_xor_sync(~0u, mean, 2);
      mean /= Whole::Rows::columns_of_mean;
      const Half hi = narrow<Half>(mean);
      const Half lo = narrow<Half>((mean - widen(hi)) * Whole::Rows::lo_times);
      // Each of a group's four threads writes a number: where there are only eight minima, two of
      // them the zeros behind.
      constexpr bool sixteen = Form::steps == 2;
      const int column = sixteen ? 2 * (i % each / 4) + step : i % each / 4 + 8 * step;
      *reinterpret_cast<Half*>(panel + Whole::means_at + half * Whole::part +
                               Whole::place(row, column)) = !sixteen && step == 1 ? Half{}
                                                            : half == 0           ? hi
                                                                                  : lo;
    }
  }
}

}  // namespace cuda
ZIYA_NAMESPACE_END
