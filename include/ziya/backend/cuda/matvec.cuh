// SPDX-License-Identifier: Apache-2.0
// Products with one to four tokens: a warp per row of the weight, which is read once, in order.
#pragma once

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/silu_mul.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int matvec_warps = 4;   // rows per block
inline constexpr int matvec_tokens = 4;  // tokens that share a pass over the weight
inline constexpr int matvec_parts = 3;   // weights that share x in one launch

/// y[t, o] = Σ_i x[t, i] w[o, i] for several weights, one after another in the grid.
template <class T, class W>
struct MatvecArguments {
  struct Part {
    const W* w;
    void* y;
    std::int64_t y_stride, rows;
    const float* scales;  ///< of Float8: factors of the rows
  };
  Part parts[matvec_parts];
  const W* up;  ///< gated: y = silu(x · w) * (x · up)
  const float* up_scales;
  const T* x;
  std::int64_t x_stride, columns, tokens;
  bool y_float, add;
  bool made;          ///< the weights are a result of the work before
  const float* norm;  ///< weight of the norm of x, which is yet to be done; or null
  float eps;
};

/// What y holds, where a product is added to it, as it lies there: who widens it waits for it.
template <class T, class W>
__device__ inline std::uint32_t y_bits(const MatvecArguments<T, W>& a,
                                       const typename MatvecArguments<T, W>::Part& part,
                                       std::int64_t row, std::int64_t token) {
  if (!a.add) return 0;
  const std::int64_t at = token * part.y_stride + row;
  if (a.y_float || sizeof(T) == 4) return static_cast<const std::uint32_t*>(part.y)[at];
  return static_cast<const std::uint16_t*>(part.y)[at];
}
template <class T, class W>
__device__ inline float from_y_bits(const MatvecArguments<T, W>& a, std::uint32_t bits) {
  if constexpr (sizeof(T) == 2) {
    if (!a.y_float) return widen(T{static_cast<std::uint16_t>(bits)});
  }
  return __uint_as_float(bits);
}
template <class T, class W>
__device__ inline float there_of(const MatvecArguments<T, W>& a,
                                 const typename MatvecArguments<T, W>::Part& part, std::int64_t row,
                                 std::int64_t token) {
  return from_y_bits(a, y_bits(a, part, row, token));
}
/// Writes a sum, or adds it to what is there, which is read by then or now.
template <class T, class W>
__device__ inline void finish_row(const MatvecArguments<T, W>& a,
                                  const typename MatvecArguments<T, W>::Part& part,
                                  std::int64_t row, std::int64_t token, float sum, float there) {
  const std::int64_t at = token * part.y_stride + row;
  if (a.add) sum = there + sum;
  if (a.y_float) {
    static_cast<float*>(part.y)[at] = sum;
  } else {
    static_cast<T*>(part.y)[at] = narrow<T>(sum);
  }
}
template <class T, class W>
__device__ inline void finish_row(const MatvecArguments<T, W>& a,
                                  const typename MatvecArguments<T, W>::Part& part,
                                  std::int64_t row, std::int64_t token, float sum) {
  finish_row(a, part, row, token, sum, there_of(a, part, row, token));
}

template <class W>
__device__ inline float scale_of([[maybe_unused]] const float* scales,
                                 [[maybe_unused]] std::int64_t row) {
  if constexpr (std::is_same_v<W, Float8>) return scales[row];
  return 1;
}

/// x · w of one pack of weights.
template <class T, class W>
__device__ inline float dot_pack(const Pack<W>& w, const T* x) {
  constexpr int count = 16 / sizeof(W), step = 16 / sizeof(T);
  float sum = 0, ws[count];
  widen_pack(ws, w);
#pragma unroll
  for (int i = 0; i < count; i += step) {
    const Pack<T> xs = *reinterpret_cast<const Pack<T>*>(x + i);
#pragma unroll
    for (int j = 0; j < step; ++j) sum = fmaf(widen(xs.at[j]), ws[i + j], sum);
  }
  return sum;
}

template <class T, class W, int Tokens, bool Gated>
ZIYA_KERNEL void __launch_bounds__(32 * matvec_warps) matvec(MatvecArguments<T, W> a) {
  constexpr int elements = 16 / sizeof(W), weights = Gated ? 2 : 1;
  // Packs of each weight on their way: more of them cost the registers of warps that would have
  // more on their way.
  constexpr int ahead = 2 / weights;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  std::int64_t row = std::int64_t{blockIdx.x} * matvec_warps + threadIdx.x / 32;
  int index = 0;
  while (index + 1 < matvec_parts && row >= a.parts[index].rows) row -= a.parts[index++].rows;
  const auto part = a.parts[index];
  if (row >= part.rows) {
    wait_for_previous();
    return;
  }
  const W* from[weights];
  from[0] = part.w + row * a.columns;
  if constexpr (Gated) from[1] = a.up + row * a.columns;
  const float scale = scale_of<W>(part.scales, row);
  const float up_scale = scale_of<W>(Gated ? a.up_scales : part.scales, row);
  const auto packs = static_cast<int>(a.columns / elements);

  // The first weights are under way before the work before ends, unless it makes them.
  if (a.made) wait_for_previous();
  Pack<W> now[weights][ahead];
  const auto fetch = [&](int first) {
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      const int p = first + 32 * k;
#pragma unroll
      for (int n = 0; n < weights; ++n) {
        if (p < packs) now[n][k] = load_once(from[n] + std::int64_t{p} * elements);
      }
    }
  };
  fetch(lane);
  release_next();
  wait_for_previous();

  float sums[weights][Tokens] = {};
  for (int first = lane; first < packs; first += 32 * ahead) {
    Pack<W> use[weights][ahead];
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
#pragma unroll
      for (int n = 0; n < weights; ++n) use[n][k] = now[n][k];
    }
    fetch(first + 32 * ahead);
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      const int p = first + 32 * k;
      if (p >= packs) break;
#pragma unroll
      for (int t = 0; t < Tokens; ++t) {
        if (Tokens > 1 && t >= a.tokens) break;
        const T* x = a.x + t * a.x_stride + std::int64_t{p} * elements;
#pragma unroll
        for (int n = 0; n < weights; ++n) sums[n][t] += dot_pack<T, W>(use[n][k], x);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < Tokens; ++t) {
    if (Tokens > 1 && t >= a.tokens) break;
    float sum = warp_sum(sums[0][t]) * scale;
    if constexpr (Gated) sum = silu(sum) * (warp_sum(sums[1][t]) * up_scale);
    if (lane == 0) finish_row(a, part, row, t, sum);
  }
}

/// Any widths and alignments, any number of tokens (along y of the grid); one weight.
template <class T, class W>
ZIYA_KERNEL void __launch_bounds__(32 * matvec_warps) matvec_any(MatvecArguments<T, W> a) {
  release_next();
  wait_for_previous();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t row = std::int64_t{blockIdx.x} * matvec_warps + threadIdx.x / 32;
  if (row >= a.parts[0].rows) return;
  const W* w = a.parts[0].w + row * a.columns;
  for (std::int64_t t = blockIdx.y; t < a.tokens; t += gridDim.y) {
    const T* x = a.x + t * a.x_stride;
    float sum = 0;
    for (std::int64_t i = lane; i < a.columns; i += 32) sum = fmaf(widen(x[i]), widen(w[i]), sum);
    sum = warp_sum(sum) * scale_of<W>(a.parts[0].scales, row);
    if (lane == 0) finish_row(a, a.parts[0], row, t, sum);
  }
}

template <class T, class W>
ZIYA_HIDDEN bool packs_fit(const MatvecArguments<T, W>& a) {
  bool fit = whole_packs(a.x, a.tokens > 1 ? a.x_stride : 0, a.columns) &&
             a.columns % (16 / static_cast<std::int64_t>(sizeof(W))) == 0;
  for (const auto& part : a.parts) fit = fit && alignment_of(part.w) == 16;
  return fit && alignment_of(a.up) == 16;
}

/// One weight of any kind, any number of tokens.
template <class T, class W>
ZIYA_HIDDEN void run_matvec_any(Context<Cuda>& ctx, const MatvecArguments<T, W>& a) {
  const dim3 grid(blocks_for(a.parts[0].rows, matvec_warps),
                  static_cast<unsigned>(std::min<std::int64_t>(a.tokens, 65535)));
  launch(ctx, "matmul", matvec_any<T, W>, grid, dim3(32 * matvec_warps), 0, a);
}

/// At most `matvec_tokens` tokens with weights of whole packs, or one weight of any kind.
template <class T, class W>
ZIYA_HIDDEN void run_matvec(Context<Cuda>& ctx, const MatvecArguments<T, W>& a) {
  if (a.tokens > matvec_tokens || !packs_fit(a)) return run_matvec_any(ctx, a);
  std::int64_t rows = 0;
  for (const auto& part : a.parts) rows += part.rows;
  const dim3 grid(blocks_for(rows, matvec_warps)), block(32 * matvec_warps);
  const bool gated = a.up != nullptr;
  if (a.tokens == 1) {
    launch(ctx, "matmul", gated ? matvec<T, W, 1, true> : matvec<T, W, 1, false>, grid, block, 0,
           a);
  } else {
    launch(ctx, "matmul",
           gated ? matvec<T, W, matvec_tokens, true> : matvec<T, W, matvec_tokens, false>, grid,
           block, 0, a);
  }
}

}  // namespace cuda
ZIYA_NAMESPACE_END
