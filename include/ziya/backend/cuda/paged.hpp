// SPDX-License-Identifier: Apache-2.0
// A paged cache as kernels see it: its block table lies on the GPU.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <algorithm>
#include <cstdint>
#include <span>
#include "ziya/backend/cuda/context.hpp"
#include "ziya/core/paged_cache.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// The same cache with the table's rows up to the largest of `slots` uploaded.
inline CachedKeysValues<Cuda> on_device(Context<Cuda>& ctx, const CachedKeysValues<Cuda>& cache,
                                        std::span<const std::int32_t> slots) {
  CachedKeysValues<Cuda> result = cache;
  std::int64_t used = 0;
  for (const std::int32_t slot : slots) used = std::max<std::int64_t>(used, slot + 1);
  result.block_table = ctx.uploads().get(
      ctx.stream(), Upload::table,
      std::span(cache.block_table, static_cast<std::size_t>(used * cache.table_stride)));
  return result;
}

}  // namespace cuda
ZIYA_NAMESPACE_END

#endif
