// SPDX-License-Identifier: Apache-2.0
// Products by four warps together, whose second operand (and first, if it is not in registers) lies
// in shared memory: compute capability 9.0, compiled for `sm_90a`.
#pragma once

#include <cstdint>
#include <type_traits>

#include "ziya/backend/cuda/device.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Whether a kernel that is empty, and without memory of its own, where it is not compiled for
/// `sm_90a` is there, on such a GPU.
template <class Kernel>
ZIYA_HIDDEN bool has_warpgroups(const Context<Cuda>& ctx, Kernel* kernel) {
  if (ctx.capability() != 9) return false;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), "kernel");
  return attributes.sharedSizeBytes > 0;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

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
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits for all but the last `Pending` groups that were committed.
template <int Pending>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
/// Waits for all groups that were committed; `sums` are theirs.
template <int N>
__device__ inline void take_sums(float (&sums)[N]) {
  wait_for_products<0>();
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}
/// Waits for the products since `begin_products`; `sums` are theirs.
template <int N>
__device__ inline void finish_products(float (&sums)[N]) {
  commit_products();
  take_sums(sums);
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

#define ZIYA_NAMES_72 ZIYA_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define ZIYA_NAMES_80 ZIYA_NAMES_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define ZIYA_NAMES_96 \
  ZIYA_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define ZIYA_NAMES_128                                                                         \
  ZIYA_NAMES_96                                                                                \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "   \
  "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, " \
  "%126, %127"

/// c (64 × N) = or += a (64 × 16) · bᵀ (N × 16), both in rows.
template <class T, int N>
__device__ inline void multiply_rows(float (&c)[N / 2], std::uint64_t a, std::uint64_t b,
                                     bool add) {
  static_assert(N == 128 || N == 144 || N == 160 || N == 192 || N == 256);
  // `a`, `b` and whether to add are the operands behind the sums.
#define ZIYA_PRODUCT(type, n, names, at_a, at_b, at_add, ...)                            \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %" at_add                                 \
               ", 0;\n"                                                                  \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" names \
               "}, %" at_a ", %" at_b ", p, 1, 1, 0, 0; }"                               \
               : __VA_ARGS__                                                             \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)))
#define ZIYA_PRODUCTS(type)                                                            \
  if constexpr (N == 128) {                                                            \
    ZIYA_PRODUCT(type, "128", ZIYA_NAMES_64, "64", "65", "66", ZIYA_SUMS_32(c, 0),     \
                 ZIYA_SUMS_32(c, 32));                                                 \
  } else if constexpr (N == 144) {                                                     \
    ZIYA_PRODUCT(type, "144", ZIYA_NAMES_72, "72", "73", "74", ZIYA_SUMS_32(c, 0),     \
                 ZIYA_SUMS_32(c, 32), ZIYA_SUMS_8(c, 64));                             \
  } else if constexpr (N == 160) {                                                     \
    ZIYA_PRODUCT(type, "160", ZIYA_NAMES_80, "80", "81", "82", ZIYA_SUMS_32(c, 0),     \
                 ZIYA_SUMS_32(c, 32), ZIYA_SUMS_8(c, 64), ZIYA_SUMS_8(c, 72));         \
  } else if constexpr (N == 192) {                                                     \
    ZIYA_PRODUCT(type, "192", ZIYA_NAMES_96, "96", "97", "98", ZIYA_SUMS_32(c, 0),     \
                 ZIYA_SUMS_32(c, 32), ZIYA_SUMS_32(c, 64));                            \
  } else {                                                                             \
    ZIYA_PRODUCT(type, "256", ZIYA_NAMES_128, "128", "129", "130", ZIYA_SUMS_32(c, 0), \
                 ZIYA_SUMS_32(c, 32), ZIYA_SUMS_32(c, 64), ZIYA_SUMS_32(c, 96));       \
  }
  if constexpr (std::is_same_v<T, Half>) {
    ZIYA_PRODUCTS("f16")
  } else {
    ZIYA_PRODUCTS("bf16")
  }
#undef ZIYA_PRODUCTS
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

/// Four neighbouring lanes have four words each; lane i gets the i-th of all.
__device__ inline uint4 exchange_words(const unsigned (&words)[4]) {
  const bool odd = threadIdx.x % 2 != 0, high = threadIdx.x / 2 % 2 != 0;
  const unsigned first = __shfl_xor_sync(~0u, odd ? words[0] : words[1], 1);
  const unsigned second = __shfl_xor_sync(~0u, odd ? words[2] : words[3], 1);
  const unsigned pairs[4] = {odd ? first : words[0], odd ? words[1] : first,
                             odd ? second : words[2], odd ? words[3] : second};
  const unsigned third = __shfl_xor_sync(~0u, high ? pairs[0] : pairs[2], 2);
  const unsigned fourth = __shfl_xor_sync(~0u, high ? pairs[1] : pairs[3], 2);
  return {high ? third : pairs[0], high ? fourth : pairs[1], high ? pairs[2] : third,
          high ? pairs[3] : fourth};
}

#undef ZIYA_SUMS_8
#undef ZIYA_SUMS_32
#undef ZIYA_NAMES_8
#undef ZIYA_NAMES_32
#undef ZIYA_NAMES_64
#undef ZIYA_NAMES_72
#undef ZIYA_NAMES_80
#undef ZIYA_NAMES_96
#undef ZIYA_NAMES_128

#endif

}  // namespace cuda
ZIYA_NAMESPACE_END
