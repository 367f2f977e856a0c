// SPDX-License-Identifier: Apache-2.0
// Unpacked weights times several tokens with AVX-512 VNNI.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/activations.hpp"
#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/avx512_bytes.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

/// 512 columns or, at the end of a row, fewer: as many as leave room beside them in the first-level
/// cache.
struct UnpackedPanel {
  static constexpr std::int64_t most_tiles = 2;

  UnpackedTile tiles[most_tiles];
  std::int64_t count;     ///< of tiles
  int steps[most_tiles];  ///< of 4 columns, in multiples of 8
};

/// Sums of 2 × 16 rows of weights, token by token.
struct TileSums {
  float* at;  ///< null where nothing is there yet to be added to
  std::int64_t stride;
};

/// Rows of activations, `stride` groups from 256 columns to the next, and where the sums of 2 × 16
/// rows of weights are and go.
struct TileOperands {
  const ActivationGroup* x;
  std::int64_t stride;
  TileSums before, after;
  __mmask16 rows[2];  ///< which of the rows there are
  const char* later;  ///< for AMX, a line of every group of the activations of the next panel
  Ahead* ahead;       ///< weights of the next panel

  void skip(std::int64_t tokens) {
    x += tokens;
    later += tokens * static_cast<std::int64_t>(sizeof(ActivationGroup));
    if (before.at != nullptr) before.at += tokens * before.stride;
    after.at += tokens * after.stride;
  }
};

/// From a number of a token's activations to the same of the next token.
inline constexpr std::int64_t bytes_apart = sizeof(ActivationGroup);
inline constexpr std::int64_t words_apart = bytes_apart / 4;

/// Dot products of 4 · Steps columns, of 2 × 16 rows of quants and the first token's values.
template <int Steps, int T>
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline void add_dots(__m512i (&dots)[T][2],
                                                               const std::uint8_t (*quants)[2][64],
                                                               const std::int8_t* values) {
#pragma GCC unroll 8
  for (int i = 0; i < Steps; ++i) {
    const __m512i upper = _mm512_load_si512(quants[i][0]);
    const __m512i lower = _mm512_load_si512(quants[i][1]);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      std::int32_t four;
      __builtin_memcpy(&four, values + t * bytes_apart + 4 * i, sizeof four);
      dots[t][0] = _mm512_dpbusd_epi32(dots[t][0], upper, words(four));
      dots[t][1] = _mm512_dpbusd_epi32(dots[t][1], lower, words(four));
    }
  }
}

/// Every token's number, of which this is the first token's, in both halves.
template <int T>
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline void start(__m512i (&dots)[T][2],
                                                            const std::int32_t* first) {
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) dots[t][0] = dots[t][1] = words(first[t * words_apart]);
}

/// What there is to be added to for tokens from `first` on.
template <int T>
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline void sums_before(__m512 (&sums)[T][2],
                                                                  const TileSums& before,
                                                                  const __mmask16 (&rows)[2],
                                                                  std::int64_t first) {
  if (before.at == nullptr) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[t][0] = sums[t][1] = zero();
    return;
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    const float* at = before.at + (first + t) * before.stride;
    sums[t][0] = _mm512_maskz_loadu_ps(rows[0], at);
    sums[t][1] = _mm512_maskz_loadu_ps(rows[1], at + tile_rows);
  }
}
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline void put(const TileOperands& o, std::int64_t t,
                                                          int h, __m512 v) {
  _mm512_mask_storeu_ps(o.after.at + t * o.after.stride + h * tile_rows, o.rows[h], v);
}

/// Line `piece` of the activations of T tokens from `x` on: first of their groups there, then of
/// those a stride away.
template <int T>
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline void request_x(const ActivationGroup* x,
                                                                std::int64_t stride, int piece) {
  constexpr int lines = sizeof(ActivationGroup) / 64;
  if (piece >= 2 * lines) return;
  const auto* line = reinterpret_cast<const char*>(x + piece / lines * stride) + piece % lines * 64;
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) _mm_prefetch(line + t * bytes_apart, _MM_HINT_T1);
}

/// Requests a part of what comes next, because requests in a row keep the loads behind them
/// waiting: where the sums of these T tokens go, x of the next ones, weights of the next panel.
template <int T>
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline void request(const TileOperands& o, int piece) {
  o.ahead->beside_products(piece);
  if (piece < T) {
    const float* sums = o.after.at + piece * o.after.stride;
    _mm_prefetch(reinterpret_cast<const char*>(sums), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(sums + tile_rows), _MM_HINT_T0);
  }
  request_x<T>(o.x + T, o.stride, piece);
}

/// Scales of weights and activations every 32 columns: as one token's kernels add them, P_i = Σ of
/// the blocks of lane i in order, then (P₀ + P₂) + (P₁ + P₃) of a panel.
template <int Offset, bool Minima>
struct ScaledBlocks {
  static constexpr int tokens = 6;  ///< at once, as many as was fastest

  /// The first token's numbers of a tile's columns; addresses of them all are offsets from these.
  struct Source {
    const std::int8_t* values;
    const float *shifts, *sums;
    const std::int32_t* starts;
  };

  /// sums + scale · dot + minimum · sum of block b.
  template <int T>
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 static void add_block(__m512 (&sums)[T][2],
                                                                  const UnpackedTile& tile, int b,
                                                                  const Source& x) {
    __m512i dots[T][2];
    start<T>(dots, x.starts + b);
    add_dots<8>(dots, tile.quants + 8 * b, x.values + 32 * b);
    const __m512 scales[2] = {load(tile.scales[b][0]), load(tile.scales[b][1])};
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const __m512 shift = set(x.shifts[b + t * words_apart]);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        sums[t][h] = fma(subtract(_mm512_castsi512_ps(dots[t][h]), shift), scales[h], sums[t][h]);
      }
    }
    if constexpr (Minima) {
      const __m512 minima[2] = {load(tile.minima[b][0]), load(tile.minima[b][1])};
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const __m512 sum = set(x.sums[b + t * words_apart]);
        sums[t][0] = fma(minima[0], sum, sums[t][0]);
        sums[t][1] = fma(minima[1], sum, sums[t][1]);
      }
    }
  }

  template <int T>
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 void add_product(const UnpackedPanel& panel,
                                                             const TileOperands& o) const {
    alignas(64) float pairs[2][T][2][lanes];
    __m512 sums[T][2];
    Source sources[UnpackedPanel::most_tiles];
    for (std::int64_t i = 0; i < panel.count; ++i) {
      const ActivationGroup& x = o.x[i * o.stride];
      sources[i] = {x.values, x.by_32.shifts, x.by_32.sums,
                    x.by_32.starts[start_of_offset(Offset)]};
    }
    const int blocks = static_cast<int>(panel.count - 1) * 8 + panel.steps[panel.count - 1] / 8;
    int piece = 0;
    for (int k = 0; k < 4; ++k) {
      const int lane = k / 2 + k % 2 * 2;
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[t][0] = sums[t][1] = zero();
      for (int b = lane; b < blocks; b += 4) {
        request<T>(o, piece++);
        add_block<T>(sums, panel.tiles[b / 8], b % 8, sources[b / 8]);
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
    __m512 before[T][2];
    sums_before(before, o.before, o.rows, 0);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m512 sum = add(load(pairs[0][t][h]), add(load(pairs[1][t][h]), sums[t][h]));
        put(o, t, h, add(before[t][h], sum));
      }
    }
  }
};

ZIYA_TARGET_AVX512 inline __m512i pair_of(const std::int16_t* sums, int k) {
  std::int32_t pair;
  __builtin_memcpy(&pair, sums + 2 * k, sizeof pair);
  return words(pair);
}

/// Adds, to what is there before the panel's tile number i, what the sums of 256 columns, integers
/// so far, come to: scale of x · (factor · sum − minimum factor · Σ sub-minimum · sum of x over
/// `Pairs` pairs).
template <int Pairs, int T>
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline void put_groups(
    const UnpackedTile& tile, const __m512i (&sums)[T][2], const ActivationGroup* x,
    const TileOperands& o, std::int64_t i, std::int64_t first = 0) {
  __m512i minima[T][2];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) minima[t][0] = minima[t][1] = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int k = 0; k < Pairs; ++k) {
    const __m512i upper = _mm512_load_si512(tile.sub_minima[k][0]);
    const __m512i lower = _mm512_load_si512(tile.sub_minima[k][1]);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const auto& of_x = x[t].by_256;
      const __m512i pair = pair_of(Pairs == 4 ? of_x.sums_of_32 : of_x.sums_of_16, k);
      minima[t][0] = _mm512_dpwssd_epi32(minima[t][0], upper, pair);
      minima[t][1] = _mm512_dpwssd_epi32(minima[t][1], lower, pair);
    }
  }
  __m512 scaled[T][2], before[T][2];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m512 factor = load(tile.factors[h]), sum = to_floats(sums[t][h]);
      if constexpr (Pairs == 0) {
        scaled[t][h] = multiply(factor, sum);
      } else {
        scaled[t][h] = _mm512_fmsub_ps(
            factor, sum, multiply(load(tile.minimum_factors[h]), to_floats(minima[t][h])));
      }
    }
  }
  sums_before(before, i == 0 ? o.before : o.after, o.rows, first);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    const __m512 scale = set(x[t].by_256.scale);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) put(o, first + t, h, fma(scaled[t][h], scale, before[t][h]));
  }
}

/// Sub-scales of 16 or 32 columns, and sub-minima of 32: sums are integers up to the end of 256
/// columns, so their order is free.
template <int Columns, bool Minima>
struct ScaledGroups {
  static constexpr int tokens = 7;  ///< at once, as many as was fastest

  template <int T>
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 void add_product(const UnpackedPanel& panel,
                                                             const TileOperands& o) const {
    for (std::int64_t i = 0; i < panel.count; ++i) {
      const UnpackedTile& tile = panel.tiles[i];
      const ActivationGroup* x = o.x + i * o.stride;
      __m512i sums[T][2];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[t][0] = sums[t][1] = _mm512_setzero_si512();
      for (int b = 0; b < 256 / Columns; ++b) {
        request<T>(o, 256 / Columns * static_cast<int>(i) + b);
        __m512i dots[T][2];
        if constexpr (Columns == 16) {
          start<T>(dots, x->by_256.times_32_of_16 + b);
        } else {
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) dots[t][0] = dots[t][1] = _mm512_setzero_si512();
        }
        add_dots<Columns / 4>(dots, tile.quants + b * (Columns / 4), x->values + b * Columns);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
            const __m512i scale = _mm512_load_si512(tile.sub_scales[b][h]);
            sums[t][h] = _mm512_add_epi32(sums[t][h], _mm512_mullo_epi32(dots[t][h], scale));
          }
        }
      }
      put_groups<Minima ? 4 : 0>(tile, sums, x, o, i);
    }
  }
};

/// One factor for 256 columns, and perhaps sub-minima of 16.
template <bool Minima>
struct WholeGroups {
  static constexpr int tokens = 7;  ///< at once, as many as was fastest

  template <int T>
  [[gnu::always_inline]] ZIYA_TARGET_AVX512 void add_product(const UnpackedPanel& panel,
                                                             const TileOperands& o) const {
    for (std::int64_t i = 0; i < panel.count; ++i) {
      const UnpackedTile& tile = panel.tiles[i];
      const ActivationGroup* x = o.x + i * o.stride;
      __m512i dots[T][2];
      if constexpr (Minima) {
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) dots[t][0] = dots[t][1] = _mm512_setzero_si512();
      } else {
        start<T>(dots, &x->by_256.times_128);
      }
      for (int s = 0; s < panel.steps[i]; s += 8) {
        request<T>(o, static_cast<int>(i) * 8 + s / 8);
        add_dots<8>(dots, tile.quants + s, x->values + 4 * s);
      }
      put_groups<Minima ? 8 : 0>(tile, dots, x, o, i);
    }
  }
};

/// A panel times more than three tokens, in parts of equal sizes as far as that goes.
template <class Kernel>
ZIYA_TARGET_AVX512 inline void panel_times_tokens(const Kernel& kernel, const UnpackedPanel& panel,
                                                  TileOperands o, std::int64_t tokens) {
  constexpr int most = Kernel::tokens;
  // so that no part has fewer than most − 3
  static_assert(most <= 7 && (most + 2) / 2 >= most - 3);
  for (std::int64_t left = (tokens + most - 1) / most; left > 0; --left) {
    const std::int64_t count = (tokens + left - 1) / left;
    switch (most - count) {
      case 0:
        kernel.template add_product<most>(panel, o);
        break;
      case 1:
        kernel.template add_product<most - 1>(panel, o);
        break;
      case 2:
        kernel.template add_product<most - 2>(panel, o);
        break;
      default:
        kernel.template add_product<most - 3>(panel, o);
    }
    o.skip(count);
    tokens -= count;
  }
}

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
