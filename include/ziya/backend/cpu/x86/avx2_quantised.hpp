// SPDX-License-Identifier: Apache-2.0
// Products of quantised weights and 8-bit activations with AVX2.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

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
  const float scale = activation_scale(extreme);
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

/// As baseline::quantise, to the same bits.
ZIYA_TARGET_AVX2 inline void quantise(ActivationGroup* groups, std::int64_t stride, const float* x,
                                      std::int64_t columns, int span, ActivationFours*) {
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
      continue;
    }
    std::int32_t sums[16], sizes[16];
    for (int b = 0; b < 8; ++b) {
      const __m256i values = load_bytes(groups->values + 32 * b);
      store_sums_of_16(sums + 2 * b, _mm256_maddubs_epi16(bytes(1), values));
      store_sums_of_16(sizes + 2 * b, _mm256_maddubs_epi16(_mm256_abs_epi8(values), bytes(1)));
    }
    complete(*groups, span, scales, sums, sizes);
  }
}

/// Eight 16-bit words as floats.
ZIYA_TARGET_AVX2 inline __m256 words_as_floats(const std::int16_t* words) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words))));
}

/// sum + Σ w · x over 32 · `blocks` columns, in eight lanes of four columns each.
template <class Format>
ZIYA_TARGET_AVX2 inline __m256 add_group(__m256 sum, const UnpackedGroup& w,
                                         const ActivationGroup& x, int blocks) {
  alignas(32) float scales[8];
  if constexpr (Format::own_spans) store(scales, multiply(load(w.scales), load(x.by_32.scales)));
  __m256 f = Format::own_spans ? sum : zero();
  for (int b = 0; b < blocks; ++b) {
    const __m256i quants = load_bytes(w.quants + 32 * b);
    // |w| ≤ 128 and |x| ≤ 127: pairs of products fit 16 bits
    const __m256i pairs = _mm256_maddubs_epi16(
        _mm256_abs_epi8(quants), _mm256_sign_epi8(load_bytes(x.values + 32 * b), quants));
    const __m256 dots = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    if constexpr (Format::scale_columns == 16) {
      f = fma(dots, _mm256_set_m128(_mm_set1_ps(w.scales[2 * b + 1]), _mm_set1_ps(w.scales[2 * b])),
              f);
    } else {
      f = fma(dots, set(Format::own_spans ? scales[b] : w.scales[b]), f);
    }
  }
  if constexpr (Format::min_columns == 32) {
    f = fma(load(w.minima),
            Format::own_spans ? load(x.by_32.sums) : words_as_floats(x.by_256.sums_of_32), f);
  }
  if constexpr (Format::min_columns == 16) {
    f = fma(load(w.minima), words_as_floats(x.by_256.sums_of_16), f);
    f = fma(load(w.minima + 8), words_as_floats(x.by_256.sums_of_16 + 8), f);
  }
  return Format::own_spans ? f : fma(f, set(x.by_256.scale), sum);
}

/// Outputs [begin, end): 256 columns of four rows at a time are unpacked for 64 tokens at a time.
template <class Format>
ZIYA_TARGET_AVX2 inline void matmul_of_format(const MatmulArguments& m, std::int64_t begin,
                                              std::int64_t end) {
  constexpr std::int64_t most_rows = 4, most_tokens = 64;
  alignas(32) float sums[most_tokens][most_rows][lanes];
  UnpackedGroup unpacked[most_rows] = {};
  const std::int64_t row_bytes = bytes_of(m.dtype, m.weight_stride);
  for (std::int64_t row = begin; row < end; row += most_rows) {
    const std::int64_t rows = std::min(most_rows, end - row);
    for (std::int64_t token = 0; token < m.tokens; token += most_tokens) {
      const std::int64_t tokens = std::min(most_tokens, m.tokens - token);
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t r = 0; r < rows; ++r) store(sums[t][r], zero());
      }
      const ActivationGroup* x = m.groups + token;
      const std::byte* w = m.weight + row * row_bytes;
      for (std::int64_t i = 0; i < m.columns; i += ActivationGroup::columns) {
        const int columns = static_cast<int>(std::min(ActivationGroup::columns, m.columns - i));
        for (std::int64_t r = 0; r < rows; ++r) {
          if (columns < ActivationGroup::columns) unpacked[r] = {};
          const float scale = m.row_scales != nullptr ? m.row_scales[row + r] : 1.0f;
          Format::unpack(w + r * row_bytes, columns, scale, unpacked[r]);
        }
        for (std::int64_t t = 0; t < tokens; ++t) {
          for (std::int64_t r = 0; r < rows; ++r) {
            store(sums[t][r],
                  add_group<Format>(load(sums[t][r]), unpacked[r], x[t], (columns + 31) / 32));
          }
        }
        x += m.tokens;
        w += Format::group_size;
      }
      for (std::int64_t t = 0; t < tokens; ++t) {
        float* y = m.y + (token + t) * m.y_stride + row;
        for (std::int64_t r = 0; r < rows; ++r) y[r] = sum(load(sums[t][r]));
      }
    }
  }
}

inline void matmul_quantised(const MatmulArguments& m, std::int64_t begin, std::int64_t end) {
  switch (m.dtype) {
    case DType::q4_0:
      return matmul_of_format<Q4_0>(m, begin, end);
    case DType::q4_1:
      return matmul_of_format<Q4_1>(m, begin, end);
    case DType::q5_0:
      return matmul_of_format<Q5_0>(m, begin, end);
    case DType::q5_1:
      return matmul_of_format<Q5_1>(m, begin, end);
    case DType::q8_0:
      return matmul_of_format<Q8_0>(m, begin, end);
    case DType::iq4_nl:
      return matmul_of_format<IQ4_NL>(m, begin, end);
    case DType::q2_k:
      return matmul_of_format<Q2_K>(m, begin, end);
    case DType::q3_k:
      return matmul_of_format<Q3_K>(m, begin, end);
    case DType::q4_k:
      return matmul_of_format<Q4_K>(m, begin, end);
    case DType::q5_k:
      return matmul_of_format<Q5_K>(m, begin, end);
    case DType::q6_k:
      return matmul_of_format<Q6_K>(m, begin, end);
    default:
      return matmul_of_format<Int8>(m, begin, end);
  }
}

}  // namespace avx2
ZIYA_NAMESPACE_END
#endif
