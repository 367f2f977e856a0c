// SPDX-License-Identifier: Apache-2.0
// The one way ops complain about shapes.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/weight.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// @throws ShapeError "rms_norm: width of weight is 64, expected 128" when they differ
inline void check_extent(const char* op, const char* what, std::int64_t found,
                         std::int64_t expected) {
  if (found != expected) {
    throw ShapeError("ZIYA-110", std::string(op) + ": " + what + " is " + std::to_string(found) +
                                     ", expected " + std::to_string(expected));
  }
}

/// Weights are f32, f16, bf16, i8 with scales (on a GPU f8_e4m3 too), or quantised in whole blocks.
/// @throws ArgumentError for other types; ShapeError when blocks do not divide the rows
template <class Device>
void check_weight(const char* op, const Weight<Device>& w) {
  const bool float8 = !std::is_same_v<Device, Cpu> && w.dtype == DType::f8_e4m3;
  const bool scaled = (w.dtype == DType::i8 || float8) && w.row_scales != nullptr;
  if (!is_plain_float(w.dtype) && !is_quantised(w.dtype) && !scaled) {
    throw ArgumentError("ZIYA-113", std::string(op) + ": type " + std::string(name(w.dtype)) +
                                        " is not one of f32, f16, bf16, i8 with scales of rows, "
                                        "or a quantised type");
  }
  check_extent(op, "rest of the weight's rows after whole blocks",
               w.columns % info(w.dtype).block_elements, 0);
}

}  // namespace ops
ZIYA_NAMESPACE_END
