// SPDX-License-Identifier: Apache-2.0
// Products of one to four tokens with quantised weights on the integer tensor cores.
#pragma once

#include <algorithm>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/digits.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/panel.cuh"
#include "ziya/backend/cuda/panel_stream.cuh"
#include "ziya/backend/cuda/row_norm.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int digit_warps = 20;  // of a block, the only one on its multiprocessor

/// Sums of squares of the tokens' spans, token after token, by all warps of a block.
template <int AtOnce, class T>
__device__ inline void add_squares(float* spans, const MatvecArguments<T, std::byte>& a, int warp,
                                   int warps) {
  const int lane = static_cast<int>(threadIdx.x) % 32, columns = static_cast<int>(a.columns);
  const int count = norm_spans(columns), all = count * static_cast<int>(a.tokens);
  for (int first = warp; first < all; first += AtOnce * warps) {
    Eight<T> x[AtOnce];  // under way together
#pragma unroll
    for (int n = 0; n < AtOnce; ++n) {
      const int i = first + n * warps;
      if (i < all) {
        x[n] = load_eight<true>(a.x + i / count * a.x_stride, i % count * 32 + lane, columns);
      }
    }
#pragma unroll
    for (int n = 0; n < AtOnce; ++n) {
      const int i = first + n * warps;
      if (i >= all) continue;
      const float sum = span_squares(x[n]);
      if (lane == 0) spans[i] = sum;
    }
  }
  __syncthreads();
}

/// y = x · wᵀ for several weights, one after another; gated: of `up` too. With `a.norm`, every
/// block normalises x for itself: the sums of squares lie in the second of its buffers meanwhile.
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
  const auto factors = x.factors(a.norm, static_cast<int>(a.columns), stream.begin, stream.end);
  release_next();
  wait_for_previous();
  auto* const spans = reinterpret_cast<float*>(buffers + stream.weights * warps);
  if (a.norm != nullptr) add_squares<X::tokens_at_once>(spans, a, warp, warps);
  x.fill(a, stream.begin, stream.end, factors, spans);

  for (int band = static_cast<int>(blockIdx.x); band < stream.bands;
       band += static_cast<int>(gridDim.x)) {
    for (int weight = 0; weight < stream.weights; ++weight) {
      typename X::Sums sums = {};
      for (int panel = stream.begin; panel < stream.end; ++panel) {
        const auto ahead = x.ahead(panel);
        Panel<Block> now;
        stream.take(now);
        x.add(sums, now, ahead, panel);
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
  const int room = weights * warps * static_cast<int>(sizeof(BandSums<4 * X::values>) / 4);
  if (a.norm != nullptr && a.tokens * norm_spans(a.columns) > room) return {};
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
