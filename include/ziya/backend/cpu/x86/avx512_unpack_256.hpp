// SPDX-License-Identifier: Apache-2.0
// Blocks of 256 unpacked to bytes with AVX-512.
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

/// Byte j of every lane as a number.
ZIYA_TARGET_AVX512 inline __m512i byte_of(__m512i v, int j) {
  return _mm512_and_si512(shift_right(v, static_cast<unsigned>(8 * j)), words(255));
}
ZIYA_TARGET_AVX512 inline __m512i signed_byte_of(__m512i v, int j) {
  return _mm512_maskz_srai_epi32(all, shift_left(v, static_cast<unsigned>(24 - 8 * j)), 24);
}
/// Bytes j and j + 1 as a pair of 16 bits.
ZIYA_TARGET_AVX512 inline __m512i bytes_of_pair(__m512i v, int j) {
  return _mm512_or_si512(byte_of(v, j), shift_left(byte_of(v, j + 1), 16));
}
ZIYA_TARGET_AVX512 inline void store(std::int32_t* p, __m512i v) { _mm512_store_si512(p, v); }
/// 16 bits from `offset` of each row, as floats.
ZIYA_TARGET_AVX512 inline __m512 scale_of(const Rows& rows, std::int64_t offset) {
  alignas(64) std::uint16_t bits[tile_rows];
  for (int r = 0; r < tile_rows; ++r)
    std::memcpy(&bits[r], rows.first + r * rows.stride + offset, 2);
  return load(reinterpret_cast<const Half*>(bits));
}

/// Q4_K and Q5_K: a scale and a minimum of 6 bits for every 32 columns.
template <class Block, bool Fifth>
struct ScaledHalfBytes {
  static constexpr int scale_columns = 32, offset = 0, group_size = sizeof(Block);
  static constexpr bool minima = true, row_scales = false, own_spans = false;

  template <class Sink>
  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int, UnpackedTile& tile, int h,
                                        const Sink& sink) {
    __m512i head[4];
    load_rows(rows, 0, head);
    store(tile.factors[h], halves_to_floats(head[0]));
    store(tile.minimum_factors[h], halves_to_floats(shift_right(head[0], 16)));
    const __m512i six = bytes(63), two = bytes(3);
    const __m512i upper = head[3];
    const __m512i scales[2] = {
        _mm512_and_si512(head[1], six),
        _mm512_or_si512(low_half(upper),
                        shift_left(_mm512_and_si512(shift_right(head[1], 6), two), 4))};
    const __m512i sub_minima[2] = {
        _mm512_and_si512(head[2], six),
        _mm512_or_si512(high_half(upper),
                        shift_left(_mm512_and_si512(shift_right(head[2], 6), two), 4))};
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) store(tile.sub_scales[g][h], byte_of(scales[g / 4], g % 4));
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      store(tile.sub_minima[k][h], bytes_of_pair(sub_minima[k / 2], k % 2 * 2));
    }
    __m512i high[2][4] = {};
    if constexpr (Fifth) {
      load_rows(rows, 16, high[0]);
      load_rows(rows, 32, high[1]);
    }
#pragma GCC unroll 4
    for (int chunk = 0; chunk < 4; ++chunk) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        __m512i v[4], low[4], up[4];
        load_rows(rows, (Fifth ? 48 : 16) + chunk * 32 + half * 16, v);
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          low[k] = low_half(v[k]), up[k] = high_half(v[k]);
          if constexpr (Fifth) {
            const __m512i bits = high[half][k];
            const __m512i first = chunk < 2
                                      ? shift_left(bits, static_cast<unsigned>(4 - 2 * chunk))
                                      : shift_right(bits, static_cast<unsigned>(2 * chunk - 4));
            const __m512i second = chunk < 2
                                       ? shift_left(bits, static_cast<unsigned>(3 - 2 * chunk))
                                       : shift_right(bits, static_cast<unsigned>(2 * chunk - 3));
            low[k] = and_or(first, bytes(16), low[k]);
            up[k] = and_or(second, bytes(16), up[k]);
          }
        }
        sink.put(chunk * 4 + half, low);
        sink.put(chunk * 4 + 2 + half, up);
      }
    }
  }
};

using Q4_K = ScaledHalfBytes<blocks::Q4_K, false>;
using Q5_K = ScaledHalfBytes<blocks::Q5_K, true>;

struct Q6_K {
  static constexpr int scale_columns = 16, offset = 32, group_size = sizeof(blocks::Q6_K);
  static constexpr bool minima = false, row_scales = false, own_spans = false;

  template <class Sink>
  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int, UnpackedTile& tile, int h,
                                        const Sink& sink) {
    store(tile.factors[h], scale_of(rows, 208));
    __m512i scales[4];
    load_rows(rows, 192, scales);
#pragma GCC unroll 16
    for (int g = 0; g < 16; ++g) {
      store(tile.sub_scales[g][h], signed_byte_of(scales[g / 4], g % 4));
    }
    for (int n = 0; n < 2; ++n) {
      for (int half = 0; half < 2; ++half) {
        __m512i high[4];
        load_rows(rows, 128 + n * 32 + half * 16, high);
#pragma GCC unroll 2
        for (int side = 0; side < 2; ++side) {  // parts `side` and `side` + 2 of 32 columns
          __m512i v[4], low[4], up[4];
          load_rows(rows, n * 64 + side * 32 + half * 16, v);
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) {
            const __m512i bits = shift_right(high[k], static_cast<unsigned>(2 * side));
            low[k] = and_or(shift_left(bits, 4), bytes(48), low_half(v[k]));
            up[k] = and_or(bits, bytes(48), high_half(v[k]));
          }
          sink.put(n * 8 + side * 2 + half, low);
          sink.put(n * 8 + 4 + side * 2 + half, up);
        }
      }
    }
  }
};

/// 0, 1, 2 and 3 times the byte that fills a lane, as a table for the rows of 128 bits.
ZIYA_TARGET_AVX512 inline __m512i multiples(__m512i byte) {
  const __m512i twice = _mm512_add_epi8(byte, byte);
  const __m512i once_or_thrice =
      _mm512_mask_add_epi8(byte, 0x8888888888888888u, byte, twice);  // byte 3: 3 times
  const __m512i without_zero = _mm512_mask_mov_epi8(once_or_thrice, 0x4444444444444444u, twice);
  return _mm512_maskz_mov_epi8(0xeeeeeeeeeeeeeeeeu, without_zero);
}
/// The low two bits of every byte as an index into `multiples`.
ZIYA_TARGET_AVX512 inline __m512i index_of(__m512i quants) {
  const __m512i row = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
  return and_or(quants, bytes(3), row);
}
/// Byte j of every lane in all four.
ZIYA_TARGET_AVX512 inline __m512i spread(__m512i v, int j) {
  return look_up(
      v, _mm512_add_epi8(_mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0), bytes(j)));
}

/// Scales of 4 bits times quants of 2 fit a byte: one scale for 256 columns remains.
struct Q2_K {
  static constexpr int scale_columns = 256, offset = 0, group_size = sizeof(blocks::Q2_K);
  static constexpr bool minima = true, row_scales = false, own_spans = false;

  template <class Sink>
  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int, UnpackedTile& tile, int h,
                                        const Sink& sink) {
    store(tile.factors[h], scale_of(rows, 80));
    store(tile.minimum_factors[h], scale_of(rows, 82));
    __m512i heads[4];
    load_rows(rows, 0, heads);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      store(tile.sub_minima[k][h], bytes_of_pair(high_half(heads[k / 2]), k % 2 * 2));
    }
    for (int n = 0; n < 2; ++n) {
      for (int half = 0; half < 2; ++half) {
        __m512i v[4];
        load_rows(rows, 16 + n * 32 + half * 16, v);
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; ++pair) {
          const int g = n * 8 + pair * 2 + half;
          const __m512i table = multiples(spread(low_half(heads[n * 2 + pair / 2]), g % 4));
          __m512i quants[4];
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) {
            const __m512i q = index_of(shift_right(v[k], static_cast<unsigned>(2 * pair)));
            quants[k] = look_up(table, q);
          }
          sink.put(g, quants);
        }
      }
    }
  }
};

/// (scale − 32) · (4 − quant) lies in −128 … 127: one scale, −d, for 256 columns remains.
struct Q3_K {
  static constexpr int scale_columns = 256, offset = 128, group_size = sizeof(blocks::Q3_K);
  static constexpr bool minima = false, row_scales = false, own_spans = false;

  template <class Sink>
  ZIYA_TARGET_AVX512 static void unpack(const Rows& rows, int, UnpackedTile& tile, int h,
                                        const Sink& sink) {
    store(tile.factors[h], subtract(zero(), scale_of(rows, 108)));
    __m512i tail[4];
    load_rows(rows, 94, tail);  // 2 bytes of quants, 12 of scales, d
    const __m512i first = _mm512_or_si512(shift_right(tail[0], 16), shift_left(tail[1], 16));
    const __m512i second = _mm512_or_si512(shift_right(tail[1], 16), shift_left(tail[2], 16));
    const __m512i third = _mm512_or_si512(shift_right(tail[2], 16), shift_left(tail[3], 16));
    const __m512i upper = bytes(48), bias = bytes(32);
    const __m512i scales[4] = {
        // 32 − scale
        _mm512_sub_epi8(bias, and_or(shift_left(third, 4), upper, low_half(first))),
        _mm512_sub_epi8(bias, and_or(shift_left(third, 2), upper, low_half(second))),
        _mm512_sub_epi8(bias, and_or(third, upper, high_half(first))),
        _mm512_sub_epi8(bias, and_or(shift_right(third, 2), upper, high_half(second)))};
    for (int half = 0; half < 2; ++half) {
      __m512i high[4];
      load_rows(rows, half * 16, high);
#pragma GCC unroll 2
      for (int n = 0; n < 2; ++n) {
        __m512i v[4];
        load_rows(rows, 32 + n * 32 + half * 16, v);
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; ++pair) {
          const int g = n * 8 + pair * 2 + half;
          const __m512i scale = spread(scales[n * 2 + pair / 2], g % 4);
          const __m512i table = _mm512_xor_si512(multiples(scale), bytes(128));
          __m512i quants[4];
          const __m512i four =
              _mm512_add_epi8(_mm512_add_epi8(scale, scale), _mm512_add_epi8(scale, scale));
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) {
            const __m512i q = index_of(shift_right(v[k], static_cast<unsigned>(2 * pair)));
            const __mmask64 without = _mm512_testn_epi8_mask(high[k], bytes(1 << (g / 2)));
            const __m512i low = look_up(table, q);
            quants[k] = _mm512_mask_sub_epi8(low, without, low, four);
          }
          sink.put(g, quants);
        }
      }
    }
  }
};

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
