// SPDX-License-Identifier: Apache-2.0
// rope_append_attention on the CPU: its parts, one after another.
#pragma once

#include "ziya/backend/cpu/attention.hpp"
#include "ziya/backend/cpu/cache_append.hpp"
#include "ziya/backend/cpu/rope.hpp"
#include "ziya/config.hpp"
#include "ziya/core/attention_rows.hpp"
#include "ziya/core/paged_cache.hpp"
#include "ziya/core/rope_table.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

inline void rope_append_attention(Context<Cpu>& ctx, View<float> out, View<float> q, View<float> k,
                                  View<const float> v, const CachedKeysValues<Cpu>& cache,
                                  const RotaryRows& rows, const RopeTable<Cpu>& table,
                                  RopePairing pairing, float scale) {
  rope(ctx, q, rows.positions, table, pairing, 1.0f);
  rope(ctx, k, rows.positions, table, pairing, 1.0f);
  cache_append(ctx, cache, k, v, {rows.slots, rows.indices});
  attention(ctx, out, q, cache, {rows.slots, rows.visible}, scale);
}

}  // namespace backend
ZIYA_NAMESPACE_END
