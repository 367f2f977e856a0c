// SPDX-License-Identifier: Apache-2.0
// Copies from global to shared memory that one thread starts and a barrier in shared memory counts,
// and shared memory of the blocks of a cluster: compute capability 9.0.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "ziya/backend/cuda/device.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// A matrix of 16-bit elements for copies of boxes, whose rows of 64 columns lie in shared memory
/// as `describe` has them.   @throws BackendError when the driver refuses it
template <class T>
ZIYA_HIDDEN CUtensorMap tensor_map(const T* data, std::int64_t rows, std::int64_t columns,
                                   std::int64_t stride, int box_columns, int box_rows) {
  using Encode =
      CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                   const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                   CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                           cudaEnableDefault, &found),
          "tensor map");
#else
    check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found),
          "tensor map");
#endif
    if (entry == nullptr) throw BackendError("ZIYA-150", "cuda: the driver has no tensor maps");
    return reinterpret_cast<Encode>(entry);
  }();
  CUtensorMap map{};
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride) * sizeof(T)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns),
                            static_cast<cuuint32_t>(box_rows)},
                   steps[] = {1, 1};
  const CUresult status = encode(
      &map,
      std::is_same_v<T, Half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      2, const_cast<T*>(data), extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw BackendError("ZIYA-150",
                       "cuda: tensor map: status " + std::to_string(static_cast<int>(status)));
  }
  return map;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

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
  /// The same at the barrier that lies at the same place in a block of the cluster.
  __device__ void arrive_at(int block) {
    asm volatile(
        "{ .reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(address()),
        "r"(block)
        : "memory");
  }
  /// Arrives when the calling thread's `copy_async` until here have ended.
  __device__ void arrive_after_copies() {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(address())
                 : "memory");
  }
  /// Arrives, and announces so many bytes.
  __device__ void expect(int bytes) {
    asm volatile(
        "{ .reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; }" ::"r"(
            address()),
        "r"(bytes)
        : "memory");
  }
  /// Arrives, and starts a copy of `bytes` bytes, a multiple of 16, between addresses that are.
  __device__ void fetch(void* to, const void* from, int bytes) {
    expect(bytes);
    const auto target = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
        "[%3];" ::"r"(target),
        "l"(from), "r"(bytes), "r"(address())
        : "memory");
  }
  /// Starts a copy of the box of a matrix that begins at so many columns and rows; what lies beyond
  /// the matrix becomes zero and counts as bytes, too.
  __device__ void fetch_box(void* to, const CUtensorMap& matrix, int column, int row) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%2, %3}], [%4];" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
        "l"(&matrix), "r"(column), "r"(row), "r"(address())
        : "memory");
  }
  /// The same to the same place of all blocks of the cluster whose bits `blocks` has, whose
  /// barriers at this place count the bytes.
  __device__ void fetch_box(void* to, const CUtensorMap& matrix, int column, int row,
                            unsigned blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(
            static_cast<unsigned>(__cvta_generic_to_shared(to))),
        "l"(&matrix), "r"(column), "r"(row), "r"(address()),
        "h"(static_cast<unsigned short>(blocks))
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

/// Number of the block in its cluster.
__device__ inline int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
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

#endif

}  // namespace cuda
ZIYA_NAMESPACE_END
