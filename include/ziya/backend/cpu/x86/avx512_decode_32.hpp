// SPDX-License-Identifier: Apache-2.0
// One token and four rows in blocks of 32, or of int8, with AVX-512.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/x86/avx512_decode.hpp"
#include "ziya/core/blocks.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

// add_four adds 128 columns of four rows: integer sums of every block, then the additions of
// ScaledBlocks in the same order, which decode_rows ends every 512 columns; int8, as WholeGroups.

/// Groups of eight blocks of 32 that add_four sums in fours.
template <class Block>
struct DecodeBlocks {
  static constexpr int group_size = 8 * sizeof(Block);
  static constexpr bool row_scales = false, own_spans = true;
};

inline constexpr __mmask64 words_of_row = 0xff;  // of 16-bit words 4 · 0 + i, shifted 4 r + i

/// Blocks of a 16-bit scale and 16 bytes of halves: Q4_0, and IQ4_NL with its table.
template <class Block, bool Table>
struct DecodeHalfBytes : DecodeBlocks<Block> {
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m512 add_four(__m512 sums,
                                                                   const FourRows& rows,
                                                                   const ActivationGroup& x,
                                                                   const ActivationFours& fours,
                                                                   int four) {
    // quants of the blocks 0, 1 and 2 within 64 bytes
    const __m512i places =
        _mm512_set_epi64(0, 0, 0x3534333231302f2e, 0x2d2c2b2a29282726, 0x232221201f1e1d1c,
                         0x1b1a191817161514, 0x11100f0e0d0c0b0a, 0x0908070605040302);
    const __m512i head = _mm512_set1_epi64(0x3736252413120100);  // scales of all four
    const __m512i table = iq4_table();
    __m512i heads = _mm512_setzero_si512(), dots[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const std::byte* p = rows.at[r] + four * 72;
      const __m512i v = load_once(p);
      heads = _mm512_mask_permutexvar_epi8(heads, words_of_row << (8 * r), head, v);
      const __m512i quants = _mm512_mask_broadcast_i32x4(
          _mm512_maskz_permutexvar_epi8(~__mmask64{0}, places, v), 0xf000, load_16(p + 56));
      __m512i low = low_half(quants), up = high_half(quants);
      if constexpr (Table) low = look_up(table, low), up = look_up(table, up);
      dots[r] =
          dot(dot(_mm512_setzero_si512(), low, fours.values[four][0]), up, fours.values[four][1]);
    }
    constexpr int offset = Table ? 128 : 8;
    return add_scaled_dots<offset>(sums, Table ? sums_by_rows(dots) : narrow_sums_by_rows(dots),
                                   _mm512_maskz_cvtph_ps(all, lower(heads)), x, four);
  }
};

/// Bits of `high` as bytes of 0 or 16: bytes `first` and `first` + 1 of every 128 bits of `heads`.
ZIYA_TARGET_AVX512 inline __m512i with_fifth_bits(__m512i quants, __m512i heads, int first) {
  const __m512i byte = _mm512_set4_epi32(0x01010101, 0x01010101, 0, 0);
  const __m512i bits = look_up(heads, _mm512_add_epi8(byte, bytes(first)));
  const __mmask64 set =
      _mm512_test_epi8_mask(bits, _mm512_set4_epi32(static_cast<int>(0x80402010u), 0x08040201,
                                                    static_cast<int>(0x80402010u), 0x08040201));
  return _mm512_mask_add_epi8(quants, set, quants, bytes(16));
}

/// Blocks with fifth bits or minima: Q4_1, Q5_0, Q5_1.
template <class Block, bool Fifth, bool Minimum>
struct DecodeLongHeads : DecodeBlocks<Block> {
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m512 add_four(__m512 sums,
                                                                   const FourRows& rows,
                                                                   const ActivationGroup& x,
                                                                   const ActivationFours& fours,
                                                                   int four) {
    constexpr int size = sizeof(Block), high = Minimum ? 4 : 2, first = high + (Fifth ? 4 : 0);
    __m512i heads = _mm512_setzero_si512(), dots[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const std::byte* p = rows.at[r] + four * 4 * size;
      const __m512i head = four_places(p, p + size, p + 2 * size, p + 3 * size);
      const __m512i quants =
          four_places(p + first, p + size + first, p + 2 * size + first, p + 3 * size + first);
      heads = _mm512_mask_permutexvar_epi32(heads, static_cast<__mmask16>(0xf << (4 * r)),
                                            _mm512_set4_epi32(12, 8, 4, 0), head);
      __m512i low = low_half(quants), up = high_half(quants);
      if constexpr (Fifth) {
        low = with_fifth_bits(low, head, high);
        up = with_fifth_bits(up, head, high + 2);
      }
      dots[r] =
          dot(dot(_mm512_setzero_si512(), low, fours.values[four][0]), up, fours.values[four][1]);
    }
    constexpr int offset = Minimum ? 0 : 16;
    sums = add_scaled_dots<offset>(sums, sums_by_rows(dots), halves_to_floats(heads), x, four);
    if constexpr (Minimum) {
      sums = fma(halves_to_floats(shift_right(heads, 16)), repeat(x.by_32.sums + 4 * four), sums);
    }
    return sums;
  }
};

struct DecodeQ8_0 : DecodeBlocks<blocks::Q8_0> {
  /// 32 bytes each from two places.
  ZIYA_TARGET_AVX512 static __m512i two_places(const std::byte* a, const std::byte* b) {
    const __m512i v = _mm512_castsi256_si512(load_32(a));
    return _mm512_xor_si512(_mm512_mask_broadcast_i64x4(v, 0xf0, load_32(b)), bytes(128));
  }
  ZIYA_TARGET_AVX512 static __m256i load_32(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }

  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m512 add_four(__m512 sums,
                                                                   const FourRows& rows,
                                                                   const ActivationGroup& x,
                                                                   const ActivationFours& fours,
                                                                   int four) {
    // scales of the blocks 0 and 1 within 64 bytes, and of 2 and 3
    const __m512i places = _mm512_set1_epi64(0x2322010023220100);
    __m512i heads = _mm512_setzero_si512(), dots[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const std::byte* p = rows.at[r] + four * 136;
      heads = _mm512_mask_permutexvar_epi8(heads, __mmask64{0x0f} << (8 * r), places,
                                           _mm512_loadu_si512(p));
      heads = _mm512_mask_permutexvar_epi8(heads, __mmask64{0xf0} << (8 * r), places,
                                           _mm512_loadu_si512(p + 68));
      const __m512i a = two_places(p + 2, p + 36), b = two_places(p + 70, p + 104);
      const __m512i low = _mm512_maskz_shuffle_i32x4(all, a, b, 0x88);
      const __m512i up = _mm512_maskz_shuffle_i32x4(all, a, b, 0xdd);
      dots[r] =
          dot(dot(_mm512_setzero_si512(), low, fours.values[four][0]), up, fours.values[four][1]);
    }
    return add_scaled_dots<128>(sums, sums_by_rows(dots), _mm512_maskz_cvtph_ps(all, lower(heads)),
                                x, four);
  }
};

/// One scale per row, which decode_rows multiplies with.
struct DecodeInt8 {
  static constexpr int group_size = 256;
  static constexpr bool row_scales = true, own_spans = false;

  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m128 add_group(__m128 y, const FourRows& rows,
                                                                    const ActivationGroup& x,
                                                                    const ActivationFours&,
                                                                    __m128 scales) {
    __m512i dots[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      dots[r] = _mm512_setzero_si512();
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const __m512i quants = _mm512_loadu_si512(rows.at[r] + 64 * i);
        dots[r] = dot(dots[r], _mm512_xor_si512(quants, bytes(128)), x.values + 64 * i);
      }
    }
    const __m128i sums =
        _mm_add_epi32(fold(sums_of_fours(dots)), _mm_set1_epi32(x.by_256.times_128));
    return _mm_fmadd_ps(_mm_mul_ps(_mm_cvtepi32_ps(sums), scales), _mm_set1_ps(x.by_256.scale), y);
  }
};

using DecodeQ4_0 = DecodeHalfBytes<blocks::Q4_0, false>;
using DecodeIQ4_NL = DecodeHalfBytes<blocks::IQ4_NL, true>;
using DecodeQ4_1 = DecodeLongHeads<blocks::Q4_1, false, true>;
using DecodeQ5_0 = DecodeLongHeads<blocks::Q5_0, true, false>;
using DecodeQ5_1 = DecodeLongHeads<blocks::Q5_1, true, true>;

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
