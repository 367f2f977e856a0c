// SPDX-License-Identifier: Apache-2.0
// Softmax of rows.
#pragma once

#include "ziya/backend/cpu/softmax.hpp"
#include "ziya/backend/cuda/softmax.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// y[i, j] = e^(x[i, j] − max) / Σ_k e^(x[i, k] − max); y may be x.
/// @param y, x (rows, columns)   @throws ShapeError when extents differ
template <class Device, class T>
void softmax(Context<Device>& ctx, View<T, Device> y, In<T, Device> x) {
  check_extent("softmax", "width of y", y.columns(), x.columns());
  check_extent("softmax", "rows of y", y.rows(), x.rows());
  backend::softmax(ctx, y, x);
}

/// dx[i, j] = y[i, j] (dy[i, j] − Σ_k dy[i, k] y[i, k])
/// @param dx, dy, y (rows, columns), y the result of softmax   @throws ShapeError
template <class Device, class T>
void softmax_backward(Context<Device>& ctx, View<T, Device> dx, In<T, Device> dy, In<T, Device> y) {
  check_extent("softmax_backward", "width of dy", dy.columns(), y.columns());
  check_extent("softmax_backward", "rows of dy", dy.rows(), y.rows());
  check_extent("softmax_backward", "width of dx", dx.columns(), y.columns());
  check_extent("softmax_backward", "rows of dx", dx.rows(), y.rows());
  backend::softmax_backward(ctx, dx, dy, y);
}

}  // namespace ops
ZIYA_NAMESPACE_END
