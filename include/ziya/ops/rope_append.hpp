// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding of new queries and keys, and the keys and values into the cache.
#pragma once

#include <cstdint>
#include <span>

#include "ziya/backend/cpu/rope_append.hpp"
#include "ziya/backend/cuda/rope.hpp"
#include "ziya/config.hpp"
#include "ziya/core/attention_rows.hpp"
#include "ziya/core/paged_cache.hpp"
#include "ziya/core/rope_table.hpp"
#include "ziya/core/view.hpp"
#include "ziya/ops/attention.hpp"
#include "ziya/ops/rope.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// rope of q, rope of k, then cache_append of k and v: one pass where a backend has one.
/// @param q (tokens, heads, head_dim), k (tokens, kv_heads, head_dim), both in place
/// @param v (tokens, kv_heads, head_dim)   @throws as rope and cache_append
template <class Device, class T>
void rope_append(Context<Device>& ctx, const CachedKeysValues<Device>& cache, View<T, Device> q,
                 View<T, Device> k, In<T, Device> v, std::span<const std::int32_t> positions,
                 const RopeTable<Device>& table, RopePairing pairing, const AppendRows& rows) {
  check_rope("rope_append", q, positions, table);
  check_rope("rope_append", k, positions, table);
  check_append("rope_append", cache, View<const T, Device>(k), v, rows);
  backend::rope_append(ctx, cache, q, k, v, positions, table, pairing, rows);
}

}  // namespace ops
ZIYA_NAMESPACE_END
