// SPDX-License-Identifier: Apache-2.0
// 8-bit floats (E4M3) with a scale per row: how weights become such numbers on their way to a GPU.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include "ziya/backend/cuda/context.hpp"
#include "ziya/backend/cuda/staging.hpp"
#include "ziya/core/weight.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

/// A copy of `weight` (f32, f16 or bf16) on the current GPU, each row rounded as activations are;
/// there when `staging` has finished.
template <class Device>
Weight<Device> float8_on(const Weight<Cpu>& weight, Staging<Device>& staging);

#if !defined(__CUDACC__)
extern template Weight<Cuda> float8_on(const Weight<Cpu>&, Staging<Cuda>&);
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/float8.cuh"
#endif

#endif
