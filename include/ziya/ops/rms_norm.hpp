// SPDX-License-Identifier: Apache-2.0
// Root-mean-square normalisation.
#pragma once

#include "ziya/backend/cpu/rms_norm.hpp"
#include "ziya/backend/cuda/rms_norm.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// y[i, j] = x[i, j] / rms(x[i, :]) * weight[j],   rms(v) = sqrt(mean(v²) + eps)
/// @param y, x (tokens, hidden)   @param weight (hidden)   @throws ShapeError when widths differ
/// Source: Zhang & Sennrich, arXiv 1910.07467, eq. 4
template <class Device, class T>
void rms_norm(Context<Device>& ctx, View<T, Device> y, In<T, Device> x, In<float, Device> weight,
              float eps) {
  check_extent("rms_norm", "width of weight", weight.elements(), x.columns());
  check_extent("rms_norm", "width of y", y.columns(), x.columns());
  check_extent("rms_norm", "rows of y", y.rows(), x.rows());
  backend::rms_norm(ctx, y, x, weight, eps);
}

/// With r = 1 / rms(x):  dx[j] = r · (w[j] dy[j] − x[j] r² mean_k(w[k] dy[k] x[k])),
/// dweight[j] += Σ_i dy[i, j] x[i, j] r_i
/// @param dx, dy, x (tokens, hidden)   @param dweight, weight (hidden)   @throws ShapeError
template <class Device, class T>
void rms_norm_backward(Context<Device>& ctx, View<T, Device> dx, View<float, Device> dweight,
                       In<T, Device> dy, In<T, Device> x, In<float, Device> weight, float eps) {
  check_extent("rms_norm_backward", "width of weight", weight.elements(), x.columns());
  check_extent("rms_norm_backward", "width of dweight", dweight.elements(), x.columns());
  check_extent("rms_norm_backward", "width of dy", dy.columns(), x.columns());
  check_extent("rms_norm_backward", "width of dx", dx.columns(), x.columns());
  check_extent("rms_norm_backward", "rows of dy", dy.rows(), x.rows());
  check_extent("rms_norm_backward", "rows of dx", dx.rows(), x.rows());
  backend::rms_norm_backward(ctx, dx, dweight, dy, x, weight, eps);
}

}  // namespace ops
ZIYA_NAMESPACE_END
