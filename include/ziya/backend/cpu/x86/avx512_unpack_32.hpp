// SPDX-License-Identifier: Apache-2.0
// Blocks of 32 and rows of int8 unpacked to bytes with AVX-512.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/x86/avx512_bytes.hpp"
#include "ziya/core/blocks.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

// A format says how many columns share a scale or sub-scale, how much its quants are too large
// (`offset`), the bytes of 256 columns, whether it has minima, whether scales are of whole rows,
// and whether the activations beside it have a scale per 32 columns (`own_spans`). It unpacks
// `columns` ≤ 256 columns of 16 rows: scales and minima into half `h` of a tile, and 16 columns of
// quants at a time into a sink.

/// Scales, or scales and minima, from the first bytes of a block of 16 rows.
template <bool Minima>
ZIYA_TARGET_AVX512 inline void store_scales(UnpackedTile& tile, int b, int h, __m512i heads) {
  store(tile.scales[b][h], halves_to_floats(heads));
  if constexpr (Minima) store(tile.minima[b][h], halves_to_floats(shift_right(heads, 16)));
}
/// Blocks that the end of a row lacks.
template <bool Minima>
ZIYA_TARGET_AVX512 inline void store_no_scales(UnpackedTile& tile, int blocks, int h) {
  for (; blocks < 8; ++blocks) store_scales<Minima>(tile, blocks, h, _mm512_setzero_si512());
}

/// Where bits 4 k … 4 k + 3 of every lane become bit 4 of its bytes.
ZIYA_TARGET_AVX512 inline __m512i fifth_bits(__m512i high, int k) {
  const __m512i first_bits = _mm512_set1_epi64(0x1f1e1d1cfffefdfc);
  return _mm512_maskz_multishift_epi64_epi8(~__mmask64{0},
                                            _mm512_add_epi8(first_bits, bytes(4 * k)), high);
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
    for (int b = 0; b < blocks; ++b) {
      __m512i head[4], v[4], low[4], up[4];
      load_rows(rows, b * size, head);
      load_rows(rows, b * size + header + (Fifth ? 4 : 0), v);
      store_scales<Minimum>(tile, b, h, head[0]);
      const __m512i fifths =
          Minimum ? head[1] : _mm512_or_si512(shift_right(head[0], 16), shift_left(head[1], 16));
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        low[k] = low_half(v[k]), up[k] = high_half(v[k]);
        if constexpr (Fifth) {
          low[k] = and_or(fifth_bits(fifths, k), bytes(16), low[k]);
          up[k] = and_or(fifth_bits(fifths, k + 4), bytes(16), up[k]);
        }
      }
      sink.put(2 * b, low);
      sink.put(2 * b + 1, up);
    }
    store_no_scales<Minimum>(tile, blocks, h);
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
    const __m512i table = iq4_table();
    for (int b = 0; b < blocks; ++b) {
      __m512i head[4], v[4], low[4], up[4];
      load_rows(rows, b * size, head);
      load_rows(rows, b * size + 2, v);
      store_scales<false>(tile, b, h, head[0]);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        low[k] = look_up(table, low_half(v[k]));
        up[k] = look_up(table, high_half(v[k]));
      }
      sink.put(2 * b, low);
      sink.put(2 * b + 1, up);
    }
    store_no_scales<false>(tile, blocks, h);
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
    for (int b = 0; b < blocks; ++b) {
      __m512i head[4];
      load_rows(rows, b * size, head);
      store_scales<false>(tile, b, h, head[0]);
      for (int half = 0; half < 2; ++half) {
        __m512i v[4];
        load_rows(rows, b * size + 2 + half * 16, v);
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) v[k] = _mm512_xor_si512(v[k], bytes(128));
        sink.put(2 * b + half, v);
      }
    }
    store_no_scales<false>(tile, blocks, h);
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
