// SPDX-License-Identifier: Apache-2.0
// One token and four rows in blocks of 256 with AVX-512.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/x86/avx512_decode.hpp"
#include "ziya/core/blocks.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

/// Q4_K and Q5_K: the even blocks, low halves of bytes, then the odd ones.
template <class Block, bool Fifth>
struct DecodeScaledHalfBytes {
  static constexpr int group_size = sizeof(Block);
  static constexpr bool row_scales = false;

  /// Scales and minima of even and odd blocks as floats, in the lanes of FourRows.
  struct Head {
    __m512 scales[2], minima[2];
  };
  ZIYA_TARGET_AVX512 static Head head_of(const FourRows& rows) {
    const __m512i heads = four_places(rows.at[0], rows.at[1], rows.at[2], rows.at[3]);
    // dwords 1 and 2: the first four scales and minima; from dword 3: the low bits of the others
    const __m512i six = _mm512_and_si512(heads, bytes(63));
    const __m512i third = _mm512_maskz_shuffle_epi32(all, heads, static_cast<_MM_PERM_ENUM>(0xff));
    const __m512i low =
        low_half(_mm512_maskz_srlv_epi32(all, third, _mm512_set4_epi32(4, 4, 0, 0)));
    const __m512i later = and_or(shift_right(heads, 2), bytes(48), low);
    const __m512i packed =
        _mm512_mask_shuffle_epi32(six, 0x9999, later, static_cast<_MM_PERM_ENUM>(0x81));
    return unpacked(heads, packed);
  }
  /// packed, per row: scales 4 … 7, scales 0 … 3, minima 0 … 3, minima 4 … 7.
  ZIYA_TARGET_AVX512 static Head unpacked(__m512i heads, __m512i packed) {
    // lane 4 i + r: byte 16 r + {4, 6, 0, 2}[i], the even scales; the others lie at fixed distances
    const __m512i even_scales = _mm512_set_epi32(0x32, 0x22, 0x12, 0x02, 0x30, 0x20, 0x10, 0x00,
                                                 0x36, 0x26, 0x16, 0x06, 0x34, 0x24, 0x14, 0x04);
    const __m512i even_minima = _mm512_set_epi32(0x3e, 0x2e, 0x1e, 0x0e, 0x3c, 0x2c, 0x1c, 0x0c,
                                                 0x3a, 0x2a, 0x1a, 0x0a, 0x38, 0x28, 0x18, 0x08);
    constexpr __mmask64 lowest = 0x1111111111111111;
    // d of row r in words 4 i + r, dmin after them
    const __m512i factors = _mm512_maskz_permutexvar_epi16(
        ~__mmask32{0},
        _mm512_set_epi64(0x0019001100090001, 0x0019001100090001, 0x0019001100090001,
                         0x0019001100090001, 0x0018001000080000, 0x0018001000080000,
                         0x0018001000080000, 0x0018001000080000),
        heads);
    const __m512 d = _mm512_maskz_cvtph_ps(all, lower(factors));
    const __m512 dmin = subtract(zero(), _mm512_maskz_cvtph_ps(all, upper(factors)));
    const __m512i one = words(1);
    Head head;
    head.scales[0] =
        multiply(d, to_floats(_mm512_maskz_permutexvar_epi8(lowest, even_scales, packed)));
    head.scales[1] = multiply(d, to_floats(_mm512_maskz_permutexvar_epi8(
                                     lowest, _mm512_add_epi32(even_scales, one), packed)));
    head.minima[0] =
        multiply(dmin, to_floats(_mm512_maskz_permutexvar_epi8(lowest, even_minima, packed)));
    head.minima[1] = multiply(dmin, to_floats(_mm512_maskz_permutexvar_epi8(
                                        lowest, _mm512_add_epi32(even_minima, one), packed)));
    return head;
  }

  /// `quants` plus 16 where bit `which` + 2 i of `high` is set, i the number of the 128 bits.
  ZIYA_TARGET_AVX512 static __m512i with_fifth(__m512i quants, __m512i high, int which) {
    const __m512i bit = _mm512_set_epi64(0x4040404040404040, 0x4040404040404040, 0x1010101010101010,
                                         0x1010101010101010, 0x0404040404040404, 0x0404040404040404,
                                         0x0101010101010101, 0x0101010101010101);
    const __mmask64 set = _mm512_test_epi8_mask(high, which == 0 ? bit : _mm512_add_epi8(bit, bit));
    return _mm512_mask_add_epi8(quants, set, quants, bytes(16));
  }

  ZIYA_TARGET_AVX512 static __m128 add_group(__m128 y, const FourRows& rows,
                                             const ActivationGroup& x, __m128) {
    __m512i even[4], odd[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const std::byte* p = rows.at[r] + (Fifth ? 48 : 16);
      const __m512i v = _mm512_loadu_si512(p), w = _mm512_loadu_si512(p + 64);
      const __m512i a = _mm512_maskz_shuffle_i32x4(all, v, w, 0x88);
      const __m512i b = _mm512_maskz_shuffle_i32x4(all, v, w, 0xdd);
      __m512i quants[2][2] = {{low_half(a), low_half(b)}, {high_half(a), high_half(b)}};
      if constexpr (Fifth) {
        const __m512i high_a = _mm512_maskz_broadcast_i32x4(all, load_16(rows.at[r] + 16));
        const __m512i high_b = _mm512_maskz_broadcast_i32x4(all, load_16(rows.at[r] + 32));
#pragma GCC unroll 2
        for (int which = 0; which < 2; ++which) {
          quants[which][0] = with_fifth(quants[which][0], high_a, which);
          quants[which][1] = with_fifth(quants[which][1], high_b, which);
        }
      }
      const __m512i none = _mm512_setzero_si512();
      even[r] = dot(dot(none, quants[0][0], x.fours[0][0]), quants[0][1], x.fours[0][1]);
      odd[r] = dot(dot(none, quants[1][0], x.fours[1][0]), quants[1][1], x.fours[1][1]);
    }
    const Head head = head_of(rows);
    __m512 sums = fma(to_floats(sums_of_fours(even)), head.scales[0], zero());
    sums = fma(head.minima[0], spread(x.fours_sum_32), sums);
    sums = fma(to_floats(sums_of_fours(odd)), head.scales[1], sums);
    sums = fma(head.minima[1], spread(x.fours_sum_32 + 4), sums);
    return _mm_fmadd_ps(fold(sums), _mm_set1_ps(x.scale), y);
  }
};

using DecodeQ4_K = DecodeScaledHalfBytes<blocks::Q4_K, false>;
using DecodeQ5_K = DecodeScaledHalfBytes<blocks::Q5_K, true>;

struct DecodeQ6_K {
  static constexpr int group_size = sizeof(blocks::Q6_K);
  static constexpr bool row_scales = false;

  ZIYA_TARGET_AVX512 static __m128 add_group(__m128 y, const FourRows& rows,
                                             const ActivationGroup& x, __m128) {
    __m512i dots[4][4];
    std::uint16_t d[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const std::byte* p = rows.at[r];
      std::memcpy(&d[r], p + 208, 2);
#pragma GCC unroll 2
      for (int n = 0; n < 2; ++n) {
        const __m512i v = _mm512_loadu_si512(p + 64 * n);
        const __m512i high = _mm512_maskz_broadcast_i64x4(
            0xff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 128 + 32 * n)));
        const __m512i first =
            _mm512_maskz_sllv_epi64(0xff, high, _mm512_set_epi64(2, 2, 2, 2, 4, 4, 4, 4));
        const __m512i second =
            _mm512_maskz_srlv_epi64(0xff, high, _mm512_set_epi64(2, 2, 2, 2, 0, 0, 0, 0));
        dots[2 * n][r] =
            dot(_mm512_setzero_si512(), and_or(first, bytes(48), low_half(v)), x.values + 128 * n);
        dots[2 * n + 1][r] = dot(_mm512_setzero_si512(), and_or(second, bytes(48), high_half(v)),
                                 x.values + 128 * n + 64);
      }
    }
    const __m512i scales =
        four_places(rows.at[0] + 192, rows.at[1] + 192, rows.at[2] + 192, rows.at[3] + 192);
    const __m512 factors = _mm512_maskz_broadcast_f32x4(
        all,
        _mm_cvtph_ps(_mm_set_epi16(0, 0, 0, 0, static_cast<short>(d[3]), static_cast<short>(d[2]),
                                   static_cast<short>(d[1]), static_cast<short>(d[0]))));
    // lane 4 i + r: byte 16 r + i as the highest byte
    const __m512i places =
        _mm512_set_epi32(0x33000000, 0x23000000, 0x13000000, 0x03000000, 0x32000000, 0x22000000,
                         0x12000000, 0x02000000, 0x31000000, 0x21000000, 0x11000000, 0x01000000,
                         0x30000000, 0x20000000, 0x10000000, 0x00000000);
    __m512 sums = zero();
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const __m512i top = _mm512_maskz_permutexvar_epi8(
          0x8888888888888888, _mm512_add_epi32(places, words(k << 26)), scales);
      const __m512 scale = multiply(factors, to_floats(_mm512_maskz_srai_epi32(all, top, 24)));
      const __m512i dot_of =
          _mm512_add_epi32(sums_of_fours(dots[k]), spread(x.times_32_of_16 + 4 * k));
      sums = fma(to_floats(dot_of), scale, sums);
    }
    return _mm_fmadd_ps(fold(sums), _mm_set1_ps(x.scale), y);
  }
};

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
