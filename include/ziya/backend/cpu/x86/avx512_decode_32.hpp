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

// `read` reads 128 columns of four rows, `add` adds their products with a token: integer sums of
// every block, then the additions of ScaledBlocks in the same order, which decode_rows ends every
// 512 columns; int8, as WholeGroups.

/// Clang 14 makes 16 scalars of halves that are converted behind a branch: not if they are now.
ZIYA_TARGET_AVX512 inline __m512 converted(__m512 floats) {
#if defined(__clang__)
  asm("" : "+v"(floats));
#endif
  return floats;
}
/// It also takes what was loaded before from there, by shifts of scalars: not from who knows where.
inline const std::byte* anywhere(const std::byte* p) {
#if defined(__clang__)
  asm("" : "+r"(p));
#endif
  return p;
}

/// Groups of eight blocks of 32 that are summed in fours, of quants that are too large by an
/// offset. Lane 4 r + i is of block i and row r.
template <class Block, int Offset, bool Minimum, int MostTokens>
struct DecodeBlocks {
  static constexpr int group_size = 8 * sizeof(Block), most_tokens = MostTokens;
  static constexpr bool row_scales = false, own_spans = true;
  /// Four blocks of four rows: the first halves of a row's blocks, the second ones.
  struct Four {
    __m512i low[4], up[4];
    __m512 scales, minima;
  };

  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m512 add(__m512 sums, const Four& w,
                                                              const ActivationGroup& x,
                                                              const ActivationFours& fours,
                                                              int four) {
    __m512i dots[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      dots[r] = dot(dot(_mm512_setzero_si512(), w.low[r], fours.values[four][0]), w.up[r],
                    fours.values[four][1]);
    }
    constexpr bool narrow = Offset == 8;
    const __m512i of_blocks = narrow ? narrow_sums_by_rows(dots) : sums_by_rows(dots);
    const __m512i start = repeat(x.by_32.starts[start_of_offset(Offset)] + 4 * four);
    const __m512 scaled = subtract(_mm512_castsi512_ps(_mm512_add_epi32(of_blocks, start)),
                                   repeat(x.by_32.shifts + 4 * four));
    sums = fma(scaled, w.scales, sums);
    if constexpr (Minimum) sums = fma(w.minima, repeat(x.by_32.sums + 4 * four), sums);
    return sums;
  }
};

inline constexpr __mmask64 words_of_row = 0xff;  // of 16-bit words 4 · 0 + i, shifted 4 r + i

/// Blocks of a 16-bit scale and 16 bytes of halves: Q4_0, and IQ4_NL with its table.
template <class Block, bool Table>
struct DecodeHalfBytes : DecodeBlocks<Block, Table ? 128 : 8, false, 12> {
  using typename DecodeBlocks<Block, Table ? 128 : 8, false, 12>::Four;

  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static Four read(const FourRows& rows, int four) {
    // quants of the blocks 0, 1 and 2 within 64 bytes
    const __m512i places =
        _mm512_set_epi64(0, 0, 0x3534333231302f2e, 0x2d2c2b2a29282726, 0x232221201f1e1d1c,
                         0x1b1a191817161514, 0x11100f0e0d0c0b0a, 0x0908070605040302);
    const __m512i head = _mm512_set1_epi64(0x3736252413120100);  // scales of all four
    const __m512i table = iq4_table();
    Four w;
    __m512i heads = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const std::byte* p = rows.at[r] + four * 72;
      const __m512i v = load_once(p);
      heads = _mm512_mask_permutexvar_epi8(heads, words_of_row << (8 * r), head, v);
      const __m512i quants = _mm512_mask_broadcast_i32x4(
          _mm512_maskz_permutexvar_epi8(~__mmask64{0}, places, v), 0xf000, load_16(p + 56));
      w.low[r] = low_half(quants), w.up[r] = high_half(quants);
      if constexpr (Table) w.low[r] = look_up(table, w.low[r]), w.up[r] = look_up(table, w.up[r]);
    }
    w.scales = converted(_mm512_maskz_cvtph_ps(all, lower(heads)));
    return w;
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
struct DecodeLongHeads : DecodeBlocks<Block, Minimum ? 0 : 16, Minimum, 8> {
  using typename DecodeBlocks<Block, Minimum ? 0 : 16, Minimum, 8>::Four;

  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static Four read(const FourRows& rows, int four) {
    constexpr int size = sizeof(Block), high = Minimum ? 4 : 2, first = high + (Fifth ? 4 : 0);
    Four w;
    __m512i heads = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const std::byte* p = rows.at[r] + four * 4 * size;
      const __m512i head = four_places(p, p + size, p + 2 * size, p + 3 * size);
      const __m512i quants =
          four_places(p + first, p + size + first, p + 2 * size + first, p + 3 * size + first);
      heads = _mm512_mask_permutexvar_epi32(heads, static_cast<__mmask16>(0xf << (4 * r)),
                                            _mm512_set4_epi32(12, 8, 4, 0), head);
      w.low[r] = low_half(quants), w.up[r] = high_half(quants);
      if constexpr (Fifth) {
        w.low[r] = with_fifth_bits(w.low[r], head, high);
        w.up[r] = with_fifth_bits(w.up[r], head, high + 2);
      }
    }
    w.scales = converted(halves_to_floats(heads));
    if constexpr (Minimum) w.minima = converted(halves_to_floats(shift_right(heads, 16)));
    return w;
  }
};

struct DecodeQ8_0 : DecodeBlocks<blocks::Q8_0, 128, false, 20> {
  /// 32 bytes each from two places.
  ZIYA_TARGET_AVX512 static __m512i two_places(const std::byte* a, const std::byte* b) {
    const __m512i v = _mm512_castsi256_si512(load_32(a));
    return _mm512_xor_si512(_mm512_mask_broadcast_i64x4(v, 0xf0, load_32(b)), bytes(128));
  }
  ZIYA_TARGET_AVX512 static __m256i load_32(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }

  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static Four read(const FourRows& rows, int four) {
    // scales of the blocks 0 and 1 within 64 bytes, and of 2 and 3
    const __m512i places = _mm512_set1_epi64(0x2322010023220100);
    Four w;
    __m512i heads = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const std::byte* p = rows.at[r] + four * 136;
      const std::byte* again = anywhere(p);
      heads = _mm512_mask_permutexvar_epi8(heads, __mmask64{0x0f} << (8 * r), places,
                                           _mm512_loadu_si512(again));
      heads = _mm512_mask_permutexvar_epi8(heads, __mmask64{0xf0} << (8 * r), places,
                                           _mm512_loadu_si512(again + 68));
      const __m512i a = two_places(p + 2, p + 36), b = two_places(p + 70, p + 104);
      w.low[r] = _mm512_maskz_shuffle_i32x4(all, a, b, 0x88);
      w.up[r] = _mm512_maskz_shuffle_i32x4(all, a, b, 0xdd);
    }
    w.scales = converted(_mm512_maskz_cvtph_ps(all, lower(heads)));
    return w;
  }
};

/// One scale per row, which decode_rows multiplies with.
struct DecodeInt8 {
  static constexpr int group_size = 256, most_tokens = 24;
  static constexpr bool row_scales = true, own_spans = false;

  /// 256 columns of four rows.
  struct Group {
    __m512i quants[4][4];
  };
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static Group read(const FourRows& rows) {
    Group w;
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        w.quants[r][i] = _mm512_xor_si512(_mm512_loadu_si512(rows.at[r] + 64 * i), bytes(128));
      }
    }
    return w;
  }
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m128 add(__m128 y, const Group& w,
                                                              const ActivationGroup& x,
                                                              const ActivationFours&,
                                                              __m128 scales) {
    __m512i dots[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      dots[r] = _mm512_setzero_si512();
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) dots[r] = dot(dots[r], w.quants[r][i], x.values + 64 * i);
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
