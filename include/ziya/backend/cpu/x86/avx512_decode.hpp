// SPDX-License-Identifier: Apache-2.0
// A token, or a few, and a quantised weight with AVX-512: four rows at a time, straight from where
// they are stored. A format reads some columns of four rows (`read`), which each token meets
// (`add`); of more than its `most_tokens` panels are quicker (measured on a Zen 5).
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/avx512_bytes.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

/// Up to so many tokens, the most of any format's `most_tokens`, meet rows as they are stored.
inline constexpr std::int64_t tokens_in_fours = 24;

/// Bytes of 256 columns of any format, at most.
inline constexpr std::int64_t group_bytes = 272;

/// Four rows at the same column.
struct FourRows {
  const std::byte* at[4];
};

ZIYA_TARGET_AVX512 inline __m128i load_16(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
/// 64 bytes in a register, for several uses: as an operand of each they would be loaded again, and
/// most of them lie in two lines.
ZIYA_TARGET_AVX512 inline __m512i load_once(const std::byte* p) {
  __m512i v = _mm512_loadu_si512(p);
  asm("" : "+v"(v));
  return v;
}
/// 16 bytes from each of four places.
ZIYA_TARGET_AVX512 inline __m512i four_places(const std::byte* a, const std::byte* b,
                                              const std::byte* c, const std::byte* d) {
  __m512i v = _mm512_maskz_broadcast_i32x4(0x000f, load_16(a));
  v = _mm512_mask_broadcast_i32x4(v, 0x00f0, load_16(b));
  v = _mm512_mask_broadcast_i32x4(v, 0x0f00, load_16(c));
  return _mm512_mask_broadcast_i32x4(v, 0xf000, load_16(d));
}
/// Number i of four in the lanes i, i + 4, i + 8 and i + 12.
ZIYA_TARGET_AVX512 inline __m512 repeat(const float* four) {
  return _mm512_maskz_broadcast_f32x4(all, _mm_loadu_ps(four));
}
ZIYA_TARGET_AVX512 inline __m512i repeat(const std::int32_t* four) {
  return _mm512_castps_si512(repeat(reinterpret_cast<const float*>(four)));
}
/// Number i of four in lanes 4 i … 4 i + 3.
ZIYA_TARGET_AVX512 inline __m512i spread(const std::int32_t* four) {
  return _mm512_castps_si512(
      _mm512_maskz_permutevar_ps(all, repeat(reinterpret_cast<const float*>(four)),
                                 _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0)));
}

/// In every 128 bits a₀ + a₂, b₀ + b₂, a₁ + a₃, b₁ + b₃.
ZIYA_TARGET_AVX512 inline __m512i sums_across(__m512i a, __m512i b) {
  return _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(all, a, b),
                          _mm512_maskz_unpackhi_epi32(all, a, b));
}
/// Lane 4 i + r: the sum of lanes 4 i … 4 i + 3 of v[r].
ZIYA_TARGET_AVX512 inline __m512i sums_of_fours(const __m512i (&v)[4]) {
  const __m512i ab = sums_across(v[0], v[1]), cd = sums_across(v[2], v[3]);
  return _mm512_add_epi32(_mm512_maskz_unpacklo_epi64(0xff, ab, cd),
                          _mm512_maskz_unpackhi_epi64(0xff, ab, cd));
}
/// Lane 4 r + i: the same.
ZIYA_TARGET_AVX512 inline __m512i sums_by_rows(const __m512i (&v)[4]) {
  const __m512i ab = sums_across(v[0], v[1]), cd = sums_across(v[2], v[3]);
  const __m512i first = _mm512_set_epi32(29, 25, 21, 17, 28, 24, 20, 16, 13, 9, 5, 1, 12, 8, 4, 0);
  return _mm512_add_epi32(
      _mm512_maskz_permutex2var_epi32(all, ab, first, cd),
      _mm512_maskz_permutex2var_epi32(all, ab, _mm512_add_epi32(first, words(2)), cd));
}
/// The same where lanes and sums of two of them fit 16 bits.
ZIYA_TARGET_AVX512 inline __m512i narrow_sums_by_rows(const __m512i (&v)[4]) {
  const __m512i one = _mm512_set1_epi16(1);
  const __m512i ab = _mm512_madd_epi16(_mm512_packs_epi32(v[0], v[1]), one);
  const __m512i cd = _mm512_madd_epi16(_mm512_packs_epi32(v[2], v[3]), one);
  return _mm512_maskz_permutexvar_epi32(
      all, _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0),
      _mm512_madd_epi16(_mm512_packs_epi32(ab, cd), one));
}

ZIYA_TARGET_AVX512 inline __m512i dot(__m512i sums, __m512i quants, const std::int8_t* x) {
  return _mm512_dpbusd_epi32(sums, quants, _mm512_load_si512(x));
}

/// Row r: the sum of lanes r, r + 4, r + 8 and r + 12.
ZIYA_TARGET_AVX512 inline __m128i fold(__m512i v) {
  const __m256i eight = _mm256_add_epi32(lower(v), upper(v));
  return _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
}

/// Lanes 4 r … 4 r + 3: (v₀ + v₂) + (v₁ + v₃) of the four.
ZIYA_TARGET_AVX512 inline __m512 sums_of_rows(__m512 v) {
  const __m512 pairs = add(v, _mm512_maskz_permute_ps(all, v, 0x4e));
  return add(pairs, _mm512_maskz_permute_ps(all, pairs, 0xb1));
}
/// Lanes 0, 4, 8 and 12.
ZIYA_TARGET_AVX512 inline __m128 first_of_rows(__m512 v) {
  return _mm512_maskz_extractf32x4_ps(
      0xf, _mm512_maskz_permutexvar_ps(all, _mm512_set4_epi32(12, 8, 4, 0), v), 0);
}

/// How far ahead of the rows their lines are requested, in bytes: the processor's own requests stop
/// at pages and lag behind four streams. With 8 KB under way a core of Zen 5 reads 39 of 41 GB/s,
/// with 4 KB 34.
inline constexpr std::int64_t decode_ahead = 2048;

/// Requests what rows [first, last) need `decode_ahead` later for a group of `Size` bytes.
template <int Size>
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline void request_group(const FourRows& rows, int first,
                                                                    int last) {
#pragma GCC unroll 4
  for (int r = first; r < last; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < Size; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(rows.at[r] + decode_ahead + i), _MM_HINT_T0);
    }
  }
}

/// Outputs of four rows, each of which runs through memory from row to row, and all tokens, which
/// meet what is read of the rows together: y[t, row + k · apart].
/// @tparam Most  tokens, at most
template <class Format, int Most>
ZIYA_TARGET_AVX512 inline void decode_rows(const MatmulArguments& m, std::int64_t row,
                                           std::int64_t apart, int count) {
  const std::int64_t row_bytes = bytes_of(m.dtype, m.weight_stride);
  const std::int64_t whole = m.columns / ActivationGroup::columns;
  const std::int64_t tokens = Most == 1 ? 1 : m.tokens;
  FourRows rows;
  for (int r = 0; r < 4; ++r)
    rows.at[r] = m.weight + (row + std::min(r, count - 1) * apart) * row_bytes;
  __m128 y[Most];
  [[maybe_unused]] __m128 scales = _mm_setzero_ps();
  [[maybe_unused]] __m512 sums[Most], spans[Most];
  for (std::int64_t t = 0; t < tokens; ++t) {
    y[t] = _mm_setzero_ps();
    if constexpr (Format::own_spans) sums[t] = spans[t] = zero();
  }
  if constexpr (Format::row_scales) {
    alignas(16) float of_rows[4] = {};
    for (int r = 0; r < count; ++r) of_rows[r] = m.row_scales[row + r * apart];
    scales = _mm_load_ps(of_rows);
  }
  const ActivationGroup* x = m.groups;
  const ActivationFours* fours = m.fours;
  for (std::int64_t g = 0; g < whole; ++g, x += m.tokens, fours += m.tokens) {
    if constexpr (Format::own_spans) {
#pragma GCC unroll 2
      for (int four = 0; four < 2; ++four) {
        request_group<Format::group_size>(rows, 2 * four, 2 * four + 2);
        const auto w = Format::read(rows, four);
        for (std::int64_t t = 0; t < tokens; ++t) {
          sums[t] = Format::add(sums[t], w, x[t], fours[t], four);
        }
      }
      if (g % 2 == 1) {
        for (std::int64_t t = 0; t < tokens; ++t) {
          spans[t] = add(spans[t], sums_of_rows(sums[t])), sums[t] = zero();
        }
      }
    } else {
      request_group<Format::group_size>(rows, 0, 4);
      const auto w = Format::read(rows);
      for (std::int64_t t = 0; t < tokens; ++t) {
        y[t] = Format::add(y[t], w, x[t], fours[t], scales);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) rows.at[r] += Format::group_size;
  }
  const bool rest = whole * ActivationGroup::columns < m.columns;
  if (rest) {
    alignas(64) std::byte scratch[4][group_bytes] = {};
    const std::int64_t bytes = bytes_of(m.dtype, m.columns - whole * ActivationGroup::columns);
    for (int r = 0; r < 4; ++r) {
      std::memcpy(scratch[r], rows.at[r], static_cast<std::size_t>(bytes));
      rows.at[r] = scratch[r];
    }
    for (std::int64_t t = 0; t < tokens; ++t) {
      if constexpr (Format::own_spans) {
        for (int four = 0; four < 2; ++four) {
          sums[t] = Format::add(sums[t], Format::read(rows, four), x[t], fours[t], four);
        }
      } else {
        y[t] = Format::add(y[t], Format::read(rows), x[t], fours[t], scales);
      }
    }
  }
  for (std::int64_t t = 0; t < tokens; ++t) {
    if constexpr (Format::own_spans) {
      if (whole % 2 == 1 || rest) spans[t] = add(spans[t], sums_of_rows(sums[t]));
      y[t] = first_of_rows(spans[t]);
    }
    alignas(16) float outputs[4];
    _mm_store_ps(outputs, y[t]);
    for (int r = 0; r < count; ++r) m.y[t * m.y_stride + row + r * apart] = outputs[r];
  }
}

/// Outputs [begin, end) of up to `Most` tokens: four streams, a quarter of the rows each.
template <class Format, int Most>
ZIYA_TARGET_AVX512 inline void decode(const MatmulArguments& m, std::int64_t begin,
                                      std::int64_t end) {
  const std::int64_t quarter = (end - begin) / 4, done = begin + 4 * quarter;
  const std::int64_t row_bytes = bytes_of(m.dtype, m.weight_stride);
  // what the streams begin with, which no row before has requested
  for (std::int64_t i = 0; i < std::min(decode_ahead, quarter * row_bytes); i += 64) {
    for (std::int64_t r = 0; r < 4; ++r) {
      const std::byte* stream = m.weight + (begin + r * quarter) * row_bytes;
      _mm_prefetch(reinterpret_cast<const char*>(stream + i), _MM_HINT_T0);
    }
  }
  for (std::int64_t k = 0; k < quarter; ++k) decode_rows<Format, Most>(m, begin + k, quarter, 4);
  if (done < end) decode_rows<Format, Most>(m, done, 1, static_cast<int>(end - done));
}

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
