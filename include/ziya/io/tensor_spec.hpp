// SPDX-License-Identifier: Apache-2.0
// What a tensor is, apart from its contents and its place.
#pragma once

#include <cstdint>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/shape.hpp"

ZIYA_NAMESPACE_BEGIN

/// A tensor that is going to be written, or could be read.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;

  [[nodiscard]] std::int64_t bytes() const { return bytes_of(dtype, shape.elements()); }
};

ZIYA_NAMESPACE_END
