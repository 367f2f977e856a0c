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
#include <cstring>

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
/// 16 h + r. A weight is scale · (quant − offset), or scale · quant + minimum.
struct alignas(64) UnpackedTile {
  std::uint8_t quants[64][2][64];
  float scales[16][2][tile_rows];
  float minima[16][2][tile_rows];
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
/// The low or the high half of every byte.
ZIYA_TARGET_AVX512 inline __m512i low_half(__m512i v) { return _mm512_and_si512(v, bytes(15)); }
ZIYA_TARGET_AVX512 inline __m512i high_half(__m512i v) { return low_half(shift_right(v, 4)); }
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

/// What will be needed a tile later, `Bytes` bytes per piece in four streams: spread over the
/// work, because requests in a row keep the loads behind them waiting.
template <int Bytes>
struct Ahead {
  const std::byte* from;
  std::int64_t stream;  ///< bytes from stream to stream

  ZIYA_TARGET_AVX512 void request(int piece) const {
    const std::byte* p = from + piece % 4 * stream + piece / 4 * Bytes;
#pragma GCC unroll 8
    for (int i = 0; i < Bytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
    }
  }
};

/// A sink that keeps the quants for many tokens.
template <int Bytes>
struct KeepQuants {
  UnpackedTile& tile;
  int h;
  Ahead<Bytes> ahead;

  ZIYA_TARGET_AVX512 void put(int piece, const __m512i (&v)[4]) const {
    ahead.request(piece);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) store(tile.quants[4 * piece + k][h], v[k]);
  }
};

/// A sink for a single token: the sums over 16 columns of 16 rows.
template <int Bytes>
struct MeetToken {
  const ActivationGroup& x;
  std::int32_t (&dots)[16][tile_rows];
  Ahead<Bytes> ahead;

  ZIYA_TARGET_AVX512 void put(int piece, const __m512i (&v)[4]) const {
    ahead.request(piece);
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      std::int32_t four;
      std::memcpy(&four, x.values + 16 * piece + 4 * k, sizeof four);
      sum = _mm512_dpbusd_epi32(sum, v[k], words(four));
    }
    _mm512_store_si512(dots[piece], sum);
  }
};

/// Values, scales of 32-column blocks from `first` on: 32 · Blocks columns that share a scale.
template <int Blocks>
ZIYA_TARGET_AVX512 inline bool quantise_span(ActivationGroup& group, const float* x, int first) {
  __m512 largest = zero(), poison = zero();
#pragma GCC unroll 16
  for (int v = 0; v < 2 * Blocks; ++v) {
    const __m512 a = load(x + v * lanes);
    largest = max(largest, _mm512_abs_ps(a));
    poison = fma(a, zero(), poison);
  }
  const float extreme = largest_lane(largest);
  if (!(extreme > smallest_activation && extreme <= largest_activation) || sum(poison) != 0) {
    return false;
  }
  const float scale = activation_scale(extreme);
  const __m512 inverse = set(1.0f / scale);
#pragma GCC unroll 16
  for (int v = 0; v < 2 * Blocks; ++v) {
    const __m512 a = multiply(load(x + v * lanes), inverse);
    _mm_store_si128(reinterpret_cast<__m128i*>(group.values + 32 * first + v * 16),
                    _mm512_maskz_cvtepi32_epi8(all, _mm512_maskz_cvtps_epi32(all, a)));
  }
  for (int b = first; b < first + Blocks; ++b) group.scales[b] = scale;
  return true;
}

/// As baseline::quantise, to the same bits.
ZIYA_TARGET_AVX512 inline void quantise(ActivationGroup* groups, std::int64_t stride,
                                        const float* x, std::int64_t columns, int span) {
  for (std::int64_t i = 0; i < columns; i += ActivationGroup::columns, groups += stride) {
    const std::int64_t count = columns - i;
    bool ordinary = count >= ActivationGroup::columns;
    if (span == 32) {
      for (int b = 0; ordinary && b < 8; ++b) {
        ordinary = quantise_span<1>(*groups, x + i + 32 * b, b);
      }
    } else if (ordinary) {
      ordinary = quantise_span<8>(*groups, x + i, 0);
    }
    if (!ordinary) {
      baseline::quantise(groups, stride, x + i, std::min(count, ActivationGroup::columns), span);
      continue;
    }
    alignas(64) std::int32_t sums[16];
    for (int v = 0; v < 4; ++v) {
      const __m512i fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), bytes(1),
                                                _mm512_load_si512(groups->values + v * 64));
      const __m512i eights = _mm512_add_epi32(
          fours, _mm512_maskz_shuffle_epi32(all, fours, static_cast<_MM_PERM_ENUM>(0xb1)));
      const __m512i all_16 = _mm512_add_epi32(
          eights, _mm512_maskz_shuffle_epi32(all, eights, static_cast<_MM_PERM_ENUM>(0x4e)));
      _mm_store_si128(
          reinterpret_cast<__m128i*>(sums + v * 4),
          _mm512_maskz_extracti32x4_epi32(0xf, _mm512_maskz_compress_epi32(0x1111, all_16), 0));
    }
    complete(*groups, span, sums);
  }
}

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
