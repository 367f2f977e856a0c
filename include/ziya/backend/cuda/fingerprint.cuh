// SPDX-License-Identifier: Apache-2.0
// Kernel of fingerprint: whole numbers, whose sum does not depend on the order.
#pragma once

#include <algorithm>

#include "ziya/backend/cuda/fingerprint.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Blocks take rows in turn. The mixing is that of SplitMix64 (Steele, Lea, Flood 2014).
template <class Word>
ZIYA_KERNEL void sum_mixed(unsigned long long* sum, const Word* y, std::int64_t rows,
                           std::int64_t columns, std::int64_t stride) {
  unsigned long long mine = 0;
  for (std::int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
    for (std::int64_t j = threadIdx.x; j < columns; j += blockDim.x) {
      const auto place = static_cast<unsigned long long>(i * columns + j);
      unsigned long long v = (place << 32 | y[i * stride + j]) + 0x9e3779b97f4a7c15ull;
      v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
      v = (v ^ v >> 27) * 0x94d049bb133111ebull;
      mine += v ^ v >> 31;
    }
  }
  for (int apart = 16; apart > 0; apart /= 2) mine += __shfl_xor_sync(~0u, mine, apart);
  if (threadIdx.x % 32 == 0) atomicAdd(sum, mine);
}

template <class Word>
std::uint64_t fingerprint(cudaStream_t stream, std::uint64_t* sum, const Word* y, std::int64_t rows,
                          std::int64_t columns, std::int64_t stride) {
  constexpr const char* what = "fingerprint";
  check(cudaMemsetAsync(sum, 0, sizeof *sum, stream), what);
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(rows, 1024));
  sum_mixed<Word><<<blocks, 256, 0, stream>>>(reinterpret_cast<unsigned long long*>(sum), y, rows,
                                              columns, stride);
  check(cudaGetLastError(), what);
  std::uint64_t result = 0;
  check(cudaMemcpyAsync(&result, sum, sizeof result, cudaMemcpyDeviceToHost, stream), what);
  check(cudaStreamSynchronize(stream), what);
  return result;
}

}  // namespace cuda
ZIYA_NAMESPACE_END
