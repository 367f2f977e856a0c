// SPDX-License-Identifier: Apache-2.0
// Elements of quantised blocks as they lie in files.
#pragma once

#include <cstdint>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/core/blocks.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Integer of element i, 0 ≤ q < 2^bits.
__device__ inline int low_or_high(const std::uint8_t* quants, int i) {
  return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4;
}
__device__ inline int fifth_bit(const std::uint8_t* high, int i) {
  return (high[i / 8] >> (i % 8) & 1) << 4;
}
__device__ inline int quant_of(const blocks::Q4_0& b, int i) { return low_or_high(b.quants, i); }
__device__ inline int quant_of(const blocks::Q4_1& b, int i) { return low_or_high(b.quants, i); }
__device__ inline int quant_of(const blocks::Q5_0& b, int i) {
  return low_or_high(b.quants, i) | fifth_bit(b.high, i);
}
__device__ inline int quant_of(const blocks::Q5_1& b, int i) {
  return low_or_high(b.quants, i) | fifth_bit(b.high, i);
}
__device__ inline int quant_of(const blocks::Q8_0& b, int i) { return b.quants[i] + 128; }
__device__ inline int quant_of(const blocks::Q4_K& b, int i) {
  return b.quants[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
}
__device__ inline int quant_of(const blocks::Q5_K& b, int i) {
  return (b.quants[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15) |
         (b.high[i % 32] >> (i / 32) & 1) << 4;
}
__device__ inline int quant_of(const blocks::Q6_K& b, int i) {
  const int part = i / 32, l = i % 32;
  const int low = b.quants[part / 4 * 64 + part % 2 * 32 + l] >> (part % 4 / 2 * 4) & 15;
  return low | (b.high[part / 4 * 32 + l] >> (part % 4 * 2) & 3) << 4;
}

/// Scale and minimum of group j of Q4_K and Q5_K, 6 bits each.
__device__ inline int six_bit_scale(const std::uint8_t* packed, int j) {
  return j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
}
__device__ inline int six_bit_min(const std::uint8_t* packed, int j) {
  return j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | (packed[j] >> 6) << 4;
}

/// Element i of the types that are not put into panels.
__device__ inline float value_of(const blocks::IQ4_NL& b, int i) {
  constexpr std::int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
  return widen(b.d) * static_cast<float>(values[low_or_high(b.quants, i)]);
}
__device__ inline float value_of(const blocks::Q2_K& b, int i) {
  const int group = i / 16;
  const int q = b.quants[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
  const float scale = widen(b.d) * static_cast<float>(b.scales[group] & 15);
  const float min = widen(b.dmin) * static_cast<float>(b.scales[group] >> 4);
  return scale * static_cast<float>(q) - min;
}
__device__ inline float value_of(const blocks::Q3_K& b, int i) {
  const int group = i / 16;
  const int low = group < 8 ? b.scales[group] & 15 : b.scales[group - 8] >> 4;
  const int scale = low | (b.scales[8 + group % 4] >> (2 * (group / 4)) & 3) << 4;
  const int q = (b.quants[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) |
                (b.high[i % 32] >> (i / 32) & 1) << 2;
  return widen(b.d) * static_cast<float>(scale - 32) * static_cast<float>(q - 4);
}

}  // namespace cuda
ZIYA_NAMESPACE_END
