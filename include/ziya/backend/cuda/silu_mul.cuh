// SPDX-License-Identifier: Apache-2.0
// Kernel of silu_mul.
#pragma once

#include <algorithm>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/silu_mul.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// v / (1 + e^−v) to 21 bits
__device__ inline float silu(float v) { return __fdividef(v, 1.0f + __expf(-v)); }

template <class T, int N>
ZIYA_KERNEL void silu_mul_rows(T* y, std::int64_t y_stride, const T* gate, std::int64_t gate_stride,
                               const T* up, std::int64_t up_stride, std::int64_t columns) {
  release_next();
  wait_for_previous();
  const std::int64_t row = blockIdx.y;
  const std::int64_t j = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * N;
  if (j >= columns) return;
  const auto g = *reinterpret_cast<const Pack<T, N>*>(gate + row * gate_stride + j);
  const auto u = *reinterpret_cast<const Pack<T, N>*>(up + row * up_stride + j);
  Pack<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.at[i] = narrow<T>(silu(widen(g.at[i])) * widen(u.at[i]));
  *reinterpret_cast<Pack<T, N>*>(y + row * y_stride + j) = result;
}

}  // namespace cuda
namespace backend {

template <class T>
void silu_mul(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> gate,
              View<const T, Cuda> up) {
  constexpr int wide = 16 / sizeof(T);
  const std::int64_t columns = y.columns(), most_rows = 65535;  // blocks along y of a grid
  const bool whole = cuda::whole_packs(y.data(), y.row_stride(), columns) &&
                     cuda::whole_packs(gate.data(), gate.row_stride(), columns) &&
                     cuda::whole_packs(up.data(), up.row_stride(), columns);
  for (std::int64_t begin = 0; begin < y.rows(); begin += most_rows) {
    const auto rows = static_cast<unsigned>(std::min(most_rows, y.rows() - begin));
    const auto run = [&](auto kernel, std::int64_t per_block) {
      cuda::launch(ctx, "silu_mul", kernel, dim3(cuda::blocks_for(columns, per_block), rows),
                   dim3(256), 0, y.row(begin), y.row_stride(), gate.row(begin), gate.row_stride(),
                   up.row(begin), up.row_stride(), columns);
    };
    if (whole) {
      run(cuda::silu_mul_rows<T, wide>, 256 * wide);
    } else {
      run(cuda::silu_mul_rows<T, 1>, 256);
    }
  }
}

}  // namespace backend
ZIYA_NAMESPACE_END
