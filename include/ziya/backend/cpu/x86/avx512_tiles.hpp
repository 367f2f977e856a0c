// SPDX-License-Identifier: Apache-2.0
// Unpacked weights times several tokens with AVX-512 VNNI.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/activations.hpp"
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
  const char* later;  ///< a line of the activations of the next panel, one of each group

  void skip(std::int64_t tokens) {
    x += tokens;
    later += tokens * static_cast<std::int64_t>(sizeof(ActivationGroup));
    if (before.at != nullptr) before.at += tokens * before.stride;
    after.at += tokens * after.stride;
  }
};

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

/// Every token's element of an array, in both halves.
template <int T>
ZIYA_TARGET_AVX512 inline void start(__m512i (&dots)[T][2], const std::int32_t* of_first) {
  constexpr std::int64_t apart = sizeof(ActivationGroup) / sizeof(std::int32_t);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) dots[t][0] = dots[t][1] = words(of_first[t * apart]);
}

ZIYA_TARGET_AVX512 inline __m512 sums_before(const TileSums& before, __mmask16 rows, std::int64_t t,
                                             int h) {
  return before.at == nullptr
             ? zero()
             : _mm512_maskz_loadu_ps(rows, before.at + t * before.stride + h * tile_rows);
}
ZIYA_TARGET_AVX512 inline void put(const TileOperands& o, std::int64_t t, int h, __m512 v) {
  _mm512_mask_storeu_ps(o.after.at + t * o.after.stride + h * tile_rows, o.rows[h], v);
}

/// Requests a part of what the next panel needs of T tokens, piece by piece, because requests in a
/// row keep the loads behind them waiting.
template <int T>
ZIYA_TARGET_AVX512 inline void request(const TileOperands& o, int piece) {
  if (piece >= 2 * T) return;
  const std::int64_t group = piece % 2 * o.stride + piece / 2;
  _mm_prefetch(o.later + group * static_cast<std::int64_t>(sizeof(ActivationGroup)), _MM_HINT_T1);
}

/// Scales of weights and activations every 32 columns: as one token's kernels add them, P_i = Σ of
/// the blocks of lane i in order, then (P₀ + P₂) + (P₁ + P₃) of a panel.
template <bool Minima>
struct ScaledBlocks {
  static constexpr int tokens = Minima ? 6 : 7;  ///< at once, as many as was fastest

  int which;  ///< of `starts`

  /// sums + scale · dot + minimum · sum of block b.
  template <int T>
  ZIYA_TARGET_AVX512 void add_block(__m512 (&sums)[T][2], const UnpackedTile& tile, int b,
                                    const ActivationGroup* x) const {
    __m512i dots[T][2];
    if constexpr (Minima) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        dots[t][0] = dots[t][1] = _mm512_castps_si512(set(ActivationGroup::exponent));
      }
    } else {
      start<T>(dots, x->by_32.starts[which] + b);
    }
    add_dots<8>(dots, tile, 8 * b, x);
    const __m512 scales[2] = {load(tile.scales[b][0]), load(tile.scales[b][1])};
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m512 dot = fma(_mm512_castsi512_ps(dots[t][h]), set(x[t].by_32.scales[b]),
                               set(x[t].by_32.shifts[b]));
        sums[t][h] = fma(dot, scales[h], sums[t][h]);
      }
    }
    if constexpr (Minima) {
      const __m512 upper = load(tile.minima[b][0]), lower = load(tile.minima[b][1]);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const __m512 sum = set(x[t].by_32.sums[b]);
        sums[t][0] = fma(upper, sum, sums[t][0]);
        sums[t][1] = fma(lower, sum, sums[t][1]);
      }
    }
  }

  template <int T>
  ZIYA_TARGET_AVX512 void add_product(const UnpackedPanel& panel, const TileOperands& o) const {
    alignas(64) float pairs[2][T][2][lanes];
    __m512 sums[T][2];
    int piece = 0;
    for (int k = 0; k < 4; ++k) {
      const int lane = k / 2 + k % 2 * 2;
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[t][0] = sums[t][1] = zero();
      for (std::int64_t i = 0; i < panel.count; ++i) {
        for (int b = lane; 8 * b < panel.steps[i]; b += 4) {
          request<T>(o, piece++);
          add_block<T>(sums, panel.tiles[i], b, o.x + i * o.stride);
        }
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
        const __m512 sum = add(load(pairs[0][t][h]), add(load(pairs[1][t][h]), sums[t][h]));
        put(o, t, h, add(sums_before(o.before, o.rows[h], t, h), sum));
      }
    }
  }
};

ZIYA_TARGET_AVX512 inline __m512i pair_of(const std::int16_t* sums, int k) {
  std::int32_t pair;
  __builtin_memcpy(&pair, sums + 2 * k, sizeof pair);
  return words(pair);
}
/// factor · sum − minimum factor · Σ sub-minimum · sum of x over `Pairs` pairs.
template <int Pairs>
ZIYA_TARGET_AVX512 inline __m512 scaled(const UnpackedTile& tile, int h, __m512i sum,
                                        const std::int16_t* sums_of_x) {
  const __m512 factor = load(tile.factors[h]);
  if constexpr (Pairs == 0) return multiply(factor, to_floats(sum));
  __m512i minima = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int k = 0; k < Pairs; ++k) {
    minima = _mm512_dpwssd_epi32(minima, _mm512_load_si512(tile.sub_minima[k][h]),
                                 pair_of(sums_of_x, k));
  }
  return _mm512_fmsub_ps(factor, to_floats(sum),
                         multiply(load(tile.minimum_factors[h]), to_floats(minima)));
}

/// Adds the sum, an integer so far, of 256 columns, a panel's tile number i, and token t, whose
/// group is x.
template <int Pairs>
ZIYA_TARGET_AVX512 inline void put_group(const UnpackedTile& tile, __m512i sum,
                                         const ActivationGroup& x, const std::int16_t* sums_of_x,
                                         const TileOperands& o, std::int64_t i, std::int64_t t,
                                         int h) {
  put(o, t, h,
      fma(scaled<Pairs>(tile, h, sum, sums_of_x), set(x.by_256.scale),
          sums_before(i == 0 ? o.before : o.after, o.rows[h], t, h)));
}

/// Sub-scales of 16 or 32 columns, and sub-minima of 32: sums are integers up to the end of 256
/// columns, so their order is free. Sums of products that fit 16 bits need no multiplication of 32.
template <int Columns, bool Minima>
struct ScaledGroups {
  static constexpr int tokens = 7;  ///< at once

  int which;  ///< of `starts`

  template <int T, bool Narrow>
  ZIYA_TARGET_AVX512 void add_product(const UnpackedTile& tile, const TileOperands& o,
                                      const ActivationGroup* x, int part) const {
    constexpr int pairs = Minima ? 4 : 0;
    __m512i sums[T][2];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[t][0] = sums[t][1] = _mm512_setzero_si512();
    const std::int32_t* starts = Columns == 16 ? x->by_256.times_32_of_16 : x->by_256.starts[which];
    for (int b = 0; b < 256 / Columns; ++b) {
      request<T>(o, 256 / Columns * part + b);
      __m512i dots[T][2];
      start<T>(dots, starts + b);
      add_dots<Columns / 4>(dots, tile, b * (Columns / 4), x);
      __m512i scales[2];
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        scales[h] = _mm512_load_si512(tile.sub_scales[b][h]);
        if constexpr (!Narrow) {
          scales[h] = _mm512_maskz_srai_epi32(all, shift_left(scales[h], 16), 16);
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          sums[t][h] =
              Narrow ? _mm512_dpwssd_epi32(sums[t][h], dots[t][h], scales[h])
                     : _mm512_add_epi32(sums[t][h], _mm512_mullo_epi32(dots[t][h], scales[h]));
        }
      }
    }
    if constexpr (Minima) {
      for (int k = 0; k < 4; ++k) {
        const __m512i upper = _mm512_load_si512(tile.sub_offsets[k][0]);
        const __m512i lower = _mm512_load_si512(tile.sub_offsets[k][1]);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          const __m512i pair = pair_of(x[t].by_256.sums_of_32, k);
          sums[t][0] = _mm512_dpwssd_epi32(sums[t][0], upper, pair);
          sums[t][1] = _mm512_dpwssd_epi32(sums[t][1], lower, pair);
        }
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        put_group<pairs>(tile, sums[t][h], x[t], x[t].by_256.sums_of_32, o, part, t, h);
      }
    }
  }

  template <int T>
  ZIYA_TARGET_AVX512 void add_product(const UnpackedPanel& panel, const TileOperands& o) const {
    for (std::int64_t i = 0; i < panel.count; ++i) {
      const ActivationGroup* x = o.x + i * o.stride;
      bool narrow = true;
      if (Columns == 16 || which != start_of_offset(8)) {
        for (int t = 0; t < T; ++t) narrow = narrow && x[t].by_256.narrow;
      }
      if (narrow) {
        add_product<T, true>(panel.tiles[i], o, x, static_cast<int>(i));
      } else {
        add_product<T, false>(panel.tiles[i], o, x, static_cast<int>(i));
      }
    }
  }
};

/// One factor for 256 columns, and perhaps sub-minima of 16.
template <bool Minima>
struct WholeGroups {
  static constexpr int tokens = 7;  ///< at once

  template <int T>
  ZIYA_TARGET_AVX512 void add_product(const UnpackedPanel& panel, const TileOperands& o) const {
    constexpr int pairs = Minima ? 8 : 0;
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
        add_dots<8>(dots, tile, s, x);
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          put_group<pairs>(tile, dots[t][h], x[t], x[t].by_256.sums_of_16, o, i, t, h);
        }
      }
    }
  }
};

/// A panel times any number of tokens.
template <class Kernel>
ZIYA_TARGET_AVX512 inline void panel_times_tokens(const Kernel& kernel, const UnpackedPanel& panel,
                                                  TileOperands o, std::int64_t tokens) {
  constexpr int most = Kernel::tokens;
  for (; tokens >= most; tokens -= most, o.skip(most)) kernel.template add_product<most>(panel, o);
  for (; tokens >= 3; tokens -= 3, o.skip(3)) kernel.template add_product<3>(panel, o);
  for (; tokens > 0; --tokens, o.skip(1)) kernel.template add_product<1>(panel, o);
}

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
