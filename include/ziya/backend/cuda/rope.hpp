// SPDX-License-Identifier: Apache-2.0
// rope on a GPU, and storing keys and values.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <cstdint>
#include <span>
#include "ziya/backend/cuda/context.hpp"
#include "ziya/core/attention_rows.hpp"
#include "ziya/core/paged_cache.hpp"
#include "ziya/core/rope_table.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

/// `sign` −1 turns back.
template <class T>
void rope(Context<Cuda>& ctx, View<T, Cuda> x, std::span<const std::int32_t> positions,
          const RopeTable<Cuda>& table, RopePairing pairing, float sign);
template <class T>
void cache_append(Context<Cuda>& ctx, const CachedKeysValues<Cuda>& cache, View<const T, Cuda> k,
                  View<const T, Cuda> v, const AppendRows& rows);

#if !defined(__CUDACC__)
#define ZIYA_INSTANCES(T)                                                                 \
  extern template void rope(Context<Cuda>&, View<T, Cuda>, std::span<const std::int32_t>, \
                            const RopeTable<Cuda>&, RopePairing, float);                  \
  extern template void cache_append(Context<Cuda>&, const CachedKeysValues<Cuda>&,        \
                                    View<const T, Cuda>, View<const T, Cuda>, const AppendRows&);
ZIYA_INSTANCES(float)
ZIYA_INSTANCES(Half)
ZIYA_INSTANCES(BFloat16)
#undef ZIYA_INSTANCES
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/rope.cuh"
#endif

#endif
