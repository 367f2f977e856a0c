// SPDX-License-Identifier: Apache-2.0
// Kernel of rms_norm: a block per row, which stays in registers between its two passes.
#pragma once

#include <algorithm>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/rms_norm.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

template <class T>
struct NormArguments {
  T* y;
  const T* x;
  const float* weight;
  std::int64_t y_stride, x_stride, columns;
  float eps;
};

/// Packs per thread in registers; what is beyond is read again. A few rows want all threads that
/// they can get, many rows many blocks.
template <bool Few>
inline constexpr int norm_packs = Few ? 2 : 4;
template <bool Few>
inline constexpr int norm_threads = Few ? 1024 : 512;

/// `Few` rows: the weight is read before the work before ends; of many rows the registers that it
/// would wait in are other blocks'.
template <class T, int N, bool Few>
ZIYA_KERNEL void __launch_bounds__(norm_threads<Few>) norm_rows(NormArguments<T> a) {
  constexpr int most = norm_packs<Few>;
  const std::int64_t row = blockIdx.x;
  const auto packs = static_cast<int>(a.columns / N);
  const auto x_of = [&](int p) {
    return *reinterpret_cast<const Pack<T, N>*>(a.x + row * a.x_stride + p * N);
  };
  const auto finish = [&](int p, const Pack<T, N>& x, const Pack<float, N>& weight, float scale) {
    Pack<T, N> y;
#pragma unroll
    for (int i = 0; i < N; ++i) y.at[i] = narrow<T>(widen(x.at[i]) * scale * weight.at[i]);
    *reinterpret_cast<Pack<T, N>*>(a.y + row * a.y_stride + p * N) = y;
  };
  const auto weight_of = [&](int p) {
    Pack<float, N> weight;
#pragma unroll
    for (int i = 0; i < N; ++i) weight.at[i] = a.weight[p * N + i];
    return weight;
  };

  const int threads = static_cast<int>(blockDim.x), first = static_cast<int>(threadIdx.x);
  Pack<T, N> kept[most];
  Pack<float, N> weights[Few ? most : 1];
#pragma unroll
  for (int k = 0; k < most; ++k) {
    const int p = first + k * threads;
    if (Few && p < packs) weights[Few ? k : 0] = weight_of(p);
  }
  release_next();
  wait_for_previous();
  float squares = 0;
  const auto add_squares = [&](const Pack<T, N>& x) {
#pragma unroll
    for (int i = 0; i < N; ++i) squares += widen(x.at[i]) * widen(x.at[i]);
  };
#pragma unroll
  for (int k = 0; k < most; ++k) {
    const int p = first + k * threads;
    if (p < packs) kept[k] = x_of(p);
  }
#pragma unroll
  for (int k = 0; k < most; ++k) {
    if (first + k * threads < packs) add_squares(kept[k]);
  }
  for (int p = first + most * threads; p < packs; p += threads) add_squares(x_of(p));
  const float scale = rsqrtf(block_sum(squares) / static_cast<float>(a.columns) + a.eps);
#pragma unroll
  for (int k = 0; k < most; ++k) {
    const int p = first + k * threads;
    if (p < packs) finish(p, kept[k], Few ? weights[Few ? k : 0] : weight_of(p), scale);
  }
  for (int p = first + most * threads; p < packs; p += threads) {
    finish(p, x_of(p), weight_of(p), scale);
  }
}

template <class T>
ZIYA_HIDDEN void norm(Context<Cuda>& ctx, const NormArguments<T>& a, std::int64_t rows) {
  constexpr int wide = 16 / sizeof(T);
  const bool whole =
      whole_packs(a.y, a.y_stride, a.columns) && whole_packs(a.x, a.x_stride, a.columns);
  const std::int64_t packs = whole ? a.columns / wide : a.columns;
  const bool few = whole && rows <= 4 * ctx.multiprocessors();
  const std::int64_t each = few ? 1 : norm_packs<false>;
  const std::int64_t warps = (few ? norm_threads<true> : norm_threads<false>) / 32;
  const auto threads = static_cast<unsigned>(
      std::clamp<std::int64_t>((packs + 32 * each - 1) / (32 * each), 1, warps) * 32);
  const dim3 grid(static_cast<unsigned>(rows));
  if (whole) {
    launch(ctx, "rms_norm", few ? norm_rows<T, wide, true> : norm_rows<T, wide, false>, grid,
           dim3(threads), 0, a);
  } else {
    launch(ctx, "rms_norm", norm_rows<T, 1, false>, grid, dim3(threads), 0, a);
  }
}

}  // namespace cuda
namespace backend {

template <class T>
void rms_norm(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x,
              View<const float, Cuda> weight, float eps) {
  cuda::norm<T>(
      ctx, {y.data(), x.data(), weight.data(), y.row_stride(), x.row_stride(), x.columns(), eps},
      x.rows());
}

}  // namespace backend
ZIYA_NAMESPACE_END
