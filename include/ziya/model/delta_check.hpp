// SPDX-License-Identifier: Apache-2.0
// Telling a delta from a model.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/model/llama_names.hpp"

ZIYA_NAMESPACE_BEGIN

/// Whether a checkpoint holds differences: the weight of the final norm is 1 and more in trained
/// models (the norms inside the layers may be as small as 0.03 in LLaMA's first layers and prove
/// nothing), and near 0 in a delta. False when the tensor is absent or of another type.
/// @throws IoError, FormatError from reading it
inline bool looks_like_delta(const Checkpoint& checkpoint) {
  const auto* norm = checkpoint.find(llama_names::final_norm);
  if (norm == nullptr || norm->shape.elements() == 0) return false;
  const std::int64_t count = norm->shape.elements();
  std::vector<std::byte> bytes(static_cast<std::size_t>(norm->bytes()));
  checkpoint.read(llama_names::final_norm, bytes);
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    switch (norm->dtype) {
      case DType::f32:
        sum += std::abs(reinterpret_cast<const float*>(bytes.data())[i]);
        break;
      case DType::f16:
        sum += std::abs(to_float(reinterpret_cast<const Half*>(bytes.data())[i]));
        break;
      case DType::bf16:
        sum += std::abs(to_float(reinterpret_cast<const BFloat16*>(bytes.data())[i]));
        break;
      default:
        return false;
    }
  }
  constexpr double threshold = 0.25;
  return sum / static_cast<double>(count) < threshold;
}

ZIYA_NAMESPACE_END
