// SPDX-License-Identifier: Apache-2.0
// Products by four warps together, whose second operand (and first, if it is not in registers) lies
// in shared memory: compute capability 9.0, compiled for `sm_90a`.
#pragma once

#include <cstdint>
#include <type_traits>

#include "ziya/backend/cuda/device.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Registers per thread of the four warps that call it, of those that the block started with; the
/// others' share is what is left. Multiples of 8.
template <int Count>
__device__ inline void give_registers_back() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

/// Shared memory is written by ordinary copies; what `wgmma` reads has to be fenced, by the writer
/// or by a reader who has waited for it.
__device__ inline void publish_to_warpgroups() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Waits for the products since `begin_products`; `sums` are theirs.
template <int N>
__device__ inline void finish_products(float (&sums)[N]) {
  asm volatile("wgmma.commit_group.sync.aligned;\n wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits for all but the last `Pending` groups that were committed.
template <int Pending>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

/// A matrix in shared memory in rows of 128 bytes, their 16 bytes exchanged by row % 8; eight rows
/// are 1024 bytes, which is the alignment. `apart`: from 64 columns to the next 64, for a matrix
/// whose rows are summed over.
__device__ inline std::uint64_t describe(const void* matrix, unsigned apart = 16) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(matrix));
  return std::uint64_t{(address & 0x3ffffu) >> 4} | std::uint64_t{apart >> 4} << 16 |
         std::uint64_t{1024u >> 4} << 32 | std::uint64_t{1} << 62;
}

/// A matrix in shared memory in pieces of eight rows of 16 bytes, 128 bytes each: `apart` from one
/// piece to that of the next eight columns, `below` to that of the next eight rows.
__device__ inline std::uint64_t describe_plain(const void* matrix, unsigned apart, unsigned below) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(matrix));
  return std::uint64_t{(address & 0x3ffffu) >> 4} | std::uint64_t{apart >> 4} << 16 |
         std::uint64_t{below >> 4} << 32;
}

#define ZIYA_SUMS_8(c, i)                                                                     \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
      "+f"(c[i + 6]), "+f"(c[i + 7])
#define ZIYA_SUMS_32(c, i) \
  ZIYA_SUMS_8(c, i), ZIYA_SUMS_8(c, i + 8), ZIYA_SUMS_8(c, i + 16), ZIYA_SUMS_8(c, i + 24)

#define ZIYA_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define ZIYA_NAMES_32                                                                          \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, "                                                                                      \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ZIYA_NAMES_64                                                                            \
  ZIYA_NAMES_32                                                                                  \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/// c (64 × 128) = or += a (64 × 16) · bᵀ (128 × 16), both in rows.
template <class T>
__device__ inline void multiply_rows(float (&c)[64], std::uint64_t a, std::uint64_t b, bool add) {
#define ZIYA_PRODUCT(type)                                                            \
  asm volatile(                                                                       \
      "{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"                                      \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" ZIYA_NAMES_64 \
      "}, %64, %65, p, 1, 1, 0, 0; }"                                                 \
      : ZIYA_SUMS_32(c, 0), ZIYA_SUMS_32(c, 32)                                       \
      : "l"(a), "l"(b), "r"(static_cast<int>(add)))
  if constexpr (std::is_same_v<T, Half>) {
    ZIYA_PRODUCT("f16");
  } else {
    ZIYA_PRODUCT("bf16");
  }
#undef ZIYA_PRODUCT
}

/// c (64 × 128) += a (64 × 16, as `multiply` has it, 16 rows per warp) · b (16 × 128).
template <class T>
__device__ inline void multiply_columns(float (&c)[64], const unsigned (&a)[4], std::uint64_t b) {
#define ZIYA_PRODUCT(type)                                                                     \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" ZIYA_NAMES_64 \
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"                                     \
               : ZIYA_SUMS_32(c, 0), ZIYA_SUMS_32(c, 32)                                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
  if constexpr (std::is_same_v<T, Half>) {
    ZIYA_PRODUCT("f16");
  } else {
    ZIYA_PRODUCT("bf16");
  }
#undef ZIYA_PRODUCT
}

/// c (64 × N) += a (64 × 16, as `multiply` has it, 16 rows per warp) · bᵀ (N × 16, in rows), of
/// f16; `First`: = instead, of 64.
template <int N, bool First = false>
__device__ inline void multiply_registers(float (&c)[N / 2], const unsigned (&a)[4],
                                          std::uint64_t b) {
  static_assert(N == 16 || N == 64 || N == 128);
  if constexpr (First) {
    static_assert(N == 64);
    for (float& sum : c) asm volatile("" : "=f"(sum));  // whatever it was
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" ZIYA_NAMES_32
                 "}, {%32, %33, %34, %35}, %36, 0, 1, 1, 0;"
                 : ZIYA_SUMS_32(c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else if constexpr (N == 16) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {" ZIYA_NAMES_8
                 "}, {%8, %9, %10, %11}, %12, 1, 1, 1, 0;"
                 : ZIYA_SUMS_8(c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else if constexpr (N == 64) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" ZIYA_NAMES_32
                 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
                 : ZIYA_SUMS_32(c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" ZIYA_NAMES_64
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
                 : ZIYA_SUMS_32(c, 0), ZIYA_SUMS_32(c, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
}

#undef ZIYA_SUMS_8
#undef ZIYA_SUMS_32
#undef ZIYA_NAMES_8
#undef ZIYA_NAMES_32
#undef ZIYA_NAMES_64

}  // namespace cuda
ZIYA_NAMESPACE_END

#endif
