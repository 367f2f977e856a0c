// SPDX-License-Identifier: Apache-2.0
// One token and four rows in blocks of 256 with AVX-512: integers up to the end of a block.
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

inline constexpr __mmask64 lowest_bytes = 0x1111111111111111, even_bytes = 0x5555555555555555;

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

/// Pair i of sums of x in the lanes 4 i … 4 i + 3.
ZIYA_TARGET_AVX512 inline __m512i spread_pairs(const std::int16_t* sums) {
  return spread(reinterpret_cast<const std::int32_t*>(sums));
}

/// Q4_K and Q5_K: the even blocks, low halves of bytes, then the odd ones.
template <class Block, bool Fifth>
struct DecodeScaledHalfBytes {
  static constexpr int group_size = sizeof(Block);
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

  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m128 add_group(__m128 y, const FourRows& rows,
                                                                    const ActivationGroup& x,
                                                                    const ActivationFours& fours,
                                                                    __m128) {
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
      even[r] = dot(dot(none, quants[0][0], fours.values[0][0]), quants[0][1], fours.values[0][1]);
      odd[r] = dot(dot(none, quants[1][0], fours.values[1][0]), quants[1][1], fours.values[1][1]);
    }
    // 16-bit words 8 i … 8 i + 3 and 8 i + 4 … 8 i + 7: byte {4, 6, 0, 2}[i] of the rows 0 and 1,
    // the even scales; lane 4 i + r: byte 16 r + 8 + 2 i, the even minima, and the odd ones after
    // them
    const __m512i even_scales =
        _mm512_set_epi32(0x00120012, 0x00120012, 0x00020002, 0x00020002, 0x00100010, 0x00100010,
                         0x00000000, 0x00000000, 0x00160016, 0x00160016, 0x00060006, 0x00060006,
                         0x00140014, 0x00140014, 0x00040004, 0x00040004);
    const __m512i pairs =
        _mm512_set_epi32(0x003f003e, 0x002f002e, 0x001f001e, 0x000f000e, 0x003d003c, 0x002d002c,
                         0x001d001c, 0x000d000c, 0x003b003a, 0x002b002a, 0x001b001a, 0x000b000a,
                         0x00390038, 0x00290028, 0x00190018, 0x00090008);
    const __m512i heads = four_places(rows.at[0], rows.at[1], rows.at[2], rows.at[3]);
    const __m512i packed = packed_scales(heads);
    __m512i sums[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m512i of_even = _mm512_add_epi16(even_scales, _mm512_set1_epi16(0x20 * h));
      const __m512i of_odd = _mm512_add_epi16(even_scales, _mm512_set1_epi16(0x20 * h + 1));
      sums[h] = _mm512_dpwssd_epi32(
          _mm512_madd_epi16(_mm512_packs_epi32(even[2 * h], even[2 * h + 1]),
                            _mm512_maskz_permutexvar_epi8(even_bytes, of_even, packed)),
          _mm512_packs_epi32(odd[2 * h], odd[2 * h + 1]),
          _mm512_maskz_permutexvar_epi8(even_bytes, of_odd, packed));
    }
    const __m512i minima = _mm512_maskz_permutexvar_epi8(even_bytes, pairs, packed);
    return add_scaled(
        y, heads, pair_sums(sums[0], sums[1]),
        _mm512_dpwssd_epi32(_mm512_setzero_si512(), minima, spread_pairs(x.by_256.sums_of_32)), x);
  }
};

using DecodeQ4_K = DecodeScaledHalfBytes<blocks::Q4_K, false>;
using DecodeQ5_K = DecodeScaledHalfBytes<blocks::Q5_K, true>;

struct DecodeQ6_K {
  static constexpr int group_size = sizeof(blocks::Q6_K);
  static constexpr bool row_scales = false, own_spans = false;

  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m128 add_group(__m128 y, const FourRows& rows,
                                                                    const ActivationGroup& x,
                                                                    const ActivationFours&,
                                                                    __m128) {
    __m512i dots[4][4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const std::byte* p = rows.at[r];
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
    // lane 4 i + r: byte 16 r + i as the highest byte
    const __m512i places =
        _mm512_set_epi32(0x33000000, 0x23000000, 0x13000000, 0x03000000, 0x32000000, 0x22000000,
                         0x12000000, 0x02000000, 0x31000000, 0x21000000, 0x11000000, 0x01000000,
                         0x30000000, 0x20000000, 0x10000000, 0x00000000);
    __m512i sums = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const __m512i top = _mm512_maskz_permutexvar_epi8(
          0x8888888888888888, _mm512_add_epi32(places, words(k << 26)), scales);
      const __m512i of_blocks =
          _mm512_add_epi32(sums_of_fours(dots[k]), spread(x.by_256.times_32_of_16 + 4 * k));
      sums = _mm512_add_epi32(sums,
                              _mm512_mullo_epi32(of_blocks, _mm512_maskz_srai_epi32(all, top, 24)));
    }
    return add_scaled(y, factor_of(rows, 208), fold(sums), x);
  }
};

// Q2_K and Q3_K: two bits of 32 + 32 columns, 128 apart, in the same place of 64 bytes. Lane 4 i +
// r belongs to group {2 j, 2 j + 1, 8 + 2 j, 9 + 2 j}[i] of place j.

/// Columns of place j.
ZIYA_TARGET_AVX512 inline __m512i values_of_place(const ActivationGroup& x, int j) {
  const auto* first = reinterpret_cast<const __m256i*>(x.values + 32 * j);
  return _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(_mm256_load_si256(first)), 0xf0,
                                     _mm256_load_si256(first + 4));
}
/// Of 16 bytes per row those of the groups of place j.
ZIYA_TARGET_AVX512 inline __m512i bytes_of_place(__m512i packed, int j) {
  const __m512i groups = _mm512_set_epi32(0x39, 0x29, 0x19, 0x09, 0x38, 0x28, 0x18, 0x08, 0x31,
                                          0x21, 0x11, 0x01, 0x30, 0x20, 0x10, 0x00);
  return _mm512_maskz_permutexvar_epi8(lowest_bytes, _mm512_add_epi32(groups, words(2 * j)),
                                       packed);
}
/// Σ byte · sum of x over 16 columns; the bytes are 16 per row, below 128.
ZIYA_TARGET_AVX512 inline __m512i sums_with(__m512i packed, const ActivationGroup& x) {
  const __m512i pairs =
      _mm512_set_epi32(0x00370036, 0x00270026, 0x00170016, 0x00070006, 0x00350034, 0x00250024,
                       0x00150014, 0x00050004, 0x00330032, 0x00230022, 0x00130012, 0x00030002,
                       0x00310030, 0x00210020, 0x00110010, 0x00010000);
  const __m512i first = _mm512_maskz_permutexvar_epi8(even_bytes, pairs, packed);
  const __m512i second = _mm512_maskz_permutexvar_epi8(
      even_bytes, _mm512_add_epi8(pairs, _mm512_set1_epi16(8)), packed);
  return _mm512_dpwssd_epi32(
      _mm512_dpwssd_epi32(_mm512_setzero_si512(), first, spread_pairs(x.by_256.sums_of_16)), second,
      spread_pairs(x.by_256.sums_of_16 + 8));
}

/// Quants stay in their place of a byte, and sums of products are shifted back, which is fewer
/// shifts.
struct DecodeQ2_K {
  static constexpr int group_size = sizeof(blocks::Q2_K);
  static constexpr bool row_scales = false, own_spans = false;

  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m128 add_group(__m128 y, const FourRows& rows,
                                                                    const ActivationGroup& x,
                                                                    const ActivationFours&,
                                                                    __m128) {
    const __m512i heads = four_places(rows.at[0], rows.at[1], rows.at[2], rows.at[3]);
    const __m512i scales = low_half(heads);
    __m512i quants[4], sums = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) quants[r] = _mm512_loadu_si512(rows.at[r] + 16);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512i values = values_of_place(x, j);
      __m512i dots[4];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const __m512i two = _mm512_and_si512(quants[r], bytes(3 << (2 * j)));
        dots[r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), two, values);
      }
      const __m512i of_blocks =
          _mm512_maskz_srai_epi32(all, sums_of_fours(dots), static_cast<unsigned>(2 * j));
      sums = _mm512_dpwssd_epi32(sums, of_blocks, bytes_of_place(scales, j));
    }
    return add_scaled(y, factors_of(rows, 80), sums, sums_with(high_half(heads), x), x);
  }
};

struct DecodeQ3_K {
  static constexpr int group_size = sizeof(blocks::Q3_K);
  static constexpr bool row_scales = false, own_spans = false;

  /// Per row: 16 scales of 6 bits, a byte each.
  ZIYA_TARGET_AVX512 static __m512i packed_scales(const FourRows& rows) {
    // 2 bytes of quants, 12 of scales, d
    const __m512i tails =
        four_places(rows.at[0] + 94, rows.at[1] + 94, rows.at[2] + 94, rows.at[3] + 94);
    const __m512i twice =
        look_up(tails, _mm512_set4_epi32(0x09080706, 0x05040302, 0x09080706, 0x05040302));
    const __m512i fours =
        look_up(tails, _mm512_set4_epi32(0x0d0c0b0a, 0x0d0c0b0a, 0x0d0c0b0a, 0x0d0c0b0a));
    const __m512i low =
        low_half(_mm512_maskz_srlv_epi32(all, twice, _mm512_set4_epi32(4, 4, 0, 0)));
    const __m512i high = _mm512_maskz_srlv_epi32(all, fours, _mm512_set4_epi32(6, 4, 2, 0));
    return and_or(shift_left(high, 4), bytes(48), low);
  }

  /// Σ (scale − 32) (q − 4) x = Σ scale (Σ q x − 4 Σ x) − 32 Σ q x + 128 Σ x
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m128 add_group(__m128 y, const FourRows& rows,
                                                                    const ActivationGroup& x,
                                                                    const ActivationFours&,
                                                                    __m128) {
    const __m512i scales = packed_scales(rows);
    __m512i quants[4], high[4], sums = _mm512_setzero_si512(), unscaled = sums;
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      quants[r] = _mm512_loadu_si512(rows.at[r] + 32);
      high[r] = _mm512_maskz_broadcast_i64x4(
          0xff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows.at[r])));
    }
    __m512i bit = _mm512_set_epi64(0x1010101010101010, 0x1010101010101010, 0x1010101010101010,
                                   0x1010101010101010, 0x0101010101010101, 0x0101010101010101,
                                   0x0101010101010101, 0x0101010101010101);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512i values = values_of_place(x, j);
      __m512i dots[4];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const __m512i two =
            _mm512_and_si512(shift_right(quants[r], static_cast<unsigned>(2 * j)), bytes(3));
        const __m512i three =
            _mm512_mask_add_epi8(two, _mm512_test_epi8_mask(high[r], bit), two, bytes(4));
        dots[r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), three, values);
      }
      const __m512i of_blocks = sums_of_fours(dots);
      sums = _mm512_dpwssd_epi32(sums, of_blocks, bytes_of_place(scales, j));
      unscaled = _mm512_add_epi32(unscaled, of_blocks);
      bit = _mm512_add_epi8(bit, bit);
    }
    sums = _mm512_sub_epi32(
        sums, _mm512_add_epi32(shift_left(unscaled, 5), shift_left(sums_with(scales, x), 2)));
    return add_scaled(y, factor_of(rows, 108),
                      _mm_sub_epi32(fold(sums), _mm_set1_epi32(x.by_256.times_128)), x);
  }
};

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
