// SPDX-License-Identifier: Apache-2.0
// Kernel of rms_norm: a block per row, which stays in registers between its two passes.
#pragma once

#include <algorithm>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/rms_norm.hpp"
#include "ziya/backend/cuda/row_norm.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

template <class T>
struct NormArguments {
  T* y;
  const T* x;
  const float* weight;
  std::int64_t y_stride, x_stride;
  int columns;
  float eps;
};

/// Eights per thread in registers; what is beyond is read again. A few rows want all threads that
/// they can get, many rows many blocks.
template <bool Few>
inline constexpr int norm_eights = Few ? 2 : 4;
template <bool Few>
inline constexpr int norm_threads = Few ? 1024 : 512;

/// Shared memory: a float per span. `Few` rows: the weight is read before the work before ends; of
/// many rows the registers that it would wait in are other blocks'.
template <class T, bool Whole, bool Few>
ZIYA_KERNEL void __launch_bounds__(norm_threads<Few>) norm_rows(NormArguments<T> a) {
  constexpr int most = norm_eights<Few>;
  extern __shared__ float spans[];
  const T* const x = a.x + blockIdx.x * a.x_stride;
  T* const y = a.y + blockIdx.x * a.y_stride;
  const int threads = static_cast<int>(blockDim.x), first = static_cast<int>(threadIdx.x);
  const int lane = first % 32;
  const auto finish = [&](int p, const Eight<T>& of_x, const Eight<float>& weight, float scale) {
    Eight<T> result;
#pragma unroll
    for (int i = 0; i < 8; ++i) result[i] = normalised<T>(widen(of_x[i]), scale, weight[i]);
    if constexpr (Whole) {
#pragma unroll
      for (int k = 0; k < 8 / Eight<T>::wide; ++k) {
        if (8 * p < a.columns) reinterpret_cast<Pack<T>*>(y + 8 * p)[k] = result.packs[k];
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (8 * p + i < a.columns) y[8 * p + i] = result[i];
      }
    }
  };
  const auto x_of = [&](int p) { return load_eight<Whole>(x, p, a.columns); };
  const auto weight_of = [&](int p) { return load_eight<Whole>(a.weight, p, a.columns); };
  const auto add_up = [&](int p, const Eight<T>& of_x) {
    const float sum = span_squares(of_x);
    if (lane == 0) spans[p / 32] = sum;
  };

  Eight<T> kept[most];
  Eight<float> weights[Few ? most : 1];
#pragma unroll
  for (int k = 0; k < most; ++k) {
    if (Few) weights[Few ? k : 0] = weight_of(first + k * threads);
  }
  release_next();
  wait_for_previous();
#pragma unroll
  for (int k = 0; k < most; ++k) kept[k] = x_of(first + k * threads);
#pragma unroll
  for (int k = 0; k < most; ++k) {
    const int p = first + k * threads;
    if (8 * (p - lane) < a.columns) add_up(p, kept[k]);
  }
  for (int p = first + most * threads; 8 * (p - lane) < a.columns; p += threads) {
    add_up(p, x_of(p));
  }
  __syncthreads();
  const float scale = inverse_rms(spans, a.columns, a.eps);
#pragma unroll
  for (int k = 0; k < most; ++k) {
    const int p = first + k * threads;
    if (8 * p < a.columns) finish(p, kept[k], Few ? weights[Few ? k : 0] : weight_of(p), scale);
  }
  for (int p = first + most * threads; 8 * p < a.columns; p += threads) {
    finish(p, x_of(p), weight_of(p), scale);
  }
}

}  // namespace cuda
namespace backend {

template <class T>
void rms_norm(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x,
              View<const float, Cuda> weight, float eps) {
  const cuda::NormArguments<T> a{y.data(),
                                 x.data(),
                                 weight.data(),
                                 y.row_stride(),
                                 x.row_stride(),
                                 static_cast<int>(x.columns()),
                                 eps};
  const bool whole = a.columns % 8 == 0 && cuda::whole_packs(a.y, a.y_stride, a.columns) &&
                     cuda::whole_packs(a.x, a.x_stride, a.columns) &&
                     cuda::whole_packs(a.weight, 0, a.columns);
  const bool few = whole && x.rows() <= 4 * ctx.multiprocessors();
  const int each = few ? 1 : cuda::norm_eights<false>, spans = cuda::norm_spans(a.columns);
  const int most = (few ? cuda::norm_threads<true> : cuda::norm_threads<false>) / 32;
  const int warps = std::clamp((spans + each - 1) / each, 1, most);
  const auto kernel = few     ? cuda::norm_rows<T, true, true>
                      : whole ? cuda::norm_rows<T, true, false>
                              : cuda::norm_rows<T, false, false>;
  cuda::launch(ctx, "rms_norm", kernel, dim3(static_cast<unsigned>(x.rows())),
               dim3(static_cast<unsigned>(32 * warps)),
               static_cast<std::size_t>(spans) * sizeof(float), a);
}

}  // namespace backend
ZIYA_NAMESPACE_END
