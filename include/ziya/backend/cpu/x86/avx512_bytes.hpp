// SPDX-License-Identifier: Apache-2.0
// Bytes of 16 rows side by side with AVX-512: 4 columns of every row in one vector, as the 8-bit
// dot products want them.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/activations.hpp"
#include "ziya/backend/cpu/x86/avx512_vector.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

inline constexpr int tile_rows = 16;

/// Where the same place of 16 rows lies.
struct Rows {
  const std::byte* first;
  std::int64_t stride;  ///< in bytes
};

/// 256 columns of 2 × 16 rows, unpacked: byte i of lane r of quants[s][h] is column 4 s + i of row
/// 16 h + r. A weight is
/// - in blocks of 32, scale · (quant − offset) or scale · quant + minimum,
/// - in blocks of 256 and int8, factor · (sub-scale · quant) − minimum factor · sub-minimum, where
///   what is in brackets is made of integers.
struct alignas(64) UnpackedTile {
  std::uint8_t quants[64][2][64];
  float scales[8][2][tile_rows];
  float minima[8][2][tile_rows];
  float factors[2][tile_rows], minimum_factors[2][tile_rows];
  std::int32_t sub_scales[16][2][tile_rows];
  std::int32_t sub_minima[8][2][tile_rows];  ///< pairs of 16 bits
};

ZIYA_TARGET_AVX512 inline __m512i bytes(int value) {
  return _mm512_set1_epi8(static_cast<char>(value));
}
ZIYA_TARGET_AVX512 inline __m512i words(int value) { return _mm512_set1_epi32(value); }
ZIYA_TARGET_AVX512 inline __m512i shift_right(__m512i v, unsigned count) {
  return _mm512_maskz_srli_epi32(all, v, count);
}
ZIYA_TARGET_AVX512 inline __m512i shift_left(__m512i v, unsigned count) {
  return _mm512_maskz_slli_epi32(all, v, count);
}
/// (a & mask) | b
ZIYA_TARGET_AVX512 inline __m512i and_or(__m512i a, __m512i mask, __m512i b) {
  return _mm512_maskz_ternarylogic_epi32(all, a, mask, b, 0xea);
}
/// The low or the high half of every byte; the latter as a product of bits, bit i being bit i + 4.
ZIYA_TARGET_AVX512 inline __m512i low_half(__m512i v) { return _mm512_and_si512(v, bytes(15)); }
ZIYA_TARGET_AVX512 inline __m512i high_half(__m512i v) {
  return _mm512_gf2p8affine_epi64_epi8(v, _mm512_set1_epi64(0x1020408000000000), 0);
}
/// Entry of a table of 16 bytes, repeated in every 128 bits, for every byte.
ZIYA_TARGET_AVX512 inline __m512i look_up(__m512i table, __m512i index) {
  return _mm512_maskz_shuffle_epi8(~__mmask64{0}, table, index);
}
/// The values of IQ4_NL plus 128.
ZIYA_TARGET_AVX512 inline __m512i iq4_table() {
  return _mm512_set4_epi32(static_cast<int>(0xf1d9c5b5u), static_cast<int>(0xa6998d81u), 0x766a5d4f,
                           0x3f2d1801);
}
ZIYA_TARGET_AVX512 inline __m512 to_floats(__m512i v) { return _mm512_maskz_cvtepi32_ps(all, v); }
ZIYA_TARGET_AVX512 inline __m256i lower(__m512i v) {
  return _mm512_maskz_extracti64x4_epi64(0xf, v, 0);
}
ZIYA_TARGET_AVX512 inline __m256i upper(__m512i v) {
  return _mm512_maskz_extracti64x4_epi64(0xf, v, 1);
}
/// The 16-bit float in the low half of every lane.
ZIYA_TARGET_AVX512 inline __m512 halves_to_floats(__m512i v) {
  return _mm512_maskz_cvtph_ps(all, _mm512_maskz_cvtepi32_epi16(all, v));
}
ZIYA_TARGET_AVX512 inline void store(std::uint8_t* p, __m512i v) { _mm512_store_si512(p, v); }

ZIYA_TARGET_AVX512 inline __m512i four_rows(const std::byte* first, std::int64_t stride) {
  const auto* a = reinterpret_cast<const __m128i*>(first);
  const auto* b = reinterpret_cast<const __m128i*>(first + 4 * stride);
  const auto* c = reinterpret_cast<const __m128i*>(first + 8 * stride);
  const auto* d = reinterpret_cast<const __m128i*>(first + 12 * stride);
  __m512i v = _mm512_maskz_broadcast_i32x4(0x000f, _mm_loadu_si128(a));
  v = _mm512_mask_broadcast_i32x4(v, 0x00f0, _mm_loadu_si128(b));
  v = _mm512_mask_broadcast_i32x4(v, 0x0f00, _mm_loadu_si128(c));
  return _mm512_mask_broadcast_i32x4(v, 0xf000, _mm_loadu_si128(d));
}

/// 16 bytes of 16 rows: v[k] holds bytes 4 k … 4 k + 3 of row r in lane r.
ZIYA_TARGET_AVX512 inline void load_rows(const Rows& rows, std::int64_t offset, __m512i (&v)[4]) {
  const std::byte* first = rows.first + offset;
  const __m512i a = four_rows(first, rows.stride);
  const __m512i b = four_rows(first + rows.stride, rows.stride);
  const __m512i c = four_rows(first + 2 * rows.stride, rows.stride);
  const __m512i d = four_rows(first + 3 * rows.stride, rows.stride);
  const __m512i ab = _mm512_maskz_unpacklo_epi32(all, a, b);
  const __m512i cd = _mm512_maskz_unpacklo_epi32(all, c, d);
  const __m512i ab_high = _mm512_maskz_unpackhi_epi32(all, a, b);
  const __m512i cd_high = _mm512_maskz_unpackhi_epi32(all, c, d);
  v[0] = _mm512_maskz_unpacklo_epi64(0xff, ab, cd);
  v[1] = _mm512_maskz_unpackhi_epi64(0xff, ab, cd);
  v[2] = _mm512_maskz_unpacklo_epi64(0xff, ab_high, cd_high);
  v[3] = _mm512_maskz_unpackhi_epi64(0xff, ab_high, cd_high);
}

/// `bytes` bytes of each of some rows that will be needed later, requested line by line all over
/// the work before, because most of many requests in a row are lost: with every fourth of the
/// `pieces` of products if that is enough, with all of them and while unpacking otherwise.
class Ahead {
 public:
  Ahead(const Rows& rows, std::int64_t count, std::int64_t bytes, std::int64_t pieces)
      : row_(rows.first),
        stride_(rows.stride),
        rows_(count),
        bytes_(bytes),
        pause_(count * ((bytes + 127) / 64) <= pieces / 4 ? 3 : 0) {}

  ZIYA_TARGET_AVX512 void beside_products(int piece) {
    if ((piece & pause_) == 0) request<1>();
  }
  ZIYA_TARGET_AVX512 void while_unpacking() {
    if (pause_ == 0) request<3>();
  }

 private:
  template <int Lines>
  ZIYA_TARGET_AVX512 void request() {
    for (int i = 0; i < Lines && rows_ > 0; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(row_ + line_), _MM_HINT_T1);
      line_ += 64;
      // the last byte of a row may lie in one line more than its first bytes do
      if (line_ >= bytes_ + 64) line_ = 0, row_ += stride_, --rows_;
    }
  }

  const std::byte* row_;
  std::int64_t stride_, rows_, bytes_, line_ = 0;
  int pause_;
};

/// Where 16 columns of 16 rows go, each less `offset`.
struct KeepQuants {
  UnpackedTile& tile;
  int h;
  Ahead& ahead;
  __m512i offset;

  ZIYA_TARGET_AVX512 void put(int piece, const __m512i (&v)[4]) const {
    ahead.while_unpacking();
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) store(tile.quants[4 * piece + k][h], _mm512_sub_epi8(v[k], offset));
  }
};

/// Where 16 columns of 16 rows go as products of 16 bits with their sub-scales, which are there
/// already, each `Columns` columns: the low 7 bits into one tile, what is above them into another.
template <int Columns, int Offset>
struct KeepProducts {
  UnpackedTile (&tiles)[2];
  int h;
  Ahead& ahead;

  ZIYA_TARGET_AVX512 void put(int piece, const __m512i (&v)[4]) const {
    constexpr __mmask32 words_of_16 = ~__mmask32{0};
    constexpr __mmask64 odd_bytes = 0xaaaaaaaaaaaaaaaa;
    ahead.while_unpacking();
    __m512i scale = _mm512_load_si512(tiles[0].sub_scales[piece * 16 / Columns][h]);
    scale = and_or(scale, words(0xffff), shift_left(scale, 16));
    const __m512i offset = _mm512_mullo_epi16(scale, words(Offset << 16 | Offset));
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      __m512i even = _mm512_mullo_epi16(_mm512_and_si512(v[k], words(0xff00ff)), scale);
      __m512i odd = _mm512_mullo_epi16(_mm512_maskz_srli_epi16(words_of_16, v[k], 8), scale);
      even = _mm512_sub_epi16(even, offset);
      odd = _mm512_sub_epi16(odd, offset);
      const __m512i low =
          _mm512_mask_blend_epi8(odd_bytes, even, _mm512_maskz_slli_epi16(words_of_16, odd, 8));
      const __m512i high =
          _mm512_mask_blend_epi8(odd_bytes, _mm512_maskz_srai_epi16(words_of_16, even, 7),
                                 _mm512_maskz_slli_epi16(words_of_16, odd, 1));
      store(tiles[0].quants[4 * piece + k][h], _mm512_and_si512(low, bytes(127)));
      store(tiles[1].quants[4 * piece + k][h], high);
    }
  }
};

/// Lane i: the largest lane of v[i].
ZIYA_TARGET_AVX512 inline __m256 largest_lanes(const __m512 (&v)[8]) {
  __m256 halves[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m512d pairs = _mm512_castps_pd(v[i]);
    halves[i] = _mm256_max_ps(_mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, pairs, 0)),
                              _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, pairs, 1)));
  }
  __m256 fours[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m256* h = halves + 4 * i;
    const __m256 ab = _mm256_max_ps(_mm256_unpacklo_ps(h[0], h[1]), _mm256_unpackhi_ps(h[0], h[1]));
    const __m256 cd = _mm256_max_ps(_mm256_unpacklo_ps(h[2], h[3]), _mm256_unpackhi_ps(h[2], h[3]));
    fours[i] = _mm256_max_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  }
  return _mm256_max_ps(_mm256_permute2f128_ps(fours[0], fours[1], 0x20),
                       _mm256_permute2f128_ps(fours[0], fours[1], 0x31));
}

/// Values and scales of 256 columns; false where not all of them are ordinary.
ZIYA_TARGET_AVX512 inline bool quantise_group(ActivationGroup& group, float (&scales)[8],
                                              const float* x, int span) {
  __m512 sizes[8], poison = zero();
#pragma GCC unroll 8
  for (int b = 0; b < 8; ++b) {
    const __m512 first = load(x + 32 * b), second = load(x + 32 * b + 16);
    sizes[b] = max(_mm512_abs_ps(first), _mm512_abs_ps(second));
    poison = fma(first, zero(), fma(second, zero(), poison));
  }
  __m256 largest = largest_lanes(sizes);
  if (span == 256) {
    largest = _mm256_max_ps(largest, _mm256_permute2f128_ps(largest, largest, 1));
    largest = _mm256_max_ps(largest, _mm256_permute_ps(largest, 0x4e));
    largest = _mm256_max_ps(largest, _mm256_permute_ps(largest, 0xb1));
  }
  const __m256 ordinary =
      _mm256_and_ps(_mm256_cmp_ps(largest, _mm256_set1_ps(smallest_activation), _CMP_GT_OQ),
                    _mm256_cmp_ps(largest, _mm256_set1_ps(largest_activation), _CMP_LE_OQ));
  if (_mm256_movemask_ps(ordinary) != 255 || sum(poison) != 0) return false;
  // activation_scale
  __m256 scale = _mm256_div_ps(largest, _mm256_set1_ps(127.0f));
  if (span == 32) {
    const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(scale), _mm256_set1_epi32(0x7fffff));
    scale = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(0x7f800000)));
  }
  alignas(32) float inverses[8];
  _mm256_storeu_ps(scales, scale);
  _mm256_store_ps(inverses, _mm256_div_ps(_mm256_set1_ps(1.0f), scale));
#pragma GCC unroll 16
  for (int v = 0; v < 16; ++v) {
    const __m512 a = multiply(load(x + v * lanes), set(inverses[v / 2]));
    _mm_store_si128(reinterpret_cast<__m128i*>(group.values + v * 16),
                    _mm512_maskz_cvtepi32_epi8(all, _mm512_maskz_cvtps_epi32(all, a)));
  }
  return true;
}

/// Sums of 16 products.
ZIYA_TARGET_AVX512 inline void store_sums_of_16(std::int32_t (&sums)[16], const __m512i (&a)[4],
                                                const __m512i (&b)[4]) {
  __m512i fours[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) fours[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), a[i], b[i]);
  const __m512i ab = _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(all, fours[0], fours[1]),
                                      _mm512_maskz_unpackhi_epi32(all, fours[0], fours[1]));
  const __m512i cd = _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(all, fours[2], fours[3]),
                                      _mm512_maskz_unpackhi_epi32(all, fours[2], fours[3]));
  // lane 4 i + k: the sum of part i of a[k] · b[k]
  const __m512i by_part = _mm512_add_epi32(_mm512_maskz_unpacklo_epi64(0xff, ab, cd),
                                           _mm512_maskz_unpackhi_epi64(0xff, ab, cd));
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  _mm512_store_si512(sums, _mm512_maskz_permutexvar_epi32(all, order, by_part));
}

/// As baseline::quantise, to the same bits; and in fours.
ZIYA_TARGET_AVX512 inline void quantise(ActivationGroup* groups, std::int64_t stride,
                                        const float* x, std::int64_t columns, int span,
                                        ActivationFours* fours) {
  for (std::int64_t i = 0; i < columns; i += ActivationGroup::columns, groups += stride) {
    const std::int64_t count = columns - i;
    float scales[8];
    if (count >= ActivationGroup::columns && quantise_group(*groups, scales, x + i, span)) {
      alignas(64) std::int32_t sums[16];
      __m512i values[4], one[4];
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        values[v] = _mm512_load_si512(groups->values + v * 64);
        one[v] = bytes(1);
      }
      store_sums_of_16(sums, one, values);
      complete(*groups, span, scales, sums);
    } else {
      baseline::quantise(groups, stride, x + i, std::min(count, ActivationGroup::columns), span);
    }
    if (fours != nullptr) order(*fours, *groups, span), fours += stride;
  }
}

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
