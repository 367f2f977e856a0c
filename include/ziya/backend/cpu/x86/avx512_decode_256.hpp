// SPDX-License-Identifier: Apache-2.0
// Four rows in blocks of 256 and a few tokens with AVX-512: integers up to the end of a block; Q4_K
// and Q5_K.
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

inline constexpr __mmask64 even_bytes = 0x5555555555555555;

/// The 16-bit floats at an offset of each row, and those after them.
struct Factors {
  __m128 first, second;
};
ZIYA_TARGET_AVX512 inline int word_at(const std::byte* p) {
  int word;
  std::memcpy(&word, p, sizeof word);
  return word;
}
ZIYA_TARGET_AVX512 inline short half_at(const std::byte* p) {
  short half;
  std::memcpy(&half, p, sizeof half);
  return half;
}
ZIYA_TARGET_AVX512 inline Factors factors_of(const FourRows& rows, std::int64_t offset) {
  const __m128i halves =
      _mm_shuffle_epi8(_mm_set_epi32(word_at(rows.at[3] + offset), word_at(rows.at[2] + offset),
                                     word_at(rows.at[1] + offset), word_at(rows.at[0] + offset)),
                       _mm_set_epi64x(0x0f0e0b0a07060302, 0x0d0c090805040100));
  const __m256 floats = _mm256_cvtph_ps(halves);
  return {_mm256_castps256_ps128(floats), _mm256_extractf128_ps(floats, 1)};
}
ZIYA_TARGET_AVX512 inline __m128 factor_of(const FourRows& rows, std::int64_t offset) {
  return _mm_cvtph_ps(_mm_set_epi16(0, 0, 0, 0, half_at(rows.at[3] + offset),
                                    half_at(rows.at[2] + offset), half_at(rows.at[1] + offset),
                                    half_at(rows.at[0] + offset)));
}

/// y + scale of x · (factor · sum − minimum factor · minima), in the order of `put_groups`.
ZIYA_TARGET_AVX512 inline __m128 add_scaled(__m128 y, const Factors& factors, __m512i sums,
                                            __m512i minima, const ActivationGroup& x) {
  const __m128 difference = _mm_fmsub_ps(factors.first, _mm_cvtepi32_ps(fold(sums)),
                                         _mm_mul_ps(factors.second, _mm_cvtepi32_ps(fold(minima))));
  return _mm_fmadd_ps(difference, _mm_set1_ps(x.by_256.scale), y);
}
ZIYA_TARGET_AVX512 inline __m128 add_scaled(__m128 y, __m128 factor, __m128i sums,
                                            const ActivationGroup& x) {
  return _mm_fmadd_ps(_mm_mul_ps(factor, _mm_cvtepi32_ps(sums)), _mm_set1_ps(x.by_256.scale), y);
}

/// The same with the factors at the beginning of the rows, whose first 16 bytes are `heads`.
ZIYA_TARGET_AVX512 inline __m128 add_scaled(__m128 y, __m512i heads, __m512i sums, __m512i minima,
                                            const ActivationGroup& x) {
  const __m512i places = _mm512_set_epi64(0, 0, 0, 0, 0, 0, 0x3332232213120302, 0x3130212011100100);
  const __m256 factors = _mm256_cvtph_ps(_mm512_maskz_extracti32x4_epi32(
      0xf, _mm512_maskz_permutexvar_epi8(~__mmask64{0}, places, heads), 0));
  // halves of the sums, then of the minima, to the sums in lanes 0 … 3 and the minima in 8 … 11
  const __m512i halves = _mm512_add_epi32(_mm512_maskz_shuffle_i32x4(all, sums, minima, 0x44),
                                          _mm512_maskz_shuffle_i32x4(all, sums, minima, 0xee));
  const __m512 whole =
      to_floats(_mm512_add_epi32(halves, _mm512_maskz_shuffle_i32x4(all, halves, halves, 0xb1)));
  const __m128 difference = _mm_fmsub_ps(
      _mm256_castps256_ps128(factors), _mm512_maskz_extractf32x4_ps(0xf, whole, 0),
      _mm_mul_ps(_mm256_extractf128_ps(factors, 1), _mm512_maskz_extractf32x4_ps(0xf, whole, 2)));
  return _mm_fmadd_ps(difference, _mm_set1_ps(x.by_256.scale), y);
}

/// Lanes 4 i … 4 i + 3: the sums of lanes 4 i + {0, 1} and {2, 3} of a, then of b.
ZIYA_TARGET_AVX512 inline __m512i pair_sums(__m512i a, __m512i b) {
  const __m512 v = _mm512_castsi512_ps(a), w = _mm512_castsi512_ps(b);
  return _mm512_add_epi32(_mm512_castps_si512(_mm512_maskz_shuffle_ps(all, v, w, 0x88)),
                          _mm512_castps_si512(_mm512_maskz_shuffle_ps(all, v, w, 0xdd)));
}

/// sums + scale · dot, each of two rows: lanes of `dots`, which fit 16 bits, of the first row, then
/// of the second one in every 128 bits, as pairs; `scales` is 16-bit words.
ZIYA_TARGET_AVX512 inline __m512i add_pairs(__m512i sums, __m512i first, __m512i second,
                                            __m512i scales) {
  return _mm512_dpwssd_epi32(sums, _mm512_packs_epi32(first, second), scales);
}
/// Bytes 16 r + a, b, c, d of `packed` for the 128 bits i = 0 … 3, as 16-bit words: four of row r =
/// 2 h, then four of row 2 h + 1.
ZIYA_TARGET_AVX512 inline __m512i words_of_blocks(__m512i packed, int h, int a, int b, int c,
                                                  int d) {
  const auto of = [](int block) { return block * 0x00010001; };
  const __m512i rows = _mm512_set4_epi32(0x00100010, 0x00100010, 0, 0);
  const __m512i blocks = _mm512_set_epi32(of(d), of(d), of(d), of(d), of(c), of(c), of(c), of(c),
                                          of(b), of(b), of(b), of(b), of(a), of(a), of(a), of(a));
  return _mm512_maskz_permutexvar_epi8(
      even_bytes, _mm512_add_epi32(_mm512_add_epi32(rows, blocks), words(of(32 * h))), packed);
}

/// Pair i of sums of x in the lanes 4 i … 4 i + 3.
ZIYA_TARGET_AVX512 inline __m512i spread_pairs(const std::int16_t* sums) {
  return spread(reinterpret_cast<const std::int32_t*>(sums));
}

/// Q4_K and Q5_K: the even blocks, low halves of bytes, then the odd ones.
template <class Block, bool Fifth>
struct DecodeScaledHalfBytes {
  static constexpr int group_size = sizeof(Block), most_tokens = 16;
  static constexpr bool row_scales = false, own_spans = false;

  /// Per row: scales 4 … 7, scales 0 … 3, minima 0 … 3, minima 4 … 7, a byte each.
  ZIYA_TARGET_AVX512 static __m512i packed_scales(__m512i heads) {
    // dwords 1 and 2: the first four scales and minima; from dword 3: the low bits of the others
    const __m512i six = _mm512_and_si512(heads, bytes(63));
    const __m512i third = _mm512_maskz_shuffle_epi32(all, heads, static_cast<_MM_PERM_ENUM>(0xff));
    const __m512i low =
        low_half(_mm512_maskz_srlv_epi32(all, third, _mm512_set4_epi32(4, 4, 0, 0)));
    const __m512i later = and_or(shift_right(heads, 2), bytes(48), low);
    return _mm512_mask_shuffle_epi32(six, 0x9999, later, static_cast<_MM_PERM_ENUM>(0x81));
  }

  /// `quants` plus 16 where bit `which` + 2 i of `high` is set, i the number of the 128 bits.
  ZIYA_TARGET_AVX512 static __m512i with_fifth(__m512i quants, __m512i high, int which) {
    const __m512i bit = _mm512_set_epi64(0x4040404040404040, 0x4040404040404040, 0x1010101010101010,
                                         0x1010101010101010, 0x0404040404040404, 0x0404040404040404,
                                         0x0101010101010101, 0x0101010101010101);
    const __mmask64 set = _mm512_test_epi8_mask(high, which == 0 ? bit : _mm512_add_epi8(bit, bit));
    return _mm512_mask_add_epi8(quants, set, quants, bytes(16));
  }

  /// 256 columns of four rows: quants of even and odd blocks, both halves of four blocks.
  struct Group {
    __m512i quants[4][2][2];
    __m512i heads, even_scales[2], odd_scales[2], minima;
  };
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static Group read(const FourRows& rows) {
    Group w;
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const std::byte* p = rows.at[r] + (Fifth ? 48 : 16);
      const __m512i v = _mm512_loadu_si512(p), next = _mm512_loadu_si512(p + 64);
      const __m512i a = _mm512_maskz_shuffle_i32x4(all, v, next, 0x88);
      const __m512i b = _mm512_maskz_shuffle_i32x4(all, v, next, 0xdd);
      auto& quants = w.quants[r];
      quants[0][0] = low_half(a), quants[0][1] = low_half(b);
      quants[1][0] = high_half(a), quants[1][1] = high_half(b);
      if constexpr (Fifth) {
        const __m512i high_a = _mm512_maskz_broadcast_i32x4(all, load_16(rows.at[r] + 16));
        const __m512i high_b = _mm512_maskz_broadcast_i32x4(all, load_16(rows.at[r] + 32));
#pragma GCC unroll 2
        for (int which = 0; which < 2; ++which) {
          quants[which][0] = with_fifth(quants[which][0], high_a, which);
          quants[which][1] = with_fifth(quants[which][1], high_b, which);
        }
      }
    }
    // lane 4 i + r: byte 16 r + 8 + 2 i, the even minima, and the odd ones after them
    const __m512i pairs =
        _mm512_set_epi32(0x003f003e, 0x002f002e, 0x001f001e, 0x000f000e, 0x003d003c, 0x002d002c,
                         0x001d001c, 0x000d000c, 0x003b003a, 0x002b002a, 0x001b001a, 0x000b000a,
                         0x00390038, 0x00290028, 0x00190018, 0x00090008);
    w.heads = four_places(rows.at[0], rows.at[1], rows.at[2], rows.at[3]);
    const __m512i packed = packed_scales(w.heads);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      w.even_scales[h] = words_of_blocks(packed, h, 4, 6, 0, 2);
      w.odd_scales[h] = words_of_blocks(packed, h, 5, 7, 1, 3);
    }
    w.minima = _mm512_maskz_permutexvar_epi8(even_bytes, pairs, packed);
    return w;
  }
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m128 add(__m128 y, const Group& w,
                                                              const ActivationGroup& x,
                                                              const ActivationFours& fours,
                                                              __m128) {
    __m512i even[4], odd[4], sums[2];
    const __m512i none = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      even[r] = dot(dot(none, w.quants[r][0][0], fours.values[0][0]), w.quants[r][0][1],
                    fours.values[0][1]);
      odd[r] = dot(dot(none, w.quants[r][1][0], fours.values[1][0]), w.quants[r][1][1],
                   fours.values[1][1]);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      sums[h] = add_pairs(add_pairs(none, even[2 * h], even[2 * h + 1], w.even_scales[h]),
                          odd[2 * h], odd[2 * h + 1], w.odd_scales[h]);
    }
    return add_scaled(y, w.heads, pair_sums(sums[0], sums[1]),
                      _mm512_dpwssd_epi32(none, w.minima, spread_pairs(x.by_256.sums_of_32)), x);
  }
};

using DecodeQ4_K = DecodeScaledHalfBytes<blocks::Q4_K, false>;
using DecodeQ5_K = DecodeScaledHalfBytes<blocks::Q5_K, true>;

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
