// SPDX-License-Identifier: Apache-2.0
// Activations in 8 bits, as the products with quantised weights read them.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN

/// 256 columns of one row: x[i] ≈ scale · values[i], rounded to nearest even, scale = max|x| / 127
/// of a span of columns to 11 bits, as in a 16-bit float; zeros beyond the end of the row. Spans
/// are of 32 columns for weights in blocks of 32 and of 256 for all others, as llama.cpp's are.
/// Beside the values, what follows from them for the weights' offsets and minima: sums over 16, 32
/// and all columns.
struct alignas(64) ActivationGroup {
  static constexpr std::int64_t columns = 256;

  std::int8_t values[256];
  /// The blocks of 32 in two fours, of each the first halves of four blocks, then the second ones:
  /// blocks 0 … 3 and 4 … 7 where spans are of 32 columns, the even and the odd blocks otherwise.
  std::int8_t fours[2][2][64];
  std::int32_t times_32_of_16[16];  ///< −32 times sums of values
  std::int32_t times_128;           ///< −128 times the sum of all
  float scale;                      ///< of all columns, where spans are of 256
  float scales[8];                  ///< of every block of 32
  /// −8, −16 and −128 times sums of values, plus the bits of `exponent`: a float whose distance
  /// from `exponent` is what is added to it, which saves the conversion
  std::int32_t times_8_of_32[8], times_16_of_32[8], times_128_of_32[8];
  float shifts[8];        ///< −exponent · scales, exactly
  float sum_16[16];       ///< sums of values
  float sum_32[8];        ///< sums of values; times their scales where spans are of 32 columns
  float fours_sum_32[8];  ///< the same in the order of `fours`

  static constexpr float exponent = 12582912.0f;  ///< 2²³ + 2²²
};

constexpr std::int64_t activation_groups(std::int64_t columns) {
  return (columns + ActivationGroup::columns - 1) / ActivationGroup::columns;
}

/// The span of columns that share a scale beside weights of a type.
constexpr int activation_span(DType dtype) { return info(dtype).block_elements == 32 ? 32 : 256; }

/// What follows from the values, their scales and their sums over 16 columns.
inline void complete(ActivationGroup& group, int span, const std::int32_t (&sums)[16]) {
  constexpr auto bits = std::bit_cast<std::int32_t>(ActivationGroup::exponent);
  std::int32_t total = 0;
  for (int i = 0; i < 16; ++i) {
    group.times_32_of_16[i] = -32 * sums[i];
    group.sum_16[i] = static_cast<float>(sums[i]);
  }
  for (int b = 0; b < 8; ++b) {
    const std::int32_t sum = sums[2 * b] + sums[2 * b + 1];
    const int four = span == 32 ? b / 4 : b % 2, lane = span == 32 ? b % 4 : b / 2;
    group.times_8_of_32[b] = bits - 8 * sum;
    group.times_16_of_32[b] = bits - 16 * sum;
    group.times_128_of_32[b] = bits - 128 * sum;
    group.shifts[b] = -ActivationGroup::exponent * group.scales[b];
    group.sum_32[b] = static_cast<float>(sum) * (span == 32 ? group.scales[b] : 1.0f);
    group.fours_sum_32[4 * four + lane] = group.sum_32[b];
    for (int half = 0; half < 2; ++half) {
      __builtin_memcpy(&group.fours[four][half][16 * lane], group.values + 32 * b + 16 * half, 16);
    }
    total += sum;
  }
  group.times_128 = -128 * total;
  group.scale = group.scales[0];
}

/// Below the first a span counts as zeros, because 127 / max|x| would overflow; above the second as
/// infinite.
inline constexpr float smallest_activation = 1e-36f, largest_activation = 1e33f;

/// max|x| / 127 rounded to 11 bits, so that `shifts` are exact.
inline float activation_scale(float largest) {
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(largest / 127.0f) + 0xfffu) & ~0x1fffu);
}

namespace baseline {

/// One row; its groups lie `stride` apart. What is not finite becomes a scale that is not.
inline void quantise(ActivationGroup* groups, std::int64_t stride, const float* x,
                     std::int64_t columns, int span) {
  for (std::int64_t i = 0; i < columns; i += ActivationGroup::columns, groups += stride) {
    std::int32_t sums[16] = {};
    for (std::int64_t first = 0; first < ActivationGroup::columns; first += span) {
      const std::int64_t count = std::clamp<std::int64_t>(columns - i - first, 0, span);
      float largest = 0, poison = 0;
      for (std::int64_t j = first; j < first + count; ++j) {
        largest = std::max(largest, std::abs(x[i + j]));
        poison += x[i + j] * 0.0f;
      }
      if (largest > largest_activation) poison += largest * largest;
      const float scale = activation_scale(largest);
      const float inverse = largest > smallest_activation && poison == 0 ? 1.0f / scale : 0.0f;
      for (std::int64_t j = first; j < first + span; ++j) {
        groups->values[j] = j < first + count && poison == 0
                                ? static_cast<std::int8_t>(std::nearbyint(x[i + j] * inverse))
                                : std::int8_t{0};
        sums[j / 16] += groups->values[j];
      }
      for (std::int64_t b = first / 32; b < (first + span) / 32; ++b) {
        groups->scales[b] = scale + poison;
      }
    }
    complete(*groups, span, sums);
  }
}

}  // namespace baseline
ZIYA_NAMESPACE_END
