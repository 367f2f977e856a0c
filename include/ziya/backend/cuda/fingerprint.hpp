// SPDX-License-Identifier: Apache-2.0
// A number by which results are told apart where they are.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <cstdint>

#include "ziya/backend/cuda/runtime.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Equal for equal bits, and else different but for chance; waits for the stream.
/// @param sum memory on the GPU for one number   @param y (rows, columns), rows `stride` apart
template <class Word>
std::uint64_t fingerprint(cudaStream_t stream, std::uint64_t* sum, const Word* y, std::int64_t rows,
                          std::int64_t columns, std::int64_t stride);

#if !defined(__CUDACC__)
extern template std::uint64_t fingerprint(cudaStream_t, std::uint64_t*, const std::uint16_t*,
                                          std::int64_t, std::int64_t, std::int64_t);
extern template std::uint64_t fingerprint(cudaStream_t, std::uint64_t*, const std::uint32_t*,
                                          std::int64_t, std::int64_t, std::int64_t);
#endif

}  // namespace cuda
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/fingerprint.cuh"
#endif

#endif
