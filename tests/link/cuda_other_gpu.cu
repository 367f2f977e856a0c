// SPDX-License-Identifier: Apache-2.0
// Compiled for compute capability 8.9 alone: on another GPU a context says that there are no
// kernels.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <ziya/backend/cuda/context.hpp>

int main() {
  int major = 0;
  if (ziya::cuda::device_count() == 0 ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess) {
    const bool required = std::getenv("ZIYA_REQUIRE_GPU") != nullptr;
    std::puts(required ? "there is no NVIDIA GPU" : "SKIPPED: there is no NVIDIA GPU");
    return required ? 3 : 0;
  }
  if (major == 8) {
    std::puts("SKIPPED: this GPU may run kernels for 8.9");
    return 0;
  }
  if (ziya::cuda::can_use(0)) return 1;
  try {
    ziya::Context<ziya::Cuda> ctx;
  } catch (const ziya::BackendError& error) {
    std::puts(error.what());
    return std::strstr(error.what(), "built for 8.9") != nullptr && error.id() == "ZIYA-151" ? 0
                                                                                             : 2;
  }
  return 1;
}
