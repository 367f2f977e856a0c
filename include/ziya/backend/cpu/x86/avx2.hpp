// SPDX-License-Identifier: Apache-2.0
// Inner loops with AVX2, FMA and F16C: sums run in 8 lanes, lane l over the elements l, l + 8, …
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "ziya/backend/cpu/baseline.hpp"
#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/avx2_floats.hpp"
#include "ziya/backend/cpu/x86/avx2_panels.hpp"
#include "ziya/backend/cpu/x86/avx2_vector.hpp"
#include "ziya/core/blocks.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx2 {

ZIYA_TARGET_AVX2 inline void matmul(const MatmulArguments& m, std::int64_t begin,
                                    std::int64_t end) {
  if (!is_plain_float(m.dtype)) return matmul_quantised(m, begin, end);
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
    rows_times_row<1>(reinterpret_cast<const Half*>(b), 0, a, count, &y);
  } else if (dtype == DType::bf16) {
    rows_times_row<1>(reinterpret_cast<const BFloat16*>(b), 0, a, count, &y);
  } else {
    rows_times_row<1>(reinterpret_cast<const float*>(b), 0, a, count, &y);
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

/// R rows of sums × C vectors of their width; of a single vector, the first `rest` lanes.
template <int R, int C, class V>
ZIYA_TARGET_AVX2 inline void weighted_tile(const WeightedSumArguments& s, const V* values,
                                           std::int64_t row, std::int64_t column,
                                           std::int64_t rest) {
  const bool whole = C > 1 || rest == lanes;
  const float* weights = s.weights + row * s.weights_stride;
  float* y = s.y + row * s.y_stride + column;
  __m256 sums[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const float* from = y + r * s.y_stride + c * lanes;
      sums[r][c] = whole ? load(from) : load(from, rest);
    }
  }
  for (std::int64_t j = 0; j < s.count; ++j) {
    const V* from = values + j * s.values_stride + column;
    __m256 v[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) v[c] = whole ? load(from + c * lanes) : load(from, rest);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m256 f = set(weights[r * s.weights_stride + j]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sums[r][c] = fma(f, v[c], sums[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      float* to = y + r * s.y_stride + c * lanes;
      if (whole) {
        store(to, sums[r][c]);
      } else {
        store(to, sums[r][c], rest);
      }
    }
  }
}
template <int R, class V>
ZIYA_TARGET_AVX2 inline void weighted_rows(const WeightedSumArguments& s, const V* values,
                                           std::int64_t row) {
  std::int64_t i = 0;
  for (; i + 4 * lanes <= s.width; i += 4 * lanes) weighted_tile<R, 4>(s, values, row, i, lanes);
  for (; i < s.width; i += lanes) {
    weighted_tile<R, 1>(s, values, row, i, std::min(lanes, s.width - i));
  }
}
template <class V>
ZIYA_TARGET_AVX2 inline void add_weighted_of(const WeightedSumArguments& s, const V* values) {
  std::int64_t row = 0;
  for (; row + 2 <= s.rows; row += 2) weighted_rows<2>(s, values, row);
  for (; row < s.rows; ++row) weighted_rows<1>(s, values, row);
}
ZIYA_TARGET_AVX2 inline void add_weighted(const WeightedSumArguments& s) {
  if (s.dtype == DType::f16) {
    add_weighted_of(s, reinterpret_cast<const Half*>(s.values));
  } else if (s.dtype == DType::bf16) {
    add_weighted_of(s, reinterpret_cast<const BFloat16*>(s.values));
  } else {
    add_weighted_of(s, reinterpret_cast<const float*>(s.values));
  }
}

/// e^x = 2^n · e^r with n = round(x / ln 2); e^r by its Taylor polynomial of degree 7, whose error
/// is below 1e-8 for |r| ≤ ln 2 / 2. 0 below −87.3. The bounds are the
/// first operands, because min and max give the second when either is NaN.
ZIYA_TARGET_AVX2 inline __m256 exp(__m256 x) {
  const __m256 bounded = min(set(88.37f), max(set(-87.33f), x));
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

ZIYA_TARGET_AVX2 inline float scale_and_find_largest(float* values, float scale,
                                                     std::int64_t count) {
  const __m256 factor = set(scale), lowest = set(-std::numeric_limits<float>::infinity());
  __m256 largest = lowest;
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const __m256 scaled = multiply(load(values + i), factor);
    store(values + i, scaled);
    largest = max(scaled, largest);
  }
  if (i < count) {
    const std::int64_t rest = count - i;
    const __m256 scaled = multiply(load(values + i, rest), factor);
    store(values + i, scaled, rest);
    largest = _mm256_blendv_ps(largest, max(scaled, largest), _mm256_castsi256_ps(mask(rest)));
  }
  return largest_lane(largest);
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

ZIYA_TARGET_AVX2 inline void dequantise(float* y, const std::byte* x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += 32, x += sizeof(blocks::Q8_0)) {
    Half scale;
    __builtin_memcpy(&scale, x, sizeof scale);
    const __m256 d = set(_cvtsh_ss(scale.bits));
#pragma GCC unroll 4
    for (std::int64_t k = 0; k < 32; k += lanes) {
      const __m128i quants =
          _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x + sizeof scale + k));
      store(y + i + k, multiply(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(quants))));
    }
  }
}

ZIYA_TARGET_AVX2 inline void to_halves(Half* y, const float* x, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), _mm256_cvtps_ph(load(x + i), 0));
  }
  baseline::to_halves(y + i, x + i, count - i);
}

inline constexpr CpuKernels kernels{
    &matmul,  &dot,      &add_scaled, &add_weighted, &scale_and_find_largest,
    &exp_sum, &silu_mul, &quantise,   &dequantise,   &to_halves,
    2,        {&packing}};

}  // namespace avx2
ZIYA_NAMESPACE_END
#endif
