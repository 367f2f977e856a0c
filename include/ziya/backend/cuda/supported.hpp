// SPDX-License-Identifier: Apache-2.0
// Whether this program has kernels for a GPU.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <string>

#include "ziya/backend/cuda/runtime.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Empty where kernels of this program run on the current GPU, else which GPUs it was built for:
/// "8.0, 9.0".   @tparam Any int: as a template, it is made like every launcher
template <class Any>
std::string built_for_others();

#if !defined(__CUDACC__)
extern template std::string built_for_others<int>();
#endif

/// The same of a GPU by its number, which becomes the current one.
/// @throws BackendError ZIYA-151 when this program has no kernels for it
inline void require_kernels(int device) {
  check(cudaSetDevice(device), "device");
  const std::string others = built_for_others<int>();
  if (others.empty()) return;
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "device");
  const std::string found = std::to_string(major) + "." + std::to_string(minor);
  throw BackendError("ZIYA-151", "cuda: GPU " + std::to_string(device) +
                                     " has compute capability " + found +
                                     ", this program was built for " + others +
                                     ": CMAKE_CUDA_ARCHITECTURES says for which");
}

/// Whether a GPU is there that this program has kernels for.
inline bool can_use(int device) {
  if (device >= device_count()) return false;
  try {
    require_kernels(device);
  } catch (const BackendError&) {
    return false;
  }
  return true;
}

}  // namespace cuda
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/supported.cuh"
#endif

#endif
