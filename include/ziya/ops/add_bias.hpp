// SPDX-License-Identifier: Apache-2.0
// A vector added to every row.
#pragma once

#include <string>

#include "ziya/backend/cpu/add_bias.hpp"
#include "ziya/backend/cuda/add_bias.hpp"
#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// y[i, j] += bias[j]
/// @param y (tokens, width)   @param bias (width)   @throws ShapeError when widths differ
template <class Device, class T>
void add_bias(Context<Device>& ctx, View<T, Device> y, In<float, Device> bias) {
  if (bias.elements() != y.columns()) {
    throw ShapeError("ZIYA-110", "add_bias: width of bias is " + std::to_string(bias.elements()) +
                                     ", expected " + std::to_string(y.columns()));
  }
  backend::add_bias(ctx, y, bias);
}

}  // namespace ops
ZIYA_NAMESPACE_END
