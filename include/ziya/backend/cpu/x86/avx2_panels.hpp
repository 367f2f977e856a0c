// SPDX-License-Identifier: Apache-2.0
// Products of quantised weights and three tokens or more with AVX2: rows unpacked for many tokens.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/avx2_quantised.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx2 {

/// 256 columns of a row in turned order, so that lane b of every sum belongs to block b.
template <class Format>
struct PanelGroup {
  __m256i quants[8];
  decltype(Format::scales(nullptr, 0)) scales;
  WordScales words;  ///< of the first and of the second 16 columns of all blocks

  ZIYA_TARGET_AVX2 void read(const std::byte* p, float row_scale) {
    __m256i v[8];
#pragma GCC unroll 8
    for (int b = 0; b < 8; ++b) v[b] = Format::quants(p, b);
    turn(v);
#pragma GCC unroll 8
    for (int b = 0; b < 8; ++b) quants[b] = v[b];
    scales = Format::scales(p, row_scale);
    words = word_scales<Format>(scales);
    if constexpr (!Format::own_spans && Format::fits != 8) {
      words = {_mm256_permute2x128_si256(words.low, words.high, 0x20),
               _mm256_permute2x128_si256(words.low, words.high, 0x31)};
    }
  }
};

inline constexpr int tile_rows = 2, tile_tokens = 4;

/// Keeps a sum in its register: else the compiler adds later and in another order, from memory.
ZIYA_TARGET_AVX2 inline void stay(__m256i& sum) { asm("" : "+x"(sum)); }

/// Two rows × four tokens and 256 columns; x are four groups in turned order.
template <class Format>
[[gnu::always_inline]] ZIYA_TARGET_AVX2 inline void meet(
    const PanelGroup<Format>* const (&w)[tile_rows], const ActivationGroup* (&x)[tile_tokens],
    float* sums) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i words[tile_rows][tile_tokens], dots[tile_rows][tile_tokens];
#pragma GCC unroll 8
  for (int s = 0; s < 8; ++s) {
    __m256i q[tile_rows], size[tile_rows];
#pragma GCC unroll 2
    for (int r = 0; r < tile_rows; ++r) {
      q[r] = w[r]->quants[s];
      if constexpr (Format::has_signs) size[r] = _mm256_abs_epi8(q[r]);
    }
#pragma GCC unroll 4
    for (int t = 0; t < tile_tokens; ++t) {
      __m256i a = load_bytes(x[t]->values + 32 * s);
      stay(a);
#pragma GCC unroll 2
      for (int r = 0; r < tile_rows; ++r) {
        if constexpr (Format::fits == 1) {
          const __m256i p = _mm256_maddubs_epi16(size[r], _mm256_sign_epi8(a, q[r]));
          const __m256i d = _mm256_madd_epi16(p, ones);
          dots[r][t] = s == 0 ? d : _mm256_add_epi32(dots[r][t], d);
          stay(dots[r][t]);
        } else {
          const __m256i p = _mm256_maddubs_epi16(q[r], a);
          words[r][t] = s % Format::fits == 0 ? p : _mm256_add_epi16(words[r][t], p);
          stay(words[r][t]);
        }
      }
    }
    if (Format::fits > 1 && s % Format::fits == Format::fits - 1) {
#pragma GCC unroll 2
      for (int r = 0; r < tile_rows; ++r) {
        const __m256i scale = Format::own_spans            ? ones
                              : s < 4 || Format::fits == 8 ? w[r]->words.low
                                                           : w[r]->words.high;
#pragma GCC unroll 4
        for (int t = 0; t < tile_tokens; ++t) {
          const __m256i d = _mm256_madd_epi16(words[r][t], scale);
          dots[r][t] = s < Format::fits ? d : _mm256_add_epi32(dots[r][t], d);
          stay(dots[r][t]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < tile_tokens; ++t) {
#pragma GCC unroll 2
    for (int r = 0; r < tile_rows; ++r) {
      float* sum = sums + (r * tile_tokens + t) * lanes;
      store(sum, add_dots<Format>(load(sum), dots[r][t], w[r]->scales, *x[t]));
    }
  }
}

// rows of w that are unpacked at once, of so many groups of 256 columns, for so many tokens
inline constexpr std::int64_t panel_rows = 16, panel_groups = 2, panel_tokens = 128;

/// Sums of up to panel_rows rows, in lanes, and of some tokens: (tokens / 4, rows, 4, lanes).
inline std::int64_t sums_at(std::int64_t tile, std::int64_t row) {
  return (tile * panel_rows + row) * tile_tokens * lanes;
}

/// `groups` × 256 columns of a panel × `tokens` from the first of x on, m.tokens to a group.
template <class Format>
ZIYA_TARGET_AVX2 inline void panel_times_tokens(
    const PanelGroup<Format> (&panel)[panel_rows][panel_groups], std::int64_t rows,
    std::int64_t groups, const ActivationGroup* x, std::int64_t stride, std::int64_t tokens,
    float* sums) {
  for (std::int64_t t = 0; t < tokens; t += tile_tokens) {
    for (std::int64_t r = 0; r < rows; r += tile_rows) {
      float* of_tile = sums + sums_at(t / tile_tokens, r);
      for (std::int64_t g = 0; g < groups; ++g) {
        const ActivationGroup* first = x + g * stride;
        const ActivationGroup* four[tile_tokens];
#pragma GCC unroll 4
        for (int k = 0; k < tile_tokens; ++k) four[k] = first + std::min(t + k, tokens - 1);
        const PanelGroup<Format>* const two[tile_rows] = {&panel[r][g], &panel[r + 1][g]};
        meet<Format>(two, four, of_tile);
      }
    }
  }
}

/// Outputs of up to panel_rows rows and some tokens from what their lanes have come to.
ZIYA_TARGET_AVX2 inline void finish(float* y, std::int64_t y_stride, const float* sums,
                                    std::int64_t rows, std::int64_t tokens) {
  for (std::int64_t t = 0; t < tokens; ++t, y += y_stride) {
    for (std::int64_t r = 0; r < rows; r += 4) {
      const float* s = sums + sums_at(t / tile_tokens, r) + t % tile_tokens * lanes;
      constexpr std::int64_t next = tile_tokens * lanes;
      float four[4];
      store_sums(four, load(s), load(s + next), load(s + 2 * next), load(s + 3 * next));
      std::copy(four, four + std::min<std::int64_t>(4, rows - r), y + r);
    }
  }
}

/// Outputs [begin, end) of more than two tokens.
template <class Format>
ZIYA_TARGET_AVX2 inline void times_panels(const MatmulArguments& m, std::int64_t begin,
                                          std::int64_t end) {
  static_assert(panel_rows % 4 == 0);
  alignas(64) PanelGroup<Format> panel[panel_rows][panel_groups];
  alignas(64) float sums[panel_tokens * panel_rows * lanes];
  std::byte scratch[Format::group_size];
  const std::int64_t row_bytes = bytes_of(m.dtype, m.weight_stride);
  for (std::int64_t token = 0; token < m.tokens; token += panel_tokens) {
    const std::int64_t tokens = std::min(panel_tokens, m.tokens - token);
    for (std::int64_t row = begin; row < end; row += panel_rows) {
      const std::int64_t rows = std::min(panel_rows, end - row);
      const std::int64_t padded = (rows + tile_rows - 1) / tile_rows * tile_rows;
      std::fill(sums, sums + sums_at((tokens + tile_tokens - 1) / tile_tokens, 0), 0.0f);
      const ActivationGroup* x = m.groups + token;
      const std::byte* w = m.weight + row * row_bytes;
      for (std::int64_t i = 0; i < m.columns;) {
        std::int64_t groups = 0;
        const std::byte* p = w;
        // the panel after this one, which is requested while this one is read
        const std::byte* next = w + panel_groups * Format::group_size;
        if (i + panel_groups * ActivationGroup::columns >= m.columns) {
          next = m.weight + std::min(row + panel_rows, end - 1) * row_bytes;
        }
        for (; groups < panel_groups && i < m.columns;
             ++groups, i += ActivationGroup::columns, p += Format::group_size) {
          for (std::int64_t r = 0; r < padded; ++r) {
            const std::int64_t k = std::min(r, rows - 1);
            const std::byte* later = next + k * row_bytes + groups * Format::group_size;
            for (int line = 0; line < Format::group_size; line += 64) {
              _mm_prefetch(reinterpret_cast<const char*>(later + line), _MM_HINT_T0);
            }
            panel[r][groups].read(whole_group<Format>(m, p + k * row_bytes, i, scratch),
                                  row_scale(m, row + k));
          }
        }
        panel_times_tokens(panel, padded, groups, x, m.tokens, tokens, sums);
        x += groups * m.tokens;
        w = p;
      }
      finish(m.y + token * m.y_stride + row, m.y_stride, sums, rows, tokens);
    }
  }
}

template <class Format>
inline void matmul_of_format(const MatmulArguments& m, std::int64_t begin, std::int64_t end) {
  if (m.fours != nullptr) return decode<Format>(m, begin, end);
  times_panels<Format>(m, begin, end);
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
