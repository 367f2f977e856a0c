// SPDX-License-Identifier: Apache-2.0
// The gated feed-forward layer.
#pragma once

#include <array>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/nn/linear.hpp"
#include "ziya/nn/norm.hpp"
#include "ziya/ops/matmul.hpp"
#include "ziya/ops/silu_mul.hpp"

ZIYA_NAMESPACE_BEGIN
namespace nn {

/// Activations that a backward pass needs: the two inputs of silu(gate) * up, (tokens,
/// intermediate).
template <class T, class Device>
struct MlpSaved {
  Tensor<T, Device> gate, up;
};

/// x += down(silu(gate(n)) * up(n)), n = norm(x).  Source: Shazeer, arXiv 2002.05202, SwiGLU
template <class Device>
struct Mlp {
  Linear<Device> gate, up, down;

  /// @param x (tokens, hidden)
  template <class T>
  void add_to(Context<Device>& ctx, View<T, Device> x, const RmsNorm<Device>& norm,
              MlpSaved<T, Device>* saved = nullptr) const {
    const bool plain = gate.plain() && up.plain() && saved == nullptr;
    if (plain && down.plain()) {
      return ops::gated_mlp<Device, T>(ctx, x, x, norm.weight.view(), norm.eps, gate.weight,
                                       up.weight, down.weight);
    }
    typename Workspace<Device>::Scope scope(ctx.workspace());
    const Shape shape{x.rows(), gate.out_features()};
    const auto n = ctx.workspace().template take<T>(x.shape());
    const auto product = ctx.workspace().template take<T>(shape);
    norm.template forward<T>(ctx, n, x);
    if (plain) {
      ops::matmul_silu_mul<Device, T>(ctx, product, n, gate.weight, up.weight);
    } else {
      View<T, Device> g, u;
      if (saved != nullptr) {
        saved->gate = Tensor<T, Device>(shape);
        saved->up = Tensor<T, Device>(shape);
        g = saved->gate, u = saved->up;
      } else {
        g = ctx.workspace().template take<T>(shape);
        u = ctx.workspace().template take<T>(shape);
      }
      gate.template forward<T>(ctx, g, n);
      up.template forward<T>(ctx, u, n);
      ops::silu_mul<Device, T>(ctx, product, g, u);
    }
    down.template add_to<T>(ctx, x, product);
  }

  template <class F>
  void visit(const std::string& name, F&& f) const {
    gate.visit(name + ".gate_proj", f);
    up.visit(name + ".up_proj", f);
    down.visit(name + ".down_proj", f);
  }
};

}  // namespace nn
ZIYA_NAMESPACE_END
