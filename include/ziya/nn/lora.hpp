// SPDX-License-Identifier: Apache-2.0
// A low-rank update that stands beside a frozen weight of any format.
#pragma once

#include <cstdint>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/ops/matmul.hpp"

ZIYA_NAMESPACE_BEGIN
namespace nn {

/// y += B (A x), with A (rank, in) and B (out, rank); B already carries the factor alpha / rank,
/// so that the update is two plain products. Source: Hu et al., arXiv 2106.09685, eq. 3
template <class Device>
struct Lora {
  Weight<Device> a;
  Weight<Device> b;

  /// @param y (tokens, out), added to   @param x (tokens, in)
  template <class T>
  void add_to(Context<Device>& ctx, View<T, Device> y, In<T, Device> x) const {
    typename Workspace<Device>::Scope scope(ctx.workspace());
    const auto low = ctx.workspace().template take<T>({x.rows(), a.rows});
    ops::matmul(ctx, low, x, a);
    ops::matmul_add(ctx, y, low, b);
  }
};

}  // namespace nn
ZIYA_NAMESPACE_END
