// SPDX-License-Identifier: Apache-2.0
// Products of floats and many tokens with AVX2 and FMA, one lane of the sums after the other.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <algorithm>
#include <cstdint>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/avx2_vector.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx2 {

// Lane l of an output sums the columns l, l + 8, …, and the lanes are added in a fixed tree. For
// many tokens each lane is a product of its own: column by column, lane_rows rows of w, in lanes of
// vectors, × lane_tokens rows of x, so that sums pass through memory once per lane_steps columns.
inline constexpr std::int64_t lane_rows = 16, lane_tokens = 6;
inline constexpr std::int64_t lane_steps = 256;  // columns of a lane at a time
inline constexpr std::int64_t lane_columns = lane_steps * lanes;
inline constexpr std::int64_t lane_sums = lane_rows * lane_tokens;  // of a tile
inline constexpr std::int64_t lane_batch = 86 * lane_tokens;        // tokens that share a panel
inline constexpr std::int64_t lane_shift = 16;  // floats between lanes, so that they share no set

/// Columns of a lane among `columns`.
inline std::int64_t steps_of(std::int64_t columns) { return (columns + lanes - 1) / lanes; }

/// Rows become columns.
ZIYA_TARGET_AVX2 inline void transpose(__m256 (&v)[8]) {
  __m256 pairs[8], fours[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 4) {
    fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], _MM_SHUFFLE(1, 0, 1, 0));
    fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], _MM_SHUFFLE(3, 2, 3, 2));
    fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], _MM_SHUFFLE(1, 0, 1, 0));
    fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], _MM_SHUFFLE(3, 2, 3, 2));
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}

/// v[l] = column l of up to 8 rows and columns, zeros for what is missing.
template <class T>
ZIYA_TARGET_AVX2 inline void load_columns(__m256 (&v)[8], const T* from, std::int64_t stride,
                                          std::int64_t rows, std::int64_t columns) {
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    v[r] = r >= rows          ? zero()
           : columns >= lanes ? load(from + r * stride)
                              : load(from + r * stride, columns);
  }
  transpose(v);
}

/// Floats of a tile of packed tokens.
inline std::int64_t packed_lanes_floats(std::int64_t columns) {
  return steps_of(columns) * lanes * lane_tokens;
}

/// Part by part of lane_columns columns: (lanes, steps, lane_tokens)
ZIYA_TARGET_AVX2 inline void pack_lanes(float* packed, const float* x, std::int64_t x_stride,
                                        std::int64_t tokens, std::int64_t columns) {
  for (std::int64_t i = 0; i < columns; i += lane_columns) {
    const std::int64_t count = std::min(lane_columns, columns - i), steps = steps_of(count);
    for (std::int64_t k = 0; k < steps; ++k) {
      __m256 v[8];
      load_columns(v, x + i + k * lanes, x_stride, tokens, count - k * lanes);
#pragma GCC unroll 8
      for (int l = 0; l < 8; ++l) {
        float* to = packed + (l * steps + k) * lane_tokens;
        _mm_storeu_ps(to, _mm256_castps256_ps128(v[l]));
        _mm_storel_pi(reinterpret_cast<__m64*>(to + 4), _mm256_extractf128_ps(v[l], 1));
      }
    }
    packed += steps * lanes * lane_tokens;
  }
}

/// `count` ≤ lane_columns columns of `rows` ≤ lane_rows rows of w, widened: (lanes, steps,
/// lane_rows), the lanes lane_shift floats further apart.
template <class W>
ZIYA_TARGET_AVX2 inline void widen_lanes(float* panel, const W* w, std::int64_t stride,
                                         std::int64_t rows, std::int64_t count) {
  const std::int64_t apart = steps_of(count) * lane_rows + lane_shift;
  for (std::int64_t r = 0; r < lane_rows; r += 8) {
    float* to = panel + r;
    for (std::int64_t k = 0; k < count; k += lanes, to += lane_rows) {
      __m256 v[8];
      load_columns(v, w + r * stride + k, stride, rows - r, count - k);
#pragma GCC unroll 8
      for (int l = 0; l < 8; ++l) store(to + l * apart, v[l]);
    }
  }
}

/// sums (lane_tokens, lane_rows) += x · w of one lane, from zero if these are its first columns;
/// `ahead` is what the next tile needs.
ZIYA_TARGET_AVX2 inline void add_lane(float* sums, const float* w, const float* x,
                                      std::int64_t steps, bool first, const float* ahead) {
  __m256 low[lane_tokens], high[lane_tokens];
#pragma GCC unroll 8
  for (int t = 0; t < lane_tokens; ++t) {
    low[t] = first ? zero() : load(sums + t * lane_rows);
    high[t] = first ? zero() : load(sums + t * lane_rows + lanes);
  }
#pragma GCC unroll 2
  for (std::int64_t k = 0; k < steps; ++k, w += lane_rows, x += lane_tokens) {
    if (k % 2 == 0) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead + k * lane_tokens), _MM_HINT_T0);
    }
    const __m256 a = load(w), b = load(w + lanes);
#pragma GCC unroll 8
    for (int t = 0; t < lane_tokens; ++t) {
      const __m256 c = _mm256_broadcast_ss(x + t);
      low[t] = fma(c, a, low[t]);
      high[t] = fma(c, b, high[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < lane_tokens; ++t) {
    store(sums + t * lane_rows, low[t]);
    store(sums + t * lane_rows + lanes, high[t]);
  }
}

/// Eight outputs, whose lanes lie `apart` floats from each other, by the additions of `sum`.
ZIYA_TARGET_AVX2 inline __m256 sum_lanes(const float* lane, std::int64_t apart) {
  __m256 four[4];
#pragma GCC unroll 4
  for (int l = 0; l < 4; ++l) four[l] = add(load(lane + l * apart), load(lane + (l + 4) * apart));
  return add(add(four[0], four[2]), add(four[1], four[3]));
}

/// Many packed tokens: a lane of a few rows of w, widened once for all of them, stays in the
/// first-level cache while the tiles of x pass by.
template <class W>
ZIYA_TARGET_AVX2 inline void times_lanes(const MatmulArguments& m, const W* w, std::int64_t begin,
                                         std::int64_t end) {
  constexpr std::int64_t apart = lane_batch * lane_rows + lane_shift;
  static_assert(lanes * (apart + lane_steps * lane_rows + lane_shift) <= matmul_scratch_floats);
  float *sums = m.scratch, *panel = sums + lanes * apart;
  const std::int64_t tile_floats = packed_lanes_floats(m.columns);
  for (std::int64_t token = 0; token < m.tokens; token += lane_batch) {
    const std::int64_t tokens = std::min(lane_batch, m.tokens - token);
    const float* tiles = m.packed + token / lane_tokens * tile_floats;
    for (std::int64_t row = begin; row < end; row += lane_rows) {
      const std::int64_t rows = std::min(lane_rows, end - row);
      for (std::int64_t i = 0; i < m.columns; i += lane_columns) {
        const std::int64_t count = std::min(lane_columns, m.columns - i), steps = steps_of(count);
        widen_lanes(panel, w + row * m.weight_stride + i, m.weight_stride, rows, count);
        for (std::int64_t l = 0; l < lanes; ++l) {
          const float* lane = panel + l * (steps * lane_rows + lane_shift);
          const float* x = tiles + (i + l * steps) * lane_tokens;
          for (std::int64_t t = 0; t < tokens; t += lane_tokens, x += tile_floats) {
            add_lane(sums + l * apart + t * lane_rows, lane, x, steps, i == 0,
                     t + lane_tokens < tokens ? x + tile_floats : x);
          }
        }
      }
      for (std::int64_t t = 0; t < tokens; ++t) {
        float* y = m.y + (token + t) * m.y_stride + row;
        for (std::int64_t r = 0; r < rows; r += lanes) {
          const __m256 v = sum_lanes(sums + t * lane_rows + r, apart);
          if (rows - r < lanes) {
            store(y + r, v, rows - r);
          } else {
            store(y + r, v);
          }
        }
      }
    }
  }
}

inline constexpr TokenPacking packing{32, lane_tokens, &packed_lanes_floats, &pack_lanes};

}  // namespace avx2
ZIYA_NAMESPACE_END
#endif
