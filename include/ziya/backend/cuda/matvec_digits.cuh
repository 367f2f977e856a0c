// SPDX-License-Identifier: Apache-2.0
// Products of one to four tokens with quantised weights on the integer tensor cores.
#pragma once

#include <algorithm>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/digits.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/mma.cuh"
#include "ziya/backend/cuda/panel.cuh"
#include "ziya/backend/cuda/panel_stream.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int digit_warps = 20;  // of a block, the only one on its multiprocessor

/// Adds w · x of a panel to `sums`, in units of the scale of x: integers of a group exactly, those
/// of a super-block too.
template <class T, class Block>
__device__ inline void add_panel(float (&sums)[2][Digits<T, Block>::values], const Panel<Block>& w,
                                 const Digits<T, Block>& x, int panel) {
  using Form = Panel<Block>;
  using X = Digits<T, Block>;
  constexpr int values = X::values, steps = Form::steps;
  constexpr bool integers = Form::Scales::integers;
  float panel_sums[2][values] = {};
  int scaled[2][2] = {}, minima[2][values] = {};
#pragma unroll
  for (int pair = 0; pair < Form::groups / 2; ++pair) {
    const uint4 operand = x.operand(panel, pair);
#pragma unroll
    for (int group = 2 * pair; group < 2 * pair + 2; ++group) {
      std::uint32_t rows[2][2];
      w.integers(rows[0], 0, group);
      w.integers(rows[1], 1, group);
      const unsigned a[4] = {rows[0][0], rows[1][0], rows[0][1], rows[1][1]};
      const unsigned b0 = group % 2 == 0 ? operand.x : operand.z,
                     b1 = group % 2 == 0 ? operand.y : operand.w;
#pragma unroll
      for (int step = 0; step < steps; ++step) {
        // Where scales belong to 16 columns, those are every other byte.
        const unsigned mask = steps == 1 ? ~0u : step == 0 ? 0x00ff00ffu : 0xff00ff00u;
        int c[4];
        multiply_bytes<(Form::offset > 0)>(c, a, b0 & mask, b1 & mask);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          if constexpr (integers) {
            const int scale = w.scales.integer(r, 2 * group + step);
            scaled[r][0] += scale * c[2 * r];
            scaled[r][1] += scale * c[2 * r + 1];
          } else {
            const float scale = w.scales.scale(r, 2 * group);
#pragma unroll
            for (int i = 0; i < values; ++i) {
              const int value = X::joined ? 256 * c[2 * r] + c[2 * r + 1] : c[2 * r + i];
              panel_sums[r][i] = fmaf(scale, static_cast<float>(value), panel_sums[r][i]);
            }
          }
        }
      }
      if constexpr (Form::minimum) {
#pragma unroll
        for (int n = 0; n < steps * values; ++n) {
          const int i = n / steps, step = n % steps;
          const std::uint32_t sum = x.sum(panel, steps * group + step, i);
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            if constexpr (integers) {
              minima[r][i] += w.scales.integer_min(r, 2 * group + step) * static_cast<int>(sum);
            } else {
              panel_sums[r][i] =
                  fmaf(-w.scales.min(r, 2 * group), __uint_as_float(sum), panel_sums[r][i]);
            }
          }
        }
      }
    }
  }
  const float scale = x.scale(panel);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int i = 0; i < values; ++i) {
      if constexpr (integers) {
        const float value = X::joined ? fmaf(256.0f, static_cast<float>(scaled[r][0]),
                                             static_cast<float>(scaled[r][1]))
                                      : static_cast<float>(scaled[r][i]);
        panel_sums[r][i] = w.scales.factor(r) * value;
        if constexpr (Form::minimum) {
          panel_sums[r][i] = fmaf(-w.scales.min_factor(r) * static_cast<float>(1 << Form::below),
                                  static_cast<float>(minima[r][i]), panel_sums[r][i]);
        }
      }
      sums[r][i] = fmaf(scale, panel_sums[r][i], sums[r][i]);
    }
  }
}

/// y = x · wᵀ for several weights, one after another; gated: of `up` too.
template <class T, class Block>
ZIYA_KERNEL void __launch_bounds__(32 * digit_warps)
    matvec_digits(MatvecArguments<T, std::byte> a) {
  using X = Digits<T, Block>;
  constexpr int slots = X::values * 4;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4, warps = static_cast<int>(blockDim.x) / 32;
  extern __shared__ __align__(16) std::byte shared[];
  PanelStream<T, Block> stream(a, shared + warp * panel_ring<Block>, warp, warps);
  // Two buffers in turn: when sums of a band are written, those of the last but one have been read.
  auto* const buffers = reinterpret_cast<BandSums<slots>*>(shared + warps * panel_ring<Block>);
  auto* partial = buffers;
  X x(reinterpret_cast<std::byte*>(buffers + 2 * stream.weights * warps), stream.panels,
      static_cast<int>(a.tokens));
  stream.start();
  release_next();
  wait_for_previous();
  x.fill(a.x, a.x_stride, static_cast<int>(a.columns), stream.begin, stream.end);

  for (int band = static_cast<int>(blockIdx.x); band < stream.bands;
       band += static_cast<int>(gridDim.x)) {
    for (int weight = 0; weight < stream.weights; ++weight) {
      float sums[2][X::values] = {};
      for (int panel = stream.begin; panel < stream.end; ++panel) {
        Panel<Block> now;
        stream.take(now);
        add_panel<T, Block>(sums, now, x, panel);
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int i = 0; i < X::values; ++i) {
          partial[weight * warps + warp][g + 8 * r][X::values * t + i] = sums[r][i];
        }
      }
    }
    __syncthreads();
    finish_band(a, band, warps, [&](int first, int row, int token) {
      float sum = 0;
      for (int n = first; n < first + warps; ++n) {
        if constexpr (X::joined) {
          sum += partial[n][row][token];
        } else {
          const float* digits = &partial[n][row][4 * token];
          sum += fmaf(65536.0f, digits[0], fmaf(256.0f, digits[1], digits[2]));
        }
      }
      return sum;
    });
    partial = partial == buffers ? buffers + stream.weights * warps : buffers;
  }
}

/// Warps of a block and its bytes of shared memory, none where x does not fit beside the rings.
struct DigitPlan {
  int warps = 0, bytes = 0;
};
template <class T, class Block>
DigitPlan digit_plan(const Context<Cuda>& ctx, const MatvecArguments<T, std::byte>& a) {
  using X = Digits<T, Block>;
  const int weights = a.up == nullptr ? 1 : 2;
  const std::int64_t panels = (a.columns + Panel<Block>::columns - 1) / Panel<Block>::columns;
  if (a.tokens > X::tokens_at_once || panels > 4096) return {};
  const int x_bytes = X::bytes(static_cast<int>(panels), static_cast<int>(a.tokens));
  const int per_warp =
      panel_ring<Block> + 2 * weights * static_cast<int>(sizeof(BandSums<4 * X::values>));
  // One block on a multiprocessor, measured on an H100: with two of ten warps or three of eight x
  // is there twice or three times, and the rings are not longer.
  const int most = std::min(digit_warps, (ctx.shared_memory() - x_bytes) / per_warp);
  if (most < 4) return {};
  const int warps = panel_sharing(panels, (4 * most + 4) / 5, most);
  return {warps, warps * per_warp + x_bytes};
}

template <class T, class Block>
ZIYA_HIDDEN void launch_digits(Context<Cuda>& ctx, const MatvecArguments<T, std::byte>& a,
                               const DigitPlan& plan) {
  const auto kernel = matvec_digits<T, Block>;
  const int resident =
      ctx.resident_blocks(reinterpret_cast<const void*>(kernel), 32 * plan.warps, plan.bytes);
  const std::int64_t blocks =
      std::min<std::int64_t>(bands_in(a), std::int64_t{ctx.multiprocessors()} * resident);
  launch(ctx, "matmul", kernel, dim3(static_cast<unsigned>(blocks)),
         dim3(static_cast<unsigned>(32 * plan.warps)), static_cast<std::size_t>(plan.bytes), a);
}

}  // namespace cuda
ZIYA_NAMESPACE_END
