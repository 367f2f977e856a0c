// SPDX-License-Identifier: Apache-2.0
// Products of 16-bit and 32-bit floats with AVX2, FMA and F16C.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <algorithm>
#include <cstdint>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/avx2_lanes.hpp"
#include "ziya/backend/cpu/x86/avx2_vector.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx2 {

/// R rows of w × one row of x. The pragmas keep the sums in registers at -O2 too.
template <int R, class W>
ZIYA_TARGET_AVX2 inline void rows_times_row(const W* w, std::int64_t w_stride, const float* x,
                                            std::int64_t columns, float* y) {
  __m256 sums[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sums[r] = zero();
  const std::int64_t whole = columns / lanes * lanes;
  for (std::int64_t i = 0; i < whole; i += lanes) {
    const __m256 a = load(x + i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sums[r] = fma(a, load(w + r * w_stride + i), sums[r]);
    }
  }
  if (whole < columns) {
    const std::int64_t rest = columns - whole;
    const __m256 a = load(x + whole, rest);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sums[r] = fma(a, load(w + r * w_stride + whole, rest), sums[r]);
    }
  }
  if constexpr (R == 4) {
    store_sums(y, sums[0], sums[1], sums[2], sums[3]);
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) y[r] = sum(sums[r]);
  }
}

inline constexpr int token_tile = 3;            // rows of x that meet a row of w at once
inline constexpr std::int64_t depth = 4096;     // columns at a time
inline constexpr std::int64_t row_block = 128;  // rows of w at a time, at most

/// Where the sums of rows of w × token_tile rows of x are between two parts of the columns, and
/// where they go after the last part.
struct Carried {
  float* sums;  ///< (rows, token_tile, lanes)
  bool first, last;
  const float* ahead;  ///< what a later tile needs, brought nearer meanwhile
  float* y;
  std::int64_t y_stride, tokens;
};

/// Columns [0, count) of R rows of w × token_tile rows of x, packed. The last part ends in the
/// outputs.
template <int R, class W>
ZIYA_TARGET_AVX2 inline void rows_times_packed(const W* w, std::int64_t w_stride,
                                               const float* packed, std::int64_t count,
                                               const Carried& carried) {
  __m256 sums[R][token_tile];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < token_tile; ++t)
      sums[r][t] = carried.first ? zero() : load(carried.sums + (r * token_tile + t) * lanes);
  }
  const std::int64_t whole = count / lanes * lanes;
  for (std::int64_t i = 0; i < whole; i += lanes, packed += token_tile * lanes) {
    _mm_prefetch(reinterpret_cast<const char*>(carried.ahead + i), _MM_HINT_T0);
    __m256 a[token_tile];
#pragma GCC unroll 8
    for (int t = 0; t < token_tile; ++t) a[t] = load(packed + t * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m256 b = load(w + r * w_stride + i);
#pragma GCC unroll 8
      for (int t = 0; t < token_tile; ++t) sums[r][t] = fma(a[t], b, sums[r][t]);
    }
  }
  if (whole < count) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m256 b = load(w + r * w_stride + whole, count - whole);
#pragma GCC unroll 8
      for (int t = 0; t < token_tile; ++t)
        sums[r][t] = fma(load(packed + t * lanes), b, sums[r][t]);
    }
  }
  if (!carried.last) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < token_tile; ++t)
        store(carried.sums + (r * token_tile + t) * lanes, sums[r][t]);
    }
    return;
  }
#pragma GCC unroll 8
  for (int t = 0; t < token_tile; ++t) {
    if (t >= carried.tokens) return;
    float* y = carried.y + t * carried.y_stride;
    if constexpr (R == 4) {
      store_sums(y, sums[0][t], sums[1][t], sums[2][t], sums[3][t]);
    } else {
      y[0] = sum(sums[0][t]);
    }
  }
}

/// Columns [0, count) of `tokens` ≤ token_tile rows of x: vector i of every row, then vector i + 1;
/// zeros for what is missing.
ZIYA_TARGET_AVX2 inline void pack(float* packed, const float* x, std::int64_t x_stride,
                                  std::int64_t tokens, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += lanes, packed += token_tile * lanes) {
    const std::int64_t rest = std::min(count - i, lanes);
    for (std::int64_t t = 0; t < token_tile; ++t) {
      store(packed + t * lanes, t >= tokens    ? zero()
                                : rest < lanes ? load(x + t * x_stride + i, rest)
                                               : load(x + t * x_stride + i));
    }
  }
}

/// Outputs [begin, end) of `tokens` ≤ token_tile tokens from `first` on.
template <class W>
ZIYA_TARGET_AVX2 inline void block_times_tokens(const MatmulArguments& m, const W* w,
                                                std::int64_t begin, std::int64_t end,
                                                std::int64_t first, std::int64_t tokens) {
  alignas(64) float packed[token_tile * depth];
  alignas(64) float sums[row_block * token_tile * lanes];
  const std::int64_t stride = m.weight_stride;
  const std::int64_t later = m.tokens - first - token_tile;
  for (std::int64_t i = 0; i < m.columns; i += depth) {
    const std::int64_t count = std::min(depth, m.columns - i);
    pack(packed, m.x + first * m.x_stride + i, m.x_stride, tokens, count);
    Carried carried{
        sums,       i == 0, i + count == m.columns, packed, m.y + first * m.y_stride + begin,
        m.y_stride, tokens};
    std::int64_t r = begin;
    for (; r + 4 <= end; r += 4, carried.sums += 4 * token_tile * lanes, carried.y += 4) {
      const std::int64_t t = (r - begin) / 4;
      carried.ahead = t < std::min<std::int64_t>(later, token_tile)
                          ? m.x + (first + token_tile + t) * m.x_stride + i
                          : packed;
      rows_times_packed<4>(w + r * stride + i, stride, packed, count, carried);
    }
    for (; r < end; ++r, carried.sums += token_tile * lanes, ++carried.y) {
      rows_times_packed<1>(w + r * stride + i, stride, packed, count, carried);
    }
  }
}

/// Few tokens: the weight streams by once. More: blocks of it that stay in the second-level cache
/// meet them tile by tile. Many: by lanes. Lane l of every sum runs over the columns l, l + lanes,
/// … each way.
template <class W>
ZIYA_TARGET_AVX2 inline void matmul_of(const MatmulArguments& m, const W* w, std::int64_t begin,
                                       std::int64_t end) {
  const std::int64_t stride = m.weight_stride;
  if (m.packed != nullptr && m.columns > 0) return times_lanes(m, w, begin, end);
  if (m.tokens < token_tile || m.columns == 0) {
    std::int64_t r = begin;
    for (; r + 4 <= end; r += 4) {
      for (std::int64_t t = 0; t < m.tokens; ++t) {
        rows_times_row<4>(w + r * stride, stride, m.x + t * m.x_stride, m.columns,
                          m.y + t * m.y_stride + r);
      }
    }
    for (; r < end; ++r) {
      for (std::int64_t t = 0; t < m.tokens; ++t) {
        rows_times_row<1>(w + r * stride, stride, m.x + t * m.x_stride, m.columns,
                          m.y + t * m.y_stride + r);
      }
    }
    return;
  }
  constexpr std::int64_t cached_bytes = 768 * 1024;
  const std::int64_t row_bytes =
      std::max<std::int64_t>(m.columns, 1) * static_cast<std::int64_t>(sizeof(W));
  const std::int64_t block =
      std::clamp<std::int64_t>(cached_bytes / row_bytes / 4 * 4, 4, row_block);
  for (std::int64_t r = begin; r < end; r += block) {
    for (std::int64_t t = 0; t < m.tokens; t += token_tile) {
      block_times_tokens(m, w, r, std::min(end, r + block), t,
                         std::min<std::int64_t>(token_tile, m.tokens - t));
    }
  }
}

}  // namespace avx2
ZIYA_NAMESPACE_END
#endif
