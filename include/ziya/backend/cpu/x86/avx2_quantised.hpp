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

/// Sums of products over pairs of columns, in words.
template <bool Signs>
ZIYA_TARGET_AVX2 inline __m256i pairs(__m256i quants, const std::int8_t* x) {
  if constexpr (!Signs) return _mm256_maddubs_epi16(quants, load_bytes(x));
  // |w| ≤ 128 and |x| ≤ 127: pairs of products fit 16 bits
  return _mm256_maddubs_epi16(_mm256_abs_epi8(quants), _mm256_sign_epi8(load_bytes(x), quants));
}

/// sums[t] += Σ w · x[t] over 256 columns, in eight lanes of four columns of each block;
/// `quants(b)` are those of block b.
template <class Format, int Tokens, class Quants>
[[gnu::always_inline]] ZIYA_TARGET_AVX2 inline void add_group(__m256 (&sums)[Tokens],
                                                              const BlockScales& w,
                                                              const Quants& quants,
                                                              const ActivationGroup* x) {
  alignas(32) float scales[Tokens][8];
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) store(scales[t], multiply(w.scales, load(x[t].by_32.scales)));
  // From memory a scale reaches all lanes in one load; the compiler would shuffle the vector twice.
  asm("" : "+m"(scales));
#pragma GCC unroll 8
  for (int b = 0; b < 8; ++b) {
    const __m256i q = quants(b);
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
      const __m256i dots = _mm256_madd_epi16(pairs<Format::has_signs>(q, x[t].values + 32 * b),
                                             _mm256_set1_epi16(1));
      sums[t] = fma(_mm256_cvtepi32_ps(dots), set(scales[t][b]), sums[t]);
    }
  }
  for (int t = 0; Format::minima && t < Tokens; ++t) {
    sums[t] = fma(w.minima, load(x[t].by_32.sums), sums[t]);
  }
}
template <class Format, int Tokens, class Quants>
[[gnu::always_inline]] ZIYA_TARGET_AVX2 inline void add_group(__m256 (&sums)[Tokens],
                                                              const GroupScales& w,
                                                              const Quants& quants,
                                                              const ActivationGroup* x) {
  __m256i dots[Tokens] = {};
#pragma GCC unroll 8
  for (int b = 0; b < 8; ++b) {
    const __m256i q = quants(b);
    const __m256i scale = _mm256_shuffle_epi8(
        w.scales, _mm256_set1_epi16(static_cast<std::int16_t>(0x0100 + 0x0202 * b)));
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
      const __m256i products = pairs<Format::has_signs>(q, x[t].values + 32 * b);
      dots[t] = _mm256_add_epi32(dots[t], _mm256_madd_epi16(products, scale));
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) {
    const float scale = x[t].by_256.scale;
    sums[t] = fma(_mm256_cvtepi32_ps(dots[t]), set(w.scale * scale), sums[t]);
    if constexpr (Format::minima) {
      const __m256i offsets = _mm256_madd_epi16(w.minima, load_bytes(x[t].by_256.sums_of_16));
      sums[t] = fma(_mm256_cvtepi32_ps(offsets), set(w.minimum * scale), sums[t]);
    }
  }
}

/// Quants where they are stored.
template <class Format>
struct StoredQuants {
  const std::byte* at;
  [[gnu::always_inline]] ZIYA_TARGET_AVX2 __m256i operator()(int b) const {
    return Format::quants(at, b);
  }
};
/// 256 columns of a row, unpacked for many tokens.
template <class Format>
struct Unpacked {
  alignas(32) std::int8_t quants[256];
  decltype(Format::scales(nullptr, 0)) scales;

  ZIYA_TARGET_AVX2 void read(const std::byte* p, float row_scale) {
#pragma GCC unroll 8
    for (int b = 0; b < 8; ++b) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(quants + 32 * b), Format::quants(p, b));
    }
    scales = Format::scales(p, row_scale);
  }
  [[gnu::always_inline]] ZIYA_TARGET_AVX2 __m256i operator()(int b) const {
    return load_bytes(quants + 32 * b);
  }
};

template <int Tokens, class Format>
ZIYA_TARGET_AVX2 inline void add_unpacked(__m256* sums, const Unpacked<Format>& w,
                                          const ActivationGroup* x) {
  __m256 of_tokens[Tokens];
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) of_tokens[t] = sums[t];
  add_group<Format>(of_tokens, w.scales, w, x);
#pragma GCC unroll 4
  for (int t = 0; t < Tokens; ++t) sums[t] = of_tokens[t];
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
ZIYA_TARGET_AVX2 inline void decode_rows(const MatmulArguments& m, std::int64_t row,
                                         std::int64_t apart, int count) {
  constexpr std::int64_t ahead = 1024;  // bytes: the processor's own requests stop at pages
  const std::int64_t row_bytes = bytes_of(m.dtype, m.weight_stride);
  std::byte scratch[Format::group_size];
  __m256 sums[4][1] = {};
  const ActivationGroup* x = m.groups;
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
      add_group<Format>(sums[r], Format::scales(p, row_scale(m, row + k)), StoredQuants<Format>{p},
                        x);
    }
    ++x;
    first += Format::group_size;
  }
  for (int r = 0; r < count; ++r) m.y[row + r * apart] = sum(sums[r][0]);
}

/// Outputs [begin, end). One token meets four streams of rows, a quarter of them each; of several,
/// 64 at a time meet 256 columns of a row, which are unpacked once for them.
template <class Format>
ZIYA_TARGET_AVX2 inline void matmul_of_format(const MatmulArguments& m, std::int64_t begin,
                                              std::int64_t end) {
  constexpr std::int64_t most_rows = 4, most_tokens = 64;
  if (m.tokens == 1) {
    const std::int64_t quarter = (end - begin) / 4, done = begin + 4 * quarter;
    for (std::int64_t k = 0; k < quarter; ++k) decode_rows<Format>(m, begin + k, quarter, 4);
    if (done < end) decode_rows<Format>(m, done, 1, static_cast<int>(end - done));
    return;
  }
  __m256 sums[most_rows][most_tokens];
  std::byte scratch[Format::group_size];
  Unpacked<Format> unpacked;
  const std::int64_t row_bytes = bytes_of(m.dtype, m.weight_stride);
  for (std::int64_t row = begin; row < end; row += most_rows) {
    const std::int64_t rows = std::min(most_rows, end - row);
    for (std::int64_t token = 0; token < m.tokens; token += most_tokens) {
      const std::int64_t tokens = std::min(most_tokens, m.tokens - token);
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t t = 0; t < tokens; ++t) sums[r][t] = zero();
      }
      const ActivationGroup* x = m.groups + token;
      const std::byte* w = m.weight + row * row_bytes;
      for (std::int64_t i = 0; i < m.columns; i += ActivationGroup::columns) {
        for (std::int64_t r = 0; r < rows; ++r) {
          unpacked.read(whole_group<Format>(m, w + r * row_bytes, i, scratch),
                        row_scale(m, row + r));
          std::int64_t t = 0;
          for (; t + 3 < tokens; t += 4) add_unpacked<4>(&sums[r][t], unpacked, x + t);
          for (; t < tokens; ++t) add_unpacked<1>(&sums[r][t], unpacked, x + t);
        }
        x += m.tokens;
        w += Format::group_size;
      }
      for (std::int64_t t = 0; t < tokens; ++t) {
        float* y = m.y + (token + t) * m.y_stride + row;
        for (std::int64_t r = 0; r < rows; ++r) y[r] = sum(sums[r][t]);
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
