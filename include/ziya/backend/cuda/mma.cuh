// SPDX-License-Identifier: Apache-2.0
// One product of small matrices by the tensor cores.
#pragma once

#include <type_traits>

#include "ziya/backend/cuda/device.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Two numbers of an operand, rounded.
template <class T>
__device__ inline unsigned pair_of(float low, float high) {
  unsigned pair;
  if constexpr (std::is_same_v<T, Half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
}

/// c (16 × 8) += a (16 × 16) · b (16 × 8). Lane 4 g + t holds of a: rows g, g + 8, g, g + 8 in
/// columns 2 t, 2 t + 1 and, the last two, 2 t + 8, 2 t + 9; of b the same rows of column g; of c
/// columns 2 t, 2 t + 1 of rows g and g + 8.
template <class T>
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  if constexpr (std::is_same_v<T, Half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// c = a · b
template <class T>
__device__ inline void multiply_first(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                      unsigned b1) {
  if constexpr (std::is_same_v<T, Half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %10, %10, %10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %10, %10, %10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
  }
}

/// c (16 × 8) = a (16 × 32) · b (32 × 8) of bytes; those of b have signs. Lane 4 g + t holds of a:
/// rows g, g + 8, g, g + 8 in columns 4 t … 4 t + 3 and, the last two, 16 further on; of b the same
/// rows of column g; of c as above.
template <bool Signed>
__device__ inline void multiply_bytes(int (&c)[4], const unsigned (&a)[4], unsigned b0,
                                      unsigned b1) {
  if constexpr (Signed) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %10, %10, %10};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
  } else {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %10, %10, %10};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
  }
}

/// The first 16 columns of such a product: rows g and g + 8 of a, b0 of b.
template <bool Signed>
__device__ inline void multiply_half_bytes(int (&c)[4], unsigned a0, unsigned a1, unsigned b) {
  if constexpr (Signed) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%7, %7, %7, %7};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a0), "r"(a1), "r"(b), "r"(0));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%7, %7, %7, %7};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a0), "r"(a1), "r"(b), "r"(0));
  }
}
/// c += a · b; whether bytes of a and of b have signs.
template <bool A = false, bool B = true>
__device__ inline void add_bytes(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#define ZIYA_PRODUCT(a_type, b_type)                             \
  asm("mma.sync.aligned.m16n8k32.row.col.s32." a_type "." b_type \
      ".s32 {%0, %1, %2, %3}, "                                  \
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"            \
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])           \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  static_assert(A || B);
  if constexpr (!A) {
    ZIYA_PRODUCT("u8", "s8");
  } else if constexpr (B) {
    ZIYA_PRODUCT("s8", "s8");
  } else {
    ZIYA_PRODUCT("s8", "u8");
  }
#undef ZIYA_PRODUCT
}

}  // namespace cuda
ZIYA_NAMESPACE_END
