// SPDX-License-Identifier: Apache-2.0
// The CUDA runtime's C interface, and its errors as exceptions.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <cuda_runtime_api.h>

#include <string>

#include "ziya/core/error.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// @throws BackendError "cuda: copy: an illegal memory access was encountered"
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // what was reported is not reported again
  throw BackendError("ZIYA-150", "cuda: " + std::string(what) + ": " + cudaGetErrorString(status));
}

/// Graphics cards that this process can use; none without a driver.
inline int device_count() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();
  return 0;
}

}  // namespace cuda
ZIYA_NAMESPACE_END

#endif
