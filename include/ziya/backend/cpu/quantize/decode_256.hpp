// SPDX-License-Identifier: Apache-2.0
// Blocks of 256 elements as floats, exactly.
#pragma once

#include <cstdint>

#include "ziya/config.hpp"
#include "ziya/core/blocks.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace quantize {

// In every K type a byte holds elements that lie 32 (Q4_K, Q5_K: a low and a high half) or 32, 64
// and 96 (Q2_K, Q3_K: four pairs of bits) apart, so that vectors unpack with shifts.

/// Scale and minimum of group j of Q4_K and Q5_K, 6 bits each: those of groups 0 … 3 are the low
/// bits of bytes 0 … 3 and 4 … 7; of 4 … 7 the lower four bits share bytes 8 … 11 and the upper two
/// are the high bits of bytes 0 … 7.
struct ScaleMin {
  int scale, min;
};
inline ScaleMin scale_min(const std::uint8_t (&packed)[12], int j) {
  if (j < 4) return {packed[j] & 63, packed[j + 4] & 63};
  return {(packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4, (packed[j + 4] >> 4) | (packed[j] >> 6)
                                                                                       << 4};
}

/// Scale of group j of Q3_K, 0 … 63: the lower four bits are half a byte of bytes 0 … 7, the upper
/// two a quarter of bytes 8 … 11.
inline int scale_q3(const std::uint8_t (&packed)[12], int j) {
  const int low = j < 8 ? packed[j] & 15 : packed[j - 8] >> 4;
  return low | (packed[8 + j % 4] >> (2 * (j / 4)) & 3) << 4;
}

/// @param out (256)
inline void decode(const blocks::Q2_K& block, float* out) {
  const float d = to_float(block.d), dmin = to_float(block.dmin);
  for (int group = 0; group < 16; ++group) {
    const float scale = d * static_cast<float>(block.scales[group] & 15);
    const float min = dmin * static_cast<float>(block.scales[group] >> 4);
    const std::uint8_t* quants = block.quants + group / 8 * 32 + group % 2 * 16;
    const int shift = group % 8 / 2 * 2;
    for (int l = 0; l < 16; ++l) {
      out[group * 16 + l] = scale * static_cast<float>(quants[l] >> shift & 3) - min;
    }
  }
}

inline void decode(const blocks::Q3_K& block, float* out) {
  const float d = to_float(block.d);
  for (int group = 0; group < 16; ++group) {
    const float scale = d * static_cast<float>(scale_q3(block.scales, group) - 32);
    const std::uint8_t* quants = block.quants + group / 8 * 32 + group % 2 * 16;
    const std::uint8_t* high = block.high + group % 2 * 16;
    const int shift = group % 8 / 2 * 2, bit = group / 2;
    for (int l = 0; l < 16; ++l) {
      const int q = (quants[l] >> shift & 3) | (high[l] >> bit & 1) << 2;
      out[group * 16 + l] = scale * static_cast<float>(q - 4);
    }
  }
}

inline void decode(const blocks::Q4_K& block, float* out) {
  const float d = to_float(block.d), dmin = to_float(block.dmin);
  for (int group = 0; group < 8; ++group) {
    const ScaleMin packed = scale_min(block.scales, group);
    const float scale = d * static_cast<float>(packed.scale);
    const float min = dmin * static_cast<float>(packed.min);
    const std::uint8_t* quants = block.quants + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      out[group * 32 + l] = scale * static_cast<float>(quants[l] >> shift & 15) - min;
    }
  }
}

inline void decode(const blocks::Q5_K& block, float* out) {
  const float d = to_float(block.d), dmin = to_float(block.dmin);
  for (int group = 0; group < 8; ++group) {
    const ScaleMin packed = scale_min(block.scales, group);
    const float scale = d * static_cast<float>(packed.scale);
    const float min = dmin * static_cast<float>(packed.min);
    const std::uint8_t* quants = block.quants + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      const int q = (quants[l] >> shift & 15) | (block.high[l] >> group & 1) << 4;
      out[group * 32 + l] = scale * static_cast<float>(q) - min;
    }
  }
}

inline void decode(const blocks::Q6_K& block, float* out) {
  const float d = to_float(block.d);
  for (int part = 0; part < 8; ++part) {  // 32 elements with the same shifts
    const std::uint8_t* quants = block.quants + part / 4 * 64 + part % 2 * 32;
    const std::uint8_t* high = block.high + part / 4 * 32;
    const int shift = part % 4 / 2 * 4, high_shift = part % 4 * 2;
    for (int l = 0; l < 32; ++l) {
      const int q = (quants[l] >> shift & 15) | (high[l] >> high_shift & 3) << 4;
      const float scale = d * static_cast<float>(block.scales[part * 2 + l / 16]);
      out[part * 32 + l] = scale * static_cast<float>(q - 32);
    }
  }
}

}  // namespace quantize
ZIYA_NAMESPACE_END
