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

/// y = down(silu(gate(x)) * up(x)).  Source: Shazeer, arXiv 2002.05202, SwiGLU
template <class Device>
struct Mlp {
  Linear<Device> gate, up, down;

  /// @param y (tokens, hidden)   @param x (tokens, hidden)   @param add to y, where `down` is plain
  template <class T>
  void forward(Context<Device>& ctx, View<T, Device> y, In<T, Device> x,
               MlpSaved<T, Device>* saved = nullptr, bool add = false) const {
    const bool plain = !gate.lora && !up.lora && gate.bias.empty() && up.bias.empty();
    if (plain && down.plain() && saved == nullptr) {
      return ops::gated_mlp(ctx, y, x, {}, 0, gate.weight, up.weight, down.weight, add);
    }
    typename Workspace<Device>::Scope scope(ctx.workspace());
    const Shape shape{x.rows(), gate.out_features()};
    const auto product = ctx.workspace().template take<T>(shape);
    if (plain && saved == nullptr) {
      ops::matmul_silu_mul(ctx, product, x, gate.weight, up.weight);
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
      gate.forward(ctx, g, x);
      up.forward(ctx, u, x);
      ops::silu_mul(ctx, product, g, u);
    }
    down.forward(ctx, y, product, add);
  }

  /// Whether products with the stored weights are all.
  [[nodiscard]] bool plain() const { return gate.plain() && up.plain() && down.plain(); }
  /// y += the layer's output for norm(x), where it is `plain`.
  template <class T>
  void add_normed(Context<Device>& ctx, View<T, Device> y, In<T, Device> x,
                  const RmsNorm<Device>& norm) const {
    ops::gated_mlp(ctx, y, x, norm.weight.view(), norm.eps, gate.weight, up.weight, down.weight,
                   true);
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
