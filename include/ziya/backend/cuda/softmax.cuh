// SPDX-License-Identifier: Apache-2.0
// Kernel of softmax: a block per row.
#pragma once

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/softmax.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

template <class T>
ZIYA_KERNEL void softmax_rows(T* y, std::int64_t y_stride, const T* x, std::int64_t x_stride,
                              std::int64_t columns) {
  release_next();
  wait_for_previous();
  const T* in = x + blockIdx.x * x_stride;
  T* out = y + blockIdx.x * y_stride;
  float largest = -INFINITY, sum = 0;
  for (std::int64_t j = threadIdx.x; j < columns; j += blockDim.x) {
    largest = fmaxf(largest, widen(in[j]));
  }
  largest = block_max(largest);
  for (std::int64_t j = threadIdx.x; j < columns; j += blockDim.x) {
    sum += expf(widen(in[j]) - largest);
  }
  const float inverse = 1.0f / block_sum(sum);
  for (std::int64_t j = threadIdx.x; j < columns; j += blockDim.x) {
    out[j] = narrow<T>(expf(widen(in[j]) - largest) * inverse);
  }
}

}  // namespace cuda
namespace backend {

template <class T>
void softmax(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x) {
  cuda::launch(ctx, "softmax", cuda::softmax_rows<T>, dim3(static_cast<unsigned>(x.rows())),
               dim3(256), 0, y.data(), y.row_stride(), x.data(), x.row_stride(), x.columns());
}

}  // namespace backend
ZIYA_NAMESPACE_END
