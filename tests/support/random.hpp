// SPDX-License-Identifier: Apache-2.0
// Random inputs that are the same on every platform.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "ziya/core/dtype.hpp"
#include "ziya/core/random.hpp"
#include "ziya/core/weight.hpp"

namespace test {

/// Uniform in ±scale.
inline std::vector<float> random_values(std::int64_t count, std::uint64_t seed, double scale = 1) {
  ziya::Random random{.seed = seed};
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>((2 * random.uniform() - 1) * scale);
  return values;
}

/// A value as the stored type holds it, and its bytes.
inline float rounded(ziya::DType dtype, float value) {
  if (dtype == ziya::DType::f16) return ziya::to_float(ziya::to_half(value));
  if (dtype == ziya::DType::bf16) return ziya::to_float(ziya::to_bfloat16(value));
  return value;
}
inline void store(ziya::DType dtype, std::byte* to, float value) {
  const ziya::Half half = ziya::to_half(value);
  const ziya::BFloat16 brain = ziya::to_bfloat16(value);
  const void* from = &value;
  if (dtype == ziya::DType::f16) from = &half;
  if (dtype == ziya::DType::bf16) from = &brain;
  std::memcpy(to, from, static_cast<std::size_t>(ziya::info(dtype).block_bytes));
}

/// A weight and the numbers it holds.
struct StoredMatrix {
  ziya::Weight<ziya::Cpu> weight;
  std::vector<float> values;
  [[nodiscard]] double at(std::int64_t row, std::int64_t column) const {
    return static_cast<double>(values[static_cast<std::size_t>(row * weight.columns + column)]);
  }
};

/// `values` in the stored type, from an address that is aligned to the type and no further.
inline StoredMatrix stored(ziya::DType dtype, std::int64_t rows, std::int64_t columns,
                           std::vector<float> values) {
  const std::int64_t size = ziya::info(dtype).block_bytes;
  auto bytes = std::make_shared<std::vector<std::byte>>(
      static_cast<std::size_t>((rows * columns + 1) * size));
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    float& value = values[static_cast<std::size_t>(i)];
    value = rounded(dtype, value);
    store(dtype, bytes->data() + (i + 1) * size, value);
  }
  return {{dtype, rows, columns, bytes->data() + size, bytes}, std::move(values)};
}
inline StoredMatrix random_matrix(ziya::DType dtype, std::int64_t rows, std::int64_t columns,
                                  std::uint64_t seed) {
  return stored(dtype, rows, columns, random_values(rows * columns, seed));
}

}  // namespace test
