// SPDX-License-Identifier: Apache-2.0
// Kernel of embedding: a block per token.
#pragma once

#include "ziya/backend/cuda/dequantise.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/embedding.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

template <class T, class W>
ZIYA_KERNEL void embedding_rows(T* y, std::int64_t y_stride, const W* table, std::int64_t columns,
                                const std::int32_t* ids) {
  release_next();
  wait_for_previous();
  const W* from = table + ids[blockIdx.x] * columns;
  T* to = y + blockIdx.x * y_stride;
  for (std::int64_t j = threadIdx.x; j < columns; j += blockDim.x) {
    to[j] = narrow<T>(widen(from[j]));
  }
}

}  // namespace cuda
namespace backend {

template <class T>
void embedding(Context<Cuda>& ctx, View<T, Cuda> y, const Weight<Cuda>& table,
               std::span<const std::int32_t> ids) {
  const std::int32_t* rows = ctx.uploads().get(ctx.stream(), cuda::Upload::ids, ids);
  if (is_quantised(table.dtype)) return cuda::read_quantised<T>(ctx, y, table, rows);
  cuda::with_stored(table.dtype, [&](auto element) {
    using W = decltype(element);
    cuda::launch(ctx, "embedding", cuda::embedding_rows<T, W>,
                 dim3(static_cast<unsigned>(y.rows())), dim3(256), 0, y.data(), y.row_stride(),
                 reinterpret_cast<const W*>(table.data), table.columns, rows);
  });
}

}  // namespace backend
ZIYA_NAMESPACE_END
