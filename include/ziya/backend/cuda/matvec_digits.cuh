// SPDX-License-Identifier: Apache-2.0
// Products of one to four tokens with quantised weights on the integer tensor cores.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/digits.cuh"
#include "ziya/backend/cuda/digits_of_one.cuh"
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
  const int count = norm_spans(columns);
#pragma unroll 1  // code that runs once is waited for
  for (int span = warp; span < count; span += warps) {
    Eight<T> x[AtOnce];  // of tokens, under way together
#pragma unroll
    for (int n = 0; n < AtOnce; ++n) {
      if (n < a.tokens) x[n] = load_eight<true>(a.x + n * a.x_stride, span * 32 + lane, columns);
    }
#pragma unroll
    for (int n = 0; n < AtOnce; ++n) {
      if (n >= a.tokens) break;
      const float sum = span_squares(x[n]);
      if (lane == 0) spans[n * count + span] = sum;
    }
  }
  __syncthreads();
}

/// A row of one of a block's bands and a token, which a thread finishes when the warps have met.
template <class T, bool One>
class BandItem {
 public:
  /// @param count bands from `first` on, `step` apart
  __device__ BandItem(const MatvecArguments<T, std::byte>& a, int first, int step, int count) {
    int band = first + k(a) * step;
    if (k(a) >= count) return;
    const int index = Bands<T>{a}.locate(band);
    const auto& part = a.parts[index];
    row_ = band * panel_row_count + in_band();
    if (row_ >= part.rows) return;
    index_ = index;
    there_ = y_bits(a, part, row_, token(a));
  }
  /// total(k, weight, row, token): a sum over the warps, of the k-th band
  template <class Total>
  __device__ void finish(const MatvecArguments<T, std::byte>& a, const Total& total) const {
    if (index_ < 0) return;
    float sum = total(k(a), 0, in_band(), token(a));
    if (a.up != nullptr) sum = silu(sum) * total(k(a), 1, in_band(), token(a));
    finish_row(a, a.parts[index_], row_, token(a), sum, from_y_bits(a, there_));
  }

 private:
  __device__ static int in_band() { return static_cast<int>(threadIdx.x) % panel_row_count; }
  __device__ static int token(const MatvecArguments<T, std::byte>& a) {
    return One ? 0 : static_cast<int>(threadIdx.x) / panel_row_count % static_cast<int>(a.tokens);
  }
  __device__ static int k(const MatvecArguments<T, std::byte>& a) {
    const int i = static_cast<int>(threadIdx.x) / panel_row_count;
    return One ? i : i / static_cast<int>(a.tokens);
  }

  int index_ = -1;  ///< of the part
  int row_ = 0;
  std::uint32_t there_ = 0;  ///< what the sum is added to
};

/// y = x · wᵀ for several weights, one after another; gated: of `up` too. With `a.norm`, every
/// block normalises x for itself.
/// @param room bands whose sums are kept until they are added up, so that warps seldom meet
template <class T, class Block, bool One>
ZIYA_KERNEL void __launch_bounds__(32 * digit_warps)
    matvec_digits(MatvecArguments<T, std::byte> a, int room) {
  using X = std::conditional_t<One, DigitsOfOne<T, Block>, Digits<T, Block>>;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  extern __shared__ __align__(16) std::byte shared[];
  PanelStream<T, Block> stream(a, shared + warp * panel_ring<Block>, warp, warps);
  auto* const sums = reinterpret_cast<BandSums<X::band_slots>*>(shared + warps * panel_ring<Block>);
  X x(reinterpret_cast<std::byte*>(sums + room * stream.weights * warps), stream.panels,
      static_cast<int>(a.tokens));
  auto* const spans = reinterpret_cast<float*>(x.end());
  stream.start();
  const auto factors = x.factors(a.norm, static_cast<int>(a.columns), stream.begin, stream.end);
  release_next();
  wait_for_previous();
  if (a.norm != nullptr) add_squares<X::tokens_at_once>(spans, a, warp, warps);
  x.fill(a, stream.begin, stream.end, factors, spans, [&] { stream.fill(); });

  typename X::Ahead ahead{};
  const int step = static_cast<int>(gridDim.x);
  for (int band = static_cast<int>(blockIdx.x); band < stream.bands; band += room * step) {
    int count = 1;
    while (count < room && band + count * step < stream.bands) ++count;
    const BandItem<T, One> item(a, band, step, count);
    for (int k = 0; k < count * stream.weights; ++k) {
      typename X::Sums panel_sums = {};
      for (int panel = stream.begin; panel < stream.end; ++panel) {
        x.fetch(ahead, panel);
        Panel<Block> now;
        stream.take(now);
        x.add(panel_sums, now, ahead, panel);
      }
      X::keep(sums[k * warps + warp], panel_sums, lane);
    }
    __syncthreads();
    item.finish(a, [&](int k, int weight, int row, int token) {
      float sum = 0;
#pragma unroll 4
      for (int n = 0; n < warps; ++n) {
        sum += X::kept(sums[(k * stream.weights + weight) * warps + n], row, token);
      }
      return sum;
    });
    if (band + room * step < stream.bands) __syncthreads();
  }
}

/// Warps of a block, its bytes of shared memory and the bands whose sums it keeps; no warps where x
/// does not fit beside the rings.
struct DigitPlan {
  int warps = 0, bytes = 0, room = 0;
};
/// @tparam X Digits or DigitsOfOne
template <class X, class T, class Block>
DigitPlan digit_plan_of(const Context<Cuda>& ctx, const MatvecArguments<T, std::byte>& a) {
  const int weights = a.up == nullptr ? 1 : 2;
  const std::int64_t panels = (a.columns + Panel<Block>::columns - 1) / Panel<Block>::columns;
  if (a.tokens > X::tokens_at_once || panels > 4096) return {};
  const auto tokens = static_cast<int>(a.tokens);
  // The same with and without a norm, so that sums have the same order.
  const int of_x = X::bytes(static_cast<int>(panels), tokens) + tokens * norm_spans(a.columns) * 4;
  const int of_sums = weights * static_cast<int>(sizeof(BandSums<X::band_slots>));
  // One block on a multiprocessor, measured on an H100: with two of ten warps or three of eight x
  // is there twice or three times, and the rings are not longer.
  const int free = ctx.shared_memory() - of_x;
  const int most = std::min(digit_warps, free / (panel_ring<Block> + of_sums));
  if (most < 4) return {};
  const int warps = panel_sharing(panels, (4 * most + 4) / 5, most);
  const auto bands =
      static_cast<int>((bands_in(a) + ctx.multiprocessors() - 1) / ctx.multiprocessors());
  // A thread has a row of a band and a token at most.
  const int room = std::min({bands, (free / warps - panel_ring<Block>) / of_sums,
                             32 * warps / (panel_row_count * tokens)});
  return {warps, warps * (panel_ring<Block> + room * of_sums) + of_x, room};
}
template <class T, class Block>
DigitPlan digit_plan(const Context<Cuda>& ctx, const MatvecArguments<T, std::byte>& a) {
  if constexpr (Digits<T, Block>::joined) {
    if (a.tokens == 1) return digit_plan_of<DigitsOfOne<T, Block>, T, Block>(ctx, a);
  }
  return digit_plan_of<Digits<T, Block>, T, Block>(ctx, a);
}

template <class T, class Block>
ZIYA_HIDDEN void launch_digits(Context<Cuda>& ctx, const MatvecArguments<T, std::byte>& a,
                               const DigitPlan& plan) {
  const auto kernel = [&] {
    if constexpr (Digits<T, Block>::joined) {
      if (a.tokens == 1) return matvec_digits<T, Block, true>;
    }
    return matvec_digits<T, Block, false>;
  }();
  const int resident =
      ctx.resident_blocks(reinterpret_cast<const void*>(kernel), 32 * plan.warps, plan.bytes);
  const std::int64_t blocks =
      std::min<std::int64_t>(bands_in(a), std::int64_t{ctx.multiprocessors()} * resident);
  launch(ctx, "matmul", kernel, dim3(static_cast<unsigned>(blocks)),
         dim3(static_cast<unsigned>(32 * plan.warps)), static_cast<std::size_t>(plan.bytes), a,
         plan.room);
}

}  // namespace cuda
ZIYA_NAMESPACE_END
