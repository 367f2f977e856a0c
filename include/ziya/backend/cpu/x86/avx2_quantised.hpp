// SPDX-License-Identifier: Apache-2.0
// Products of quantised weights and 8-bit activations with AVX2.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/activations.hpp"
#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/avx2_unpack.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx2 {

/// Values and scale of 32 · Blocks columns that share it; false where baseline has to.
template <int Blocks>
ZIYA_TARGET_AVX2 inline bool quantise_span(std::int8_t* values, float* scales, const float* x) {
  __m256 extremes = zero(), poison = zero();
  for (int v = 0; v < 4 * Blocks; ++v) {
    const __m256 a = load(x + v * lanes);
    extremes = max(extremes, _mm256_andnot_ps(set(-0.0f), a));
    poison = fma(a, zero(), poison);
  }
  alignas(32) float of_lanes[lanes];
  store(of_lanes, extremes);
  const float extreme = *std::max_element(of_lanes, of_lanes + lanes);
  if (!(extreme > smallest_activation && extreme <= largest_activation) || sum(poison) != 0) {
    return false;
  }
  const float scale = activation_scale(extreme, 32 * Blocks);
  const __m256 inverse = set(1.0f / scale);
  for (int v = 0; v < 4 * Blocks; ++v) {
    const __m256i q = _mm256_cvtps_epi32(multiply(load(x + v * lanes), inverse));
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(values + v * lanes), _mm_packs_epi16(words, words));
  }
  for (int b = 0; b < Blocks; ++b) scales[b] = scale;
  return true;
}

/// Two sums of eight 16-bit words each.
ZIYA_TARGET_AVX2 inline void store_sums_of_16(std::int32_t* sums, __m256i pairs) {
  alignas(32) std::int32_t fours[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(fours),
                     _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  sums[0] = fours[0] + fours[1] + fours[2] + fours[3];
  sums[1] = fours[4] + fours[5] + fours[6] + fours[7];
}

/// As baseline::quantise, to the same bits; without fours, so for panels, values in turned order.
ZIYA_TARGET_AVX2 inline void quantise(ActivationGroup* groups, std::int64_t stride, const float* x,
                                      std::int64_t columns, int span, ActivationFours* fours) {
  for (std::int64_t i = 0; i < columns; i += ActivationGroup::columns, groups += stride) {
    const std::int64_t count = columns - i;
    float scales[8];
    bool ordinary = count >= ActivationGroup::columns;
    if (span == 32) {
      for (int b = 0; ordinary && b < 8; ++b) {
        ordinary = quantise_span<1>(groups->values + 32 * b, scales + b, x + i + 32 * b);
      }
    } else if (ordinary) {
      ordinary = quantise_span<8>(groups->values, scales, x + i);
    }
    if (!ordinary) {
      baseline::quantise(groups, stride, x + i, std::min(count, ActivationGroup::columns), span);
      if (fours == nullptr) turn(groups->values);
      continue;
    }
    std::int32_t sums[16];
    for (int b = 0; b < 8; ++b) {
      const __m256i values = load_bytes(groups->values + 32 * b);
      store_sums_of_16(sums + 2 * b, _mm256_maddubs_epi16(bytes(1), values));
    }
    complete(*groups, span, scales, sums);
    if (fours == nullptr) turn(groups->values);
  }
}

/// Sums of products over pairs of columns, in words.
template <bool Signs>
ZIYA_TARGET_AVX2 inline __m256i pairs(__m256i quants, __m256i x) {
  if constexpr (!Signs) return _mm256_maddubs_epi16(quants, x);
  // |w| ≤ 128 and |x| ≤ 127: pairs of products fit 16 bits
  return _mm256_maddubs_epi16(_mm256_abs_epi8(quants), _mm256_sign_epi8(x, quants));
}

/// Sums of words, or of 32-bit integers, in half as many lanes of each: of a and of b side by side.
template <bool Words>
ZIYA_TARGET_AVX2 inline __m256i fold_halves(__m256i a, __m256i b) {
  const __m256i low = _mm256_unpacklo_epi64(a, b), high = _mm256_unpackhi_epi64(a, b);
  return Words ? _mm256_add_epi16(low, high) : _mm256_add_epi32(low, high);
}
template <bool Words>
ZIYA_TARGET_AVX2 inline __m256i fold_quarters(__m256i a, __m256i b) {
  const __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
  const __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88));
  const __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xdd));
  return Words ? _mm256_add_epi16(even, odd) : _mm256_add_epi32(even, odd);
}
template <bool Words>
ZIYA_TARGET_AVX2 inline __m256i fold_lanes(__m256i a, __m256i b) {
  const __m256i low = _mm256_permute2x128_si256(a, b, 0x20);
  const __m256i high = _mm256_permute2x128_si256(a, b, 0x31);
  return Words ? _mm256_add_epi16(low, high) : _mm256_add_epi32(low, high);
}

/// Scales of words: of four blocks at once, as sums over blocks meet them.
struct WordScales {
  __m256i low, high;  ///< of blocks 0 … 3 and 4 … 7, a pair of words each, for both halves
};
template <class Format>
ZIYA_TARGET_AVX2 inline WordScales word_scales(const BlockScales&) {
  return {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
}
template <class Format>
ZIYA_TARGET_AVX2 inline WordScales word_scales(const GroupScales& w) {
  if constexpr (Format::fits == 8) return {w.scales, w.scales};
  return {_mm256_unpacklo_epi16(w.scales, w.scales), _mm256_unpackhi_epi16(w.scales, w.scales)};
}

/// Σ w · x over each of eight blocks of 32 columns, times the scales of words, block b in lane b.
/// Sums of pairs stay words as long as Format::fits of them do.
template <class Format>
[[gnu::always_inline]] ZIYA_TARGET_AVX2 inline __m256i dots_of_blocks(const std::byte* w,
                                                                      const WordScales& s,
                                                                      const std::int8_t* x) {
  __m256i v[8];
#pragma GCC unroll 8
  for (int b = 0; b < 8; ++b) {
    v[b] = pairs<Format::has_signs>(Format::quants(w, b), load_bytes(x + 32 * b));
    if constexpr (Format::fits == 1) v[b] = _mm256_madd_epi16(v[b], _mm256_set1_epi16(1));
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    v[k] = fold_halves<(Format::fits > 1)>(v[2 * k], v[2 * k + 1]);
    if constexpr (Format::fits == 2) {
      const __m256i four = k < 2 ? s.low : s.high;
      v[k] = _mm256_madd_epi16(
          v[k], k % 2 == 0 ? _mm256_shuffle_epi32(four, 0x50) : _mm256_shuffle_epi32(four, 0xfa));
    }
  }
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    v[k] = fold_quarters<(Format::fits > 2)>(v[2 * k], v[2 * k + 1]);
    if constexpr (Format::fits == 4) v[k] = _mm256_madd_epi16(v[k], k == 0 ? s.low : s.high);
  }
  const __m256i sums = fold_lanes<(Format::fits > 4)>(v[0], v[1]);
  if constexpr (Format::fits <= 4) return sums;
  return _mm256_madd_epi16(sums, s.low);
}

/// sums + what the dots of 256 columns come to, block b in lane b.
template <class Format>
[[gnu::always_inline]] ZIYA_TARGET_AVX2 inline __m256 add_dots(__m256 sums, __m256i dots,
                                                               const BlockScales& w,
                                                               const ActivationGroup& x) {
  const __m256 shifts = load(x.by_32.shifts);
  const __m256i moved = _mm256_add_epi32(dots, _mm256_castps_si256(shifts));
  sums = fma(_mm256_sub_ps(_mm256_castsi256_ps(moved), shifts), w.scales, sums);
  if constexpr (Format::minima) sums = fma(w.minima, load(x.by_32.sums), sums);
  return sums;
}
template <class Format>
[[gnu::always_inline]] ZIYA_TARGET_AVX2 inline __m256 add_dots(__m256 sums, __m256i dots,
                                                               const GroupScales& w,
                                                               const ActivationGroup& x) {
  const __m256 scale = _mm256_broadcast_ss(&x.by_256.scale);
  sums = fma(_mm256_cvtepi32_ps(dots), multiply(set(w.scale), scale), sums);
  if constexpr (Format::minima) {
    const __m256i offsets = _mm256_madd_epi16(w.minima, load_bytes(x.by_256.sums_of_16));
    sums = fma(_mm256_cvtepi32_ps(offsets), multiply(set(w.minimum), scale), sums);
  }
  return sums;
}

/// 256 columns from column i on at `p`, or what there is of them and zeros, in `scratch`.
template <class Format>
inline const std::byte* whole_group(const MatmulArguments& m, const std::byte* p, std::int64_t i,
                                    std::byte (&scratch)[Format::group_size]) {
  if (m.columns - i >= ActivationGroup::columns) return p;
  std::memset(scratch, 0, sizeof scratch);
  std::memcpy(scratch, p, static_cast<std::size_t>(bytes_of(m.dtype, m.columns - i)));
  return scratch;
}
inline float row_scale(const MatmulArguments& m, std::int64_t row) {
  return m.row_scales != nullptr ? m.row_scales[row] : 1.0f;
}

/// One token and four rows `apart`, or the `count` there are, straight from where they are stored.
template <class Format>
ZIYA_TARGET_AVX2 inline void decode_rows(const MatmulArguments& m, std::int64_t token,
                                         std::int64_t row, std::int64_t apart, int count) {
  constexpr std::int64_t ahead = 1024;  // bytes: the processor's own requests stop at pages
  const std::int64_t row_bytes = bytes_of(m.dtype, m.weight_stride);
  std::byte scratch[Format::group_size];
  __m256 sums[4] = {};
  const ActivationGroup* x = m.groups + token;
  const std::byte* first = m.weight + row * row_bytes;
  for (std::int64_t i = 0; i < m.columns; i += ActivationGroup::columns) {
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const std::int64_t k = std::min(r, count - 1) * apart;
      const std::byte* p = first + k * row_bytes;
      for (int line = 0; line < Format::group_size; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(p + ahead + line), _MM_HINT_T0);
      }
      p = whole_group<Format>(m, p, i, scratch);
      const auto scales = Format::scales(p, row_scale(m, row + k));
      const __m256i dots = dots_of_blocks<Format>(p, word_scales<Format>(scales), x->values);
      sums[r] = add_dots<Format>(sums[r], dots, scales, *x);
    }
    x += m.tokens;
    first += Format::group_size;
  }
  float* y = m.y + token * m.y_stride + row;
  for (int r = 0; r < count; ++r) y[r * apart] = sum(sums[r]);
}

/// Outputs [begin, end) of one or two tokens, which meet four streams of rows, a quarter of them
/// each, one by one.
template <class Format>
ZIYA_TARGET_AVX2 inline void decode(const MatmulArguments& m, std::int64_t begin,
                                    std::int64_t end) {
  const std::int64_t quarter = (end - begin) / 4, done = begin + 4 * quarter;
  for (std::int64_t k = 0; k < quarter; ++k) {
    for (std::int64_t t = 0; t < m.tokens; ++t) decode_rows<Format>(m, t, begin + k, quarter, 4);
  }
  for (std::int64_t t = 0; t < m.tokens && done < end; ++t) {
    decode_rows<Format>(m, t, done, 1, static_cast<int>(end - done));
  }
}

}  // namespace avx2
ZIYA_NAMESPACE_END
#endif
