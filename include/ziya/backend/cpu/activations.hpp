// SPDX-License-Identifier: Apache-2.0
// Activations in 8 bits, as the products with quantised weights read them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// 256 columns of one row: x[i] ≈ scale · values[i], scale = max|x| / 127, rounded to nearest even;
/// zeros beyond the end of the row. Beside them what the weights' offsets and minima are multiplied
/// with: sums of values over 16, 32 and all columns, as they are and times −8, −16, −32 and −128.
struct alignas(64) ActivationGroup {
  static constexpr std::int64_t columns = 256;

  std::int8_t values[256];
  std::int32_t times_32_of_16[16];
  std::int32_t times_8_of_32[8], times_16_of_32[8], times_128_of_32[8];
  float sum_16[16];
  float sum_32[8];
  std::int32_t times_128;
  float scale;
};

constexpr std::int64_t activation_groups(std::int64_t columns) {
  return (columns + ActivationGroup::columns - 1) / ActivationGroup::columns;
}

/// What follows from the sums over 16 columns.
inline void set_sums(ActivationGroup& group, const std::int32_t (&sums)[16]) {
  std::int32_t total = 0;
  for (int i = 0; i < 16; ++i) {
    group.times_32_of_16[i] = -32 * sums[i];
    group.sum_16[i] = static_cast<float>(sums[i]);
  }
  for (int i = 0; i < 8; ++i) {
    const std::int32_t sum = sums[2 * i] + sums[2 * i + 1];
    group.times_8_of_32[i] = -8 * sum;
    group.times_16_of_32[i] = -16 * sum;
    group.times_128_of_32[i] = -128 * sum;
    group.sum_32[i] = static_cast<float>(sum);
    total += sum;
  }
  group.times_128 = -128 * total;
}

/// Below this a group counts as zeros, because 127 / max|x| would overflow.
inline constexpr float smallest_activation = 1e-36f;

namespace baseline {

/// One row; its groups lie `stride` apart. What is not finite becomes a scale that is not.
inline void quantise(ActivationGroup* groups, std::int64_t stride, const float* x,
                     std::int64_t columns) {
  for (std::int64_t i = 0; i < columns; i += ActivationGroup::columns, groups += stride) {
    const std::int64_t count = std::min(ActivationGroup::columns, columns - i);
    float largest = 0, poison = 0;
    for (std::int64_t j = 0; j < count; ++j) {
      largest = std::max(largest, std::abs(x[i + j]));
      poison += x[i + j] * 0.0f;
    }
    const float inverse = largest > smallest_activation && poison == 0 ? 127.0f / largest : 0.0f;
    for (std::int64_t j = 0; j < ActivationGroup::columns; ++j) {
      groups->values[j] = j < count && poison == 0
                              ? static_cast<std::int8_t>(std::nearbyint(x[i + j] * inverse))
                              : std::int8_t{0};
    }
    groups->scale = largest / 127.0f + poison;
    std::int32_t sums[16] = {};
    for (int j = 0; j < ActivationGroup::columns; ++j) sums[j / 16] += groups->values[j];
    set_sums(*groups, sums);
  }
}

}  // namespace baseline
ZIYA_NAMESPACE_END
