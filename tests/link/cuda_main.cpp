// SPDX-License-Identifier: Apache-2.0
// Runs what the program was linked from: ZIYA_LINK_CPP, ZIYA_LINK_CU, or both.
#include <cstdio>
#include <cstdlib>

#include <cuda_runtime_api.h>

bool from_cpp();
bool from_cu();

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    if (std::getenv("ZIYA_REQUIRE_GPU") != nullptr) {
      std::puts("there is no NVIDIA GPU");
      return 3;
    }
    std::puts("SKIPPED: there is no NVIDIA GPU");
    return 0;
  }
#if ZIYA_LINK_CPP
  if (!from_cpp()) return 1;
#endif
#if ZIYA_LINK_CU
  if (!from_cu()) return 2;
#endif
  std::puts("ok");
  return 0;
}
