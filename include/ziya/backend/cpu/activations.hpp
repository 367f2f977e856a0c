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

/// 256 columns of one row: x[i] ≈ scale · values[i], rounded to nearest even; zeros beyond the end
/// of the row. The scale of a span of columns is max|x| / 127, and a power of two not below that
/// for spans of 32 columns, which weights in blocks of 32 have. All others have spans of 256.
/// Beside the values, what follows from them for the weights' offsets and minima: sums over 16, 32
/// and all columns. Small, because many of them are to stay in the second-level cache.
struct alignas(64) ActivationGroup {
  static constexpr std::int64_t columns = 256;
  static constexpr float exponent = 12582912.0f;  ///< 2²³ + 2²²

  /// A sum of products starts as the bits of a shift; with integers added to them, the float's
  /// distance from the shift is what was added times the scale, as that is a power of two. So a
  /// subtraction both converts and scales.
  struct By32 {
    float shifts[8];  ///< exponent · scale
    float sums[8];    ///< of values, times their scale
    /// 0, −8, −16 and −128 times sums of values, plus the bits of the shift: where sums of products
    /// with quants that are too large by that much start.
    std::int32_t starts[4][8];
  };
  struct By256 {
    std::int32_t times_32_of_16[16];  ///< −32 times sums of values
    std::int16_t sums_of_16[16], sums_of_32[8];
    std::int32_t times_128;  ///< −128 times the sum of all
    float scale;
  };

  std::int8_t values[256];
  union {
    By32 by_32;    ///< where spans are of 32 columns
    By256 by_256;  ///< where spans are of 256
  };
};
static_assert(sizeof(ActivationGroup) == 448);

/// The values of a group in another order: the blocks of 32 in two fours, of each the first halves
/// of four blocks, then the second ones; blocks 0 … 3 and 4 … 7 where spans are of 32 columns, the
/// even and the odd blocks otherwise.
struct alignas(64) ActivationFours {
  std::int8_t values[2][2][64];
};

constexpr std::int64_t activation_groups(std::int64_t columns) {
  return (columns + ActivationGroup::columns - 1) / ActivationGroup::columns;
}

/// The span of columns that share a scale beside weights of a type.
constexpr int activation_span(DType dtype) { return info(dtype).block_elements == 32 ? 32 : 256; }

/// Which of `starts` cancels an offset of quants.
constexpr int start_of_offset(int offset) {
  return offset == 0 ? 0 : offset == 8 ? 1 : offset == 16 ? 2 : 3;
}

/// What follows from the values, their scales, and the sums of the values over every 16 columns.
inline void complete(ActivationGroup& group, int span, const float (&scales)[8],
                     const std::int32_t (&sums)[16]) {
  if (span == 32) {
    for (int b = 0; b < 8; ++b) {
      const std::int32_t sum = sums[2 * b] + sums[2 * b + 1];
      const float shift = ActivationGroup::exponent * scales[b];
      const auto bits = std::bit_cast<std::int32_t>(shift);
      group.by_32.shifts[b] = shift;
      group.by_32.sums[b] = static_cast<float>(sum) * scales[b];
      group.by_32.starts[0][b] = bits;
      group.by_32.starts[1][b] = bits - 8 * sum;
      group.by_32.starts[2][b] = bits - 16 * sum;
      group.by_32.starts[3][b] = bits - 128 * sum;
    }
    return;
  }
  ActivationGroup::By256& by = group.by_256;
  std::int32_t total = 0;
  for (int i = 0; i < 16; ++i) {
    by.times_32_of_16[i] = -32 * sums[i];
    by.sums_of_16[i] = static_cast<std::int16_t>(sums[i]);
  }
  for (int b = 0; b < 8; ++b) {
    const std::int32_t sum = sums[2 * b] + sums[2 * b + 1];
    by.sums_of_32[b] = static_cast<std::int16_t>(sum);
    total += sum;
  }
  by.times_128 = -128 * total;
  by.scale = scales[0];
}

inline void order(ActivationFours& fours, const ActivationGroup& group, int span) {
  for (int b = 0; b < 8; ++b) {
    const int four = span == 32 ? b / 4 : b % 2, place = span == 32 ? b % 4 : b / 2;
    for (int half = 0; half < 2; ++half) {
      __builtin_memcpy(&fours.values[four][half][16 * place], group.values + 32 * b + 16 * half,
                       16);
    }
  }
}

/// Below the first a span counts as zeros, because 127 / max|x| would overflow; above the second as
/// infinite.
inline constexpr float smallest_activation = 1e-36f, largest_activation = 1e33f;

/// The scale of a span whose largest size is that.
inline float activation_scale(float largest, int span) {
  const float scale = largest / 127.0f;
  if (span != 32) return scale;
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(scale) + 0x7fffffu) & 0x7f800000u);
}

namespace baseline {

/// One row; its groups lie `stride` apart. What is not finite becomes a scale that is not.
inline void quantise(ActivationGroup* groups, std::int64_t stride, const float* x,
                     std::int64_t columns, int span) {
  for (std::int64_t i = 0; i < columns; i += ActivationGroup::columns, groups += stride) {
    float scales[8] = {};
    std::int32_t sums[16] = {};
    for (std::int64_t first = 0; first < ActivationGroup::columns; first += span) {
      const std::int64_t count = std::clamp<std::int64_t>(columns - i - first, 0, span);
      float largest = 0, poison = 0;
      for (std::int64_t j = first; j < first + count; ++j) {
        largest = std::max(largest, std::abs(x[i + j]));
        poison += x[i + j] * 0.0f;
      }
      if (largest > largest_activation) poison += largest * largest;
      const float scale = activation_scale(largest, span);
      const float inverse = largest > smallest_activation && poison == 0 ? 1.0f / scale : 0.0f;
      for (std::int64_t j = first; j < first + span; ++j) {
        groups->values[j] = j < first + count && poison == 0
                                ? static_cast<std::int8_t>(std::nearbyint(x[i + j] * inverse))
                                : std::int8_t{0};
        sums[j / 16] += groups->values[j];
      }
      for (std::int64_t b = first / 32; b < (first + span) / 32; ++b) {
        scales[b] = scale + poison;
      }
    }
    complete(*groups, span, scales, sums);
  }
}

}  // namespace baseline
ZIYA_NAMESPACE_END
