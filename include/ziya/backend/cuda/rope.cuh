// SPDX-License-Identifier: Apache-2.0
// Kernels of rope and of storing keys and values: a block per token.
#pragma once

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/paged.hpp"
#include "ziya/backend/cuda/rope.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

template <class T>
struct RopeArguments {
  T *q, *k;
  const T* v;
  std::int64_t q_stride, k_stride, v_stride;
  int q_heads, k_heads, pairs;
  const float* frequencies;
  const std::int32_t* positions;
  bool interleaved;
  float sign;
  CachedKeysValues<Cuda> cache;  ///< keys null: nothing is stored
  const std::int32_t* slots;
  const std::int64_t* places;
};

template <class T, class C>
__device__ inline void store_heads(const RopeArguments<T>& a, std::byte* to_base, const T* row) {
  const std::int64_t head_dim = a.cache.head_dim;
  const std::int32_t slot = a.slots[blockIdx.x];
  const std::int64_t place = a.places[blockIdx.x];
  const std::int64_t first = a.cache.offset(slot, 0, place);
  const std::int64_t apart = a.cache.page_tokens * head_dim;
  C* to = reinterpret_cast<C*>(to_base + first);
  for (std::int64_t i = threadIdx.x; i < a.cache.kv_heads * head_dim; i += blockDim.x) {
    to[i / head_dim * apart + i % head_dim] = narrow<C>(widen(row[i]));
  }
}

template <class T>
__device__ inline void turn_heads(const RopeArguments<T>& a, T* row, int heads,
                                  const float2* turns) {
  for (int i = static_cast<int>(threadIdx.x); i < heads * a.pairs;
       i += static_cast<int>(blockDim.x)) {
    const int head = i / a.pairs, pair = i % a.pairs;
    T* first = row + head * 2 * a.pairs + (a.interleaved ? 2 * pair : pair);
    T* second = first + (a.interleaved ? 1 : a.pairs);
    const float x = widen(*first), y = widen(*second), c = turns[pair].x, s = turns[pair].y;
    *first = narrow<T>(x * c - y * s);
    *second = narrow<T>(y * c + x * s);
  }
}

/// Angles are 32-bit products, as the reference computes them; one pair's angle is that of all
/// heads.
template <class T, class C>
ZIYA_KERNEL void rope_rows(RopeArguments<T> a) {
  extern __shared__ float2 turns[];
  wait_for_previous();
  release_next();
  const std::int64_t row = blockIdx.x;
  if (a.positions != nullptr) {
    const auto position = static_cast<float>(a.positions[row]);
    for (int i = static_cast<int>(threadIdx.x); i < a.pairs; i += static_cast<int>(blockDim.x)) {
      float s, c;
      sincosf(position * a.frequencies[i], &s, &c);
      turns[i] = make_float2(c, a.sign * s);
    }
    __syncthreads();
    if (a.q != nullptr) turn_heads(a, a.q + row * a.q_stride, a.q_heads, turns);
    turn_heads(a, a.k + row * a.k_stride, a.k_heads, turns);
  }
  if (a.cache.keys == nullptr) return;
  __syncthreads();
  store_heads<T, C>(a, a.cache.keys, a.k + row * a.k_stride);
  store_heads<T, C>(a, a.cache.values, a.v + row * a.v_stride);
}

template <class T>
ZIYA_HIDDEN void run_rope(Context<Cuda>& ctx, const char* name, const RopeArguments<T>& a,
                          std::int64_t rows) {
  with_stored(a.cache.dtype, [&](auto element) {
    using C = decltype(element);
    launch(ctx, name, rope_rows<T, C>, dim3(static_cast<unsigned>(rows)), dim3(512),
           static_cast<std::size_t>(a.pairs) * sizeof(float2), a);
  });
}

}  // namespace cuda
namespace backend {

template <class T>
void rope(Context<Cuda>& ctx, View<T, Cuda> x, std::span<const std::int32_t> positions,
          const RopeTable<Cuda>& table, RopePairing pairing, float sign) {
  cuda::RopeArguments<T> a{};
  a.k = x.data();
  a.k_stride = x.row_stride();
  a.k_heads = static_cast<int>(x.extent(1));
  a.pairs = static_cast<int>(table.pairs());
  a.frequencies = table.frequencies();
  a.positions = ctx.uploads().get(ctx.stream(), cuda::Upload::positions, positions);
  a.interleaved = pairing == RopePairing::interleaved;
  a.sign = sign;
  cuda::run_rope(ctx, "rope", a, x.rows());
}

template <class T>
void cache_append(Context<Cuda>& ctx, const CachedKeysValues<Cuda>& cache, View<const T, Cuda> k,
                  View<const T, Cuda> v, const AppendRows& rows) {
  cuda::RopeArguments<T> a{};
  a.k = const_cast<T*>(k.data());  // without positions it is only read
  a.v = v.data();
  a.k_stride = k.row_stride();
  a.v_stride = v.row_stride();
  a.cache = cuda::on_device(ctx, cache, rows.slots);
  a.slots = ctx.uploads().get(ctx.stream(), cuda::Upload::slots, rows.slots);
  a.places = ctx.uploads().get(ctx.stream(), cuda::Upload::places, rows.indices);
  cuda::run_rope(ctx, "cache_append", a, k.rows());
}

template <class T>
void rope_append(Context<Cuda>& ctx, const CachedKeysValues<Cuda>& cache, View<T, Cuda> q,
                 View<T, Cuda> k, View<const T, Cuda> v, std::span<const std::int32_t> positions,
                 const RopeTable<Cuda>& table, RopePairing pairing, const AppendRows& rows) {
  cuda::RopeArguments<T> a{};
  a.q = q.data();
  a.k = k.data();
  a.v = v.data();
  a.q_stride = q.row_stride();
  a.k_stride = k.row_stride();
  a.v_stride = v.row_stride();
  a.q_heads = static_cast<int>(q.extent(1));
  a.k_heads = static_cast<int>(k.extent(1));
  a.pairs = static_cast<int>(table.pairs());
  a.frequencies = table.frequencies();
  a.positions = ctx.uploads().get(ctx.stream(), cuda::Upload::positions, positions);
  a.interleaved = pairing == RopePairing::interleaved;
  a.sign = 1;
  a.cache = cuda::on_device(ctx, cache, rows.slots);
  a.slots = ctx.uploads().get(ctx.stream(), cuda::Upload::slots, rows.slots);
  a.places = ctx.uploads().get(ctx.stream(), cuda::Upload::places, rows.indices);
  cuda::run_rope(ctx, "rope_append", a, k.rows());
}

}  // namespace backend
ZIYA_NAMESPACE_END
