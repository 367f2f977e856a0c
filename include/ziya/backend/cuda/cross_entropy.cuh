// SPDX-License-Identifier: Apache-2.0
// Kernel of cross_entropy: a block per row.
#pragma once

#include "ziya/backend/cuda/cross_entropy.hpp"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/core/label.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

template <class T>
ZIYA_KERNEL void cross_entropy_rows(T* loss, const T* logits, std::int64_t stride,
                                    std::int64_t columns, const std::int32_t* labels) {
  release_next();
  wait_for_previous();
  const T* row = logits + blockIdx.x * stride;
  const std::int32_t label = labels[blockIdx.x];
  if (label == ignored_label) {
    if (threadIdx.x == 0) loss[blockIdx.x] = narrow<T>(0.0f);
    return;
  }
  // One pass: a thread's sum is of e^(x − the largest it has met), −∞ adding nothing to it.
  constexpr int at_once = 4;
  float largest = -INFINITY, sum = 0;
  for (std::int64_t k = threadIdx.x; k < columns; k += at_once * blockDim.x) {
    float values[at_once], most = largest;
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const std::int64_t at = k + i * blockDim.x;
      values[i] = at < columns ? widen(row[at]) : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) most = fmaxf(most, values[i]);
    if (most != largest) sum *= expf(largest - most);
    largest = most;
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (values[i] != -INFINITY) sum += expf(values[i] - largest);
    }
  }
  const float most = block_max(largest);
  sum = block_sum(largest == most ? sum : sum * expf(largest - most));
  if (threadIdx.x == 0) loss[blockIdx.x] = narrow<T>(logf(sum) + (most - widen(row[label])));
}

}  // namespace cuda
namespace backend {

template <class T>
void cross_entropy(Context<Cuda>& ctx, View<T, Cuda> loss, View<const T, Cuda> logits,
                   std::span<const std::int32_t> labels) {
  const std::int32_t* on_device = ctx.uploads().get(ctx.stream(), cuda::Upload::labels, labels);
  cuda::launch(ctx, "cross_entropy", cuda::cross_entropy_rows<T>,
               dim3(static_cast<unsigned>(logits.rows())), dim3(512), 0, loss.data(), logits.data(),
               logits.row_stride(), logits.columns(), on_device);
}

}  // namespace backend
ZIYA_NAMESPACE_END
