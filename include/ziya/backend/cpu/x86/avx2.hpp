// SPDX-License-Identifier: Apache-2.0
// Inner loops with AVX2, FMA and F16C: sums run in 8 lanes, lane l over the elements l, l + 8, …
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx2 {

inline constexpr std::int64_t lanes = 8;

ZIYA_TARGET_AVX2 inline __m256i mask(std::int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
ZIYA_TARGET_AVX2 inline __m256 zero() { return _mm256_setzero_ps(); }
ZIYA_TARGET_AVX2 inline __m256 set(float value) { return _mm256_set1_ps(value); }
ZIYA_TARGET_AVX2 inline __m256 fma(__m256 a, __m256 b, __m256 c) {
  return _mm256_fmadd_ps(a, b, c);
}
ZIYA_TARGET_AVX2 inline __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 subtract(__m256 a, __m256 b) { return _mm256_sub_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 multiply(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 divide(__m256 a, __m256 b) { return _mm256_div_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 min(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 max(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 round(__m256 v) { return _mm256_round_ps(v, 8); }
ZIYA_TARGET_AVX2 inline __m256 scale_by_power(__m256 v, __m256 n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
ZIYA_TARGET_AVX2 inline __m256 zero_below(__m256 x, float limit, __m256 v) {
  return _mm256_and_ps(_mm256_cmp_ps(x, set(limit), _CMP_NLT_UQ), v);
}
ZIYA_TARGET_AVX2 inline __m256 first_lanes(__m256 v, std::int64_t count) {
  return _mm256_and_ps(_mm256_castsi256_ps(mask(count)), v);
}
ZIYA_TARGET_AVX2 inline float sum(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

ZIYA_TARGET_AVX2 inline __m256 load(const float* p) { return _mm256_loadu_ps(p); }
ZIYA_TARGET_AVX2 inline __m256 load(const float* p, std::int64_t count) {
  return _mm256_maskload_ps(p, mask(count));
}
ZIYA_TARGET_AVX2 inline __m128i load_bits(const void* p, std::int64_t count) {
  alignas(16) std::uint16_t bits[8] = {};
  __builtin_memcpy(bits, p, static_cast<std::size_t>(count) * 2);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bits));
}
ZIYA_TARGET_AVX2 inline __m256 load(const Half* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
ZIYA_TARGET_AVX2 inline __m256 load(const Half* p, std::int64_t count) {
  return _mm256_cvtph_ps(load_bits(p, count));
}
ZIYA_TARGET_AVX2 inline __m256 widen(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
ZIYA_TARGET_AVX2 inline __m256 load(const BFloat16* p) {
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
ZIYA_TARGET_AVX2 inline __m256 load(const BFloat16* p, std::int64_t count) {
  return widen(load_bits(p, count));
}
ZIYA_TARGET_AVX2 inline void store(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
ZIYA_TARGET_AVX2 inline void store(float* p, __m256 v, std::int64_t count) {
  _mm256_maskstore_ps(p, mask(count), v);
}

/// R rows of w × T rows of x, all of `columns`. The pragmas keep the sums in registers at -O2 too.
template <int R, int T, class W>
ZIYA_TARGET_AVX2 inline void tile(const W* w, std::int64_t w_stride, const float* x,
                                  std::int64_t x_stride, std::int64_t columns, float* y,
                                  std::int64_t y_stride) {
  __m256 sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = zero();
  }
  const std::int64_t whole = columns / lanes * lanes;
  for (std::int64_t i = 0; i < whole; i += lanes) {
    __m256 a[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) a[t] = load(x + t * x_stride + i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m256 b = load(w + r * w_stride + i);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[r][t] = fma(a[t], b, sums[r][t]);
    }
  }
  if (whole < columns) {
    const std::int64_t rest = columns - whole;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m256 b = load(w + r * w_stride + whole, rest);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        sums[r][t] = fma(load(x + t * x_stride + whole, rest), b, sums[r][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) y[t * y_stride + r] = sum(sums[r][t]);
  }
}

/// R rows of w × tokens [first, last) of x.
template <int R, class W>
ZIYA_TARGET_AVX2 inline void row_tile(const MatmulArguments& m, const W* w, std::int64_t row,
                                      std::int64_t first, std::int64_t last) {
  const W* rows = w + row * m.columns;
  std::int64_t t = first;
  for (; t + 3 <= last; t += 3) {
    tile<R, 3>(rows, m.columns, m.x + t * m.x_stride, m.x_stride, m.columns,
               m.y + t * m.y_stride + row, m.y_stride);
  }
  for (; t < last; ++t) {
    tile<R, 1>(rows, m.columns, m.x + t * m.x_stride, m.x_stride, m.columns,
               m.y + t * m.y_stride + row, m.y_stride);
  }
}

/// Tokens in blocks that stay in the second-level cache, rows in blocks that stay in the third.
template <class W>
ZIYA_TARGET_AVX2 inline void matmul_of(const MatmulArguments& m, const W* w, std::int64_t begin,
                                       std::int64_t end) {
  constexpr std::int64_t row_block = 256, cached_bytes = 512 * 1024;
  const std::int64_t token_block =
      std::max<std::int64_t>(cached_bytes / 4 / std::max<std::int64_t>(m.columns, 1) / 3, 1) * 3;
  for (std::int64_t r0 = begin; r0 < end; r0 += row_block) {
    const std::int64_t r1 = std::min(end, r0 + row_block);
    for (std::int64_t t0 = 0; t0 < m.tokens; t0 += token_block) {
      const std::int64_t t1 = std::min(m.tokens, t0 + token_block);
      std::int64_t r = r0;
      for (; r + 4 <= r1; r += 4) row_tile<4>(m, w, r, t0, t1);
      for (; r < r1; ++r) row_tile<1>(m, w, r, t0, t1);
    }
  }
}

ZIYA_TARGET_AVX2 inline void matmul(const MatmulArguments& m, std::int64_t begin,
                                    std::int64_t end) {
  if (m.dtype == DType::f16)
    return matmul_of(m, reinterpret_cast<const Half*>(m.weight), begin, end);
  if (m.dtype == DType::bf16) {
    return matmul_of(m, reinterpret_cast<const BFloat16*>(m.weight), begin, end);
  }
  matmul_of(m, reinterpret_cast<const float*>(m.weight), begin, end);
}

ZIYA_TARGET_AVX2 inline float dot(const float* a, DType dtype, const std::byte* b,
                                  std::int64_t count) {
  float y = 0;
  if (dtype == DType::f16) {
    tile<1, 1>(reinterpret_cast<const Half*>(b), 0, a, 0, count, &y, 0);
  } else if (dtype == DType::bf16) {
    tile<1, 1>(reinterpret_cast<const BFloat16*>(b), 0, a, 0, count, &y, 0);
  } else {
    tile<1, 1>(reinterpret_cast<const float*>(b), 0, a, 0, count, &y, 0);
  }
  return y;
}

template <class X>
ZIYA_TARGET_AVX2 inline void add_scaled_of(float* y, float factor, const X* x, std::int64_t count) {
  const __m256 f = set(factor);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(y + i, fma(f, load(x + i), load(y + i)));
  if (i < count) {
    const std::int64_t rest = count - i;
    store(y + i, fma(f, load(x + i, rest), load(y + i, rest)), rest);
  }
}
ZIYA_TARGET_AVX2 inline void add_scaled(float* y, float factor, DType dtype, const std::byte* x,
                                        std::int64_t count) {
  if (dtype == DType::f16) {
    add_scaled_of(y, factor, reinterpret_cast<const Half*>(x), count);
  } else if (dtype == DType::bf16) {
    add_scaled_of(y, factor, reinterpret_cast<const BFloat16*>(x), count);
  } else {
    add_scaled_of(y, factor, reinterpret_cast<const float*>(x), count);
  }
}

/// e^x = 2^n · e^r with n = round(x / ln 2); e^r by its Taylor polynomial of degree 7, whose error
/// is below 1e-8 for |r| ≤ ln 2 / 2. 0 below −87.3.
ZIYA_TARGET_AVX2 inline __m256 exp(__m256 x) {
  const __m256 bounded = min(max(x, set(-87.33f)), set(88.37f));
  const __m256 n = round(multiply(bounded, set(1.44269504f)));
  const __m256 r = fma(n, set(2.12194440e-4f), fma(n, set(-0.693359375f), bounded));
  __m256 p = set(1.0f / 5040);
  p = fma(p, r, set(1.0f / 720));
  p = fma(p, r, set(1.0f / 120));
  p = fma(p, r, set(1.0f / 24));
  p = fma(p, r, set(1.0f / 6));
  p = fma(p, r, set(0.5f));
  p = fma(p, r, set(1.0f));
  p = fma(p, r, set(1.0f));
  return zero_below(x, -87.33f, scale_by_power(p, n));
}

ZIYA_TARGET_AVX2 inline float exp_sum(float* values, float shift, std::int64_t count) {
  __m256 total = zero();
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const __m256 e = exp(subtract(load(values + i), set(shift)));
    store(values + i, e);
    total = add(total, e);
  }
  if (i < count) {
    const std::int64_t rest = count - i;
    const __m256 e = first_lanes(exp(subtract(load(values + i, rest), set(shift))), rest);
    store(values + i, e, rest);
    total = add(total, e);
  }
  return sum(total);
}

ZIYA_TARGET_AVX2 inline __m256 silu(__m256 g) {
  return divide(g, add(set(1.0f), exp(subtract(zero(), g))));
}
ZIYA_TARGET_AVX2 inline void silu_mul(float* y, const float* gate, const float* up,
                                      std::int64_t count) {
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(y + i, multiply(silu(load(gate + i)), load(up + i)));
  if (i < count) {
    const std::int64_t rest = count - i;
    store(y + i, multiply(silu(load(gate + i, rest)), load(up + i, rest)), rest);
  }
}

inline constexpr CpuKernels kernels{&matmul, &dot, &add_scaled, &exp_sum, &silu_mul};

}  // namespace avx2
ZIYA_NAMESPACE_END
#endif
