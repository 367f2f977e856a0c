// SPDX-License-Identifier: Apache-2.0
// Blocks of 32 elements from floats, with the least squared error that a search finds.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/quantize/decode_32.hpp"
#include "ziya/backend/cpu/quantize/fit.hpp"
#include "ziya/config.hpp"
#include "ziya/core/blocks.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace quantize {

/// The nearest half that is finite; of NaN, which sums of squares beyond a float's range give, 0.
inline Half finite_half(float value) {
  if (std::isnan(value)) return {};
  return to_half(value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value);
}

/// codes[i] = the integer in [low, high] nearest to (x[i] − offset) / scale, minus low.
template <int n>
void round_codes(const float* x, float scale, float offset, int low, int high,
                 std::uint8_t* codes) {
  const float inverse_scale = inverse(scale);
  for (int i = 0; i < n; ++i) {
    const float q = nearest_integer((x[i] - offset) * inverse_scale, static_cast<float>(low),
                                    static_cast<float>(high));
    codes[i] = static_cast<std::uint8_t>(static_cast<int>(q) - low);
  }
}

/// Element j in the low half of byte j, element j + 16 in the high half; fifth bits into `high`.
inline void pack_halves(const std::uint8_t (&codes)[32], std::uint8_t (&quants)[16]) {
  for (int j = 0; j < 16; ++j) {
    quants[j] = static_cast<std::uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
  }
}
inline void pack_fifth(const std::uint8_t (&codes)[32], std::uint8_t (&high)[4]) {
  for (int byte = 0; byte < 4; ++byte) {
    int bits = 0;
    for (int j = 0; j < 8; ++j) bits |= (codes[byte * 8 + j] >> 4 & 1) << j;
    high[byte] = static_cast<std::uint8_t>(bits);
  }
}

/// @param x (32), finite   @param w (32) weights of the squared errors, not negative
inline void encode(blocks::Q4_0& block, const float* x, const float* w) {
  const Fit fit = fit_symmetric<32>(x, w, 8, 2.4f, 8);
  std::uint8_t codes[32];
  block.d = finite_half(fit.scale);
  round_codes<32>(x, to_float(block.d), 0, -8, 7, codes);
  pack_halves(codes, block.quants);
}

inline void encode(blocks::Q5_0& block, const float* x, const float* w) {
  const Fit fit = fit_symmetric<32>(x, w, 16, 2.4f, 8);
  std::uint8_t codes[32];
  block.d = finite_half(fit.scale);
  round_codes<32>(x, to_float(block.d), 0, -16, 15, codes);
  pack_halves(codes, block.quants);
  pack_fifth(codes, block.high);
}

/// The offset is fitted once more to the scale that was rounded to 16 bits.
template <class Block>
void encode_affine(Block& block, const float* x, const float* w, Fit fit, int top,
                   std::uint8_t (&codes)[32]) {
  block.d = finite_half(fit.scale);
  block.m = finite_half(fit.offset);
  round_codes<32>(x, to_float(block.d), to_float(block.m), 0, top, codes);
  float sum = 0, weight = 0;
  for (int i = 0; i < 32; ++i) {
    sum += w[i] * (x[i] - to_float(block.d) * static_cast<float>(codes[i]));
    weight += w[i];
  }
  if (!(weight > 0)) return;
  const Half before = block.m, after = finite_half(sum / weight);
  const auto limit = static_cast<float>(top);
  if (error_of<32>(x, w, to_float(block.d), to_float(after), 0, limit) <
      error_of<32>(x, w, to_float(block.d), to_float(before), 0, limit)) {
    block.m = after;
    round_codes<32>(x, to_float(block.d), to_float(block.m), 0, top, codes);
  }
}

inline void encode(blocks::Q4_1& block, const float* x, const float* w) {
  std::uint8_t codes[32];
  encode_affine(block, x, w, fit_affine<32, false>(x, w, 15, 0.02f, 4), 15, codes);
  pack_halves(codes, block.quants);
}

inline void encode(blocks::Q5_1& block, const float* x, const float* w) {
  std::uint8_t codes[32];
  encode_affine(block, x, w, fit_affine<32, false>(x, w, 31, 0.01f, 4), 31, codes);
  pack_halves(codes, block.quants);
  pack_fifth(codes, block.high);
}

/// −128 is not used, so that a product of magnitudes fits signed instructions.
inline void encode(blocks::Q8_0& block, const float* x, const float* w) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
  Half best = finite_half(largest / 127);
  float error = error_of<32>(x, w, to_float(best), 0, -127, 127);
  for (int step = 1; step <= 8; ++step) {
    const Half d = finite_half(largest / (126.2f + 0.2f * static_cast<float>(step)));
    const float other = error_of<32>(x, w, to_float(d), 0, -127, 127);
    if (other < error) error = other, best = d;
  }
  std::uint8_t codes[32];
  block.d = best;
  round_codes<32>(x, to_float(best), 0, -127, 127, codes);
  for (int i = 0; i < 32; ++i) block.quants[i] = static_cast<std::int8_t>(codes[i] - 127);
}

/// The same without a search, for what is written at every token: the largest element becomes ±127.
/// A block with NaN or infinity becomes NaN. Integers find the largest, whatever the compiler may
/// assume of floats.
inline void encode_nearest(blocks::Q8_0& block, const float* x) {
  std::int32_t largest = 0;
  for (int i = 0; i < 32; ++i) {
    const std::int32_t size = std::bit_cast<std::int32_t>(x[i]) & 0x7fffffff;
    largest = size > largest ? size : largest;
  }
  const bool finite = largest < 0x7f800000;
  block.d = finite ? finite_half(std::bit_cast<float>(largest) / 127) : Half{0x7e00};
  const float inverse_scale = finite ? inverse(to_float(block.d)) : 0.0f;
  for (int i = 0; i < 32; ++i) {
    const float q = nearest_integer(x[i] * inverse_scale, -127, 127);
    block.quants[i] = static_cast<std::int8_t>(static_cast<int>(q));
  }
}

/// The table's value nearest to v, as its index: one comparison with each middle of neighbours.
inline int nearest_iq4(float v) {
  int index = 0;
  for (int k = 0; k < 15; ++k) {
    const int middle = iq4_values[k] + iq4_values[k + 1];
    index += 2 * v > static_cast<float>(middle) ? 1 : 0;
  }
  return index;
}

/// nearest_iq4's values for v = −128, −127.875 … 127.875: near enough for a search.
inline constexpr auto iq4_rounded = [] {
  std::array<std::int8_t, 2048> table{};
  for (int i = 0, index = 0; i < 2048; ++i) {
    while (index < 15 && i - 1024 > 4 * (iq4_values[index] + iq4_values[index + 1])) ++index;
    table[static_cast<std::size_t>(i)] = iq4_values[index];
  }
  return table;
}();
inline float rounded_iq4(float v) {
  const float place = nearest_integer(v * 8, -1024, 1023);
  return static_cast<float>(iq4_rounded[static_cast<std::size_t>(static_cast<int>(place) + 1024)]);
}

/// One round of Lloyd's iteration with the table's values in place of integers.
inline Fit improved_iq4(const float* x, const float* w, float scale) {
  float rr[chains] = {}, rv[chains] = {}, vv[chains] = {};
  const float inverse_scale = inverse(scale);
  for (int i = 0; i < 32; i += chains) {
    for (int c = 0; c < chains; ++c) {
      const float v = rounded_iq4(x[i + c] * inverse_scale);
      const float r = x[i + c] - scale * v;
      rr[c] += w[i + c] * r * r;
      rv[c] += w[i + c] * r * v;
      vv[c] += w[i + c] * v * v;
    }
  }
  const float srr = sum_of(rr), srv = sum_of(rv), svv = sum_of(vv);
  if (!(svv > 0)) return {scale, 0, srr};
  return {scale + srv / svv, 0, srr - srv * srv / svv};
}

inline void encode(blocks::IQ4_NL& block, const float* x, const float* w) {
  float extreme = 0;
  for (int i = 0; i < 32; ++i) extreme = std::fabs(x[i]) > std::fabs(extreme) ? x[i] : extreme;
  Fit best;
  if (extreme != 0) {
    best = improved_iq4(x, w, extreme / -127);
    for (int step = 0; step < 8; ++step) {
      const float place = 140.0f - 7.0f * static_cast<float>(step);
      for (const float sign : {-1.0f, 1.0f}) {
        const Fit fit = improved_iq4(x, w, sign * extreme / (sign < 0 ? place : place - 12));
        if (fit.error < best.error) best = fit;
      }
    }
    for (int round = 0; round < 4; ++round) {
      const Fit next = improved_iq4(x, w, best.scale);
      if (!(next.error < best.error)) break;
      best = next;
    }
  }
  block.d = finite_half(best.scale);
  const float inverse_scale = inverse(to_float(block.d));
  std::uint8_t codes[32];
  for (int i = 0; i < 32; ++i) {
    codes[i] = static_cast<std::uint8_t>(nearest_iq4(x[i] * inverse_scale));
  }
  pack_halves(codes, block.quants);
}

}  // namespace quantize
ZIYA_NAMESPACE_END
