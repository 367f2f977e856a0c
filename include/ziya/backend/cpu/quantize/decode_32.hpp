// SPDX-License-Identifier: Apache-2.0
// Blocks of 32 elements as floats, exactly.
#pragma once

#include <cstdint>

#include "ziya/config.hpp"
#include "ziya/core/blocks.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace quantize {

/// The 16 values of IQ4_NL, in units of the block's scale.
inline constexpr std::int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};

// Products of a 16-bit scale and a short integer are exact in 32 bits, so every element is rounded
// at most once and comes out the same whatever the compiler contracts.

/// @param out (32)
inline void decode(const blocks::Q4_0& block, float* out) {
  const float d = to_float(block.d);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((block.quants[j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((block.quants[j] >> 4) - 8);
  }
}

inline void decode(const blocks::Q4_1& block, float* out) {
  const float d = to_float(block.d), m = to_float(block.m);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(block.quants[j] & 15) + m;
    out[j + 16] = d * static_cast<float>(block.quants[j] >> 4) + m;
  }
}

/// The fifth bits of 32 elements.
inline std::uint32_t high_bits(const std::uint8_t (&bytes)[4]) {
  return static_cast<std::uint32_t>(bytes[0]) | static_cast<std::uint32_t>(bytes[1]) << 8 |
         static_cast<std::uint32_t>(bytes[2]) << 16 | static_cast<std::uint32_t>(bytes[3]) << 24;
}

inline void decode(const blocks::Q5_0& block, float* out) {
  const float d = to_float(block.d);
  const std::uint32_t high = high_bits(block.high);
  for (int j = 0; j < 16; ++j) {
    const int low_half = (block.quants[j] & 15) | static_cast<int>((high >> j & 1) << 4);
    const int high_half = (block.quants[j] >> 4) | static_cast<int>((high >> (j + 16) & 1) << 4);
    out[j] = d * static_cast<float>(low_half - 16);
    out[j + 16] = d * static_cast<float>(high_half - 16);
  }
}

inline void decode(const blocks::Q5_1& block, float* out) {
  const float d = to_float(block.d), m = to_float(block.m);
  const std::uint32_t high = high_bits(block.high);
  for (int j = 0; j < 16; ++j) {
    const int low_half = (block.quants[j] & 15) | static_cast<int>((high >> j & 1) << 4);
    const int high_half = (block.quants[j] >> 4) | static_cast<int>((high >> (j + 16) & 1) << 4);
    out[j] = d * static_cast<float>(low_half) + m;
    out[j + 16] = d * static_cast<float>(high_half) + m;
  }
}

inline void decode(const blocks::Q8_0& block, float* out) {
  const float d = to_float(block.d);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(block.quants[j]);
}

inline void decode(const blocks::IQ4_NL& block, float* out) {
  const float d = to_float(block.d);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(iq4_values[block.quants[j] & 15]);
    out[j + 16] = d * static_cast<float>(iq4_values[block.quants[j] >> 4]);
  }
}

}  // namespace quantize
ZIYA_NAMESPACE_END
