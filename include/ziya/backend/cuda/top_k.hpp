// SPDX-License-Identifier: Apache-2.0
// top_k on a GPU.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <cstdint>
#include <span>
#include "ziya/backend/cuda/context.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

template <class T>
void top_k(Context<Cuda>& ctx, std::span<std::int32_t> ids, std::span<float> values,
           View<const T, Cuda> row);

#if !defined(__CUDACC__)
extern template void top_k(Context<Cuda>&, std::span<std::int32_t>, std::span<float>,
                           View<const float, Cuda>);
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/top_k.cuh"
#endif

#endif
