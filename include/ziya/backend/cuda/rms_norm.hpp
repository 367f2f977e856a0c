// SPDX-License-Identifier: Apache-2.0
// rms_norm on a GPU.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <cstdint>
#include "ziya/backend/cuda/context.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

template <class T>
void rms_norm(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x,
              View<const float, Cuda> weight, float eps);

#if !defined(__CUDACC__)
#define ZIYA_INSTANCES(T)                                                           \
  extern template void rms_norm(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>, \
                                View<const float, Cuda>, float);
ZIYA_INSTANCES(float)
ZIYA_INSTANCES(Half)
ZIYA_INSTANCES(BFloat16)
#undef ZIYA_INSTANCES
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/rms_norm.cuh"
#endif

#endif
