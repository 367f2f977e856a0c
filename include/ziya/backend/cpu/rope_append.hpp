// SPDX-License-Identifier: Apache-2.0
// rope_append on the CPU: its parts, one after another.
#pragma once

#include <cstdint>
#include <span>

#include "ziya/backend/cpu/attention.hpp"
#include "ziya/backend/cpu/rope.hpp"
#include "ziya/config.hpp"
#include "ziya/core/attention_rows.hpp"
#include "ziya/core/paged_cache.hpp"
#include "ziya/core/rope_table.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

inline void rope_append(Context<Cpu>& ctx, const CachedKeysValues<Cpu>& cache, View<float> q,
                        View<float> k, View<const float> v, std::span<const std::int32_t> positions,
                        const RopeTable<Cpu>& table, RopePairing pairing, const AppendRows& rows) {
  rope(ctx, q, positions, table, pairing, 1.0f);
  rope(ctx, k, positions, table, pairing, 1.0f);
  cache_append(ctx, cache, k, v, rows);
}

}  // namespace backend
ZIYA_NAMESPACE_END
