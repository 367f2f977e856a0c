// SPDX-License-Identifier: Apache-2.0
// Products of one to four tokens with quantised weights on the integer tensor cores.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/digit_words.cuh"
#include "ziya/backend/cuda/digits.cuh"
#include "ziya/backend/cuda/digits_of_one.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/panel.cuh"
#include "ziya/backend/cuda/panel_stream.cuh"
#include "ziya/backend/cuda/row_norm.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int digit_warps = 20;  // of a block, the only one on its multiprocessor

/// A row of one of a block's bands and a token, the i-th, which a thread finishes when the warps
/// have met.
template <class T, bool One>
class BandItem {
 public:
  /// @param count bands from `first` on, `step` apart
  __device__ BandItem(const MatvecArguments<T, std::byte>& a, int i, int first, int step, int count)
      : i_(i) {
    if (k(a) >= count) return;
    int band = first + k(a) * step;
    const int index = Bands<T>{a}.locate(band), row = band * panel_row_count + in_band();
    const auto& part = a.parts[index];
    if (row >= part.rows) return;
    place_ = row * 4 + index;
    there_ = y_bits(a, part, row, token(a));
  }
  /// total(k, weight, row, token): a sum over the warps, of the k-th band
  /// scale(token): what sums are to be multiplied with
  template <class Total, class Scale>
  __device__ void finish(const MatvecArguments<T, std::byte>& a, const Total& total,
                         const Scale& scale) const {
    if (place_ < 0) return;
    const float factor = scale(token(a));
    float sum = factor * total(k(a), 0, in_band(), token(a));
    if (a.up != nullptr) sum = silu(sum) * (factor * total(k(a), 1, in_band(), token(a)));
    finish_row(a, a.parts[place_ % 4], place_ / 4, token(a), sum, from_y_bits(a, there_));
  }

 private:
  [[nodiscard]] __device__ int in_band() const { return i_ % panel_row_count; }
  [[nodiscard]] __device__ int token(const MatvecArguments<T, std::byte>& a) const {
    return One ? 0 : i_ / panel_row_count % static_cast<int>(a.tokens);
  }
  [[nodiscard]] __device__ int k(const MatvecArguments<T, std::byte>& a) const {
    const int i = i_ / panel_row_count;
    return One ? i : i / static_cast<int>(a.tokens);
  }

  static_assert(matvec_parts <= 4);
  int i_;
  int place_ = -1;           ///< the row in its part and, less than 4, the part: one register
  std::uint32_t there_ = 0;  ///< what the sum is added to
};

/// What a block of a product by digits has; no warps where the product is not for it.
struct DigitPlan {
  int warps = 0, bytes = 0;  ///< of shared memory
  int room = 0;   ///< bands whose sums are kept until they are added up, so that warps seldom meet
  int turns = 0;  ///< of `TurnStream`
  Shares bands;   ///< of all by blocks
};

/// Takes `count` bands, those of `up` counted, 256 columns of all of them before the next ones, and
/// puts the warp's sums where they are added up, `stride` apart.   @tparam X Digits or DigitsOfOne
template <class X, class T>
__device__ inline void take_bands(X& x, const MatvecArguments<T, std::byte>& a,
                                  typename X::Stream& stream, BandSums<X::band_slots>* to,
                                  int stride, int count, float* squares) {
  constexpr int of_stage = X::Stream::of_stage, panels = X::Stream::of_turn;
  auto* const end = to + count * stride;
#pragma unroll 1
  for (int turn = 0; turn < stream.turns; ++turn) {
    x.turn_to(a, stream, turn, squares);
    bool there[panels];  // what is not may be no numbers
#pragma unroll
    for (int k = 0; k < panels; ++k) there[k] = stream.panel(turn, k) < stream.panels;
#pragma unroll 1
    for (auto* at = to; at != end; at += stride) {
      typename X::Sums sums = {};
#pragma unroll
      for (int k = 0; k < panels; k += of_stage) {
        typename X::Form now[of_stage];
        stream.take(now);
#pragma unroll
        for (int n = 0; n < of_stage; ++n) {
          auto next = sums;
          x.add(next, now[n], k + n);
#pragma unroll
          for (int i = 0; i < static_cast<int>(sizeof sums.at / sizeof sums.at[0]); ++i) {
            sums.at[i] = there[k + n] ? next.at[i] : sums.at[i];
          }
        }
      }
      x.keep(*at, sums, turn > 0);
    }
  }
}

/// y = x · wᵀ for several weights, one after another; gated: of `up` too. With `a.norm`, of
/// norm(x): sums are of x times the norm's weight, and divided by the root of the mean square in
/// the end, so that nobody waits for it.
template <class T, class X>
ZIYA_KERNEL void __launch_bounds__(32 * digit_warps)
    matvec_digits(MatvecArguments<T, std::byte> a, DigitPlan plan) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = plan.warps, room = plan.room;
  extern __shared__ __align__(16) std::byte shared[];
  typename X::Stream stream(a, shared, warp, warps, plan.turns, room);
  auto* const sums = reinterpret_cast<BandSums<X::band_slots>*>(shared + warps * X::Stream::ring);
  auto* const exchange = reinterpret_cast<std::byte*>(sums + room * stream.weights * warps);
  X x(exchange, warp, warps, static_cast<int>(a.tokens));
  // Of tokens, from each warp.
  auto* const squares = reinterpret_cast<float*>(exchange + warps * X::exchange);
  stream.start();
  x.prepare(a, stream);
  release_next();
  wait_for_previous();
  x.fill(a, stream, squares + warp);

  const int step = static_cast<int>(gridDim.x);
  int band = static_cast<int>(blockIdx.x);
  for (int left = plan.bands.count(band); left > 0;) {
    const int count = min(left, room);
    left -= count;
    using Item = BandItem<T, X::tokens_at_once == 1>;
    const int thread = static_cast<int>(threadIdx.x);
    const Item item(a, thread, band, step, count);
    take_bands(x, a, stream, sums + warp, warps, count * stream.weights, squares + warp);
    __syncthreads();
    const auto total = [&](int k, int weight, int row, int token) {
      float sum = 0;
#pragma unroll 4
      for (int n = 0; n < warps; ++n) {
        sum += X::kept(sums[(k * stream.weights + weight) * warps + n], row, token);
      }
      return sum;
    };
    const auto scale = [&](int token) {
      if (a.norm == nullptr) return 1.0f;
      float sum = 0;
#pragma unroll 4
      for (int n = 0; n < warps; ++n) sum += squares[token * warps + n];
      return inverse_rms(sum, static_cast<int>(a.columns), a.eps);
    };
    item.finish(a, total, scale);
    if constexpr (X::tokens_at_once > 1) {
      const int items = panel_row_count * static_cast<int>(a.tokens) * count;
      for (int i = thread + 32 * warps; i < items; i += 32 * warps) {
        Item(a, i, band, step, count).finish(a, total, scale);
      }
    }
    band += count * step;
    if (left > 0) __syncthreads();
  }
}

/// f(std::type_identity<X>{}) for the digits of so many tokens, if there are not too many.
template <class T, class Block, class F>
ZIYA_HIDDEN void with_digits(std::int64_t tokens, F&& f) {
  if constexpr (DigitWords<T, Block>::joined) {
    if (tokens == 1) return f(std::type_identity<DigitsOfOne<T, Block>>{});
  }
  if (tokens <= Digits<T, Block>::tokens_at_once) f(std::type_identity<Digits<T, Block>>{});
}

template <class T, class Block>
DigitPlan digit_plan(const Context<Cuda>& ctx, const MatvecArguments<T, std::byte>& a) {
  DigitPlan plan;
  with_digits<T, Block>(a.tokens, [&]<class X>(std::type_identity<X>) {
    const int weights = a.up == nullptr ? 1 : 2;
    const std::int64_t panels = (a.columns + Panel<Block>::columns - 1) / Panel<Block>::columns;
    if (panels > 4096 || bands_in(a) > 1 << 24) return;  // `BandItem` numbers rows in 29 bits
    const auto tokens = static_cast<int>(a.tokens);
    // The same with and without a norm, so that sums have the same order.
    const int of_squares = tokens * digit_warps * 4;
    const int of_sums = weights * static_cast<int>(sizeof(BandSums<X::band_slots>));
    // One block on a multiprocessor, measured on an H100: with two of ten warps or three of eight x
    // is prepared twice or three times, and the rings are not longer.
    const int free = ctx.shared_memory() - of_squares;
    const int most = std::min(digit_warps, free / (X::bytes_of_warp + of_sums));
    if (most < 4) return;
    const int of_turn = X::Stream::of_turn;
    const int warps = panel_sharing((panels + of_turn - 1) / of_turn, (4 * most + 4) / 5, most);
    const auto bands =
        static_cast<int>((bands_in(a) + ctx.multiprocessors() - 1) / ctx.multiprocessors());
    int room = std::min(bands, (free / warps - X::bytes_of_warp) / of_sums);
    if (tokens == 1) room = std::min(room, 32 * warps / panel_row_count);  // a thread has a row
    plan = {warps,
            warps * (X::bytes_of_warp + room * of_sums) + of_squares,
            room,
            X::Stream::turns_in(panels, warps),
            {}};
  });
  return plan;
}

template <class T, class Block>
ZIYA_HIDDEN void launch_digits(Context<Cuda>& ctx, const MatvecArguments<T, std::byte>& a,
                               DigitPlan plan) {
  with_digits<T, Block>(a.tokens, [&]<class X>(std::type_identity<X>) {
    const auto kernel = matvec_digits<T, X>;
    const int resident =
        ctx.resident_blocks(reinterpret_cast<const void*>(kernel), 32 * plan.warps, plan.bytes);
    const std::int64_t blocks =
        std::min<std::int64_t>(bands_in(a), std::int64_t{ctx.multiprocessors()} * resident);
    if (blocks == 0) return;
    plan.bands = shares_of(bands_in(a), blocks);
    launch(ctx, "matmul", kernel, dim3(static_cast<unsigned>(blocks)),
           dim3(static_cast<unsigned>(32 * plan.warps)), static_cast<std::size_t>(plan.bytes), a,
           plan);
  });
}

}  // namespace cuda
ZIYA_NAMESPACE_END
