// SPDX-License-Identifier: Apache-2.0
// Copies from global to shared memory that one thread starts and a barrier in shared memory counts,
// and shared memory of the blocks of a cluster: compute capability 9.0.
#pragma once

#include <cstdint>

#include "ziya/backend/cuda/device.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Lies in shared memory. Its phase ends when `arrivals` threads have arrived and all bytes that
/// they have announced are there.
class CopyBarrier {
 public:
  __device__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals)
                 : "memory");
  }
  /// Makes what `init` did known to copies; a barrier of the block makes it known to its threads.
  __device__ static void publish() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __device__ void arrive() {
    asm volatile(
        "{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0]; }" ::"r"(address())
        : "memory");
  }
  /// Arrives when the calling thread's `copy_async` until here have ended.
  __device__ void arrive_after_copies() {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(address())
                 : "memory");
  }
  /// Arrives, and starts a copy of `bytes` bytes, a multiple of 16, between addresses that are.
  __device__ void fetch(void* to, const void* from, int bytes) {
    asm volatile(
        "{ .reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; }" ::"r"(
            address()),
        "r"(bytes)
        : "memory");
    const auto target = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
        "[%3];" ::"r"(target),
        "l"(from), "r"(bytes), "r"(address())
        : "memory");
  }
  /// Waits for the end of the phase whose number is even (0) or odd (1).
  __device__ void wait(int parity) {
    asm volatile(
        "{ .reg .pred done;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again; }" ::"r"(address()),
        "r"(parity)
        : "memory");
  }

 private:
  __device__ unsigned address() const {
    return static_cast<unsigned>(__cvta_generic_to_shared(&state_));
  }

  std::uint64_t state_;
};

/// Waits for all threads of the cluster; what they wrote before can be read afterwards.
__device__ inline void meet_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}
/// What lies at the same place in the shared memory of a block of the cluster.
__device__ inline float of_cluster(const float* at, int block) {
  float result;
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(at));
  asm volatile(
      "{ .reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %1, %2;\n"
      "ld.shared::cluster.f32 %0, [there]; }"
      : "=f"(result)
      : "r"(address), "r"(block)
      : "memory");
  return result;
}

}  // namespace cuda
ZIYA_NAMESPACE_END

#endif
