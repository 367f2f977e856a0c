// SPDX-License-Identifier: Apache-2.0
// Quantised weights on a GPU: how they get there, and how they become plain numbers.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include "ziya/backend/cuda/context.hpp"
#include "ziya/backend/cuda/panels.hpp"
#include "ziya/backend/cuda/staging.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/weight.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

/// A copy of quantised `weight` on the current GPU, in panels; there when `staging` has finished.
template <class Device>
Weight<Device> quantised_on(const Weight<Cpu>& weight, Staging<Device>& staging);

/// y[r, i] = w[r, i], rounded once to T
template <class T>
void dequantise(Context<Cuda>& ctx, View<T, Cuda> y, const Weight<Cuda>& w);

#if !defined(__CUDACC__)
extern template Weight<Cuda> quantised_on(const Weight<Cpu>&, Staging<Cuda>&);
extern template void dequantise(Context<Cuda>&, View<float, Cuda>, const Weight<Cuda>&);
extern template void dequantise(Context<Cuda>&, View<Half, Cuda>, const Weight<Cuda>&);
extern template void dequantise(Context<Cuda>&, View<BFloat16, Cuda>, const Weight<Cuda>&);
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/dequantise.cuh"
#endif

#endif
