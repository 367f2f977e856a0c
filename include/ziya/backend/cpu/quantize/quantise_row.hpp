// SPDX-License-Identifier: Apache-2.0
// Rows of floats in any stored type.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/quantize/dequantise_row.hpp"
#include "ziya/backend/cpu/quantize/encode_256.hpp"
#include "ziya/backend/cpu/quantize/encode_32.hpp"
#include "ziya/config.hpp"
#include "ziya/core/blocks.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace quantize {

/// Weights of the squared errors of one block: the importance over its mean, plus a hundredth so
/// that no element is without any; 1 where there is no importance.
inline void block_weights(const float* importance, std::int64_t count, float* weights) {
  float sum = 0;
  for (std::int64_t i = 0; importance != nullptr && i < count; ++i) sum += importance[i];
  const float mean = sum / static_cast<float>(count);
  for (std::int64_t i = 0; i < count; ++i) {
    weights[i] = mean > 0 && std::isfinite(mean) ? importance[i] / mean + 0.01f : 1.0f;
  }
}

/// `count` finite floats, whole blocks of `dtype`, to the address `to` (of any alignment): f32, f16
/// and bf16 rounded to nearest, quantised types with the least Σ importance (x − w)² that a search
/// finds. The same input gives the same bytes.
/// @param importance (count), not negative, or null for all equal; of f32, f16, bf16 not read
void quantise_row(DType dtype, const float* from, std::byte* to, std::int64_t count,
                  const float* importance = nullptr);
#if ZIYA_DEFINITIONS
ZIYA_INLINE void quantise_row(DType dtype, const float* from, std::byte* to, std::int64_t count,
                              const float* importance) {
  assert(count % info(dtype).block_elements == 0);
  if (dtype == DType::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
  } else if (dtype == DType::f16 || dtype == DType::bf16) {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint16_t bits =
          dtype == DType::f16 ? to_half(from[i]).bits : to_bfloat16(from[i]).bits;
      std::memcpy(to + 2 * i, &bits, 2);
    }
  } else {
    with_block(dtype, [&](auto block) {
      const std::int64_t elements = info(dtype).block_elements;
      float weights[256];
      if (importance == nullptr) block_weights(nullptr, elements, weights);
      for (std::int64_t i = 0; i < count; i += elements, to += sizeof block) {
        if (importance != nullptr) block_weights(importance + i, elements, weights);
        encode(block, from + i, weights);
        std::memcpy(to, &block, sizeof block);
      }
    });
  }
}
#endif

/// Row of i8: integers in [−127, 127] times the largest |x| / 127, which is returned.
inline float quantise_i8_row(const float* from, std::int8_t* to, std::int64_t count) {
  float largest = 0;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(from[i]));
  const float scale = largest / 127, inverse_scale = inverse(scale);
  for (std::int64_t i = 0; i < count; ++i) {
    const float q = nearest_integer(from[i] * inverse_scale, -127, 127);
    to[i] = static_cast<std::int8_t>(static_cast<int>(q));
  }
  return scale;
}

}  // namespace quantize
ZIYA_NAMESPACE_END
