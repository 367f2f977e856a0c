// SPDX-License-Identifier: Apache-2.0
// 256 columns of one row of any quantised type as signed bytes, scales and minima with AVX2.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/quantize/decode_256.hpp"
#include "ziya/backend/cpu/quantize/decode_32.hpp"
#include "ziya/backend/cpu/x86/avx2_vector.hpp"
#include "ziya/core/blocks.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx2 {

/// w[i] = scales[i / scale columns] · quants[i] + minima[i / minimum columns].
struct alignas(32) UnpackedGroup {
  std::int8_t quants[256];
  float scales[16];
  float minima[16];
};

// A format says how many columns share a scale and how many a minimum (0: none), the bytes of 256
// columns, and whether the activations beside it have a scale per 32 columns (`own_spans`). It
// unpacks `columns` ≤ 256 columns, whole blocks.

ZIYA_TARGET_AVX2 inline __m256i bytes(int value) {
  return _mm256_set1_epi8(static_cast<char>(value));
}
ZIYA_TARGET_AVX2 inline __m256i load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
ZIYA_TARGET_AVX2 inline void store_bytes(std::int8_t* p, __m256i v) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(p), v);
}
/// `mask` of the bits from `shift` on of every byte.
ZIYA_TARGET_AVX2 inline __m256i bits_of(__m256i v, int shift, int mask) {
  return _mm256_and_si256(_mm256_srl_epi16(v, _mm_cvtsi32_si128(shift)), bytes(mask));
}
ZIYA_TARGET_AVX2 inline float widened(Half h) { return _cvtsh_ss(h.bits); }

/// Blocks of 32 with halves of bytes.
template <class Block, bool Fifth, bool Minimum, bool Table = false>
struct HalfBytes {
  static constexpr int scale_columns = 32, min_columns = Minimum ? 32 : 0,
                       group_size = 8 * sizeof(Block);
  static constexpr bool own_spans = true;

  ZIYA_TARGET_AVX2 static void unpack(const std::byte* p, int columns, float, UnpackedGroup& to) {
    const __m256i table = _mm256_broadcastsi128_si256(load_table());
    const __m256i byte_of =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
    for (int b = 0; b < columns / 32; ++b, p += sizeof(Block)) {
      Block block;
      std::memcpy(&block, p, sizeof block);
      to.scales[b] = widened(block.d);
      const __m128i packed =
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + offsetof(Block, quants)));
      __m256i v = bits_of(_mm256_set_m128i(_mm_srli_epi16(packed, 4), packed), 0, 15);
      if constexpr (Table) v = _mm256_shuffle_epi8(table, v);
      if constexpr (Fifth) {
        std::int32_t high;
        std::memcpy(&high, block.high, sizeof high);
        const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(high), byte_of);
        const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of), bit_of);
        v = _mm256_or_si256(v, _mm256_and_si256(set, bytes(16)));
      }
      if constexpr (Minimum) {
        to.minima[b] = widened(block.m);
      } else if constexpr (!Table) {
        v = _mm256_sub_epi8(v, bytes(Fifth ? 16 : 8));
      }
      store_bytes(to.quants + 32 * b, v);
    }
  }
  ZIYA_TARGET_AVX2 static __m128i load_table() {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(quantize::iq4_values));
  }
};

using Q4_0 = HalfBytes<blocks::Q4_0, false, false>;
using Q4_1 = HalfBytes<blocks::Q4_1, false, true>;
using Q5_0 = HalfBytes<blocks::Q5_0, true, false>;
using Q5_1 = HalfBytes<blocks::Q5_1, true, true>;
using IQ4_NL = HalfBytes<blocks::IQ4_NL, false, false, true>;

struct Q8_0 {
  static constexpr int scale_columns = 32, min_columns = 0, group_size = 8 * sizeof(blocks::Q8_0);
  static constexpr bool own_spans = true;

  ZIYA_TARGET_AVX2 static void unpack(const std::byte* p, int columns, float, UnpackedGroup& to) {
    for (int b = 0; b < columns / 32; ++b, p += sizeof(blocks::Q8_0)) {
      Half d;
      std::memcpy(&d, p, sizeof d);
      to.scales[b] = widened(d);
      store_bytes(to.quants + 32 * b, load_bytes(p + 2));
    }
  }
};

/// One scale per row.
struct Int8 {
  static constexpr int scale_columns = 32, min_columns = 0, group_size = 256;
  static constexpr bool own_spans = false;

  ZIYA_TARGET_AVX2 static void unpack(const std::byte* p, int columns, float scale,
                                      UnpackedGroup& to) {
    std::memcpy(to.quants, p, static_cast<std::size_t>(columns));
    for (int b = 0; b < 8; ++b) to.scales[b] = scale;
  }
};

/// Q4_K and Q5_K.
template <class Block, bool Fifth>
struct ScaledHalfBytes {
  static constexpr int scale_columns = 32, min_columns = 32, group_size = sizeof(Block);
  static constexpr bool own_spans = false;

  ZIYA_TARGET_AVX2 static void unpack(const std::byte* p, int, float, UnpackedGroup& to) {
    Block block;
    std::memcpy(&block, p, sizeof block);
    const float d = widened(block.d), dmin = widened(block.dmin);
    for (int b = 0; b < 8; ++b) {
      const quantize::ScaleMin packed = quantize::scale_min(block.scales, b);
      to.scales[b] = d * static_cast<float>(packed.scale);
      to.minima[b] = -dmin * static_cast<float>(packed.min);
      __m256i v = bits_of(load_bytes(p + offsetof(Block, quants) + b / 2 * 32), b % 2 * 4, 15);
      if constexpr (Fifth) {
        const __m256i bit = bits_of(load_bytes(p + offsetof(Block, high)), b, 1);
        v = _mm256_or_si256(v, _mm256_slli_epi16(bit, 4));
      }
      store_bytes(to.quants + 32 * b, v);
    }
  }
};
using Q4_K = ScaledHalfBytes<blocks::Q4_K, false>;
using Q5_K = ScaledHalfBytes<blocks::Q5_K, true>;

struct Q6_K {
  static constexpr int scale_columns = 16, min_columns = 0, group_size = sizeof(blocks::Q6_K);
  static constexpr bool own_spans = false;

  ZIYA_TARGET_AVX2 static void unpack(const std::byte* p, int, float, UnpackedGroup& to) {
    blocks::Q6_K block;
    std::memcpy(&block, p, sizeof block);
    const float d = widened(block.d);
    for (int g = 0; g < 16; ++g) to.scales[g] = d * static_cast<float>(block.scales[g]);
    for (int part = 0; part < 8; ++part) {
      const __m256i low =
          bits_of(load_bytes(p + offsetof(blocks::Q6_K, quants) + part / 4 * 64 + part % 2 * 32),
                  part % 4 / 2 * 4, 15);
      const __m256i high =
          bits_of(load_bytes(p + offsetof(blocks::Q6_K, high) + part / 4 * 32), part % 4 * 2, 3);
      const __m256i v = _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
      store_bytes(to.quants + 32 * part, _mm256_sub_epi8(v, bytes(32)));
    }
  }
};

struct Q3_K {
  static constexpr int scale_columns = 16, min_columns = 0, group_size = sizeof(blocks::Q3_K);
  static constexpr bool own_spans = false;

  ZIYA_TARGET_AVX2 static void unpack(const std::byte* p, int, float, UnpackedGroup& to) {
    blocks::Q3_K block;
    std::memcpy(&block, p, sizeof block);
    const float d = widened(block.d);
    for (int g = 0; g < 16; ++g) {
      to.scales[g] = d * static_cast<float>(quantize::scale_q3(block.scales, g) - 32);
    }
    for (int part = 0; part < 8; ++part) {
      const __m256i low =
          bits_of(load_bytes(p + offsetof(blocks::Q3_K, quants) + part / 4 * 32), part % 4 * 2, 3);
      const __m256i high = bits_of(load_bytes(p + offsetof(blocks::Q3_K, high)), part, 1);
      const __m256i v = _mm256_or_si256(low, _mm256_slli_epi16(high, 2));
      store_bytes(to.quants + 32 * part, _mm256_sub_epi8(v, bytes(4)));
    }
  }
};

struct Q2_K {
  static constexpr int scale_columns = 16, min_columns = 16, group_size = sizeof(blocks::Q2_K);
  static constexpr bool own_spans = false;

  ZIYA_TARGET_AVX2 static void unpack(const std::byte* p, int, float, UnpackedGroup& to) {
    blocks::Q2_K block;
    std::memcpy(&block, p, sizeof block);
    const float d = widened(block.d), dmin = widened(block.dmin);
    for (int g = 0; g < 16; ++g) {
      to.scales[g] = d * static_cast<float>(block.scales[g] & 15);
      to.minima[g] = -dmin * static_cast<float>(block.scales[g] >> 4);
    }
    for (int part = 0; part < 8; ++part) {
      store_bytes(
          to.quants + 32 * part,
          bits_of(load_bytes(p + offsetof(blocks::Q2_K, quants) + part / 4 * 32), part % 4 * 2, 3));
    }
  }
};

}  // namespace avx2
ZIYA_NAMESPACE_END
#endif
