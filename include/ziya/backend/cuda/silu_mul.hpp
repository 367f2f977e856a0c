// SPDX-License-Identifier: Apache-2.0
// silu_mul on a GPU.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include "ziya/backend/cuda/context.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

template <class T>
void silu_mul(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> gate,
              View<const T, Cuda> up);

#if !defined(__CUDACC__)
#define ZIYA_INSTANCES(T)                                                           \
  extern template void silu_mul(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>, \
                                View<const T, Cuda>);
ZIYA_INSTANCES(float)
ZIYA_INSTANCES(Half)
ZIYA_INSTANCES(BFloat16)
#undef ZIYA_INSTANCES
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/silu_mul.cuh"
#endif

#endif
