// SPDX-License-Identifier: Apache-2.0
// Attention of new tokens over a paged cache, with their rotary positions and their keys and
// values.
#pragma once

#include "ziya/backend/cpu/rope_append_attention.hpp"
#include "ziya/backend/cuda/attention.hpp"
#include "ziya/config.hpp"
#include "ziya/core/attention_rows.hpp"
#include "ziya/core/paged_cache.hpp"
#include "ziya/core/rope_table.hpp"
#include "ziya/core/view.hpp"
#include "ziya/ops/attention.hpp"
#include "ziya/ops/rope.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// rope of q, rope of k, cache_append of k and v, then attention, to the same bits: in one pass
/// where a backend has one, which is for one new token per sequence.
/// @param out (tokens, heads, head_dim)   @param v (tokens, kv_heads, head_dim)
/// @param q (tokens, heads, head_dim), k (tokens, kv_heads, head_dim): scratch, afterwards
/// unspecified
/// @throws as rope, cache_append and attention
template <class Device, class T>
void rope_append_attention(Context<Device>& ctx, View<T, Device> out, View<T, Device> q,
                           View<T, Device> k, In<T, Device> v,
                           const CachedKeysValues<Device>& cache, const RotaryRows& rows,
                           const RopeTable<Device>& table, RopePairing pairing,
                           const AttentionOptions& options = {}) {
  constexpr const char* op = "rope_append_attention";
  check_rope(op, q, rows.positions, table);
  check_rope(op, k, rows.positions, table);
  check_append(op, cache, View<const T, Device>(k), v, {rows.slots, rows.indices});
  check_visible(op, out, View<const T, Device>(q), cache, {rows.slots, rows.visible});
  backend::rope_append_attention(ctx, out, q, k, v, cache, rows, table, pairing,
                                 attention_scale(options, cache.head_dim));
}

}  // namespace ops
ZIYA_NAMESPACE_END
