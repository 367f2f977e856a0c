// SPDX-License-Identifier: Apache-2.0
// softmax on a GPU.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include "ziya/backend/cuda/context.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

template <class T>
void softmax(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x);

#if !defined(__CUDACC__)
extern template void softmax(Context<Cuda>&, View<float, Cuda>, View<const float, Cuda>);
extern template void softmax(Context<Cuda>&, View<Half, Cuda>, View<const Half, Cuda>);
extern template void softmax(Context<Cuda>&, View<BFloat16, Cuda>, View<const BFloat16, Cuda>);
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/softmax.cuh"
#endif

#endif
