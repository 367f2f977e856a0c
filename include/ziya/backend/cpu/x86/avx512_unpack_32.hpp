// SPDX-License-Identifier: Apache-2.0
// Blocks of 32 and rows of int8 unpacked to bytes with AVX-512.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/x86/avx512_bytes.hpp"
#include "ziya/core/blocks.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

// A format says how many columns share a scale and how many a minimum (0: none), how much its
// quants are too large (`offset`), and unpacks `columns` ≤ 256 columns of 16 rows into half `h` of
// a tile.

/// 32 bits from `offset` of each block of each row.
template <int Stride>
ZIYA_TARGET_AVX512 inline void gather(std::uint32_t (&words_of)[8][tile_rows], const Rows& rows,
                                      std::int64_t offset, int blocks) {
  for (int r = 0; r < tile_rows; ++r) {
    for (int b = 0; b < blocks; ++b) {
      std::memcpy(&words_of[b][r], rows.first + r * rows.stride + b * Stride + offset,
                  sizeof(std::uint32_t));
    }
  }
}

/// Scales and minima from the first halves of what was gathered; long after it, because vectors
/// wait for the short stores to leave for the cache.
template <bool Minimum>
ZIYA_TARGET_AVX512 inline void store_scales(const std::uint32_t (&heads)[8][tile_rows],
                                            UnpackedTile& tile, int h, int blocks) {
  for (int b = 0; b < blocks; ++b) {
    const __m512i head = _mm512_load_si512(heads[b]);
    store(tile.scales[b][h], halves_to_floats(head));
    if constexpr (Minimum) store(tile.minima[b][h], halves_to_floats(shift_right(head, 16)));
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
  static constexpr int scale_columns = 32, min_columns = Minimum ? 32 : 0;
  static constexpr int offset = Minimum ? 0 : Fifth ? 16 : 8;
  static constexpr bool row_scales = false;

  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int columns, UnpackedTile& tile, int h) {
    constexpr int header = Minimum ? 4 : 2, size = sizeof(Block);
    const int blocks = columns / 32;
    alignas(64) std::uint32_t heads[8][tile_rows], high[8][tile_rows];
    gather<size>(heads, rows, 0, blocks);
    if constexpr (Fifth) gather<size>(high, rows, header, blocks);
    for (int b = 0; b < blocks; ++b) {
      __m512i v[4];
      load_rows(rows, b * size + header + (Fifth ? 4 : 0), v);
      __m512i fifth = _mm512_setzero_si512();
      if constexpr (Fifth) fifth = _mm512_load_si512(high[b]);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        __m512i low = low_half(v[k]), up = high_half(v[k]);
        if constexpr (Fifth) {
          low = _mm512_or_si512(low, fifth_bits(fifth, k));
          up = _mm512_or_si512(up, fifth_bits(fifth, k + 4));
        }
        store(tile.quants[b * 8 + k][h], low);
        store(tile.quants[b * 8 + 4 + k][h], up);
      }
    }
    store_scales<Minimum>(heads, tile, h, blocks);
  }
};

using Q4_0 = HalfBytes<blocks::Q4_0, false, false>;
using Q4_1 = HalfBytes<blocks::Q4_1, false, true>;
using Q5_0 = HalfBytes<blocks::Q5_0, true, false>;
using Q5_1 = HalfBytes<blocks::Q5_1, true, true>;

struct IQ4_NL {
  static constexpr int scale_columns = 32, min_columns = 0, offset = 128;
  static constexpr bool row_scales = false;

  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int columns, UnpackedTile& tile, int h) {
    constexpr int size = sizeof(blocks::IQ4_NL);
    const int blocks = columns / 32;
    alignas(64) std::uint32_t heads[8][tile_rows];
    gather<size>(heads, rows, 0, blocks);
    // the type's 16 values plus 128, four to a word
    const __m512i table = _mm512_set4_epi32(static_cast<int>(0xf1d9c5b5u),
                                            static_cast<int>(0xa6998d81u), 0x766a5d4f, 0x3f2d1801);
    for (int b = 0; b < blocks; ++b) {
      __m512i v[4];
      load_rows(rows, b * size + 2, v);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        store(tile.quants[b * 8 + k][h], look_up(table, low_half(v[k])));
        store(tile.quants[b * 8 + 4 + k][h], look_up(table, high_half(v[k])));
      }
    }
    store_scales<false>(heads, tile, h, blocks);
  }
};

struct Q8_0 {
  static constexpr int scale_columns = 32, min_columns = 0, offset = 128;
  static constexpr bool row_scales = false;

  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int columns, UnpackedTile& tile, int h) {
    constexpr int size = sizeof(blocks::Q8_0);
    const int blocks = columns / 32;
    alignas(64) std::uint32_t heads[8][tile_rows];
    gather<size>(heads, rows, 0, blocks);
    for (int b = 0; b < blocks; ++b) {
      for (int half = 0; half < 2; ++half) {
        __m512i v[4];
        load_rows(rows, b * size + 2 + half * 16, v);
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          store(tile.quants[b * 8 + half * 4 + k][h], _mm512_xor_si512(v[k], bytes(128)));
        }
      }
    }
    store_scales<false>(heads, tile, h, blocks);
  }
};

/// One scale per row, which the caller stores; what is missing of 256 columns is zeros.
struct Int8 {
  static constexpr int scale_columns = 256, min_columns = 0, offset = 128;
  static constexpr bool row_scales = true;

  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int, UnpackedTile& tile, int h) {
    for (int part = 0; part < 16; ++part) {
      __m512i v[4];
      load_rows(rows, part * 16, v);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        store(tile.quants[part * 4 + k][h], _mm512_xor_si512(v[k], bytes(128)));
      }
    }
  }
};

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
