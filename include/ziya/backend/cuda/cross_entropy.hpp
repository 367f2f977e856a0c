// SPDX-License-Identifier: Apache-2.0
// cross_entropy on a GPU.
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
void cross_entropy(Context<Cuda>& ctx, View<T, Cuda> loss, View<const T, Cuda> logits,
                   std::span<const std::int32_t> labels);

#if !defined(__CUDACC__)
extern template void cross_entropy(Context<Cuda>&, View<float, Cuda>, View<const float, Cuda>,
                                   std::span<const std::int32_t>);
extern template void cross_entropy(Context<Cuda>&, View<Half, Cuda>, View<const Half, Cuda>,
                                   std::span<const std::int32_t>);
extern template void cross_entropy(Context<Cuda>&, View<BFloat16, Cuda>, View<const BFloat16, Cuda>,
                                   std::span<const std::int32_t>);
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/cross_entropy.cuh"
#endif

#endif
