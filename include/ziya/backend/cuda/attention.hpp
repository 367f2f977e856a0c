// SPDX-License-Identifier: Apache-2.0
// attention on a GPU, over a paged cache or without one.
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
namespace cuda {

/// Bytes of scratch memory for keys and values in blocks that a prompt meets as plain numbers: so
/// many heads at a time, one of them in any case.
inline constexpr std::int64_t most_widened = std::int64_t{64} << 20;

}  // namespace cuda
namespace backend {

template <class T>
void attention(Context<Cuda>& ctx, View<T, Cuda> out, View<const T, Cuda> q,
               const CachedKeysValues<Cuda>& cache, const AttentionRows& rows, float scale);
template <class T>
void attention(Context<Cuda>& ctx, View<T, Cuda> out, View<const T, Cuda> q, View<const T, Cuda> k,
               View<const T, Cuda> v, std::span<const Segment> segments, bool causal, float scale);
/// rope of q and k, cache_append and attention: one kernel where every row is the only one of its
/// sequence and slots ascend.
template <class T>
void rope_append_attention(Context<Cuda>& ctx, View<T, Cuda> out, View<T, Cuda> q, View<T, Cuda> k,
                           View<const T, Cuda> v, const CachedKeysValues<Cuda>& cache,
                           const RotaryRows& rows, const RopeTable<Cuda>& table,
                           RopePairing pairing, float scale);

#if !defined(__CUDACC__)
#define ZIYA_INSTANCES(T)                                                                      \
  extern template void attention(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,           \
                                 const CachedKeysValues<Cuda>&, const AttentionRows&, float);  \
  extern template void attention(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,           \
                                 View<const T, Cuda>, View<const T, Cuda>,                     \
                                 std::span<const Segment>, bool, float);                       \
  extern template void rope_append_attention(Context<Cuda>&, View<T, Cuda>, View<T, Cuda>,     \
                                             View<T, Cuda>, View<const T, Cuda>,               \
                                             const CachedKeysValues<Cuda>&, const RotaryRows&, \
                                             const RopeTable<Cuda>&, RopePairing, float);
ZIYA_INSTANCES(float)
ZIYA_INSTANCES(Half)
ZIYA_INSTANCES(BFloat16)
#undef ZIYA_INSTANCES
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/attention.cuh"
#endif

#endif
