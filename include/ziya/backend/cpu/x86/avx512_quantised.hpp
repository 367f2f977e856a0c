// SPDX-License-Identifier: Apache-2.0
// Products of quantised weights and 8-bit activations with AVX-512 VNNI.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/avx512_bytes.hpp"
#include "ziya/backend/cpu/x86/avx512_decode_256.hpp"
#include "ziya/backend/cpu/x86/avx512_decode_32.hpp"
#include "ziya/backend/cpu/x86/avx512_unpack_256.hpp"
#include "ziya/backend/cpu/x86/avx512_unpack_32.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

/// Where the outputs of 2 × 16 rows go, and which of the rows there are.
struct TileOutputs {
  float* y;
  std::int64_t stride;
  __mmask16 rows[2];
  bool first;  ///< nothing is there yet to be added to
};

/// Where the sum over block b starts, so that the quants' offset cancels; with own spans at
/// `exponent` too.
template <class Format>
ZIYA_TARGET_AVX512 inline __m512i start_of(const ActivationGroup& x, int b) {
  if constexpr (Format::offset == 8) return words(x.times_8_of_32[b]);
  if constexpr (Format::offset == 16) return words(x.times_16_of_32[b]);
  if constexpr (Format::offset == 32) return words(x.times_32_of_16[b]);
  if constexpr (Format::offset == 128) {
    return words(Format::own_spans ? x.times_128_of_32[b] : x.times_128);
  }
  if constexpr (Format::own_spans) return _mm512_castps_si512(set(ActivationGroup::exponent));
  return _mm512_setzero_si512();
}

/// Dot products of 4 · Steps columns from step s on.
template <int Steps, int T>
ZIYA_TARGET_AVX512 inline void add_dots(__m512i (&dots)[T][2], const UnpackedTile& tile, int s,
                                        const ActivationGroup* x) {
#pragma GCC unroll 8
  for (int i = 0; i < Steps; ++i) {
    const __m512i upper = _mm512_load_si512(tile.quants[s + i][0]);
    const __m512i lower = _mm512_load_si512(tile.quants[s + i][1]);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      std::int32_t four;
      __builtin_memcpy(&four, x[t].values + 4 * (s + i), sizeof four);
      dots[t][0] = _mm512_dpbusd_epi32(dots[t][0], upper, words(four));
      dots[t][1] = _mm512_dpbusd_epi32(dots[t][1], lower, words(four));
    }
  }
}

/// sums + scale · dot + minimum · sum of block b.
template <class Format, int T>
ZIYA_TARGET_AVX512 inline void add_block(__m512 (&sums)[T][2], const UnpackedTile& tile, int b,
                                         const ActivationGroup* x) {
  constexpr int block_steps = Format::scale_columns / 4;
  __m512i dots[T][2];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) dots[t][0] = dots[t][1] = start_of<Format>(x[t], b);
  add_dots<block_steps>(dots, tile, b * block_steps, x);
  const __m512 scales[2] = {load(tile.scales[b][0]), load(tile.scales[b][1])};
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m512 dot = Format::own_spans ? fma(_mm512_castsi512_ps(dots[t][h]),
                                                 set(x[t].scales[b]), set(x[t].shifts[b]))
                                           : to_floats(dots[t][h]);
      sums[t][h] = fma(dot, scales[h], sums[t][h]);
    }
  }
  if constexpr (Format::min_columns > 0) {
    const __m512 upper = load(tile.minima[b][0]), lower = load(tile.minima[b][1]);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const __m512 sum = set(x[t].sum_32[b]);
      sums[t][0] = fma(upper, sum, sums[t][0]);
      sums[t][1] = fma(lower, sum, sums[t][1]);
    }
  }
}

/// Blocks with a scale each, as one token's kernels add them: P_i = Σ of the blocks of lane i in
/// order, then (P₀ + P₂) + (P₁ + P₃).
template <class Format, int T>
ZIYA_TARGET_AVX512 inline void add_blocks(__m512 (&sums)[T][2], const UnpackedTile& tile, int steps,
                                          const ActivationGroup* x) {
  constexpr int block_steps = Format::scale_columns / 4, chain = 16 / block_steps;
  alignas(64) float pairs[2][T][2][lanes];
  for (int k = 0; k < 4; ++k) {
    const int lane = k / 2 + k % 2 * 2;
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[t][0] = sums[t][1] = zero();
    for (int c = 0; c < chain; ++c) {
      const int b = Format::apart == 4 ? lane + 4 * c : chain * lane + c;
      if (b * block_steps < steps) add_block<Format>(sums, tile, b, x);
    }
    if (k == 3) break;
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        float* pair = pairs[k / 2][t][h];
        store(pair, k == 1 ? add(load(pair), sums[t][h]) : sums[t][h]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      sums[t][h] = add(load(pairs[0][t][h]), add(load(pairs[1][t][h]), sums[t][h]));
    }
  }
}

/// One scale for all columns, and minima of 16.
template <class Format, int T>
ZIYA_TARGET_AVX512 inline void add_columns(__m512 (&sums)[T][2], const UnpackedTile& tile,
                                           int steps, const ActivationGroup* x) {
  __m512i dots[T][2];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) dots[t][0] = dots[t][1] = start_of<Format>(x[t], 0);
  for (int s = 0; s < steps; s += 8) add_dots<8>(dots, tile, s, x);
  const __m512 scales[2] = {load(tile.scales[0][0]), load(tile.scales[0][1])};
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    sums[t][0] = fma(to_floats(dots[t][0]), scales[0], zero());
    sums[t][1] = fma(to_floats(dots[t][1]), scales[1], zero());
  }
  if constexpr (Format::min_columns > 0) {
    for (int m = 0; m < 16; ++m) {
      const __m512 upper = load(tile.minima[m][0]), lower = load(tile.minima[m][1]);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const __m512 sum = set(x[t].sum_16[m]);
        sums[t][0] = fma(upper, sum, sums[t][0]);
        sums[t][1] = fma(lower, sum, sums[t][1]);
      }
    }
  }
}

/// Adds 4 · `steps` columns of T tokens to the outputs.
template <class Format, int T>
ZIYA_TARGET_AVX512 inline void tile_times_tokens(const UnpackedTile& tile, int steps,
                                                 const ActivationGroup* x,
                                                 const TileOutputs& outputs) {
  __m512 sums[T][2];
  if constexpr (Format::scale_columns == 256) {
    add_columns<Format>(sums, tile, steps, x);
  } else {
    add_blocks<Format>(sums, tile, steps, x);
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      float* y = outputs.y + t * outputs.stride + h * tile_rows;
      const __mmask16 rows = outputs.rows[h];
      const __m512 before = outputs.first ? zero() : _mm512_maskz_loadu_ps(rows, y);
      const __m512 after =
          Format::own_spans ? add(before, sums[t][h]) : fma(sums[t][h], set(x[t].scale), before);
      _mm512_mask_storeu_ps(y, rows, after);
    }
  }
}

/// The same for half `h` of a tile, one token and one scale for all columns, from sums over 16
/// columns.
template <class Format>
ZIYA_TARGET_AVX512 inline void finish_token(const UnpackedTile& tile, int h,
                                            const std::int32_t (&dots)[16][tile_rows],
                                            const ActivationGroup& x, const TileOutputs& outputs) {
  __m512i dot = start_of<Format>(x, 0);
  for (int p = 0; p < 16; ++p) dot = _mm512_add_epi32(dot, _mm512_load_si512(dots[p]));
  __m512 f = fma(to_floats(dot), load(tile.scales[0][h]), zero());
  if constexpr (Format::min_columns > 0) {
    for (int m = 0; m < 16; ++m) f = fma(load(tile.minima[m][h]), set(x.sum_16[m]), f);
  }
  float* y = outputs.y + h * tile_rows;
  const __mmask16 rows = outputs.rows[h];
  const __m512 before = outputs.first ? zero() : _mm512_maskz_loadu_ps(rows, y);
  _mm512_mask_storeu_ps(y, rows, fma(f, set(x.scale), before));
}

/// `count` ≤ 16 rows of `bytes` bytes, padded with zeros to 16 rows of group_bytes.
inline Rows padded(std::byte* scratch, const Rows& rows, std::int64_t count, std::int64_t bytes) {
  std::memset(scratch, 0, static_cast<std::size_t>(tile_rows * group_bytes));
  for (std::int64_t r = 0; r < count; ++r) {
    std::memcpy(scratch + r * group_bytes, rows.first + r * rows.stride,
                static_cast<std::size_t>(bytes));
  }
  return {scratch, group_bytes};
}

/// Outputs [begin, end): 32 rows at a time, 256 columns at a time unpacked once for all tokens; a
/// single token by Decode, where there is one.
template <class Format, class Decode = void>
ZIYA_TARGET_AVX512 inline void matmul_of_format(const MatmulArguments& m, std::int64_t begin,
                                                std::int64_t end) {
  constexpr bool by_tile = std::is_void_v<Decode>;
  if constexpr (!by_tile) {
    if (m.tokens == 1) return decode<Decode>(m, begin, end);
  }
  UnpackedTile tile;
  [[maybe_unused]] alignas(64) std::int32_t dots[16][tile_rows];
  std::byte scratch[tile_rows * group_bytes];
  const std::int64_t row_bytes = bytes_of(m.dtype, m.weight_stride);
  const std::int64_t groups = activation_groups(m.columns);
  for (std::int64_t row = begin; row < end; row += 2 * tile_rows) {
    TileOutputs outputs{m.y + row, m.y_stride, {}, true};
    std::int64_t counts[2];
    for (int h = 0; h < 2; ++h) {
      counts[h] = std::clamp<std::int64_t>(end - row - h * tile_rows, 0, tile_rows);
      outputs.rows[h] = mask(counts[h]);
      if constexpr (Format::row_scales) {
        for (std::int64_t r = 0; r < counts[h]; ++r) {
          tile.scales[0][h][r] = m.row_scales[row + h * tile_rows + r];
        }
      }
    }
    // the next 32 rows, or these again where there are none
    const bool more = row + 4 * tile_rows <= end;
    const std::byte* next = m.weight + (more ? row + 2 * tile_rows : row) * row_bytes;
    const std::int64_t stream = more ? tile_rows / 2 * row_bytes : 0;
    for (std::int64_t g = 0; g < groups; ++g) {
      const int columns = static_cast<int>(
          std::min(ActivationGroup::columns, m.columns - g * ActivationGroup::columns));
      const ActivationGroup* x = m.groups + g * m.tokens;
      const int steps = (columns + 31) / 32 * 8;
      outputs.y = m.y + row;
      outputs.first = g == 0;
      for (int h = 0; h < 2; ++h) {
        const Ahead<Format::group_size> ahead{
            next + (more ? (2 * g + h) * 4 * Format::group_size : 0), stream};
        Rows rows{m.weight + (row + h * tile_rows) * row_bytes + g * Format::group_size, row_bytes};
        if (counts[h] < tile_rows || (Format::row_scales && columns < 256)) {
          rows = padded(scratch, rows, counts[h], bytes_of(m.dtype, columns));
        }
        if constexpr (by_tile) {
          if (m.tokens == 1) {
            Format::unpack(rows, columns, tile, h,
                           MeetToken<Format::group_size>{x[0], dots, ahead});
            finish_token<Format>(tile, h, dots, x[0], outputs);
            continue;
          }
        }
        Format::unpack(rows, columns, tile, h, KeepQuants<Format::group_size>{tile, h, ahead});
      }
      if (by_tile && m.tokens == 1) continue;
      std::int64_t t = 0;
      for (; t + 7 <= m.tokens; t += 7, outputs.y += 7 * m.y_stride) {
        tile_times_tokens<Format, 7>(tile, steps, x + t, outputs);
      }
      for (; t + 3 <= m.tokens; t += 3, outputs.y += 3 * m.y_stride) {
        tile_times_tokens<Format, 3>(tile, steps, x + t, outputs);
      }
      for (; t < m.tokens; ++t, outputs.y += m.y_stride) {
        tile_times_tokens<Format, 1>(tile, steps, x + t, outputs);
      }
    }
  }
}

inline void matmul_quantised(const MatmulArguments& m, std::int64_t begin, std::int64_t end) {
  if (m.columns == 0) {
    for (std::int64_t t = 0; t < m.tokens; ++t) {
      for (std::int64_t r = begin; r < end; ++r) m.y[t * m.y_stride + r] = 0;
    }
    return;
  }
  switch (m.dtype) {
    case DType::q4_0:
      return matmul_of_format<Q4_0, DecodeQ4_0>(m, begin, end);
    case DType::q4_1:
      return matmul_of_format<Q4_1, DecodeQ4_1>(m, begin, end);
    case DType::q5_0:
      return matmul_of_format<Q5_0, DecodeQ5_0>(m, begin, end);
    case DType::q5_1:
      return matmul_of_format<Q5_1, DecodeQ5_1>(m, begin, end);
    case DType::q8_0:
      return matmul_of_format<Q8_0, DecodeQ8_0>(m, begin, end);
    case DType::iq4_nl:
      return matmul_of_format<IQ4_NL, DecodeIQ4_NL>(m, begin, end);
    case DType::q2_k:
      return matmul_of_format<Q2_K>(m, begin, end);
    case DType::q3_k:
      return matmul_of_format<Q3_K>(m, begin, end);
    case DType::q4_k:
      return matmul_of_format<Q4_K, DecodeQ4_K>(m, begin, end);
    case DType::q5_k:
      return matmul_of_format<Q5_K, DecodeQ5_K>(m, begin, end);
    case DType::q6_k:
      return matmul_of_format<Q6_K, DecodeQ6_K>(m, begin, end);
    default:
      return matmul_of_format<Int8, DecodeInt8>(m, begin, end);
  }
}

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
