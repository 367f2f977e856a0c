// SPDX-License-Identifier: Apache-2.0
// A kernel that is asked whether it could run.
#pragma once

#include "ziya/backend/cuda/supported.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

template <class Any>
ZIYA_KERNEL void any_kernel() {}

template <class Any>
std::string built_for_others() {
  cudaFuncAttributes attributes{};
  const cudaError_t status =
      cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&any_kernel<Any>));
  if (status != cudaErrorNoKernelImageForDevice && status != cudaErrorInvalidDeviceFunction) {
    check(status, "kernels");
    return {};
  }
  (void)cudaGetLastError();
  std::string text;
  for (const int architecture : {__CUDA_ARCH_LIST__}) {  // 860: 8.6
    text += (text.empty() ? "" : ", ") + std::to_string(architecture / 100) + "." +
            std::to_string(architecture / 10 % 10);
  }
  return text;
}

}  // namespace cuda
ZIYA_NAMESPACE_END
