// SPDX-License-Identifier: Apache-2.0
// Products of 16-bit and 32-bit floats with AVX-512: rows of w with tiles of packed tokens, and the
// choice between those and single rows.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/avx512_float_rows.hpp"
#include "ziya/backend/cpu/x86/avx512_vector.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

template <class X>
inline constexpr std::int64_t depth = 64 * columns_of<X>;  // columns at a time
inline constexpr std::int64_t row_block = 128;             // rows of w at a time, at most
inline constexpr std::int64_t stream_tokens = 48;          // rows of x that w streams by, at most
inline constexpr std::int64_t block_floats = 192 * 1024;   // of w or of sums at a time, at most

/// Rows of x side by side in a tile of `tokens`: 1, 2, 4 or 6.
constexpr std::int64_t tile_width(std::int64_t tokens) {
  return tokens == 1 ? 1 : std::min<std::int64_t>((tokens + 1) / 2 * 2, token_tile);
}

/// Columns in whole vectors.
template <class X>
constexpr std::int64_t padded_columns(std::int64_t columns) {
  return (columns + columns_of<X> - 1) / columns_of<X> * columns_of<X>;
}
/// Floats that a tile of packed tokens takes.
template <class X>
inline std::int64_t packed_floats(std::int64_t columns) {
  return token_tile * padded_columns<X>(columns) * static_cast<std::int64_t>(sizeof(X)) / 4;
}

/// Four rows of w, and what is requested while they are met: a line each, `step` bytes apart.
template <class W>
struct RowsOf {
  const W* at[4];
  const char* ahead[4];
  std::int64_t step;
};

/// Where the sums of four rows of w × a tile of x are between two parts of the columns, and where
/// those of `rows` rows and `tokens` tokens go after the last part: y[t · y_stride + r · apart].
struct Carried {
  float* sums;  ///< (4, tile_width(tokens), lanes)
  bool first, last;
  float* y;
  std::int64_t y_stride, tokens;
  std::int64_t apart = 1, rows = 4;
};

/// Columns [0, count) of four rows of w × T rows of x, packed. The last part ends in the outputs.
template <int T, class X, class W>
ZIYA_TARGET_AVX512 inline void rows_times_packed(const RowsOf<W>& w, const X* packed,
                                                 std::int64_t count, const Carried& carried) {
  __m512 sums[4][T];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t)
      sums[r][t] = carried.first ? zero() : load(carried.sums + (r * T + t) * lanes);
  }
  constexpr std::int64_t step = columns_of<X>;
  const std::int64_t whole = count / step * step;
  std::int64_t ahead = 0;
  for (std::int64_t i = 0; i < whole; i += step, packed += T * step, ahead += w.step) {
    decltype(load_for<X>(packed)) a[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) a[t] = load_for<X>(packed + t * step);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      _mm_prefetch(w.ahead[r] + ahead, _MM_HINT_T0);
      const auto b = load_for<X>(w.at[r] + i);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[r][t] = add_product(sums[r][t], a[t], b);
    }
  }
  if (whole < count) {
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const auto b = load_for<X>(w.at[r] + whole, count - whole);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        sums[r][t] = add_product(sums[r][t], load_for<X>(packed + t * step), b);
      }
    }
  }
  if (!carried.last) {
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) store(carried.sums + (r * T + t) * lanes, sums[r][t]);
    }
    return;
  }
  if (carried.rows == 4 && carried.apart == 1 && carried.tokens == T) {
    store_sums(carried.y, carried.y_stride, sums);
    return;
  }
  alignas(64) float results[T][4];
  store_sums(results[0], 4, sums);
  for (std::int64_t t = 0; t < std::min<std::int64_t>(T, carried.tokens); ++t) {
    float* y = carried.y + t * carried.y_stride;
    for (std::int64_t r = 0; r < carried.rows; ++r) y[r * carried.apart] = results[t][r];
  }
}
template <class X, class W>
ZIYA_TARGET_AVX512 inline void rows_times_tile(const RowsOf<W>& w, const X* packed,
                                               std::int64_t count, const Carried& carried) {
  if (carried.tokens > 4) return rows_times_packed<6>(w, packed, count, carried);
  if (carried.tokens > 2) return rows_times_packed<4>(w, packed, count, carried);
  if (carried.tokens > 1) return rows_times_packed<2>(w, packed, count, carried);
  rows_times_packed<1>(w, packed, count, carried);
}

/// A vector of x from floats, or what there is of it and zeros.
ZIYA_TARGET_AVX512 inline void store_as(float* to, const float* x, std::int64_t rest) {
  store(to, rest < lanes ? load(x, rest) : load(x));
}
ZIYA_TARGET_AVX512 inline void store_as(BFloat16* to, const float* x, std::int64_t rest) {
  const __m512 low = rest < lanes ? load(x, rest) : load(x);
  const __m512 high = rest >= 2 * lanes ? load(x + lanes)
                      : rest > lanes    ? load(x + lanes, rest - lanes)
                                        : zero();
  _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/// Columns [0, count) of `tokens` ≤ token_tile rows of x: vector i of every row, then vector i + 1;
/// zeros for what is missing.
template <class X>
ZIYA_TARGET_AVX512 inline void pack_as(X* packed, const float* x, std::int64_t x_stride,
                                       std::int64_t tokens, std::int64_t count) {
  constexpr std::int64_t step = columns_of<X>;
  const std::int64_t width = tile_width(tokens);
  for (std::int64_t i = 0; i < count; i += step, packed += width * step) {
    for (std::int64_t t = 0; t < width; ++t) {
      if (t < tokens) {
        store_as(packed + t * step, x + t * x_stride + i, count - i);
      } else {
        _mm512_storeu_si512(packed + t * step, _mm512_setzero_si512());
      }
    }
  }
}
template <class X>
inline void pack(float* packed, const float* x, std::int64_t x_stride, std::int64_t tokens,
                 std::int64_t count) {
  pack_as(reinterpret_cast<X*>(packed), x, x_stride, tokens, count);
}

/// Four rows of w from `row` on, `apart` rows from one to the next; the last of `rows` for what is
/// missing. Nothing is requested.
template <class W>
ZIYA_TARGET_AVX512 inline RowsOf<W> four_rows(const W* row, std::int64_t stride, std::int64_t apart,
                                              std::int64_t rows) {
  RowsOf<W> result;
  result.step = 0;
  for (std::int64_t k = 0; k < 4; ++k) {
    result.at[k] = row + std::min(k, rows - 1) * apart * stride;
    result.ahead[k] = reinterpret_cast<const char*>(result.at[k]);
  }
  return result;
}

/// Outputs [begin, end), whose rows lie from w on, of `tokens` ≤ token_tile tokens from `first` on:
/// w stays in the second-level cache, a part of x in the first.
template <class X, class W>
ZIYA_TARGET_AVX512 inline void block_times_tokens(const MatmulArguments& m, const W* w,
                                                  std::int64_t stride, std::int64_t begin,
                                                  std::int64_t end, std::int64_t first,
                                                  std::int64_t tokens) {
  alignas(64) float sums[row_block * token_tile * lanes];
  const std::int64_t width = tile_width(tokens);
  const std::int64_t later = tile_width(std::max<std::int64_t>(m.tokens - first - tokens, 0));
  const std::int64_t tile_elements = token_tile * padded_columns<X>(m.columns);
  const X* tile = reinterpret_cast<const X*>(m.packed) + first / token_tile * tile_elements;
  for (std::int64_t i = 0; i < m.columns; i += depth<X>) {
    const std::int64_t count = std::min(depth<X>, m.columns - i);
    Carried carried{sums,       i == 0, i + count == m.columns, m.y + first * m.y_stride + begin,
                    m.y_stride, tokens};
    for (std::int64_t r = begin; r < end;
         r += 4, carried.sums += 4 * width * lanes, carried.y += 4) {
      carried.rows = std::min<std::int64_t>(end - r, 4);
      RowsOf<W> rows = four_rows(w + (r - begin) * stride + i, stride, 1, carried.rows);
      if (r - begin < 4 * later) {
        // a row of the next tile's x, a quarter of it beside each row of w
        const X* next = tile + tile_elements + later * i + (r - begin) / 4 * count;
        for (int k = 0; k < 4; ++k) {
          rows.ahead[k] = reinterpret_cast<const char*>(next + k * count / 4);
        }
        rows.step = 16;  // bytes: a quarter of a line beside each row
      }
      rows_times_tile(rows, tile + width * i, count, carried);
    }
  }
}

/// Rows of w of which elements of X stay in the second-level cache.
template <class X>
constexpr std::int64_t block_rows(std::int64_t columns) {
  constexpr std::int64_t elements = block_floats * 4 / static_cast<std::int64_t>(sizeof(X));
  const std::int64_t rows = elements / std::max<std::int64_t>(columns, 1) / 4 * 4;
  return rows < 4 ? 4 : rows < row_block ? rows : row_block;
}

/// Outputs [begin, end), whose rows lie from w on, of all tokens.
template <class X, class W>
ZIYA_TARGET_AVX512 inline void times_tiles(const MatmulArguments& m, const W* w,
                                           std::int64_t stride, std::int64_t begin,
                                           std::int64_t end) {
  for (std::int64_t t = 0; t < m.tokens; t += token_tile) {
    block_times_tokens<X>(m, w, stride, begin, end, t,
                          std::min<std::int64_t>(token_tile, m.tokens - t));
  }
}

/// A row of w as elements of X, or a copy of it.
template <class X, class W>
ZIYA_TARGET_AVX512 inline void widen(X* to, const W* from, std::int64_t count) {
  if constexpr (std::is_same_v<X, W>) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(X));
  } else {
    std::int64_t i = 0;
    for (; i + lanes <= count; i += lanes) store(to + i, load(from + i));
    if (i < count) store(to + i, load(from + i, count - i));
  }
}

/// A product of a few packed tokens: w streams by once, in four streams of rows, a part of four
/// rows meets all tiles from the first-level cache while the next part is requested; x stays in the
/// second level, as many columns at a time as do. A single tile meets all of those columns at once.
template <class X, class W>
struct Streamed {
  const MatmulArguments& m;
  const W* w;
  std::int64_t first, tokens;  ///< of x; first a multiple of token_tile
  std::int64_t tiles = (tokens + token_tile - 1) / token_tile;
  std::int64_t row_sums = tiles * token_tile * lanes;  ///< carried floats of a row

  /// Columns [i, end) of `rows` rows of w from `row` on, `apart` rows from one to the next.
  ZIYA_TARGET_AVX512 void meet(std::int64_t row, std::int64_t apart, std::int64_t rows,
                               std::int64_t i, std::int64_t end, float* sums) const {
    constexpr bool widens = sizeof(W) < sizeof(X);
    alignas(64) X wide[widens ? 4 * depth<X> : 1];
    const std::int64_t tile_elements = token_tile * padded_columns<X>(m.columns), begin = i;
    const std::int64_t most = tiles == 1 ? end - begin : depth<X>;
    for (; i < end; i += most) {
      const std::int64_t count = std::min(most, end - i);
      RowsOf<W> part = four_rows(w + row * m.weight_stride + i, m.weight_stride, apart, rows);
      const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(W));
      const std::int64_t next = tiles == 1 ? bytes_ahead / static_cast<std::int64_t>(sizeof(W))
                                : i + most < end
                                    ? count
                                    : (apart == 1 ? 4 : 1) * m.weight_stride + begin - i;
      RowsOf<X> wide_part = four_rows<X>(wide, depth<X>, 1, 4);
      if constexpr (widens) {
        for (int k = 0; k < 4 && tiles > 2; ++k) widen(wide + k * depth<X>, part.at[k], count);
      }
      for (std::int64_t n = 0; n < tiles; ++n) {
        const std::int64_t t = first + n * token_tile;
        const Carried carried{sums + 4 * n * token_tile * lanes,
                              i == 0,
                              i + count == m.columns,
                              m.y + t * m.y_stride + row,
                              m.y_stride,
                              std::min<std::int64_t>(token_tile, first + tokens - t),
                              apart,
                              rows};
        const X* x = reinterpret_cast<const X*>(m.packed) + t / token_tile * tile_elements +
                     tile_width(carried.tokens) * i;
        for (int k = 0; k < 4; ++k) {
          part.ahead[k] = reinterpret_cast<const char*>(part.at[k] + next) + n * bytes / tiles;
          wide_part.ahead[k] = part.ahead[k];
        }
        part.step = wide_part.step =
            (columns_of<X> * static_cast<std::int64_t>(sizeof(W)) + tiles - 1) / tiles;
        if (widens && tiles > 2) {
          rows_times_tile(wide_part, x, count, carried);
        } else {
          rows_times_tile(part, x, count, carried);
        }
      }
    }
  }

  /// Outputs [begin, end).
  ZIYA_TARGET_AVX512 void run(std::int64_t begin, std::int64_t end) const {
    constexpr std::int64_t cached = 512 * 1024 / static_cast<std::int64_t>(sizeof(X));
    const std::int64_t panel =
        std::max(cached / (tiles * token_tile) / depth<X>, std::int64_t{1}) * depth<X>;
    const bool whole = panel >= m.columns;
    const std::int64_t block = whole ? end - begin : block_floats / row_sums / 4 * 4;
    for (std::int64_t r = begin; r < end; r += block) {
      const std::int64_t rows = std::min(block, end - r), quarter = rows / 4;
      // outputs that lie a quarter apart are written one by one, which is dear for many short sums
      const bool adjacent = m.columns < depth<X> && tiles > 1;
      const std::int64_t apart = adjacent ? 1 : quarter, step = adjacent ? 4 : 1;
      for (std::int64_t i = 0; i < m.columns; i += panel) {
        const std::int64_t last = std::min(m.columns, i + panel);
        float* sums = m.scratch;
        for (std::int64_t k = 0; k < quarter; ++k, sums += whole ? 0 : 4 * row_sums) {
          meet(r + k * step, apart, 4, i, last, sums);
        }
        if (4 * quarter < rows) meet(r + 4 * quarter, 1, rows - 4 * quarter, i, last, sums);
      }
    }
  }
};

/// Packed tokens. Many: blocks of w that stay in the second-level cache, widened or copied together
/// once for all, meet them tile by tile. Else, or if rows are too wide for that, Streamed; or a
/// single one, whose tile is a row.
template <class X, class W>
ZIYA_TARGET_AVX512 inline void matmul_packed(const MatmulArguments& m, const W* w,
                                             std::int64_t begin, std::int64_t end) {
  const std::int64_t width = padded_columns<X>(m.columns), block = block_rows<X>(width);
  if (m.tokens == 1) {
    stream_rows(m, w, reinterpret_cast<const X*>(m.packed), 0, begin, end);
  } else if (m.tokens > stream_tokens && block >= row_block / 4) {
    X* const rows = reinterpret_cast<X*>(m.scratch);
    for (std::int64_t r = begin; r < end; r += block) {
      const std::int64_t last = std::min(end, r + block);
      for (std::int64_t i = 0; i < last - r; ++i) {
        widen(rows + i * width, w + (r + i) * m.weight_stride, m.columns);
      }
      times_tiles<X>(m, rows, width, r, last);
    }
  } else {
    for (std::int64_t t = 0; t < m.tokens; t += stream_tokens) {
      Streamed<X, W>{m, w, t, std::min(stream_tokens, m.tokens - t)}.run(begin, end);
    }
  }
}

/// x in 32 bits, packed or not. Lane l of every sum runs over the columns l, l + lanes, … either
/// way.
template <class W>
ZIYA_TARGET_AVX512 inline void matmul_of(const MatmulArguments& m, const W* w, std::int64_t begin,
                                         std::int64_t end) {
  if (m.columns > 0 && m.packed != nullptr) return matmul_packed<float>(m, w, begin, end);
  std::int64_t t = 0;
  for (; t + token_tile <= m.tokens && m.columns <= short_row; t += token_tile) {
    short_rows_times_tile(m, w, begin, end, t);
  }
  stream_rows(m, w, m.x, m.x_stride, begin, end, t);
}

inline constexpr TokenPacking packing{2, token_tile, &packed_floats<float>, &pack<float>};
/// Rounds x to bf16, to nearest even, subnormal numbers to zeros.
inline constexpr TokenPacking bf16_packing{1, token_tile, &packed_floats<BFloat16>,
                                           &pack<BFloat16>};

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
