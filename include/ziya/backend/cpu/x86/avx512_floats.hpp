// SPDX-License-Identifier: Apache-2.0
// Products of 16-bit and 32-bit floats with AVX-512.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/avx512_vector.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

inline constexpr std::int64_t columns_ahead = 512;  // of 16 bits: 1 KB

/// R rows of w × one row of x, sums[r · y_stride]; 16-bit rows are requested 1 KB ahead, because
/// the processor's own requests come too late for their shorter rows. The pragmas keep the sums in
/// registers at -O2 too.
template <int R, class W>
ZIYA_TARGET_AVX512 inline void rows_times_row(const W* w, std::int64_t w_stride, const float* x,
                                              std::int64_t columns, float* y,
                                              std::int64_t y_stride = 1) {
  __m512 sums[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sums[r] = zero();
  const std::int64_t whole = columns / lanes * lanes;
  for (std::int64_t i = 0; i < whole; i += lanes) {
    const __m512 a = load(x + i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      if constexpr (R > 1 && sizeof(W) == 2) {
        _mm_prefetch(reinterpret_cast<const char*>(w + r * w_stride + i + columns_ahead),
                     _MM_HINT_T0);
      }
      sums[r] = fma(a, load(w + r * w_stride + i), sums[r]);
    }
  }
  if (whole < columns) {
    const std::int64_t rest = columns - whole;
    const __m512 a = load(x + whole, rest);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sums[r] = fma(a, load(w + r * w_stride + whole, rest), sums[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) y[r * y_stride] = sum(sums[r]);
}

inline constexpr int token_tile = 6;            // rows of x that meet a row of w at once, at most
inline constexpr std::int64_t depth = 1024;     // columns at a time
inline constexpr std::int64_t row_block = 128;  // rows of w at a time, at most
inline constexpr std::int64_t stream_tokens = 48;  // rows of x that w streams by, at most
inline constexpr std::int64_t block_floats = 192 * 1024;  // of w or of sums at a time, at most

/// Rows of x side by side in a tile of `tokens`: 2, 4 or 6.
constexpr std::int64_t tile_width(std::int64_t tokens) {
  return std::min<std::int64_t>((tokens + 1) / 2 * 2, token_tile);
}

/// Floats of a tile of packed tokens.
inline std::int64_t packed_floats(std::int64_t columns) {
  return token_tile * ((columns + lanes - 1) / lanes * lanes);
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
template <int T, class W>
ZIYA_TARGET_AVX512 inline void rows_times_packed(const RowsOf<W>& w, const float* packed,
                                                 std::int64_t count, const Carried& carried) {
  __m512 sums[4][T];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t)
      sums[r][t] = carried.first ? zero() : load(carried.sums + (r * T + t) * lanes);
  }
  const std::int64_t whole = count / lanes * lanes;
  std::int64_t ahead = 0;
  for (std::int64_t i = 0; i < whole; i += lanes, packed += T * lanes, ahead += w.step) {
    __m512 a[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) a[t] = load(packed + t * lanes);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      _mm_prefetch(w.ahead[r] + ahead, _MM_HINT_T0);
      const __m512 b = load(w.at[r] + i);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[r][t] = fma(a[t], b, sums[r][t]);
    }
  }
  if (whole < count) {
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const __m512 b = load(w.at[r] + whole, count - whole);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[r][t] = fma(load(packed + t * lanes), b, sums[r][t]);
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
  alignas(64) float results[T][4];
  store_sums<T>(results, sums);
  for (std::int64_t t = 0; t < std::min<std::int64_t>(T, carried.tokens); ++t) {
    float* y = carried.y + t * carried.y_stride;
    if (carried.rows == 4 && carried.apart == 1) {
      _mm_storeu_ps(y, _mm_load_ps(results[t]));
    } else {
      for (std::int64_t r = 0; r < carried.rows; ++r) y[r * carried.apart] = results[t][r];
    }
  }
}
template <class W>
ZIYA_TARGET_AVX512 inline void rows_times_tile(const RowsOf<W>& w, const float* packed,
                                               std::int64_t count, const Carried& carried) {
  if (carried.tokens > 4) return rows_times_packed<6>(w, packed, count, carried);
  if (carried.tokens > 2) return rows_times_packed<4>(w, packed, count, carried);
  rows_times_packed<2>(w, packed, count, carried);
}

/// Columns [0, count) of `tokens` ≤ token_tile rows of x: vector i of every row, then vector i + 1;
/// zeros for what is missing.
ZIYA_TARGET_AVX512 inline void pack(float* packed, const float* x, std::int64_t x_stride,
                                    std::int64_t tokens, std::int64_t count) {
  const std::int64_t width = tile_width(tokens);
  for (std::int64_t i = 0; i < count; i += lanes, packed += width * lanes) {
    const std::int64_t rest = std::min(count - i, lanes);
    for (std::int64_t t = 0; t < width; ++t) {
      store(packed + t * lanes, t >= tokens    ? zero()
                                : rest < lanes ? load(x + t * x_stride + i, rest)
                                               : load(x + t * x_stride + i));
    }
  }
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
template <class W>
ZIYA_TARGET_AVX512 inline void block_times_tokens(const MatmulArguments& m, const W* w,
                                                  std::int64_t stride, std::int64_t begin,
                                                  std::int64_t end, std::int64_t first,
                                                  std::int64_t tokens) {
  alignas(64) float own[token_tile * depth];
  alignas(64) float sums[row_block * token_tile * lanes];
  const std::int64_t width = tile_width(tokens);
  const std::int64_t later = tile_width(std::max<std::int64_t>(m.tokens - first - tokens, 0));
  const std::int64_t tile_floats = packed_floats(m.columns);
  const float* tile = m.packed == nullptr ? nullptr : m.packed + first / token_tile * tile_floats;
  for (std::int64_t i = 0; i < m.columns; i += depth) {
    const std::int64_t count = std::min(depth, m.columns - i);
    const float* packed = own;
    if (tile == nullptr) {
      pack(own, m.x + first * m.x_stride + i, m.x_stride, tokens, count);
    } else {
      packed = tile + width * i;
    }
    Carried carried{sums,       i == 0, i + count == m.columns, m.y + first * m.y_stride + begin,
                    m.y_stride, tokens};
    for (std::int64_t r = begin; r < end;
         r += 4, carried.sums += 4 * width * lanes, carried.y += 4) {
      carried.rows = std::min<std::int64_t>(end - r, 4);
      RowsOf<W> rows = four_rows(w + (r - begin) * stride + i, stride, 1, carried.rows);
      if (tile != nullptr && r - begin < 4 * later) {
        // a row of the next tile's x, a quarter of it beside each row of w
        const float* next = tile + tile_floats + later * i + (r - begin) / 4 * count;
        for (int k = 0; k < 4; ++k) {
          rows.ahead[k] = reinterpret_cast<const char*>(next + k * count / 4);
        }
        rows.step = lanes;
      }
      rows_times_tile(rows, packed, count, carried);
    }
  }
}

/// Rows of w of which 32-bit floats stay in the second-level cache.
constexpr std::int64_t block_rows(std::int64_t columns) {
  const std::int64_t rows = block_floats / std::max<std::int64_t>(columns, 1) / 4 * 4;
  return rows < 4 ? 4 : rows < row_block ? rows : row_block;
}

/// Outputs [begin, end), whose rows lie from w on, of all tokens.
template <class W>
ZIYA_TARGET_AVX512 inline void times_tiles(const MatmulArguments& m, const W* w,
                                           std::int64_t stride, std::int64_t begin,
                                           std::int64_t end) {
  for (std::int64_t t = 0; t < m.tokens; t += token_tile) {
    block_times_tokens(m, w, stride, begin, end, t,
                       std::min<std::int64_t>(token_tile, m.tokens - t));
  }
}

template <class W>
ZIYA_TARGET_AVX512 inline void widen(float* to, const W* from, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, load(from + i));
  if (i < count) store(to + i, load(from + i, count - i));
}

/// A product of a few packed tokens: w streams by once, in four streams of rows, a part of four
/// rows meets all tiles from the first-level cache while the next part is requested; x stays in the
/// second level, as many columns at a time as do.
template <class W>
struct Streamed {
  const MatmulArguments& m;
  const W* w;
  std::int64_t first, tokens;  ///< of x; first a multiple of token_tile
  std::int64_t tiles = (tokens + token_tile - 1) / token_tile;
  std::int64_t row_sums = tiles * token_tile * lanes;  ///< carried floats of a row

  /// Columns [i, end) of `rows` rows of w from `row` on, `apart` rows from one to the next.
  ZIYA_TARGET_AVX512 void meet(std::int64_t row, std::int64_t apart, std::int64_t rows,
                               std::int64_t i, std::int64_t end, float* sums) const {
    constexpr bool widens = sizeof(W) < sizeof(float);
    alignas(64) float wide[widens ? 4 * depth : 1];
    const std::int64_t tile_floats = packed_floats(m.columns), begin = i;
    for (; i < end; i += depth) {
      const std::int64_t count = std::min(depth, end - i);
      RowsOf<W> part = four_rows(w + row * m.weight_stride + i, m.weight_stride, apart, rows);
      const std::int64_t next =
          i + count < end ? count : (apart == 1 ? 4 : 1) * m.weight_stride + begin - i;
      const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(W));
      RowsOf<float> wide_part = four_rows<float>(wide, depth, 1, 4);
      if constexpr (widens) {
        for (int k = 0; k < 4 && tiles > 2; ++k) widen(wide + k * depth, part.at[k], count);
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
        const float* x = m.packed + t / token_tile * tile_floats + tile_width(carried.tokens) * i;
        for (int k = 0; k < 4; ++k) {
          part.ahead[k] = reinterpret_cast<const char*>(part.at[k] + next) + n * bytes / tiles;
          wide_part.ahead[k] = part.ahead[k];
        }
        part.step = wide_part.step =
            (lanes * static_cast<std::int64_t>(sizeof(W)) + tiles - 1) / tiles;
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
    constexpr std::int64_t cached_floats = 128 * 1024;
    const std::int64_t panel =
        std::max(cached_floats / (tiles * token_tile) / depth, std::int64_t{1}) * depth;
    const bool whole = panel >= m.columns;
    const std::int64_t block = whole ? end - begin : block_floats / row_sums / 4 * 4;
    for (std::int64_t r = begin; r < end; r += block) {
      const std::int64_t rows = std::min(block, end - r), quarter = rows / 4;
      // outputs that lie a quarter apart are written one by one, which is dear for many short sums
      const bool adjacent = m.columns < depth && tiles > 1;
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

/// A single token: the weight streams by. Many: blocks of it that stay in the second-level cache,
/// widened or copied together once for all, meet them tile by tile. Else, or if rows are too wide
/// for that, Streamed. Lane l of every sum runs over the columns l, l + lanes, … either way.
template <class W>
ZIYA_TARGET_AVX512 inline void matmul_of(const MatmulArguments& m, const W* w, std::int64_t begin,
                                         std::int64_t end) {
  const std::int64_t stride = m.weight_stride;
  if (m.columns == 0 || (m.packed == nullptr && m.tokens < token_tile)) {
    // four streams through memory, a quarter of the rows each
    const std::int64_t quarter = (end - begin) / 4;
    for (std::int64_t r = begin; r < begin + quarter; ++r) {
      for (std::int64_t t = 0; t < m.tokens; ++t) {
        rows_times_row<4>(w + r * stride, quarter * stride, m.x + t * m.x_stride, m.columns,
                          m.y + t * m.y_stride + r, quarter);
      }
    }
    for (std::int64_t r = begin + 4 * quarter; r < end; ++r) {
      for (std::int64_t t = 0; t < m.tokens; ++t) {
        rows_times_row<1>(w + r * stride, stride, m.x + t * m.x_stride, m.columns,
                          m.y + t * m.y_stride + r);
      }
    }
    return;
  }
  const std::int64_t width = (m.columns + lanes - 1) / lanes * lanes;
  const std::int64_t block = block_rows(width);
  if (m.packed == nullptr) {
    for (std::int64_t r = begin; r < end; r += block) {
      times_tiles(m, w + r * stride, stride, r, std::min(end, r + block));
    }
  } else if (m.tokens > stream_tokens && block >= row_block / 4) {
    for (std::int64_t r = begin; r < end; r += block) {
      const std::int64_t last = std::min(end, r + block);
      for (std::int64_t i = 0; i < last - r; ++i) {
        widen(m.scratch + i * width, w + (r + i) * stride, m.columns);
      }
      times_tiles(m, m.scratch, width, r, last);
    }
  } else {
    for (std::int64_t t = 0; t < m.tokens; t += stream_tokens) {
      Streamed<W>{m, w, t, std::min(stream_tokens, m.tokens - t)}.run(begin, end);
    }
  }
}

inline constexpr TokenPacking packing{2, token_tile, &packed_floats, &pack};

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
