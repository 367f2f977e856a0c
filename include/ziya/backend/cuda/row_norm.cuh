// SPDX-License-Identifier: Apache-2.0
// How a row is normalised by whichever kernel does it: sums in one order, so to the same bits (but
// for products by digits, which divide in the end).
#pragma once

#include <cstdint>

#include "ziya/backend/cuda/device.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Eight columns of a row: what a thread has at a time.
template <class T>
struct Eight {
  static constexpr int wide = 16 / sizeof(T);
  Pack<T> packs[8 / wide];

  __device__ T& operator[](int i) { return packs[i / wide].at[i % wide]; }
  __device__ const T& operator[](int i) const { return packs[i / wide].at[i % wide]; }
};

/// Columns 8 p … 8 p + 7; zeros past the end.   @tparam Whole: 16-byte packs, whole eights
template <bool Whole, class T>
__device__ inline Eight<T> load_eight(const T* row, int p, int columns) {
  Eight<T> result{};
  if (8 * p >= columns) return result;
  if constexpr (Whole) {
#pragma unroll
    for (int k = 0; k < 8 / Eight<T>::wide; ++k) {
      result.packs[k] = reinterpret_cast<const Pack<T>*>(row + 8 * p)[k];
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (8 * p + i < columns) result[i] = row[8 * p + i];
    }
  }
  return result;
}

/// Spans of 256 columns: the lanes of a warp have eight each.
__host__ __device__ constexpr int norm_spans(std::int64_t columns) {
  return static_cast<int>((columns + 255) / 256);
}
/// Σ x² of a span: eight columns in their order, then over the lanes.
template <class T>
__device__ inline float span_squares(const Eight<T>& x) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(widen(x[i]), widen(x[i]), sum);
  return warp_sum(sum);
}
/// 1 / rms of a row from Σ x².
__device__ inline float inverse_rms(float squares, int columns, float eps) {
  return rsqrtf(squares / static_cast<float>(columns) + eps);
}
/// The same from its spans' sums, known to all lanes of a warp.
__device__ inline float inverse_rms(const float* spans, int columns, float eps) {
  float sum = 0;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) % 32; i < norm_spans(columns); i += 32) {
    sum += spans[i];
  }
  return inverse_rms(warp_sum(sum), columns, eps);
}
template <class T>
__device__ inline T normalised(float x, float inverse_rms, float weight) {
  return narrow<T>(x * inverse_rms * weight);
}

}  // namespace cuda
ZIYA_NAMESPACE_END
