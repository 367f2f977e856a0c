// SPDX-License-Identifier: Apache-2.0
// The gate of a SwiGLU layer.
#pragma once

#include "ziya/backend/cpu/silu_mul.hpp"
#include "ziya/backend/cuda/silu_mul.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// y = silu(gate) * up,   silu(v) = v / (1 + e^−v)
/// @param y, gate, up (tokens, width)   @throws ShapeError when extents differ
/// Source: Shazeer, arXiv 2002.05202, SwiGLU
template <class Device, class T>
void silu_mul(Context<Device>& ctx, View<T, Device> y, In<T, Device> gate, In<T, Device> up) {
  check_extent("silu_mul", "width of up", up.columns(), gate.columns());
  check_extent("silu_mul", "rows of up", up.rows(), gate.rows());
  check_extent("silu_mul", "width of y", y.columns(), gate.columns());
  check_extent("silu_mul", "rows of y", y.rows(), gate.rows());
  backend::silu_mul(ctx, y, gate, up);
}

/// dgate = dy · up · σ(g) (1 + g (1 − σ(g))),   dup = dy · silu(g),   σ(g) = 1 / (1 + e^−g)
/// @param dgate, dup, dy, gate, up (tokens, width)   @throws ShapeError
template <class Device, class T>
void silu_mul_backward(Context<Device>& ctx, View<T, Device> dgate, View<T, Device> dup,
                       In<T, Device> dy, In<T, Device> gate, In<T, Device> up) {
  for (const View<const T, Device>& view :
       {View<const T, Device>(dgate), View<const T, Device>(dup), View<const T, Device>(dy),
        View<const T, Device>(up)}) {
    check_extent("silu_mul_backward", "width", view.columns(), gate.columns());
    check_extent("silu_mul_backward", "rows", view.rows(), gate.rows());
  }
  backend::silu_mul_backward(ctx, dgate, dup, dy, gate, up);
}

}  // namespace ops
ZIYA_NAMESPACE_END
