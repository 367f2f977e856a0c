// SPDX-License-Identifier: Apache-2.0
// Rows of 16-bit and 32-bit floats times a row of x with AVX-512: x in 32 bits, or, for weights in
// bf16, in bf16.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/avx512_vector.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

inline constexpr int token_tile = 6;  // rows of x that meet a row of w at once, at most

/// Columns of a vector of x: 16 floats, or 32 in bf16.
template <class X>
inline constexpr std::int64_t columns_of = 64 / static_cast<std::int64_t>(sizeof(X));

/// As many columns of w as X meets.
template <class X, class W>
ZIYA_TARGET_AVX512 inline auto load_for(const W* p) {
  if constexpr (std::is_same_v<X, float>) {
    return load(p);
  } else {
    return _mm512_loadu_si512(p);
  }
}
template <class X, class W>
ZIYA_TARGET_AVX512 inline auto load_for(const W* p, std::int64_t count) {
  if constexpr (std::is_same_v<X, float>) {
    return load(p, count);
  } else {
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1u << count) - 1u), p);
  }
}
/// sum + a · b; in bf16 lane l adds the products of columns 2 l + 1 and 2 l one after the other,
/// and subnormal numbers count as zeros.
ZIYA_TARGET_AVX512 inline __m512 add_product(__m512 sum, __m512 a, __m512 b) {
  return fma(a, b, sum);
}
ZIYA_TARGET_AVX512 inline __m512 add_product(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

/// How far ahead of 16-bit rows their lines are requested, measured on Zen 5.
inline constexpr std::int64_t bytes_ahead = 1536;

/// R rows of w × one row of x, sums[r · y_stride]; 16-bit rows are requested ahead, because the
/// processor's own requests come too late for their shorter rows. The pragmas keep the sums in
/// registers at -O2 too.
template <int R, class X, class W>
ZIYA_TARGET_AVX512 inline void rows_times_row(const W* w, std::int64_t w_stride, const X* x,
                                              std::int64_t columns, float* y,
                                              std::int64_t y_stride = 1) {
  constexpr std::int64_t step = columns_of<X>;
  __m512 sums[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sums[r] = zero();
  const std::int64_t whole = columns / step * step;
  for (std::int64_t i = 0; i < whole; i += step) {
    const auto a = load_for<X>(x + i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      if constexpr (R > 1 && sizeof(W) == 2) {
        _mm_prefetch(reinterpret_cast<const char*>(w + r * w_stride + i) + bytes_ahead,
                     _MM_HINT_T0);
      }
      sums[r] = add_product(sums[r], a, load_for<X>(w + r * w_stride + i));
    }
  }
  if (whole < columns) {
    const std::int64_t rest = columns - whole;
    const auto a = load_for<X>(x + whole, rest);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sums[r] = add_product(sums[r], a, load_for<X>(w + r * w_stride + whole, rest));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) y[r * y_stride] = sum(sums[r]);
}

/// Outputs [begin, end) of a few tokens from `first` on, whose rows of x lie x_stride elements
/// apart: four streams through memory, a quarter of the rows each.
template <class X, class W>
ZIYA_TARGET_AVX512 inline void stream_rows(const MatmulArguments& m, const W* w, const X* x,
                                           std::int64_t x_stride, std::int64_t begin,
                                           std::int64_t end, std::int64_t first = 0) {
  const std::int64_t stride = m.weight_stride, quarter = (end - begin) / 4;
  for (std::int64_t r = begin; r < begin + quarter; ++r) {
    for (std::int64_t t = first; t < m.tokens; ++t) {
      rows_times_row<4>(w + r * stride, quarter * stride, x + t * x_stride, m.columns,
                        m.y + t * m.y_stride + r, quarter);
    }
  }
  for (std::int64_t r = begin + 4 * quarter; r < end; ++r) {
    for (std::int64_t t = first; t < m.tokens; ++t) {
      rows_times_row<1>(w + r * stride, stride, x + t * x_stride, m.columns,
                        m.y + t * m.y_stride + r);
    }
  }
}

inline constexpr std::int64_t short_row = 1024;  // columns

/// Outputs [begin, end) of token_tile tokens, whose rows of x are short and not packed, as queries
/// are. Four rows at a time; the last one stands for what is missing.
template <class W>
ZIYA_TARGET_AVX512 inline void short_rows_times_tile(const MatmulArguments& m, const W* w,
                                                     std::int64_t begin, std::int64_t end,
                                                     std::int64_t first) {
  constexpr int T = token_tile;
  const std::int64_t whole = m.columns / lanes * lanes, rest = m.columns - whole;
  alignas(64) float packed[T * short_row];  // vector i of every row, then vector i + 1
  const float* from = m.x + first * m.x_stride;
  for (std::int64_t i = 0; i < m.columns; i += lanes) {
    for (std::int64_t t = 0; t < T; ++t) {
      const float* x = from + t * m.x_stride + i;
      store(packed + i * T + t * lanes, i < whole ? load(x) : load(x, rest));
    }
  }
  for (std::int64_t r = begin; r < end; r += 4) {
    const W* const row = w + r * m.weight_stride;
    const std::int64_t apart = r + 1 < end ? m.weight_stride : 0;
    const W* const rows[4] = {row, row + apart, row + (r + 2 < end ? 2 * apart : 0),
                              row + (r + 3 < end ? 3 * apart : 0)};
    __m512 sums[4][T], a[T];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[k][t] = zero();
    }
    const float* x = packed;
    for (std::int64_t i = 0; i < whole; i += lanes, x += T * lanes) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) a[t] = load(x + t * lanes);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const __m512 b = load(rows[k] + i);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sums[k][t] = fma(a[t], b, sums[k][t]);
      }
    }
    if (rest > 0) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const __m512 b = load(rows[k] + whole, rest);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sums[k][t] = fma(load(x + t * lanes), b, sums[k][t]);
      }
    }
    float* y = m.y + first * m.y_stride + r;
    if (r + 4 <= end) {
      store_sums(y, m.y_stride, sums);
      continue;
    }
    float results[T][4];
    store_sums(results[0], 4, sums);
    for (std::int64_t t = 0; t < T; ++t) std::copy_n(results[t], end - r, y + t * m.y_stride);
  }
}

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
