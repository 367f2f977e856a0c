// SPDX-License-Identifier: Apache-2.0
// Unpacked weights times up to 16 tokens at once with AMX: sums of products of bytes come from
// tiles, floats are added as avx512_tiles.hpp adds them.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/activations.hpp"
#include "ziya/backend/cpu/x86/avx512_bytes.hpp"
#include "ziya/backend/cpu/x86/avx512_tiles.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

/// The shapes of a thread's tiles: 0 to 3 are sums of `tokens` × 16 rows, 4 is a block of at most
/// 64 columns of `tokens` tokens, 5 to 7 are the same columns of 16 rows.
class TileShapes {
 public:
  ZIYA_TARGET_AMX void set(std::int64_t tokens, int columns) {
    if (tokens == tokens_) return;
    tokens_ = tokens;
    struct alignas(64) {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } shapes;
    for (int i = 0; i < 8; ++i) {
      shapes.row_bytes[i] = i == 4 ? static_cast<std::uint16_t>(columns) : 64;
      shapes.rows[i] = static_cast<std::uint8_t>(i > 4 ? columns / 4 : tokens);
    }
    // g++ 12 believes that the instruction reads 8 bytes
    asm volatile("" : : "r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
  }
  ZIYA_TARGET_AMX void release() {
    if (tokens_ != 0) _tile_release();
    tokens_ = 0;
  }

 private:
  std::int64_t tokens_ = 0;
};

/// What a panel's products with up to 16 tokens keep in the first-level cache: places of 2 × 16
/// rows, token by token. Parts of two blocks take turns with the two columns of places, and what a
/// part keeps for the next one lies in that one's column, so that no load lies whole pages away
/// from a store that is not done, which it would take for its own.
struct alignas(4096) TileScratch {
  using Place = std::int32_t[2][16][tile_rows];

  Place dots[2][2];  ///< sums of products of blocks
  Place running[2];
  Place pairs[2][2];
};

/// The products of the parts of a panel and tiles of `count` tokens each, one after the other. Tile
/// instructions run in their order and a product takes 52 cycles, so it is stored when its tile is
/// wanted by the part after it.
template <bool Planes>
class GroupProducts {
 public:
  ZIYA_TARGET_AMX GroupProducts(const UnpackedPanel& panel, TileScratch& scratch,
                                const TileOperands& o, std::int64_t count, std::int64_t tiles)
      : panel_(panel),
        scratch_(scratch),
        x_(o.x),
        stride_(o.stride),
        count_(count),
        left_(tiles * panel.count) {
    step(), next();
    step(), next();
  }

  /// Stores what is ready and begins the part after it, if there is one.
  ZIYA_TARGET_AMX void step() const {
    constexpr std::int64_t apart = sizeof panel_.tiles[0].quants[0];
    const std::int8_t* values = (x_ + part_ * stride_)->values;
    const auto* quants = panel_.tiles[part_].quants;
    if (ready_) {
      _tile_stored(0, scratch_.dots[0][column_][0], 64);
      _tile_stored(1, scratch_.dots[0][column_][1], 64);
      _tile_stored(2, scratch_.dots[1][column_][0], 64);
      _tile_stored(3, scratch_.dots[1][column_][1], 64);
    }
    if (left_ <= 0) return;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    [[maybe_unused]] const auto* others = panel_.tiles[1].quants;
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const int i = Planes ? 64 * k : 64 * (k / 2 + k % 2 * 2);
      _tile_loadd(4, values + i, sizeof(ActivationGroup));
      _tile_loadd(5, quants[i / 4][0], apart);
      _tile_loadd(6, quants[i / 4][1], apart);
      if (Planes || i < 128) {
        _tile_dpbssd(0, 4, 5);
        _tile_dpbssd(1, 4, 6);
      }
      if constexpr (Planes) {
        _tile_loadd(5, others[i / 4][0], apart);
        _tile_loadd(6, others[i / 4][1], apart);
      }
      if (Planes || i >= 128) {
        _tile_dpbssd(2, 4, 5);
        _tile_dpbssd(3, 4, 6);
      }
    }
  }
  void next() {
    ready_ = left_ > 0;
    --left_;
    column_ = 1 - column_;
    if (++part_ == panel_.count) part_ = 0, x_ += count_;
  }
  /// Where the products are that are to be added now.
  [[nodiscard]] int column() const { return 1 - column_; }

 private:
  const UnpackedPanel& panel_;
  TileScratch& scratch_;
  const ActivationGroup* x_;  ///< of the part to be begun
  std::int64_t stride_, count_;
  std::int64_t left_;  ///< parts to be begun
  std::int64_t part_ = 0;
  bool ready_ = false;
  int column_ = 1;  ///< where what is ready goes
};

/// What the panel after this one needs of a token.
ZIYA_TARGET_AMX inline void request(const TileOperands& o, std::int64_t t) {
  constexpr std::int64_t size = sizeof(ActivationGroup);
  o.ahead->beside_products(static_cast<int>(t));
  _mm_prefetch(o.later + t * size, _MM_HINT_T1);
  _mm_prefetch(o.later + (t + o.stride) * size, _MM_HINT_T1);
}

ZIYA_TARGET_AMX inline __m512i integers_at(const TileScratch::Place& place, int h, std::int64_t t) {
  return _mm512_load_si512(place[h][t]);
}
ZIYA_TARGET_AMX inline __m512 floats_at(const TileScratch::Place& place, int h, std::int64_t t) {
  return _mm512_castsi512_ps(_mm512_load_si512(place[h][t]));
}
ZIYA_TARGET_AMX inline void keep(TileScratch::Place& place, int h, std::int64_t t, __m512i v) {
  _mm512_store_si512(place[h][t], v);
}
ZIYA_TARGET_AMX inline void keep(TileScratch::Place& place, int h, std::int64_t t, __m512 v) {
  _mm512_store_si512(place[h][t], _mm512_castps_si512(v));
}

/// ScaledBlocks: parts 2 k and 2 k + 1 are two blocks, four apart, of lane 0, 2, 1, 3 for k = 0 … 3
/// of the first and of the second tile; one that is not there has scales of zero. Tile instructions
/// are spread over the additions, a tile with every quarter of the tokens: many in a row are not
/// overlapped by floats. Next to them multiply-adds go through one port of two, integers through
/// both, so that a sum of products becomes a float by an addition of integers.
template <bool Minima>
struct TiledBlocks {
  static constexpr int tile_columns = 32;
  static constexpr std::int64_t least_tokens = 32;  ///< with fewer, VNNI is as fast
  static constexpr int parts = 8;

  /// The two columns of a panel, and their activations.
  struct Sources {
    const UnpackedTile* tiles[2];
    const ActivationGroup* x[2];
  };
  static constexpr int first_block(int part) { return part / 4 + part / 2 % 2 * 2; }

  /// Begins a quarter of a part in the tile of its number: 16 rows of the first block, then of the
  /// second one.
  template <int Part, int Quarter>
  ZIYA_TARGET_AMX static void begin(const Sources& s) {
    constexpr int block = first_block(Part) + 4 * (Quarter / 2);
    constexpr std::int64_t apart = sizeof s.tiles[0]->quants[0];
    const auto* quants = &s.tiles[Part % 2]->quants[8 * block];
    if constexpr (Quarter == 0) {
      _tile_zero(0);
      _tile_loadd(4, s.x[Part % 2]->values + 32 * block, sizeof(ActivationGroup));
      _tile_loadd(5, quants[0][0], apart);
      _tile_dpbssd(0, 4, 5);
    } else if constexpr (Quarter == 1) {
      _tile_zero(1);
      _tile_loadd(6, quants[0][1], apart);
      _tile_dpbssd(1, 4, 6);
    } else if constexpr (Quarter == 2) {
      _tile_zero(2);
      _tile_loadd(4, s.x[Part % 2]->values + 32 * block, sizeof(ActivationGroup));
      _tile_loadd(5, quants[0][0], apart);
      _tile_dpbssd(2, 4, 5);
    } else {
      _tile_zero(3);
      _tile_loadd(6, quants[0][1], apart);
      _tile_dpbssd(3, 4, 6);
    }
  }
  /// Stores what the tile of a quarter holds.
  template <int Part, int Quarter>
  ZIYA_TARGET_AMX static void end(TileScratch& scratch) {
    if constexpr (Quarter == 0) _tile_stored(0, scratch.dots[0][Part % 2][0], 64);
    if constexpr (Quarter == 1) _tile_stored(1, scratch.dots[0][Part % 2][1], 64);
    if constexpr (Quarter == 2) _tile_stored(2, scratch.dots[1][Part % 2][0], 64);
    if constexpr (Quarter == 3) _tile_stored(3, scratch.dots[1][Part % 2][1], 64);
  }

  ZIYA_TARGET_AMX static void run(const UnpackedPanel& panel, TileScratch& scratch, TileOperands o,
                                  std::int64_t count, std::int64_t tiles) {
    const std::int64_t second = panel.count - 1;
    Sources s{{&panel.tiles[0], &panel.tiles[second]}, {o.x, o.x + second * o.stride}};
    begin<0, 0>(s), begin<0, 1>(s), begin<0, 2>(s), begin<0, 3>(s);
    end<0, 0>(scratch), begin<1, 0>(s);
    end<0, 1>(scratch), begin<1, 1>(s);
    end<0, 2>(scratch), begin<1, 2>(s);
    end<0, 3>(scratch), begin<1, 3>(s);
    for (std::int64_t i = 0; i < tiles; ++i, o.skip(count)) {
      // after the last tile its own products begin again, and are not used
      const std::int64_t next = i + 1 < tiles ? count : 0;
      const Sources later{{s.tiles[0], s.tiles[1]}, {s.x[0] + next, s.x[1] + next}};
      add_part<0>(s, s, scratch, o, count, second);
      add_part<1>(s, s, scratch, o, count, second);
      add_part<2>(s, s, scratch, o, count, second);
      add_part<3>(s, s, scratch, o, count, second);
      add_part<4>(s, s, scratch, o, count, second);
      add_part<5>(s, s, scratch, o, count, second);
      add_part<6>(s, later, scratch, o, count, second);
      add_part<7>(s, later, scratch, o, count, second);
      s = later;
    }
  }

  /// Adds the products of a part while those of the next one are stored and the one after that is
  /// begun.
  template <int Part>
  ZIYA_TARGET_AMX static void add_part(const Sources& s, const Sources& later, TileScratch& scratch,
                                       const TileOperands& o, std::int64_t count, bool both) {
    constexpr int column = Part % 2, first = first_block(Part);
    const bool there = column == 0 || both;
    const UnpackedTile& tile = *s.tiles[column];
    const ActivationGroup* x = s.x[column];
    __m512 scales[2][2], minima[2][2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        scales[j][h] = there ? load(tile.scales[first + 4 * j][h]) : zero();
        if constexpr (Minima) minima[j][h] = there ? load(tile.minima[first + 4 * j][h]) : zero();
      }
    }
    std::int64_t t = 0;
    end<(Part + 1) % parts, 0>(scratch), begin<(Part + 2) % parts, 0>(later);
    for (; t < count / 4; ++t) add_token<Part>(x, scales, minima, scratch, o, t);
    end<(Part + 1) % parts, 1>(scratch), begin<(Part + 2) % parts, 1>(later);
    for (; t < count / 2; ++t) add_token<Part>(x, scales, minima, scratch, o, t);
    end<(Part + 1) % parts, 2>(scratch), begin<(Part + 2) % parts, 2>(later);
    for (; t < count * 3 / 4; ++t) add_token<Part>(x, scales, minima, scratch, o, t);
    end<(Part + 1) % parts, 3>(scratch), begin<(Part + 2) % parts, 3>(later);
    for (; t < count; ++t) add_token<Part>(x, scales, minima, scratch, o, t);
  }

  template <int Part>
  ZIYA_TARGET_AMX static void add_token(const ActivationGroup* x, const __m512 (&scales)[2][2],
                                        const __m512 (&minima)[2][2], TileScratch& scratch,
                                        const TileOperands& o, std::int64_t t) {
    constexpr int column = Part % 2, first = first_block(Part);
    TileScratch::Place& pair = scratch.pairs[Part / 4][1];
    __m512 sums[2] = {zero(), zero()};
    if constexpr (Part == 0) request(o, t);
    if constexpr (column == 1) {
      sums[0] = floats_at(scratch.running[1], 0, t);
      sums[1] = floats_at(scratch.running[1], 1, t);
    }
    const auto& of_x = x[t].by_32;
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512 shift = set(of_x.shifts[first + 4 * j]);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m512i bits = _mm512_add_epi32(integers_at(scratch.dots[j][column], h, t),
                                              _mm512_castps_si512(shift));
        const __m512 dot = subtract(_mm512_castsi512_ps(bits), shift);
        sums[h] = fma(dot, scales[j][h], sums[h]);
        if constexpr (Minima) sums[h] = fma(minima[j][h], set(of_x.sums[first + 4 * j]), sums[h]);
      }
    }
    __m512 before[1][2];
    if constexpr (Part == 7) sums_before(before, o.before, o.rows, t);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      if constexpr (column == 0) {
        keep(scratch.running[1], h, t, sums[h]);
      } else if constexpr (Part == 1 || Part == 5) {
        keep(pair, h, t, sums[h]);
      } else if constexpr (Part == 3) {
        keep(pair, h, t, add(floats_at(pair, h, t), sums[h]));
      } else {
        const __m512 sum =
            add(floats_at(scratch.pairs[0][1], h, t), add(floats_at(pair, h, t), sums[h]));
        put(o, t, h, add(before[0][h], sum));
      }
    }
  }
};

/// Sums over 256 columns, in integers: WholeGroups, a part is a tile, a block half of its columns;
/// or, `Planes`, ScaledGroups, a part is a panel of a tile of the low 7 bits of sub-scale times
/// quant and a tile of what is above them.
template <bool Minima, bool Planes>
struct TiledWholeGroups {
  static constexpr int tile_columns = 64;
  static constexpr std::int64_t least_tokens = Planes ? 64 : 16;  ///< with fewer, VNNI is as fast

  ZIYA_TARGET_AMX static void run(const UnpackedPanel& panel, TileScratch& scratch, TileOperands o,
                                  std::int64_t count, std::int64_t tiles) {
    GroupProducts<Planes> products(panel, scratch, o, count, tiles);
    for (std::int64_t i = 0; i < tiles; ++i, o.skip(count)) {
      for (int part = 0; part < panel.count; ++part, products.next()) {
        add_part(panel, part, scratch, o, count, products);
      }
    }
  }

  ZIYA_TARGET_AMX static void add_part(const UnpackedPanel& panel, int part, TileScratch& scratch,
                                       const TileOperands& operands, std::int64_t count,
                                       const GroupProducts<Planes>& next) {
    constexpr int pairs = !Minima ? 0 : Planes ? 4 : 8;
    const TileOperands o = operands;
    const UnpackedTile& tile = panel.tiles[part];
    const ActivationGroup* x = o.x + part * o.stride;
    const int column = next.column();
    next.step();
    for (std::int64_t t = 0; t < count; ++t) {
      if (part == 0) request(o, t);
      __m512i sums[1][2];
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m512i first = integers_at(scratch.dots[0][column], h, t);
        const __m512i second = integers_at(scratch.dots[1][column], h, t);
        sums[0][h] = _mm512_add_epi32(first, Planes ? shift_left(second, 7) : second);
      }
      put_groups<pairs>(tile, sums, x + t, o, part, t);
    }
  }
};

/// A panel, its quants signed, times any number of tokens, by tiles of equal sizes as far as that
/// goes. Products of later parts are made while the sums of a part are added.
template <class Kernel>
ZIYA_TARGET_AMX inline void panel_times_tiles(const UnpackedPanel& panel, TileOperands o,
                                              std::int64_t tokens, TileShapes& shapes) {
  // g++ 12 does not believe that tiles are loaded from memory
  asm volatile("" : : : "memory");
  TileScratch scratch;
  while (tokens > 0) {
    const std::int64_t count = (tokens + (tokens + 15) / 16 - 1) / ((tokens + 15) / 16);
    const std::int64_t tiles = tokens / count;
    shapes.set(count, Kernel::tile_columns);
    Kernel::run(panel, scratch, o, count, tiles);
    o.skip(tiles * count);
    tokens -= tiles * count;
  }
}

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
