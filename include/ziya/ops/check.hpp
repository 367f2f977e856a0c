// SPDX-License-Identifier: Apache-2.0
// The one way ops complain about shapes.
#pragma once

#include <cstdint>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"

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

/// Kernels read matrices stored as f32, f16 and bf16. @throws ArgumentError for other types
inline void check_stored_type(const char* op, DType dtype) {
  if (dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16) {
    throw ArgumentError("ZIYA-113", std::string(op) + ": type " + std::string(name(dtype)) +
                                        " is not one of f32, f16, bf16");
  }
}

}  // namespace ops
ZIYA_NAMESPACE_END
