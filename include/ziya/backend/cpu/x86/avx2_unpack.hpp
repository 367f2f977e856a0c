// SPDX-License-Identifier: Apache-2.0
// 256 columns of one row of any quantised type as bytes and scales with AVX2.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/quantize/decode_32.hpp"
#include "ziya/backend/cpu/x86/avx2_vector.hpp"
#include "ziya/core/blocks.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx2 {

/// w[i] = scales[i / 32] · quants[i] + minima[i / 32].
struct BlockScales {
  __m256 scales, minima;
};

/// w[i] = scale · scales(i) · quants[i] + minimum · minima[i / 16]. The scales are words: number b
/// of the lower half belongs to the first 16 columns of block b of 32, of the upper half to the
/// others; of formats whose sums over a block fit 16 bits (`fits` = 8), numbers 2 b and 2 b + 1.
struct GroupScales {
  __m256i scales, minima;
  float scale, minimum;
};

// A format says the bytes of 256 columns, whether the activations beside it have a scale per 32
// columns (`own_spans`), whether its quants have signs (else they are below 128) and whether it has
// minima, which offsets of quants are too. `fits` is how many sums of two products of 127 and a
// quant fit 16 bits together, in powers of two, 8 at most, and 4 at most if scales are of 16
// columns. scales(p, row scale) reads the scales of 256 columns,
// quants(p, b) block b of their quants.

ZIYA_TARGET_AVX2 inline __m256i bytes(int value) {
  return _mm256_set1_epi8(static_cast<char>(value));
}
ZIYA_TARGET_AVX2 inline __m256i load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
ZIYA_TARGET_AVX2 inline __m128i load_16(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
/// Eight blocks of 32 bytes, turned: every four bytes of block b in lane b, so that sums over
/// blocks need no additions of lanes.
ZIYA_TARGET_AVX2 inline void turn(__m256i (&v)[8]) {
  __m256i a[8];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    a[2 * k] = _mm256_unpacklo_epi32(v[2 * k], v[2 * k + 1]);
    a[2 * k + 1] = _mm256_unpackhi_epi32(v[2 * k], v[2 * k + 1]);
  }
  __m256i b[8];
#pragma GCC unroll 2
  for (int k = 0; k < 8; k += 4) {
    b[k] = _mm256_unpacklo_epi64(a[k], a[k + 2]);
    b[k + 1] = _mm256_unpackhi_epi64(a[k], a[k + 2]);
    b[k + 2] = _mm256_unpacklo_epi64(a[k + 1], a[k + 3]);
    b[k + 3] = _mm256_unpackhi_epi64(a[k + 1], a[k + 3]);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    v[k] = _mm256_permute2x128_si256(b[k], b[k + 4], 0x20);
    v[k + 4] = _mm256_permute2x128_si256(b[k], b[k + 4], 0x31);
  }
}
ZIYA_TARGET_AVX2 inline void turn(std::int8_t* values) {
  __m256i v[8];
#pragma GCC unroll 8
  for (int b = 0; b < 8; ++b) v[b] = load_bytes(values + 32 * b);
  turn(v);
#pragma GCC unroll 8
  for (int b = 0; b < 8; ++b) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(values + 32 * b), v[b]);
  }
}
ZIYA_TARGET_AVX2 inline __m256i twice(__m128i v) { return _mm256_broadcastsi128_si256(v); }
/// `mask` of every byte, after its bits have moved down by `shift`, or up by −shift.
ZIYA_TARGET_AVX2 inline __m256i bits_of(__m256i v, int shift, int mask) {
  return _mm256_and_si256(shift < 0 ? _mm256_slli_epi16(v, -shift) : _mm256_srli_epi16(v, shift),
                          bytes(mask));
}
template <class T>
inline T read(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
ZIYA_TARGET_AVX2 inline float half_at(const std::byte* p) {
  return _cvtsh_ss(read<std::uint16_t>(p));
}
/// 16-bit floats `stride` bytes apart.
ZIYA_TARGET_AVX2 inline __m256 eight_halves(const std::byte* p, std::ptrdiff_t stride) {
  __m128i v = _mm_cvtsi32_si128(read<std::uint16_t>(p));
  v = _mm_insert_epi16(v, read<std::int16_t>(p + stride), 1);
  v = _mm_insert_epi16(v, read<std::int16_t>(p + 2 * stride), 2);
  v = _mm_insert_epi16(v, read<std::int16_t>(p + 3 * stride), 3);
  v = _mm_insert_epi16(v, read<std::int16_t>(p + 4 * stride), 4);
  v = _mm_insert_epi16(v, read<std::int16_t>(p + 5 * stride), 5);
  v = _mm_insert_epi16(v, read<std::int16_t>(p + 6 * stride), 6);
  return _mm256_cvtph_ps(_mm_insert_epi16(v, read<std::int16_t>(p + 7 * stride), 7));
}

/// Blocks of 32 with halves of bytes; `Offset` is what quants are too large by.
template <class Block, int Offset, bool Fifth, bool Minimum, bool Table = false>
struct HalfBytes {
  static constexpr bool own_spans = true, has_signs = Table, minima = Minimum || Offset != 0;
  static constexpr int fits = Table ? 1 : Fifth ? 4 : 8;
  static constexpr int group_size = 8 * sizeof(Block);

  ZIYA_TARGET_AVX2 static BlockScales scales(const std::byte* p, float) {
    const __m256 d = eight_halves(p, sizeof(Block));
    if constexpr (Minimum) {
      return {d, eight_halves(p + sizeof(Half), sizeof(Block))};
    } else {
      return {d, multiply(d, set(static_cast<float>(-Offset)))};
    }
  }
  ZIYA_TARGET_AVX2 static __m256i quants(const std::byte* p, int b) {
    p += b * static_cast<std::ptrdiff_t>(sizeof(Block));
    const __m256i packed = twice(load_16(p + offsetof(Block, quants)));
    __m256i v = _mm256_and_si256(
        _mm256_srlv_epi32(packed, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)), bytes(15));
    if constexpr (Table) v = _mm256_shuffle_epi8(twice(load_16(quantize::iq4_values)), v);
    if constexpr (Fifth) {
      const __m256i byte_of =
          _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
      const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
      const __m256i high = _mm256_set1_epi32(read<std::int32_t>(p + offsetof(Block, high)));
      const __m256i bit = _mm256_and_si256(_mm256_shuffle_epi8(high, byte_of), bit_of);
      v = _mm256_or_si256(v, _mm256_and_si256(_mm256_cmpeq_epi8(bit, bit_of), bytes(16)));
    }
    return v;
  }
};

using Q4_0 = HalfBytes<blocks::Q4_0, 8, false, false>;
using Q4_1 = HalfBytes<blocks::Q4_1, 0, false, true>;
using Q5_0 = HalfBytes<blocks::Q5_0, 16, true, false>;
using Q5_1 = HalfBytes<blocks::Q5_1, 0, true, true>;
using IQ4_NL = HalfBytes<blocks::IQ4_NL, 0, false, false, true>;

struct Q8_0 {
  static constexpr bool own_spans = true, has_signs = true, minima = false;
  static constexpr int fits = 1;
  static constexpr int group_size = 8 * sizeof(blocks::Q8_0);

  ZIYA_TARGET_AVX2 static BlockScales scales(const std::byte* p, float) {
    return {eight_halves(p, sizeof(blocks::Q8_0)), zero()};
  }
  ZIYA_TARGET_AVX2 static __m256i quants(const std::byte* p, int b) {
    return load_bytes(p + b * static_cast<std::ptrdiff_t>(sizeof(blocks::Q8_0)) + sizeof(Half));
  }
};

/// One scale per row.
struct Int8 {
  static constexpr bool own_spans = false, has_signs = true, minima = false;
  static constexpr int fits = 1;
  static constexpr int group_size = 256;

  ZIYA_TARGET_AVX2 static GroupScales scales(const std::byte*, float row_scale) {
    return {_mm256_set1_epi16(1), _mm256_setzero_si256(), row_scale, 0};
  }
  ZIYA_TARGET_AVX2 static __m256i quants(const std::byte* p, int b) {
    return load_bytes(p + 32 * b);
  }
};

/// Scales and minima of 6 bits, eight bytes each, from the twelve of Q4_K and Q5_K.
struct ScalesMinima {
  std::uint64_t scales, minima;
};
inline ScalesMinima scales_minima(const std::byte* p) {
  const std::uint64_t a = read<std::uint32_t>(p), b = read<std::uint32_t>(p + 4),
                      c = read<std::uint32_t>(p + 8);
  constexpr std::uint64_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, high = 0x30303030;
  return {(a & six) | ((c & four) | (a >> 2 & high)) << 32,
          (b & six) | ((c >> 4 & four) | (b >> 2 & high)) << 32};
}

/// Q4_K and Q5_K.
template <class Block, bool Fifth>
struct ScaledHalfBytes {
  static constexpr bool own_spans = false, has_signs = false, minima = true;
  static constexpr int fits = Fifth ? 4 : 8;
  static constexpr int group_size = sizeof(Block);

  ZIYA_TARGET_AVX2 static GroupScales scales(const std::byte* p, float) {
    const ScalesMinima bits = scales_minima(p + offsetof(Block, scales));
    const __m128i factors = _mm_cvtsi64_si128(static_cast<long long>(bits.scales));
    const __m128i offsets = _mm_cvtsi64_si128(static_cast<long long>(bits.minima));
    return {fits == 8 ? _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(factors, factors))
                      : twice(_mm_cvtepu8_epi16(factors)),
            _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(offsets, offsets)),
            half_at(p + offsetof(Block, d)), -half_at(p + offsetof(Block, dmin))};
  }
  ZIYA_TARGET_AVX2 static __m256i quants(const std::byte* p, int b) {
    const __m256i v = bits_of(load_bytes(p + offsetof(Block, quants) + b / 2 * 32), b % 2 * 4, 15);
    if constexpr (!Fifth) {
      return v;
    } else {
      return _mm256_or_si256(v, bits_of(load_bytes(p + offsetof(Block, high)), b - 4, 16));
    }
  }
};
using Q4_K = ScaledHalfBytes<blocks::Q4_K, false>;
using Q5_K = ScaledHalfBytes<blocks::Q5_K, true>;

/// Sixteen scales, signed bytes in the order of the columns, for quants that are too large by
/// `offset`.
ZIYA_TARGET_AVX2 inline GroupScales of_16_columns(__m128i scales, float d, int offset) {
  const __m128i even_then_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  return {_mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, even_then_odd)),
          _mm256_cvtepi8_epi16(scales), d, static_cast<float>(-offset) * d};
}

struct Q6_K {
  using Block = blocks::Q6_K;
  static constexpr bool own_spans = false, has_signs = false, minima = true;
  static constexpr int fits = 2;
  static constexpr int group_size = sizeof(Block);

  ZIYA_TARGET_AVX2 static GroupScales scales(const std::byte* p, float) {
    return of_16_columns(load_16(p + offsetof(Block, scales)), half_at(p + offsetof(Block, d)), 32);
  }
  ZIYA_TARGET_AVX2 static __m256i quants(const std::byte* p, int b) {
    const std::byte* low = p + offsetof(Block, quants) + b / 4 * 64 + b % 2 * 32;
    const std::byte* high = p + offsetof(Block, high) + b / 4 * 32;
    return _mm256_or_si256(bits_of(load_bytes(low), b % 4 / 2 * 4, 15),
                           bits_of(load_bytes(high), b % 4 * 2 - 4, 48));
  }
};

struct Q3_K {
  using Block = blocks::Q3_K;
  static constexpr bool own_spans = false, has_signs = false, minima = true;
  static constexpr int fits = 4;
  static constexpr int group_size = sizeof(Block);

  ZIYA_TARGET_AVX2 static GroupScales scales(const std::byte* p, float) {
    // four bits of scales 0 … 7 and 8 … 15, then two more of 4 i … 4 i + 3 in every byte
    const std::byte* packed = p + offsetof(Block, scales);
    const auto low = read<std::uint64_t>(packed);
    const std::uint64_t high = read<std::uint32_t>(packed + 8);
    constexpr std::uint64_t four = 0x0f0f0f0f0f0f0f0f, two = 0x30303030;
    const std::uint64_t first = (low & four) | (high << 4 & two) | (high << 2 & two) << 32;
    const std::uint64_t last = (low >> 4 & four) | (high & two) | (high >> 2 & two) << 32;
    const __m128i scales =
        _mm_set_epi64x(static_cast<long long>(last), static_cast<long long>(first));
    return of_16_columns(_mm_sub_epi8(scales, _mm_set1_epi8(32)), half_at(p + offsetof(Block, d)),
                         4);
  }
  ZIYA_TARGET_AVX2 static __m256i quants(const std::byte* p, int b) {
    const std::byte* low = p + offsetof(Block, quants) + b / 4 * 32;
    return _mm256_or_si256(bits_of(load_bytes(low), b % 4 * 2, 3),
                           bits_of(load_bytes(p + offsetof(Block, high)), b - 2, 4));
  }
};

struct Q2_K {
  using Block = blocks::Q2_K;
  static constexpr bool own_spans = false, has_signs = false, minima = true;
  static constexpr int fits = 4;
  static constexpr int group_size = sizeof(Block);

  ZIYA_TARGET_AVX2 static GroupScales scales(const std::byte* p, float) {
    const __m128i packed = load_16(p + offsetof(Block, scales)), low = _mm_set1_epi8(15);
    const float d = half_at(p + offsetof(Block, d));
    GroupScales result = of_16_columns(_mm_and_si128(packed, low), d, 0);
    result.minima = _mm256_cvtepi8_epi16(_mm_and_si128(_mm_srli_epi16(packed, 4), low));
    result.minimum = -half_at(p + offsetof(Block, dmin));
    return result;
  }
  ZIYA_TARGET_AVX2 static __m256i quants(const std::byte* p, int b) {
    return bits_of(load_bytes(p + offsetof(Block, quants) + b / 4 * 32), b % 4 * 2, 3);
  }
};

}  // namespace avx2
ZIYA_NAMESPACE_END
#endif
