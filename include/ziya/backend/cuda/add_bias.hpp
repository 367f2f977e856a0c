// SPDX-License-Identifier: Apache-2.0
// add_bias on a GPU.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include "ziya/backend/cuda/context.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

template <class T>
void add_bias(Context<Cuda>& ctx, View<T, Cuda> y, View<const float, Cuda> bias);

#if !defined(__CUDACC__)
extern template void add_bias(Context<Cuda>&, View<float, Cuda>, View<const float, Cuda>);
extern template void add_bias(Context<Cuda>&, View<Half, Cuda>, View<const float, Cuda>);
extern template void add_bias(Context<Cuda>&, View<BFloat16, Cuda>, View<const float, Cuda>);
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/add_bias.cuh"
#endif

#endif
