// SPDX-License-Identifier: Apache-2.0
// Memory of the GPU, and copies to, from and within it.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <cstddef>
#include <string>

#include "ziya/backend/cuda/runtime.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/error.hpp"

ZIYA_NAMESPACE_BEGIN

/// Memory of the calling thread's current GPU, which is that of the `Context` made last.
template <>
struct Memory<Cuda> {
  static constexpr std::size_t alignment = 256;
  /// Uninitialised. @throws BackendError saying how much was needed and how much was free
  static void* allocate(std::size_t bytes) {
    if (bytes == 0) bytes = alignment;  // an empty tensor has an address, as on the CPU
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      throw out_of_memory(bytes, "an allocation");
    }
    cuda::check(status, "allocate");
    return memory;
  }
  /// @throws BackendError when `bytes` for `what` do not fit into what is free
  static void require(std::size_t bytes, const char* what) {
    if (room().free < bytes) throw out_of_memory(bytes, what);
  }
  static void release(void* memory) noexcept { (void)cudaFree(memory); }

  struct Room {
    std::size_t free = 0, total = 0;  ///< bytes
  };
  /// Of the current GPU.
  static Room room() {
    Room room;
    cuda::check(cudaMemGetInfo(&room.free, &room.total), "free memory");
    return room;
  }

 private:
  static BackendError out_of_memory(std::size_t bytes, const char* what) {
    const Room now = room();
    return BackendError("ZIYA-152",
                        "cuda: out of memory: " + std::string(what) + " needs " + mebibytes(bytes) +
                            ", free are " + mebibytes(now.free) + " of " + mebibytes(now.total) +
                            "; a shorter context, a 16-bit cache or weights of a smaller type "
                            "need less");
  }
  static std::string mebibytes(std::size_t bytes) {
    return std::to_string((bytes + (std::size_t{1} << 20) - 1) >> 20) + " MiB";
  }
};

/// Makes GPU `number` the one that the calling thread allocates on and sends work to: that of a
/// context before its work, when a thread has several.
inline void set_current(Cuda, int number) { cuda::check(cudaSetDevice(number), "current GPU"); }

// In order with the work of every context, whose streams wait for the default stream and are waited
// for by it. Copies to and from the CPU return when they are done.
inline void copy(Cuda, void* to, Cpu, const void* from, std::size_t bytes) {
  cuda::check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copy to the GPU");
}
inline void copy(Cpu, void* to, Cuda, const void* from, std::size_t bytes) {
  cuda::check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copy from the GPU");
}
inline void copy(Cuda, void* to, Cuda, const void* from, std::size_t bytes) {
  cuda::check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToDevice), "copy within the GPU");
}

ZIYA_NAMESPACE_END

#endif
