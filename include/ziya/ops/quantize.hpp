// SPDX-License-Identifier: Apache-2.0
// Matrices between floats and the forms they are stored in.
#pragma once

#include <span>

#include "ziya/backend/cpu/quantize/weights.hpp"
#include "ziya/backend/cuda/dequantise.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// y[r, i] = w[r, i], exactly.
/// @param y (rows, columns)   @param w (rows, columns), of any type that weights have
/// @throws ShapeError; ArgumentError for another stored type
template <class Device>
void dequantise(Context<Device>& ctx, View<float, Device> y, const Weight<Device>& w) {
  check_weight("dequantise", w);
  check_extent("dequantise", "rows of y", y.rows(), w.rows);
  check_extent("dequantise", "width of y", y.columns(), w.columns);
  backend::dequantise(ctx, y, w);
}

/// x stored as `dtype`, with the least Σ_i importance[i] (x[r, i] − w[r, i])² that a search finds
/// for each block; i8: one scale per row.
/// @param x (rows, columns), finite   @param importance (columns), not negative, or empty for all
/// equal: the mean squares of the inputs that the matrix is multiplied with
/// @throws ShapeError when whole blocks do not divide the rows; ArgumentError for a type that
/// weights do not have
template <class Device>
Weight<Device> quantise(Context<Device>& ctx, DType dtype, In<float, Device> x,
                        std::span<const float> importance = {}) {
  const float one = 1;  // i8 with scales still to come
  check_weight("quantise", Weight<Device>{dtype, x.rows(), x.columns(), nullptr, nullptr, &one});
  if (!importance.empty()) {
    check_extent("quantise", "width of importance", static_cast<std::int64_t>(importance.size()),
                 x.columns());
  }
  return backend::quantise(ctx, dtype, x, importance.empty() ? nullptr : importance.data());
}

/// w in another type, row by row. @throws as quantise
template <class Device>
Weight<Device> converted(Context<Device>& ctx, DType dtype, const Weight<Device>& w) {
  const float one = 1;
  check_weight("converted", w);
  check_weight("converted", Weight<Device>{dtype, w.rows, w.columns, nullptr, nullptr, &one});
  return backend::converted(ctx, dtype, w);
}

}  // namespace ops
ZIYA_NAMESPACE_END
