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
/// 64 columns of `tokens` tokens, 5 and 6 are the same columns of 16 rows.
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
    for (int i = 0; i < 7; ++i) {
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

/// Where a part's two blocks are: in which tile, and the number of the first; the other one is
/// `apart` later.
struct PartPlace {
  int tile, first, apart;
};

/// The products of the parts of a panel and tiles of `count` tokens each, one after the other, a
/// part's blocks in tiles 0 and 1, 2 and 3. Tile instructions run in their order and a product
/// takes 52 cycles, so it is stored when its tile is wanted by the part after it.
template <class Kernel>
class PartProducts {
 public:
  ZIYA_TARGET_AMX PartProducts(const UnpackedPanel& panel, TileScratch& scratch,
                               const TileOperands& o, std::int64_t count, std::int64_t tiles)
      : panel_(panel),
        scratch_(scratch),
        x_(o.x),
        stride_(o.stride),
        count_(count),
        left_(tiles * Kernel::parts(panel)) {
    step(0), step(1), next();
    step(0), step(1), next();
  }

  /// Stores a half of what is ready and begins a half of the part after it, if there is one.
  ZIYA_TARGET_AMX void step(int half) const {
    constexpr int columns = Kernel::columns;
    constexpr std::int64_t apart = sizeof panel_.tiles[0].quants[0];
    const PartPlace at = Kernel::place(part_);
    const std::int64_t tile = at.tile < panel_.count ? at.tile : 0;
    const std::int8_t* values = (x_ + tile * stride_)->values + columns * at.first;
    const auto* quants = &panel_.tiles[tile].quants[columns / 4 * at.first];
    if constexpr (columns > 64) {
      if (half == 1) return;
      if (ready_) store(0), store(1);
      if (left_ <= 0) return;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      [[maybe_unused]] const auto* others = panel_.tiles[1].quants;
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const int i = Kernel::planes ? 64 * k : 64 * (k / 2 + k % 2 * 2);
        _tile_loadd(4, values + i, sizeof(ActivationGroup));
        _tile_loadd(5, quants[i / 4][0], apart);
        _tile_loadd(6, quants[i / 4][1], apart);
        if (Kernel::planes || i < columns / 2) {
          _tile_dpbssd(0, 4, 5);
          _tile_dpbssd(1, 4, 6);
        }
        if constexpr (Kernel::planes) {
          _tile_loadd(5, others[i / 4][0], apart);
          _tile_loadd(6, others[i / 4][1], apart);
        }
        if (Kernel::planes || i >= columns / 2) {
          _tile_dpbssd(2, 4, 5);
          _tile_dpbssd(3, 4, 6);
        }
      }
    } else if (half == 0) {
      if (ready_) store(0);
      if (left_ <= 0) return;
      _tile_zero(0);
      _tile_zero(1);
      _tile_loadd(4, values, sizeof(ActivationGroup));
      _tile_loadd(5, quants[0][0], apart);
      _tile_dpbssd(0, 4, 5);
      _tile_loadd(6, quants[0][1], apart);
      _tile_dpbssd(1, 4, 6);
    } else {
      if (ready_) store(1);
      if (left_ <= 0) return;
      _tile_zero(2);
      _tile_zero(3);
      _tile_loadd(4, values + columns * at.apart, sizeof(ActivationGroup));
      _tile_loadd(5, quants[columns * at.apart / 4][0], apart);
      _tile_dpbssd(2, 4, 5);
      _tile_loadd(6, quants[columns * at.apart / 4][1], apart);
      _tile_dpbssd(3, 4, 6);
    }
  }
  void next() {
    ready_ = left_ > 0;
    --left_;
    column_ = 1 - column_;
    if (++part_ == Kernel::parts(panel_)) part_ = 0, x_ += count_;
  }
  /// Where the products are that are to be added now.
  [[nodiscard]] int column() const { return 1 - column_; }

 private:
  ZIYA_TARGET_AMX void store(int half) const {
    if (half == 0) {
      _tile_stored(0, scratch_.dots[0][column_][0], 64);
      _tile_stored(1, scratch_.dots[0][column_][1], 64);
    } else {
      _tile_stored(2, scratch_.dots[1][column_][0], 64);
      _tile_stored(3, scratch_.dots[1][column_][1], 64);
    }
  }

  const UnpackedPanel& panel_;
  TileScratch& scratch_;
  const ActivationGroup* x_;  ///< of the part to be begun
  std::int64_t stride_, count_;
  std::int64_t left_;  ///< parts to be begun
  int part_ = 0;
  bool ready_ = false;
  int column_ = 1;  ///< where what is ready goes
};

/// What the panel after this one needs of a token.
ZIYA_TARGET_AMX inline void request(const TileOperands& o, std::int64_t t) {
  constexpr std::int64_t size = sizeof(ActivationGroup);
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

/// Whether a part begins a sum, what it does with a sum that it ends.
enum class Stage { begin, keep, add, end };

/// ScaledBlocks: parts 2 k and 2 k + 1 are lane 0, 2, 1, 3 for k = 0 … 3, the blocks of either
/// tile. Blocks that are not there have scales of zero.
template <bool Minima>
struct TiledBlocks {
  static constexpr int columns = 32;
  static constexpr bool planes = false;
  static constexpr std::int64_t least_tokens = 32;  ///< with fewer, VNNI is as fast
  static int parts(const UnpackedPanel&) { return 8; }
  static PartPlace place(int part) { return {part % 2, part / 4 + part / 2 % 2 * 2, 4}; }

  ZIYA_TARGET_AMX static void add_part(const UnpackedPanel& panel, int part, TileScratch& scratch,
                                       const TileOperands& o, std::int64_t count,
                                       const PartProducts<TiledBlocks>& next) {
    if (part % 2 == 0) return add_blocks<Stage::begin>(panel, part, scratch, o, count, next);
    if (part == 7) return add_blocks<Stage::end>(panel, part, scratch, o, count, next);
    if (part == 3) return add_blocks<Stage::add>(panel, part, scratch, o, count, next);
    add_blocks<Stage::keep>(panel, part, scratch, o, count, next);
  }

  template <Stage S>
  ZIYA_TARGET_AMX static void add_blocks(const UnpackedPanel& panel, int part, TileScratch& scratch,
                                         const TileOperands& operands, std::int64_t count,
                                         const PartProducts<TiledBlocks>& next) {
    constexpr int column = S == Stage::begin ? 0 : 1;
    const TileOperands o = operands;
    const int first = place(part).first;
    const bool there = column < panel.count;
    const UnpackedTile& tile = panel.tiles[there ? column : 0];
    const ActivationGroup* x = o.x + (there ? column : 0) * o.stride;
    __m512 scales[2][2], minima[2][2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        scales[j][h] = there ? load(tile.scales[first + 4 * j][h]) : zero();
        if constexpr (Minima) minima[j][h] = there ? load(tile.minima[first + 4 * j][h]) : zero();
      }
    }
    TileScratch::Place& pair = scratch.pairs[part / 4][1];
    std::int64_t t = 0;
    for (int half = 0; half < 2; ++half) {
      next.step(half);
      for (; t < count * (half + 1) / 2; ++t) {
        __m512 sums[2] = {zero(), zero()};
        if (part == 0) request(o, t);
        if constexpr (column == 1) {
          sums[0] = floats_at(scratch.running[1], 0, t);
          sums[1] = floats_at(scratch.running[1], 1, t);
        }
        const auto& of_x = x[t].by_32;
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          const __m512 scale = set(of_x.scales[first + 4 * j]);
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
            const __m512 dot = to_floats(integers_at(scratch.dots[j][column], h, t));
            sums[h] = fma(multiply(dot, scale), scales[j][h], sums[h]);
            if constexpr (Minima) {
              sums[h] = fma(minima[j][h], set(of_x.sums[first + 4 * j]), sums[h]);
            }
          }
        }
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          if constexpr (S == Stage::begin) {
            keep(scratch.running[1], h, t, sums[h]);
          } else if constexpr (S == Stage::keep) {
            keep(pair, h, t, sums[h]);
          } else if constexpr (S == Stage::add) {
            keep(pair, h, t, add(floats_at(pair, h, t), sums[h]));
          } else {
            const __m512 sum =
                add(floats_at(scratch.pairs[0][1], h, t), add(floats_at(pair, h, t), sums[h]));
            put(o, t, h, add(sums_before(o.before, o.rows[h], t, h), sum));
          }
        }
      }
    }
  }
};

/// Sums over 256 columns, in integers: WholeGroups, a part is a tile, a block half of its columns;
/// or, `Planes`, ScaledGroups, a part is a panel of a tile of the low 7 bits of sub-scale times
/// quant and a tile of what is above them.
template <bool Minima, bool Planes>
struct TiledWholeGroups {
  static constexpr int columns = 256;
  static constexpr bool planes = Planes;
  static constexpr std::int64_t least_tokens = Planes ? 64 : 16;  ///< with fewer, VNNI is as fast
  static int parts(const UnpackedPanel& panel) { return static_cast<int>(panel.count); }
  static PartPlace place(int part) { return {part, 0, 0}; }

  ZIYA_TARGET_AMX static void add_part(const UnpackedPanel& panel, int part, TileScratch& scratch,
                                       const TileOperands& operands, std::int64_t count,
                                       const PartProducts<TiledWholeGroups>& next) {
    constexpr int pairs = !Minima ? 0 : Planes ? 4 : 8;
    const TileOperands o = operands;
    const UnpackedTile& tile = panel.tiles[part];
    const ActivationGroup* x = o.x + part * o.stride;
    const int column = next.column();
    next.step(0);
    for (std::int64_t t = 0; t < count; ++t) {
      if (part == 0) request(o, t);
      const auto& of_x = x[t].by_256;
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m512i first = integers_at(scratch.dots[0][column], h, t);
        const __m512i second = integers_at(scratch.dots[1][column], h, t);
        const __m512i sum = _mm512_add_epi32(first, Planes ? shift_left(second, 7) : second);
        put_group<pairs>(tile, sum, x[t], Planes ? of_x.sums_of_32 : of_x.sums_of_16, o, part, t,
                         h);
      }
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
    shapes.set(count, std::min(Kernel::columns, 64));
    PartProducts<Kernel> products(panel, scratch, o, count, tiles);
    for (std::int64_t i = 0; i < tiles; ++i, o.skip(count)) {
      for (int part = 0; part < Kernel::parts(panel); ++part, products.next()) {
        Kernel::add_part(panel, part, scratch, o, count, products);
      }
    }
    tokens -= tiles * count;
  }
}

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
