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
  /// scale(token): what sums are to be multiplied with
  template <class Total, class Scale>
  __device__ void finish(const MatvecArguments<T, std::byte>& a, const Total& total,
                         const Scale& scale) const {
    if (index_ < 0) return;
    const float factor = scale(token(a));
    float sum = factor * total(k(a), 0, in_band(), token(a));
    if (a.up != nullptr) sum = silu(sum) * (factor * total(k(a), 1, in_band(), token(a)));
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

/// y = x · wᵀ for several weights, one after another; gated: of `up` too. With `a.norm`, of
/// norm(x): sums are of x times the norm's weight, and divided by the root of the mean square in
/// the end, so that nobody waits for it.
template <class T, class Block, bool One>
ZIYA_KERNEL void __launch_bounds__(32 * digit_warps)
    matvec_digits(MatvecArguments<T, std::byte> a, DigitPlan plan) {
  using X = std::conditional_t<One, DigitsOfOne<T, Block>, Digits<T, Block>>;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = plan.warps, room = plan.room;
  extern __shared__ __align__(16) std::byte shared[];
  typename X::Stream stream = X::stream(a, shared, warp, plan);
  auto* const sums = reinterpret_cast<BandSums<X::band_slots>*>(shared + warps * X::Stream::ring);
  X x(reinterpret_cast<std::byte*>(sums + room * stream.weights * warps), warp, stream.panels,
      static_cast<int>(a.tokens));
  auto* const squares = reinterpret_cast<float*>(x.end(warps));  // of tokens, from each warp
  stream.start();
  x.prepare(a, stream);
  release_next();
  wait_for_previous();
  x.fill(a, stream, squares + warp, warps);

  const int step = static_cast<int>(gridDim.x);
  int band = static_cast<int>(blockIdx.x);
  for (int left = plan.bands.count(band); left > 0;) {
    const int count = min(left, room);
    left -= count;
    const BandItem<T, One> item(a, band, step, count);
    band += count * step;
    x.take_bands(a, stream, sums + warp, warps, count * stream.weights, squares + warp);
    __syncthreads();
    const auto total = [&](int k, int weight, int row, int token) {
      float sum = 0;
#pragma unroll 4
      for (int n = 0; n < warps; ++n) {
        sum += X::kept(sums[(k * stream.weights + weight) * warps + n], row, token);
      }
      return sum;
    };
    item.finish(a, total, [&](int token) {
      if (a.norm == nullptr) return 1.0f;
      float sum = 0;
#pragma unroll 4
      for (int n = 0; n < warps; ++n) sum += squares[token * warps + n];
      return inverse_rms(sum, static_cast<int>(a.columns), a.eps);
    });
    if (left > 0) __syncthreads();
  }
}

/// @tparam X Digits or DigitsOfOne
template <class X, class T, class Block>
DigitPlan digit_plan_of(const Context<Cuda>& ctx, const MatvecArguments<T, std::byte>& a) {
  const int weights = a.up == nullptr ? 1 : 2;
  const std::int64_t panels = (a.columns + Panel<Block>::columns - 1) / Panel<Block>::columns;
  if (a.tokens > X::tokens_at_once || panels > 4096) return {};
  const auto tokens = static_cast<int>(a.tokens);
  // The same with and without a norm, so that sums have the same order.
  const int of_x = X::bytes(static_cast<int>(panels), tokens) + tokens * digit_warps * 4;
  const int of_sums = weights * static_cast<int>(sizeof(BandSums<X::band_slots>));
  // One block on a multiprocessor, measured on an H100: with two of ten warps or three of eight x
  // is prepared twice or three times, and the rings are not longer.
  const int free = ctx.shared_memory() - of_x;
  const int most = std::min(digit_warps, free / (X::bytes_of_warp + of_sums));
  if (most < 4) return {};
  const int of_turn = X::Stream::of_turn;
  const int warps = panel_sharing((panels + of_turn - 1) / of_turn, (4 * most + 4) / 5, most);
  const auto bands =
      static_cast<int>((bands_in(a) + ctx.multiprocessors() - 1) / ctx.multiprocessors());
  // A thread has a row of a band and a token at most.
  const int room = std::min({bands, (free / warps - X::bytes_of_warp) / of_sums,
                             32 * warps / (panel_row_count * tokens)});
  return {warps,
          warps * (X::bytes_of_warp + room * of_sums) + of_x,
          room,
          X::Stream::turns_in(panels, warps),
          shares_of(panels, warps),
          {}};
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
                               DigitPlan plan) {
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
  if (blocks == 0) return;
  plan.bands = shares_of(bands_in(a), blocks);
  launch(ctx, "matmul", kernel, dim3(static_cast<unsigned>(blocks)),
         dim3(static_cast<unsigned>(32 * plan.warps)), static_cast<std::size_t>(plan.bytes), a,
         plan);
}

}  // namespace cuda
ZIYA_NAMESPACE_END
