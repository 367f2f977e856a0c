// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding.
#pragma once

#include <cstdint>
#include <span>

#include "ziya/backend/cpu/rope.hpp"
#include "ziya/backend/cuda/rope.hpp"
#include "ziya/config.hpp"
#include "ziya/core/rope_table.hpp"
#include "ziya/core/view.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

template <class Device, class T>
void check_rope(const char* op, const View<T, Device>& x, std::span<const std::int32_t> positions,
                const RopeTable<Device>& table) {
  check_extent(op, "rank of x", x.shape().rank(), 3);
  check_extent(op, "number of positions", static_cast<std::int64_t>(positions.size()), x.rows());
  check_extent(op, "head size", x.extent(2), 2 * table.pairs());
}

/// Rotates pair i of every head by the angle θ = position · frequency[i]:
/// (a, b) ← (a cos θ − b sin θ, b cos θ + a sin θ); `pairing` says which two elements are a pair.
/// @param x (tokens, heads, head_dim), in place   @param positions (tokens)   @throws ShapeError
/// Source: Su et al., arXiv 2104.09864, eq. 34
template <class Device, class T>
void rope(Context<Device>& ctx, View<T, Device> x, std::span<const std::int32_t> positions,
          const RopeTable<Device>& table, RopePairing pairing = RopePairing::halves) {
  check_rope("rope", x, positions, table);
  backend::rope(ctx, x, positions, table, pairing, 1.0f);
}

/// The gradient turns back: dx ← rotation by −θ, in place.
/// @param dx (tokens, heads, head_dim)   @throws ShapeError
template <class Device, class T>
void rope_backward(Context<Device>& ctx, View<T, Device> dx,
                   std::span<const std::int32_t> positions, const RopeTable<Device>& table,
                   RopePairing pairing = RopePairing::halves) {
  check_rope("rope_backward", dx, positions, table);
  backend::rope(ctx, dx, positions, table, pairing, -1.0f);
}

}  // namespace ops
ZIYA_NAMESPACE_END
