// SPDX-License-Identifier: Apache-2.0
// cache_append on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/backend/cpu/quantize/encode_32.hpp"
#include "ziya/config.hpp"
#include "ziya/core/attention_rows.hpp"
#include "ziya/core/blocks.hpp"
#include "ziya/core/paged_cache.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

inline void store_as(const CpuKernels& kernels, DType dtype, std::byte* to, const float* from,
                     std::int64_t count) {
  if (dtype == DType::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
  } else if (dtype == DType::f16) {
    kernels.to_halves(reinterpret_cast<Half*>(to), from, count);
  } else if (dtype == DType::bf16) {
    for (std::int64_t i = 0; i < count; ++i) {
      reinterpret_cast<BFloat16*>(to)[i] = to_bfloat16(from[i]);
    }
  } else {
    blocks::Q8_0 block;
    for (std::int64_t i = 0; i < count; i += 32, to += sizeof block) {
      quantize::encode_nearest(block, from + i);
      std::memcpy(to, &block, sizeof block);
    }
  }
}

inline void cache_append(Context<Cpu>& ctx, const CachedKeysValues<Cpu>& cache, View<const float> k,
                         View<const float> v, const AppendRows& rows) {
  const CpuKernels& kernels = ctx.kernels();
  ctx.parallel_for(k.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const auto at = static_cast<std::size_t>(t);
      for (std::int64_t h = 0; h < cache.kv_heads; ++h) {
        const std::int64_t place = cache.offset(rows.slots[at], h, rows.indices[at]);
        const std::int64_t first = h * cache.head_dim;
        store_as(kernels, cache.dtype, cache.keys + place, k.row(t) + first, cache.head_dim);
        store_as(kernels, cache.dtype, cache.values + place, v.row(t) + first, cache.head_dim);
      }
    }
  });
}

}  // namespace backend
ZIYA_NAMESPACE_END
