// SPDX-License-Identifier: Apache-2.0
// Products of activations with stored matrices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "ziya/backend/cpu/matmul.hpp"
#include "ziya/backend/cuda/matmul.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

template <class T, class Device>
void check_matmul(const char* op, const View<T, Device>& y, const View<const T, Device>& x,
                  const Weight<Device>& w) {
  check_weight(op, w);
  check_extent(op, "width of x", x.columns(), w.columns);
  check_extent(op, "width of y", y.columns(), w.rows);
  check_extent(op, "rows of y", y.rows(), x.rows());
}

/// y[t, o] = Σ_i x[t, i] · w[o, i]
/// @param y (tokens, out)   @param x (tokens, in)   @param w (out, in), f32, f16, bf16, i8 with
/// scales, a quantised type, or on a GPU f8_e4m3 with scales, for which more than four tokens are
/// rounded to such numbers themselves, with a scale per row
/// @throws ShapeError when extents differ; ArgumentError for another stored type
template <class Device, class T>
void matmul(Context<Device>& ctx, View<T, Device> y, In<T, Device> x, const Weight<Device>& w) {
  check_matmul("matmul", y, x, w);
  backend::matmul(ctx, y, x, w);
}

/// The same with a result in 32 bits whatever type x has: logits.
template <class Device, class T>
void matmul(Context<Device>& ctx, View<float, Device> y, View<const T, Device> x,
            const Weight<Device>& w) requires(!std::is_same_v<T, float>) {
  check_weight("matmul", w);
  check_extent("matmul", "width of x", x.columns(), w.columns);
  check_extent("matmul", "width of y", y.columns(), w.rows);
  check_extent("matmul", "rows of y", y.rows(), x.rows());
  backend::matmul(ctx, y, x, w);
}

/// y[t, o] += Σ_i x[t, i] · w[o, i]: the whole sum first, then one addition.
/// @param y (tokens, out)   @param x (tokens, in)   @param w (out, in)   @throws as matmul
template <class Device, class T>
void matmul_add(Context<Device>& ctx, View<T, Device> y, In<T, Device> x, const Weight<Device>& w) {
  check_matmul("matmul_add", y, x, w);
  backend::matmul_add(ctx, y, x, w);
}

/// Several products with one x, such as queries, keys and values: ys[n] = x · ws[n]ᵀ.
/// @param ys n × (tokens, out_n)   @param x (tokens, in)   @param ws n × (out_n, in)
/// @throws as matmul
template <class Device, class T>
void matmul_many(Context<Device>& ctx, std::span<const View<T, Device>> ys, In<T, Device> x,
                 std::span<const Weight<Device>* const> ws) {
  check_extent("matmul_many", "number of results", static_cast<std::int64_t>(ys.size()),
               static_cast<std::int64_t>(ws.size()));
  for (std::size_t n = 0; n < ys.size(); ++n) check_matmul("matmul_many", ys[n], x, *ws[n]);
  backend::matmul_many(ctx, ys, x, ws);
}

/// y = silu(x · gateᵀ) * (x · upᵀ), silu(v) = v / (1 + e^−v): matmul_many, then silu_mul.
/// @param y (tokens, out)   @param x (tokens, in)   @param gate, up (out, in)   @throws as matmul
/// Source: Shazeer, arXiv 2002.05202, SwiGLU
template <class Device, class T>
void matmul_silu_mul(Context<Device>& ctx, View<T, Device> y, In<T, Device> x,
                     const Weight<Device>& gate, const Weight<Device>& up) {
  check_matmul("matmul_silu_mul", y, x, gate);
  check_matmul("matmul_silu_mul", y, x, up);
  backend::matmul_silu_mul(ctx, y, x, gate, up);
}

/// ys[n] = rms_norm(x) · ws[n]ᵀ: rms_norm, then matmul_many.
/// @param norm (in), the norm's weight   @param others as of matmul_many   @throws as matmul
template <class Device, class T>
void norm_matmul_many(Context<Device>& ctx, std::span<const View<T, Device>> ys, In<T, Device> x,
                      In<float, Device> norm, float eps,
                      std::span<const Weight<Device>* const> ws) {
  check_extent("norm_matmul_many", "width of weight", norm.elements(), x.columns());
  check_extent("norm_matmul_many", "number of results", static_cast<std::int64_t>(ys.size()),
               static_cast<std::int64_t>(ws.size()));
  for (std::size_t n = 0; n < ys.size(); ++n) check_matmul("norm_matmul_many", ys[n], x, *ws[n]);
  backend::norm_matmul_many(ctx, ys, x, norm, eps, ws);
}

/// y += (silu(n · gateᵀ) * (n · upᵀ)) · downᵀ, n = rms_norm(x): rms_norm, matmul_silu_mul, then
/// matmul_add.
/// @param y (tokens, hidden), may be x   @param x (tokens, hidden)
/// @param norm (hidden), the norm's weight   @param gate, up (intermediate, hidden)
/// @param down (hidden, intermediate)   @throws as matmul
template <class Device, class T>
void gated_mlp(Context<Device>& ctx, View<T, Device> y, In<T, Device> x, In<float, Device> norm,
               float eps, const Weight<Device>& gate, const Weight<Device>& up,
               const Weight<Device>& down) {
  for (const Weight<Device>* w : {&gate, &up, &down}) check_weight("gated_mlp", *w);
  check_extent("gated_mlp", "width of weight", norm.elements(), x.columns());
  check_extent("gated_mlp", "width of x", x.columns(), gate.columns);
  check_extent("gated_mlp", "width of up", up.columns, gate.columns);
  check_extent("gated_mlp", "rows of up", up.rows, gate.rows);
  check_extent("gated_mlp", "width of down", down.columns, gate.rows);
  check_extent("gated_mlp", "width of y", y.columns(), down.rows);
  check_extent("gated_mlp", "rows of y", y.rows(), x.rows());
  backend::gated_mlp(ctx, y, x, norm, eps, gate, up, down);
}

/// dx = dy · w and dw += dyᵀ · x; either result may be an empty view.
/// @param dx (tokens, in)   @param dw (out, in)   @param dy (tokens, out)   @param x (tokens, in)
/// @param w (out, in)   @throws ShapeError
template <class Device, class T>
void matmul_backward(Context<Device>& ctx, View<T, Device> dx, View<T, Device> dw, In<T, Device> dy,
                     In<T, Device> x, const Weight<Device>& w) {
  check_weight("matmul_backward", w);
  check_extent("matmul_backward", "width of dy", dy.columns(), w.rows);
  if (!dx.empty()) {
    check_extent("matmul_backward", "width of dx", dx.columns(), w.columns);
    check_extent("matmul_backward", "rows of dx", dx.rows(), dy.rows());
  }
  if (!dw.empty()) {
    check_extent("matmul_backward", "width of x", x.columns(), w.columns);
    check_extent("matmul_backward", "rows of x", x.rows(), dy.rows());
    check_extent("matmul_backward", "rows of dw", dw.rows(), w.rows);
    check_extent("matmul_backward", "width of dw", dw.columns(), w.columns);
  }
  backend::matmul_backward(ctx, dx, dw, dy, x, w);
}

}  // namespace ops
ZIYA_NAMESPACE_END
