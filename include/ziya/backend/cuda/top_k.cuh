// SPDX-License-Identifier: Apache-2.0
// Kernel of top_k: blocks find the best of their parts, one block merges them; ids and values alone
// cross the bus.
#pragma once

#include <algorithm>
#include <vector>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/top_k.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Integers that order as floats do, NaN below everything, zeros equal.
__device__ inline unsigned ordered_bits(float value) {
  const unsigned bits = __float_as_uint(value == 0.0f ? 0.0f : value);
  return value != value ? 0u : (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}
/// Orders as floats do; of equal values the smaller index is greater.
__device__ inline unsigned long long rank_of(float value, std::int32_t index) {
  return static_cast<unsigned long long>(ordered_bits(value)) << 32 | ~static_cast<unsigned>(index);
}

inline constexpr int rank_threads = 256;

/// The greatest of a block of `Threads` threads, known to all.
template <int Threads>
__device__ inline unsigned long long block_greatest(unsigned long long best) {
  __shared__ unsigned long long partial[Threads / 32];
  for (int apart = 16; apart > 0; apart /= 2) {
    const unsigned long long other = __shfl_xor_sync(~0u, best, apart);
    best = other > best ? other : best;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = best;
  __syncthreads();
  for (const unsigned long long other : partial) best = other > best ? other : best;
  return best;
}

/// best[block, i] = the i-th greatest rank of the block's part, i < k; 0 where there are no more.
template <class T>
ZIYA_KERNEL void rank_parts(unsigned long long* best, const T* row, std::int64_t count, int k) {
  release_next();
  wait_for_previous();
  const std::int64_t part = (count + gridDim.x - 1) / gridDim.x;
  const std::int64_t begin = blockIdx.x * part, end = min(count, begin + part);
  unsigned long long below = ~0ull;
  for (int i = 0; i < k; ++i) {
    unsigned long long greatest = 0;
    for (std::int64_t j = begin + threadIdx.x; j < end; j += rank_threads) {
      const unsigned long long rank = rank_of(row[j], static_cast<std::int32_t>(j));
      if (rank < below && rank > greatest) greatest = rank;
    }
    below = block_greatest<rank_threads>(greatest);
    if (threadIdx.x == 0) best[std::int64_t{blockIdx.x} * k + i] = below;
  }
}

struct Ranked {
  std::int32_t id;
  float value;
};

/// The k greatest of `blocks` descending lists.
template <class T>
ZIYA_KERNEL void merge_parts(Ranked* out, const unsigned long long* best, const T* row, int blocks,
                             int k) {
  release_next();
  wait_for_previous();
  int taken = 0;  // of this thread's list
  const int list = static_cast<int>(threadIdx.x);
  for (int i = 0; i < k; ++i) {
    const unsigned long long mine = list < blocks && taken < k ? best[list * k + taken] : 0;
    const unsigned long long greatest = block_greatest<rank_threads>(mine);
    if (mine == greatest && mine != 0) ++taken;
    if (threadIdx.x == 0) {
      const auto id = static_cast<std::int32_t>(~static_cast<unsigned>(greatest));
      out[i] = {id, row[id]};
    }
  }
}

}  // namespace cuda
namespace backend {

template <class T>
void top_k(Context<Cuda>& ctx, std::span<std::int32_t> ids, std::span<float> values,
           View<const T, Cuda> row) {
  static_assert(std::is_same_v<T, float>);
  if (ids.empty()) return;
  const auto k = static_cast<int>(ids.size());
  const int blocks = std::min<int>(cuda::rank_threads, ctx.multiprocessors());
  Workspace<Cuda>::Scope scope(ctx.workspace());
  const auto best = ctx.workspace().template take<unsigned long long>(Shape{blocks, k});
  const auto out = ctx.workspace().template take<cuda::Ranked>(Shape{k});
  cuda::launch(ctx, "top_k", cuda::rank_parts<T>, dim3(static_cast<unsigned>(blocks)),
               dim3(cuda::rank_threads), 0, best.data(), row.data(), row.elements(), k);
  cuda::launch(ctx, "top_k", cuda::merge_parts<T>, dim3(1), dim3(cuda::rank_threads), 0, out.data(),
               best.data(), row.data(), blocks, k);
  std::vector<cuda::Ranked> host(ids.size());
  cuda::check(cudaMemcpyAsync(host.data(), out.data(), host.size() * sizeof(cuda::Ranked),
                              cudaMemcpyDeviceToHost, ctx.stream()),
              "top_k");
  ctx.synchronize();
  for (std::size_t i = 0; i < host.size(); ++i) ids[i] = host[i].id, values[i] = host[i].value;
}

}  // namespace backend
ZIYA_NAMESPACE_END
