// SPDX-License-Identifier: Apache-2.0
// Blocks of 32 and rows of int8 unpacked to bytes with AVX-512.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "ziya/backend/cpu/x86/avx512_bytes.hpp"
#include "ziya/core/blocks.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

// A format says how many columns share a scale or sub-scale, how much its quants are too large
// (`offset`), the bytes of 256 columns, whether it has minima, whether scales are of whole rows,
// and whether the activations beside it have a scale per 32 columns (`own_spans`). It unpacks
// `columns` ≤ 256 columns of 16 rows: scales and minima into half `h` of a tile, and 16 columns of
// quants at a time into a sink.

/// One `Word` from `offset` of each block of each row, a row's words side by side.
template <int Stride, class Word>
ZIYA_TARGET_AVX512 inline void gather(Word (&heads)[tile_rows][8], const Rows& rows,
                                      std::int64_t offset, int blocks) {
  for (int r = 0; r < tile_rows; ++r) {
    const std::byte* from = rows.first + r * rows.stride + offset;
    for (int b = 0; b < blocks; ++b) std::memcpy(&heads[r][b], from + b * Stride, sizeof(Word));
  }
}

/// What was gathered as scales, or scales and minima; long after it, because vectors wait for the
/// short stores to reach the cache.
ZIYA_TARGET_AVX512 inline void store_scales(const std::uint16_t (&heads)[tile_rows][8],
                                            UnpackedTile& tile, int h) {
  __m512i v[4];
  load_rows({reinterpret_cast<const std::byte*>(heads), sizeof heads[0]}, 0, v);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    store(tile.scales[2 * k][h], halves_to_floats(v[k]));
    store(tile.scales[2 * k + 1][h], halves_to_floats(shift_right(v[k], 16)));
  }
}
ZIYA_TARGET_AVX512 inline void store_scales(const std::uint32_t (&heads)[tile_rows][8],
                                            UnpackedTile& tile, int h) {
  for (int half = 0; half < 2; ++half) {
    __m512i v[4];
    load_rows({reinterpret_cast<const std::byte*>(heads), sizeof heads[0]}, half * 16, v);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      store(tile.scales[half * 4 + k][h], halves_to_floats(v[k]));
      store(tile.minima[half * 4 + k][h], halves_to_floats(shift_right(v[k], 16)));
    }
  }
}

/// Bits 4 k … 4 k + 3 of every lane as bytes of 0 or 16.
ZIYA_TARGET_AVX512 inline __m512i fifth_bits(__m512i high, int k) {
  const __m512i byte_of_row =
      _mm512_add_epi8(_mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0), bytes(k / 2));
  const __m512i bit = words(k % 2 == 0 ? 0x08040201 : static_cast<int>(0x80402010u));
  return _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(look_up(high, byte_of_row), bit), bytes(16));
}

/// Halves of bytes: element j of a block is the low half of byte j, element j + 16 the high half.
template <class Block, bool Fifth, bool Minimum>
struct HalfBytes {
  static constexpr int scale_columns = 32, offset = Minimum ? 0 : Fifth ? 16 : 8;
  static constexpr int group_size = 8 * sizeof(Block);
  static constexpr bool minima = Minimum, row_scales = false, own_spans = true;

  template <class Sink>
  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int columns, UnpackedTile& tile, int h,
                                        const Sink& sink) {
    constexpr int header = Minimum ? 4 : 2, size = sizeof(Block);
    const int blocks = columns / 32;
    alignas(64) std::conditional_t<Minimum, std::uint32_t, std::uint16_t> heads[tile_rows][8] = {};
    gather<size>(heads, rows, 0, blocks);
    __m512i fifths[8] = {};
    if constexpr (Fifth) {
      alignas(64) std::uint32_t words_of[tile_rows][8] = {};
      gather<size>(words_of, rows, header, blocks);
      const Rows from{reinterpret_cast<const std::byte*>(words_of), sizeof words_of[0]};
      __m512i v[4];
      load_rows(from, 0, v);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) fifths[k] = v[k];
      load_rows(from, 16, v);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) fifths[k + 4] = v[k];
    }
    for (int b = 0; b < blocks; ++b) {
      __m512i v[4], low[4], up[4];
      load_rows(rows, b * size + header + (Fifth ? 4 : 0), v);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        low[k] = low_half(v[k]), up[k] = high_half(v[k]);
        if constexpr (Fifth) {
          low[k] = _mm512_or_si512(low[k], fifth_bits(fifths[b], k));
          up[k] = _mm512_or_si512(up[k], fifth_bits(fifths[b], k + 4));
        }
      }
      sink.put(2 * b, low);
      sink.put(2 * b + 1, up);
    }
    store_scales(heads, tile, h);
  }
};

using Q4_0 = HalfBytes<blocks::Q4_0, false, false>;
using Q4_1 = HalfBytes<blocks::Q4_1, false, true>;
using Q5_0 = HalfBytes<blocks::Q5_0, true, false>;
using Q5_1 = HalfBytes<blocks::Q5_1, true, true>;

struct IQ4_NL {
  static constexpr int scale_columns = 32, offset = 128, group_size = 8 * sizeof(blocks::IQ4_NL);
  static constexpr bool minima = false, row_scales = false, own_spans = true;

  template <class Sink>
  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int columns, UnpackedTile& tile, int h,
                                        const Sink& sink) {
    constexpr int size = sizeof(blocks::IQ4_NL);
    const int blocks = columns / 32;
    alignas(64) std::uint16_t heads[tile_rows][8] = {};
    gather<size>(heads, rows, 0, blocks);
    const __m512i table = iq4_table();
    for (int b = 0; b < blocks; ++b) {
      __m512i v[4], low[4], up[4];
      load_rows(rows, b * size + 2, v);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        low[k] = look_up(table, low_half(v[k]));
        up[k] = look_up(table, high_half(v[k]));
      }
      sink.put(2 * b, low);
      sink.put(2 * b + 1, up);
    }
    store_scales(heads, tile, h);
  }
};

struct Q8_0 {
  static constexpr int scale_columns = 32, offset = 128, group_size = 8 * sizeof(blocks::Q8_0);
  static constexpr bool minima = false, row_scales = false, own_spans = true;

  template <class Sink>
  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int columns, UnpackedTile& tile, int h,
                                        const Sink& sink) {
    constexpr int size = sizeof(blocks::Q8_0);
    const int blocks = columns / 32;
    alignas(64) std::uint16_t heads[tile_rows][8] = {};
    gather<size>(heads, rows, 0, blocks);
    for (int piece = 0; piece < 2 * blocks; ++piece) {
      __m512i v[4];
      load_rows(rows, piece / 2 * size + 2 + piece % 2 * 16, v);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) v[k] = _mm512_xor_si512(v[k], bytes(128));
      sink.put(piece, v);
    }
    store_scales(heads, tile, h);
  }
};

/// One scale per row, which the caller stores; what is missing of 256 columns is zeros.
struct Int8 {
  static constexpr int scale_columns = 256, offset = 128, group_size = 256;
  static constexpr bool minima = false, row_scales = true, own_spans = false;

  template <class Sink>
  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int, UnpackedTile&, int,
                                        const Sink& sink) {
    for (int piece = 0; piece < 16; ++piece) {
      __m512i v[4];
      load_rows(rows, piece * 16, v);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) v[k] = _mm512_xor_si512(v[k], bytes(128));
      sink.put(piece, v);
    }
  }
};

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
