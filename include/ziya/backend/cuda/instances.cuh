// SPDX-License-Identifier: Apache-2.0
// ZIYA_INSTANCES(T): every op of the CUDA backend for activations of type T. A unit for each type,
// so that they are compiled side by side.
#pragma once

#include "ziya/backend/cuda/add_bias.hpp"
#include "ziya/backend/cuda/attention.hpp"
#include "ziya/backend/cuda/cross_entropy.hpp"
#include "ziya/backend/cuda/dequantise.hpp"
#include "ziya/backend/cuda/draw_tokens.hpp"
#include "ziya/backend/cuda/embedding.hpp"
#include "ziya/backend/cuda/float8.hpp"
#include "ziya/backend/cuda/matmul.hpp"
#include "ziya/backend/cuda/rms_norm.hpp"
#include "ziya/backend/cuda/rope.hpp"
#include "ziya/backend/cuda/silu_mul.hpp"
#include "ziya/backend/cuda/softmax.hpp"
#include "ziya/backend/cuda/top_k.hpp"

#define ZIYA_INSTANCES(T)                                                                          \
  template void add_bias(Context<Cuda>&, View<T, Cuda>, View<const float, Cuda>);                  \
  template void attention(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,                      \
                          const CachedKeysValues<Cuda>&, const AttentionRows&, float);             \
  template void attention(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>, View<const T, Cuda>, \
                          View<const T, Cuda>, std::span<const Segment>, bool, float);             \
  template void cross_entropy(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,                  \
                              std::span<const std::int32_t>);                                      \
  template void dequantise(Context<Cuda>&, View<T, Cuda>, const Weight<Cuda>&);                    \
  template void embedding(Context<Cuda>&, View<T, Cuda>, const Weight<Cuda>&,                      \
                          std::span<const std::int32_t>);                                          \
  template void matmul(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>, const Weight<Cuda>&);   \
  template void matmul_add(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,                     \
                           const Weight<Cuda>&);                                                   \
  template void matmul_many(Context<Cuda>&, std::span<const View<T, Cuda>>, View<const T, Cuda>,   \
                            std::span<const Weight<Cuda>* const>);                                 \
  template void matmul_silu_mul(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,                \
                                const Weight<Cuda>&, const Weight<Cuda>&);                         \
  template void norm_matmul_many(Context<Cuda>&, std::span<const View<T, Cuda>>,                   \
                                 View<const T, Cuda>, View<const float, Cuda>, float,              \
                                 std::span<const Weight<Cuda>* const>);                            \
  template void gated_mlp(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,                      \
                          View<const float, Cuda>, float, const Weight<Cuda>&,                     \
                          const Weight<Cuda>&, const Weight<Cuda>&);                               \
  template void rms_norm(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,                       \
                         View<const float, Cuda>, float);                                          \
  template void rope(Context<Cuda>&, View<T, Cuda>, std::span<const std::int32_t>,                 \
                     const RopeTable<Cuda>&, RopePairing, float);                                  \
  template void cache_append(Context<Cuda>&, const CachedKeysValues<Cuda>&, View<const T, Cuda>,   \
                             View<const T, Cuda>, const AppendRows&);                              \
  template void rope_append_attention(Context<Cuda>&, View<T, Cuda>, View<T, Cuda>, View<T, Cuda>, \
                                      View<const T, Cuda>, const CachedKeysValues<Cuda>&,          \
                                      const RotaryRows&, const RopeTable<Cuda>&, RopePairing,      \
                                      float);                                                      \
  template void silu_mul(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>, View<const T, Cuda>); \
  template void softmax(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>);
