// SPDX-License-Identifier: Apache-2.0
// Kernel of add_bias: a block per row.
#pragma once

#include "ziya/backend/cuda/add_bias.hpp"
#include "ziya/backend/cuda/device.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

template <class T>
ZIYA_KERNEL void add_bias_rows(T* y, std::int64_t stride, const float* bias, std::int64_t columns) {
  release_next();
  wait_for_previous();
  T* row = y + blockIdx.x * stride;
  for (std::int64_t j = threadIdx.x; j < columns; j += blockDim.x) {
    row[j] = narrow<T>(widen(row[j]) + bias[j]);
  }
}

}  // namespace cuda
namespace backend {

template <class T>
void add_bias(Context<Cuda>& ctx, View<T, Cuda> y, View<const float, Cuda> bias) {
  cuda::launch(ctx, "add_bias", cuda::add_bias_rows<T>, dim3(static_cast<unsigned>(y.rows())),
               dim3(256), 0, y.data(), y.row_stride(), bias.data(), y.columns());
}

}  // namespace backend
ZIYA_NAMESPACE_END
