// SPDX-License-Identifier: Apache-2.0
// A matrix in the form it is stored in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN

/// rows × columns, row-major, each row a whole number of blocks of `dtype`; read-only and shared.
/// `owner` keeps the mappings or the allocations behind `data` and `row_scales` alive. A linear
/// layer is (out_features, in_features); an embedding is (vocabulary, hidden).
template <class Device = Cpu>
struct Weight {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  const std::byte* data = nullptr;
  std::shared_ptr<const void> owner;
  /// (rows), of i8 and f8_e4m3 only: element = row_scales[row] · number
  const float* row_scales = nullptr;

  [[nodiscard]] bool empty() const { return data == nullptr; }
  [[nodiscard]] std::int64_t row_bytes() const {
    return columns / info(dtype).block_elements * info(dtype).block_bytes;
  }
  [[nodiscard]] std::int64_t bytes() const { return rows * row_bytes(); }
  [[nodiscard]] float row_scale(std::int64_t i) const { return row_scales ? row_scales[i] : 1.0f; }
  [[nodiscard]] const std::byte* row(std::int64_t i) const { return data + i * row_bytes(); }
};

ZIYA_NAMESPACE_END
