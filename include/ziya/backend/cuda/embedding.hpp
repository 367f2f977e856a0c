// SPDX-License-Identifier: Apache-2.0
// embedding on a GPU.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <cstdint>
#include <span>
#include "ziya/backend/cuda/context.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/weight.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

template <class T>
void embedding(Context<Cuda>& ctx, View<T, Cuda> y, const Weight<Cuda>& table,
               std::span<const std::int32_t> ids);

#if !defined(__CUDACC__)
extern template void embedding(Context<Cuda>&, View<float, Cuda>, const Weight<Cuda>&,
                               std::span<const std::int32_t>);
extern template void embedding(Context<Cuda>&, View<Half, Cuda>, const Weight<Cuda>&,
                               std::span<const std::int32_t>);
extern template void embedding(Context<Cuda>&, View<BFloat16, Cuda>, const Weight<Cuda>&,
                               std::span<const std::int32_t>);
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/embedding.cuh"
#endif

#endif
