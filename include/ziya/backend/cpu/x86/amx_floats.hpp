// SPDX-License-Identifier: Apache-2.0
// Products of 16-bit and 32-bit floats with AMX: every number is the sum of up to three bf16, whose
// products tiles add up in 32-bit floats.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/amx_tiles.hpp"
#include "ziya/backend/cpu/x86/avx512_vector.hpp"

ZIYA_NAMESPACE_BEGIN
/// x = x₁ + x₂ + x₃ exactly: x₁ is x rounded to bf16, x₂ what is left, rounded, x₃ the rest. A
/// weight of bf16 is one part, of f16 two, of f32 three. wᵢ xⱼ is left out where i + j > 4, less
/// than 2⁻²³ of the product. Parts below 2⁻¹²⁶ count as zero, and so do their products. An infinity
/// gives an infinity or NaN.
namespace amx_floats {

using namespace avx512;

inline constexpr std::int64_t tile_bytes = 1024;  // 16 rows of 16 floats or of 32 bf16
inline constexpr std::int64_t tile_columns = 32;
inline constexpr std::int64_t depth = 512;        // columns at a time
inline constexpr std::int64_t row_block = 256;    // rows of w at a time, at most
inline constexpr std::int64_t token_block = 512;  // tokens at a time, at most
inline constexpr int x_parts = 3;

/// How many parts a weight has.
template <class W>
inline constexpr int parts_of = std::is_same_v<W, float>  ? 3
                                : std::is_same_v<W, Half> ? 2
                                                          : 1;

/// Bytes of the tiles of 16 rows in so many parts.
constexpr std::int64_t tiled_bytes(std::int64_t columns, int parts) {
  return (columns + tile_columns - 1) / tile_columns * parts * tile_bytes;
}

/// 32 numbers in parts; pair l of a part is columns l and l + 16.
template <int Count>
struct Split {
  __m512i part[Count];
};
/// 16 numbers rounded to bf16, to the nearest; cut where that would be an infinity.
ZIYA_TARGET_AVX512 inline __m512i rounded(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __mmask16 stays = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f7f8000));
  return _mm512_and_si512(_mm512_mask_add_epi32(bits, stays, bits, _mm512_set1_epi32(0x8000)),
                          _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
}
template <int Count>
ZIYA_TARGET_AVX512 inline Split<Count> split(__m512 low, __m512 high) {
  Split<Count> result;
#pragma GCC unroll 3
  for (int p = 0; p < Count; ++p) {
    const bool last = p + 1 == Count;  // what is left has 8 bits
    const __m512i l = last ? _mm512_castps_si512(low) : rounded(low);
    const __m512i h = last ? _mm512_castps_si512(high) : rounded(high);
    result.part[p] = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_maskz_srli_epi32(all, l, 16), h);
    if (!last) {
      low = subtract(low, _mm512_castsi512_ps(l));
      high = subtract(high, _mm512_castsi512_ps(h));
    }
  }
  return result;
}

/// Columns [i, i + 32) of a row of `columns`, zeros beyond its end.
template <class T>
ZIYA_TARGET_AVX512 inline Split<parts_of<T>> split_at(const T* row, std::int64_t i,
                                                      std::int64_t columns) {
  if (i + tile_columns <= columns) {
    return split<parts_of<T>>(load(row + i), load(row + i + lanes));
  }
  const std::int64_t rest = columns - i;
  return split<parts_of<T>>(load(row + i, std::min(rest, lanes)),
                            rest > lanes ? load(row + i + lanes, rest - lanes) : zero());
}

ZIYA_TARGET_AVX512 inline __m512i low_words(__m512i a, __m512i b) {
  return _mm512_maskz_unpacklo_epi32(all, a, b);
}
ZIYA_TARGET_AVX512 inline __m512i high_words(__m512i a, __m512i b) {
  return _mm512_maskz_unpackhi_epi32(all, a, b);
}

/// v[i] ← word i of every vector
ZIYA_TARGET_AVX512 inline void transpose(__m512i (&v)[16]) {
  __m512i a[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // a[i + k]: words 4 q + k of rows i … i + 3 in quarter q
    const __m512i p = low_words(v[i], v[i + 1]), q = low_words(v[i + 2], v[i + 3]);
    const __m512i r = high_words(v[i], v[i + 1]), s = high_words(v[i + 2], v[i + 3]);
    a[i] = _mm512_maskz_unpacklo_epi64(0xff, p, q);
    a[i + 1] = _mm512_maskz_unpackhi_epi64(0xff, p, q);
    a[i + 2] = _mm512_maskz_unpacklo_epi64(0xff, r, s);
    a[i + 3] = _mm512_maskz_unpackhi_epi64(0xff, r, s);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const __m512i p = _mm512_maskz_shuffle_i32x4(all, a[k], a[k + 4], 0x88);
    const __m512i q = _mm512_maskz_shuffle_i32x4(all, a[k + 8], a[k + 12], 0x88);
    const __m512i r = _mm512_maskz_shuffle_i32x4(all, a[k], a[k + 4], 0xdd);
    const __m512i s = _mm512_maskz_shuffle_i32x4(all, a[k + 8], a[k + 12], 0xdd);
    v[k] = _mm512_maskz_shuffle_i32x4(all, p, q, 0x88);
    v[k + 8] = _mm512_maskz_shuffle_i32x4(all, p, q, 0xdd);
    v[k + 4] = _mm512_maskz_shuffle_i32x4(all, r, s, 0x88);
    v[k + 12] = _mm512_maskz_shuffle_i32x4(all, r, s, 0xdd);
  }
}

/// `tokens` ≤ 16 rows of x as second operands, tiles (column / 32, part): pairs of columns ×
/// tokens.
ZIYA_TARGET_AVX512 inline void pack(float* packed, const float* x, std::int64_t x_stride,
                                    std::int64_t tokens, std::int64_t columns) {
  auto* to = reinterpret_cast<std::byte*>(packed);
  for (std::int64_t i = 0; i < columns; i += tile_columns) {
    __m512i parts[x_parts][16] = {};
    for (std::int64_t t = 0; t < tokens; ++t) {
      const Split<x_parts> row = split_at(x + t * x_stride, i, columns);
      for (int p = 0; p < x_parts; ++p) parts[p][t] = row.part[p];
    }
    for (__m512i(&part)[16] : parts) {
      transpose(part);
      for (int t = 0; t < 16; ++t, to += 64) _mm512_storeu_si512(to, part[t]);
    }
  }
}
inline std::int64_t packed_floats(std::int64_t columns) {
  return tiled_bytes(columns, x_parts) / static_cast<std::int64_t>(sizeof(float));
}

/// `count` columns of a row, or zeros for null, in first operands: a row of tiles (column / 32,
/// part).
template <class W>
ZIYA_TARGET_AVX512 inline void pack_row(std::byte* to, const W* w, std::int64_t count) {
  constexpr int parts = parts_of<W>;
  for (std::int64_t i = 0; i < count; i += tile_columns) {
    Split<parts> row{};
    if (w != nullptr) row = split_at(w, i, count);
#pragma GCC unroll 3
    for (int p = 0; p < parts; ++p, to += tile_bytes) _mm512_storeu_si512(to, row.part[p]);
  }
}
/// `count` columns of 16 rows of w as first operands, tiles (column / 32, part): rows × pairs of
/// columns; zeros beyond `rows`.
template <class W>
ZIYA_TARGET_AVX512 inline void pack_rows(std::byte* tiles, const W* w, std::int64_t stride,
                                         std::int64_t rows, std::int64_t count) {
  for (std::int64_t r = 0; r < 16; ++r, w += stride) {
    pack_row(tiles + r * 64, r < rows ? w : nullptr, count);
  }
}

/// Two tiles of an operand, `apart` bytes from one to the other, or of sums in one direction.
struct TilePair {
  const std::byte* at;
  std::int64_t apart;
};
/// 2 × 2 tiles of sums: bytes from a row to the next, from a tile to the one beside it and below.
struct TileSquare {
  std::byte* at;
  std::int64_t stride, beside, below;
};

/// The products of parts, small ones first, each with one of the operands before.
inline constexpr struct { int a, b; } products[] = {{0, 2}, {0, 1}, {1, 1}, {1, 0}, {2, 0}, {0, 0}};

/// sums + a (32 rows) × b (32 rows), `steps` times 32 columns; from zero if it is the first time.
template <int A, int B>
ZIYA_TARGET_AMX inline void add_products(TileSquare sums, bool first, TilePair a, TilePair b,
                                         std::int64_t steps) {
  // g++ 12 does not believe that tiles are loaded from memory
  asm volatile("" : : : "memory");
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums.at, sums.stride);
    _tile_loadd(1, sums.at + sums.beside, sums.stride);
    _tile_loadd(2, sums.at + sums.below, sums.stride);
    _tile_loadd(3, sums.at + sums.below + sums.beside, sums.stride);
  }
  for (; steps > 0; --steps, a.at += A * tile_bytes, b.at += B * tile_bytes) {
    int of_a = -1, of_b = -1;
#pragma GCC unroll 6
    for (const auto& p : products) {
      if (p.a >= A || p.b >= B) continue;
      // a tile is loaded while the one before is multiplied
      if (p.a != of_a) {
        _tile_loadd(4, a.at + p.a * tile_bytes, 64);
        _tile_loadd(5, a.at + a.apart + p.a * tile_bytes, 64);
      }
      if (p.b != of_b) _tile_loadd(6, b.at + p.b * tile_bytes, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      if (p.b != of_b) _tile_loadd(7, b.at + b.apart + p.b * tile_bytes, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
      of_a = p.a, of_b = p.b;
    }
  }
  _tile_stored(0, sums.at, sums.stride);
  _tile_stored(1, sums.at + sums.beside, sums.stride);
  _tile_stored(2, sums.at + sums.below, sums.stride);
  _tile_stored(3, sums.at + sums.below + sums.beside, sums.stride);
  asm volatile("" : : : "memory");
}

/// y[t · y_stride + r] = sums[r][t] of 16 rows × 16 tokens, as many as are there.
ZIYA_TARGET_AVX512 inline void store_outputs(float* y, std::int64_t y_stride, std::int64_t rows,
                                             std::int64_t tokens, const std::byte* sums) {
  __m512i v[16];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) v[r] = _mm512_loadu_si512(sums + r * 64);
  transpose(v);
  const __mmask16 there = mask(std::min<std::int64_t>(rows, 16));
#pragma GCC unroll 16
  for (int t = 0; t < 16; ++t) {
    if (t < tokens) _mm512_mask_storeu_epi32(y + t * y_stride, there, v[t]);
  }
}

/// A block of at most row_block rows × token_block tokens of a product.
template <class W>
struct Block {
  static constexpr int parts = parts_of<W>;
  static constexpr std::int64_t w_apart = tiled_bytes(depth, parts);
  static constexpr std::int64_t sums_apart = token_block / 16 * tile_bytes;
  static_assert(row_block / 16 * (w_apart + sums_apart) <= 4 * matmul_scratch_floats);

  const MatmulArguments& m;
  const W* w;                        ///< the first row
  std::int64_t rows, first, tokens;  ///< tokens from `first` on, a multiple of 16
  std::byte* tiles = reinterpret_cast<std::byte*>(m.scratch);  ///< of w, 16 rows every w_apart
  std::byte* sums = tiles + row_block / 16 * w_apart;          ///< (rows / 16, tokens / 16) tiles

  /// Columns from i on: w in parts stays in the second-level cache and meets 32 tokens at a time.
  ZIYA_TARGET_AMX void add_columns(std::int64_t i) const {
    const std::int64_t count = std::min(depth, m.columns - i);
    const std::int64_t x_apart = tiled_bytes(m.columns, x_parts);
    for (std::int64_t r = 0; r < (rows + 31) / 32 * 32; r += 16) {
      pack_rows(tiles + r / 16 * w_apart, w + r * m.weight_stride + i, m.weight_stride, rows - r,
                count);
    }
    for (std::int64_t t = 0; t < tokens; t += 32) {
      const TilePair x{reinterpret_cast<const std::byte*>(m.packed) + (first + t) / 16 * x_apart +
                           tiled_bytes(i, x_parts),
                       t + 16 < tokens ? x_apart : 0};
      for (std::int64_t r = 0; r < rows; r += 32) {
        std::byte* const to = sums + r / 16 * sums_apart + t / 16 * tile_bytes;
        add_products<parts, x_parts>({to, 64, tile_bytes, sums_apart}, i == 0,
                                     {tiles + r / 16 * w_apart, w_apart}, x,
                                     (count + tile_columns - 1) / tile_columns);
      }
    }
  }
  ZIYA_TARGET_AMX void run(std::int64_t output) const {
    for (std::int64_t i = 0; i < m.columns; i += depth) add_columns(i);
    for (std::int64_t t = 0; t < tokens; t += 16) {
      float* y = m.y + (first + t) * m.y_stride + output;
      for (std::int64_t r = 0; r < rows; r += 16) {
        store_outputs(y + r, m.y_stride, rows - r, tokens - t,
                      sums + r / 16 * sums_apart + t / 16 * tile_bytes);
      }
    }
  }
};

/// Outputs [begin, end) of all tokens, whose x is packed. An output is summed in the order of the
/// columns, whatever is beside it.
template <class W>
ZIYA_TARGET_AMX inline void matmul_of(const MatmulArguments& m, const W* w, std::int64_t begin,
                                      std::int64_t end) {
  TileShapes shapes;
  shapes.set(16, 64);
  for (std::int64_t r = begin; r < end; r += row_block) {
    for (std::int64_t t = 0; t < m.tokens; t += token_block) {
      Block<W>{m, w + r * m.weight_stride, std::min(row_block, end - r), t,
               std::min(token_block, m.tokens - t)}
          .run(r);
    }
  }
  shapes.release();
}

inline constexpr TokenPacking packing{64, 16, &packed_floats, &pack};

}  // namespace amx_floats
ZIYA_NAMESPACE_END
#endif
