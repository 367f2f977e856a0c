// SPDX-License-Identifier: Apache-2.0
// Four rows in blocks of 256 whose scales are of 16 columns and a few tokens with AVX-512: Q2_K,
// Q3_K, Q6_K.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/x86/avx512_decode_256.hpp"
#include "ziya/core/blocks.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

/// A byte per block of 16 columns and row, or a smaller number, as pairs of 16 bits.
struct BlockPairs {
  __m512i first, second;
};
/// Of 16 bytes per row.
ZIYA_TARGET_AVX512 inline BlockPairs block_pairs(__m512i packed) {
  // lane 4 i + r: bytes 16 r + 2 i and the one after it
  const __m512i pairs =
      _mm512_set_epi32(0x00370036, 0x00270026, 0x00170016, 0x00070006, 0x00350034, 0x00250024,
                       0x00150014, 0x00050004, 0x00330032, 0x00230022, 0x00130012, 0x00030002,
                       0x00310030, 0x00210020, 0x00110010, 0x00010000);
  return {_mm512_maskz_permutexvar_epi8(even_bytes, pairs, packed),
          _mm512_maskz_permutexvar_epi8(even_bytes, _mm512_add_epi8(pairs, _mm512_set1_epi16(8)),
                                        packed)};
}
/// Σ of a number · the sum of x over its block, in the order of `pair_sums`.
ZIYA_TARGET_AVX512 inline __m512i sums_with(const BlockPairs& numbers, const ActivationGroup& x) {
  const __m512i first =
      _mm512_dpwssd_epi32(_mm512_setzero_si512(), numbers.first, spread_pairs(x.by_256.sums_of_16));
  return _mm512_dpwssd_epi32(first, numbers.second, spread_pairs(x.by_256.sums_of_16 + 8));
}

/// 256 columns of four rows: quants of a fourth of them, four blocks, with a row's blocks' scales
/// four times; the scales, or the minima, beside sums of x.
struct FourthsOfGroup {
  __m512i quants[4][4], scales[4][2];
  BlockPairs beside_sums;
};
/// Fourths of 64 columns each, as they follow each other.
struct InOrder {
  ZIYA_TARGET_AVX512 static __m512i columns(const ActivationGroup& x, int k) {
    return _mm512_load_si512(x.values + 64 * k);
  }
  ZIYA_TARGET_AVX512 static __m512i words(__m512i packed, int h, int k) {
    return words_of_blocks(packed, h, 4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3);
  }
};
/// Two bits of 32 + 32 columns, 128 apart, in the k-th place of 64 bytes.
struct InPlaces {
  ZIYA_TARGET_AVX512 static __m512i columns(const ActivationGroup& x, int k) {
    const auto* first = reinterpret_cast<const __m256i*>(x.values + 32 * k);
    return _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(_mm256_load_si256(first)), 0xf0,
                                       _mm256_load_si256(first + 4));
  }
  ZIYA_TARGET_AVX512 static __m512i words(__m512i packed, int h, int k) {
    return words_of_blocks(packed, h, 2 * k, 2 * k + 1, 8 + 2 * k, 9 + 2 * k);
  }
};

template <int Bias>
ZIYA_TARGET_AVX512 inline __m512i less(__m512i words) {
  return Bias == 0 ? words : _mm512_sub_epi16(words, _mm512_set1_epi16(Bias));
}
/// @param scales 16 bytes per row, too large by `Bias`
template <class Fourths, int Bias>
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline void put_scales(FourthsOfGroup& w,
                                                                 __m512i scales) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) w.scales[k][h] = less<Bias>(Fourths::words(scales, h, k));
  }
}
/// Σ scale · quant · x. Quants are below 64, so that four products fit 16 bits.
template <class Fourths>
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline __m512i scaled_sums(const FourthsOfGroup& w,
                                                                     const ActivationGroup& x) {
  __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const __m512i columns = Fourths::columns(x, k);
    __m512i dots[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      dots[r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.quants[k][r], columns);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      sums[h] = add_pairs(sums[h], dots[2 * h], dots[2 * h + 1], w.scales[k][h]);
    }
  }
  return pair_sums(sums[0], sums[1]);
}

/// Scales with signs and quants that are 2^Places too large: Σ scale (q − 2^Places) x =
/// Σ scale q x − 2^Places Σ scale x.
template <class Fourths, int Bias, int Places>
struct DecodeSigned {
  static constexpr bool row_scales = false, own_spans = false;

  struct Group : FourthsOfGroup {
    __m128 factor;

    /// @param of_blocks scales, 16 bytes per row, too large by `Bias`   @param of_rows factors
    [[gnu::always_inline]] ZIYA_TARGET_AVX512 void finish(__m512i of_blocks, __m128 of_rows) {
      put_scales<Fourths, Bias>(*this, of_blocks);
      const BlockPairs pairs = block_pairs(of_blocks);
      beside_sums = {less<Bias>(pairs.first), less<Bias>(pairs.second)};
      factor = of_rows;
    }
  };
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m128 add(__m128 y, const Group& w,
                                                              const ActivationGroup& x,
                                                              const ActivationFours&, __m128) {
    const __m512i sums = _mm512_sub_epi32(scaled_sums<Fourths>(w, x),
                                          shift_left(sums_with(w.beside_sums, x), Places));
    return add_scaled(y, w.factor, fold(sums), x);
  }
};

struct DecodeQ6_K : DecodeSigned<InOrder, 128, 5> {
  static constexpr int group_size = sizeof(blocks::Q6_K), most_tokens = 12;

  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static Group read(const FourRows& rows) {
    Group w;
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
        w.quants[2 * n][r] = and_or(first, bytes(48), low_half(v));
        w.quants[2 * n + 1][r] = and_or(second, bytes(48), high_half(v));
      }
    }
    const __m512i scales =
        four_places(rows.at[0] + 192, rows.at[1] + 192, rows.at[2] + 192, rows.at[3] + 192);
    w.finish(_mm512_xor_si512(scales, bytes(128)), factor_of(rows, 208));
    return w;
  }
};

struct DecodeQ2_K {
  static constexpr int group_size = sizeof(blocks::Q2_K), most_tokens = 6;
  static constexpr bool row_scales = false, own_spans = false;

  struct Group : FourthsOfGroup {
    Factors factors;
  };
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static Group read(const FourRows& rows) {
    Group w;
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const __m512i v = load_once(rows.at[r] + 16);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        w.quants[k][r] = _mm512_and_si512(shift_right(v, static_cast<unsigned>(2 * k)), bytes(3));
      }
    }
    const __m512i heads = four_places(rows.at[0], rows.at[1], rows.at[2], rows.at[3]);
    put_scales<InPlaces, 0>(w, low_half(heads));
    w.beside_sums = block_pairs(high_half(heads));
    w.factors = factors_of(rows, 80);
    return w;
  }
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static __m128 add(__m128 y, const Group& w,
                                                              const ActivationGroup& x,
                                                              const ActivationFours&, __m128) {
    return add_scaled(y, w.factors, scaled_sums<InPlaces>(w, x), sums_with(w.beside_sums, x), x);
  }
};

struct DecodeQ3_K : DecodeSigned<InPlaces, 32, 2> {
  static constexpr int group_size = sizeof(blocks::Q3_K), most_tokens = 6;

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

  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static Group read(const FourRows& rows) {
    Group w;
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const __m512i v = load_once(rows.at[r] + 32);
      const __m512i high = _mm512_maskz_broadcast_i64x4(
          0xff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows.at[r])));
      __m512i bit = _mm512_set_epi64(0x1010101010101010, 0x1010101010101010, 0x1010101010101010,
                                     0x1010101010101010, 0x0101010101010101, 0x0101010101010101,
                                     0x0101010101010101, 0x0101010101010101);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const __m512i two =
            _mm512_and_si512(shift_right(v, static_cast<unsigned>(2 * k)), bytes(3));
        w.quants[k][r] = _mm512_mask_add_epi8(two, _mm512_test_epi8_mask(high, bit), two, bytes(4));
        bit = _mm512_add_epi8(bit, bit);
      }
    }
    w.finish(packed_scales(rows), factor_of(rows, 108));
    return w;
  }
};

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
