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
__device__ inline int quant_of(const blocks::IQ4_NL& b, int i) { return low_or_high(b.quants, i); }
__device__ inline int quant_of(const blocks::Q2_K& b, int i) {
  return b.quants[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}
__device__ inline int quant_of(const blocks::Q3_K& b, int i) {
  return (b.quants[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) |
         (b.high[i % 32] >> (i / 32) & 1) << 2;
}
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
/// Scale of columns 16 j, … of Q3_K, 6 bits.
__device__ inline int step_scale(const std::uint8_t* packed, int j) {
  const int low = j < 8 ? packed[j] & 15 : packed[j - 8] >> 4;
  return low | (packed[8 + j % 4] >> (2 * (j / 4)) & 3) << 4;
}

}  // namespace cuda
ZIYA_NAMESPACE_END
