// SPDX-License-Identifier: Apache-2.0
// Kernels of rope and of storing keys and values: a block per token.
#pragma once

#include <algorithm>
#include <string>

#include "ziya/backend/cuda/cached_blocks.cuh"
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

inline constexpr int rope_threads = 128;

/// Cosine and sine of a pair's angle, a 32-bit product, as the reference computes it.
__device__ inline float2 turn_of(float position, float frequency) {
  float s, c;
  sincosf(position * frequency, &s, &c);
  return make_float2(c, s);
}
/// (x cos θ − y sin θ, y cos θ + x sin θ), rounded alike in every kernel.
__device__ inline float2 turned(float x, float y, float2 turn) {
  return make_float2(fmaf(x, turn.x, -__fmul_rn(y, turn.y)), fmaf(y, turn.x, __fmul_rn(x, turn.y)));
}

/// A block takes some heads of one token: first those of q, then of k, then of v. A thread turns
/// `N` pairs; more than one where the pairs are halves and their rows whole packs. Keys that are
/// stored are not turned where they lie. What is stored in blocks meets in shared memory first,
/// (block_heads, 2 pairs) behind the turns.
template <class T, class C, int N>
ZIYA_KERNEL void __launch_bounds__(rope_threads) rope_rows(RopeArguments<T> a, int block_heads) {
  extern __shared__ __align__(32) float2 turns[];
  release_next();
  wait_for_previous();
  const std::int64_t row = blockIdx.x;
  if (a.positions != nullptr) {
    const auto position = static_cast<float>(a.positions[row]);
    for (int i = static_cast<int>(threadIdx.x); i < a.pairs; i += rope_threads) {
      turns[i] = turn_of(position, a.frequencies[i]);
      turns[i].y *= a.sign;
    }
    __syncthreads();
  }
  const bool stored = a.cache.keys != nullptr;
  std::int64_t place = 0, head_stride = 0;
  if (stored) {
    place = a.cache.offset(a.slots[row], 0, a.places[row]);
    head_stride = a.cache.page_tokens * a.cache.head_dim;
  }
  float* const rows = reinterpret_cast<float*>(turns + a.pairs);
  const int heads = a.q_heads + a.k_heads + (stored ? a.k_heads : 0);
  const int first_head = static_cast<int>(blockIdx.y) * block_heads;
  const int here = min(block_heads, heads - first_head), units = a.pairs / N;
  const int apart = a.interleaved ? 1 : a.pairs;
  for (int i = static_cast<int>(threadIdx.x); i < here * units; i += rope_threads) {
    int head = first_head + i / units;
    const int pair = i % units * N, at = a.interleaved ? 2 * pair : pair;
    T* from = nullptr;
    std::byte* to = nullptr;
    bool turns_head = a.positions != nullptr;
    if (head < a.q_heads) {
      from = a.q + row * a.q_stride + head * 2 * a.pairs;
    } else if ((head -= a.q_heads) < a.k_heads) {
      from = a.k + row * a.k_stride + head * 2 * a.pairs;
      if (stored) to = a.cache.keys + place;
    } else {
      head -= a.k_heads;
      from = const_cast<T*>(a.v) + row * a.v_stride + head * 2 * a.pairs;  // only read
      to = a.cache.values + place;
      turns_head = false;
    }
    auto first = *reinterpret_cast<const Pack<T, N>*>(from + at);
    auto second = *reinterpret_cast<const Pack<T, N>*>(from + at + apart);
    if (turns_head) {
#pragma unroll
      for (int e = 0; e < N; ++e) {
        const float2 two = turned(widen(first.at[e]), widen(second.at[e]), turns[pair + e]);
        first.at[e] = narrow<T>(two.x);
        second.at[e] = narrow<T>(two.y);
      }
      if (to == nullptr) {
        *reinterpret_cast<Pack<T, N>*>(from + at) = first;
        *reinterpret_cast<Pack<T, N>*>(from + at + apart) = second;
      }
    }
    if (to == nullptr) continue;
    if constexpr (in_blocks<C>) {
      float* row_of = rows + i / units * 2 * a.pairs;
#pragma unroll
      for (int e = 0; e < N; ++e) {
        row_of[at + e] = widen(first.at[e]);
        row_of[at + apart + e] = widen(second.at[e]);
      }
    } else {
      C* cached = reinterpret_cast<C*>(to) + head * head_stride;
      Pack<C, N> one, two;
#pragma unroll
      for (int e = 0; e < N; ++e) {
        one.at[e] = narrow<C>(widen(first.at[e]));
        two.at[e] = narrow<C>(widen(second.at[e]));
      }
      *reinterpret_cast<Pack<C, N>*>(cached + at) = one;
      *reinterpret_cast<Pack<C, N>*>(cached + at + apart) = two;
    }
  }
  if constexpr (in_blocks<C>) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < here * a.pairs / 4; i += rope_threads) {
      const int element = 8 * i % (2 * a.pairs);
      int head = first_head + 4 * i / a.pairs - a.q_heads;
      if (head < 0) continue;
      const bool is_key = head < a.k_heads;
      if (!is_key) head -= a.k_heads;
      const auto to = cached_head<C>(is_key ? a.cache.keys : a.cache.values, place,
                                     head * head_stride, a.cache.scales);
      const auto eight = *reinterpret_cast<const Pack<float, 8>*>(rows + 8 * i);
      Half scale;
      const auto quants = encode_nearest(eight.at, scale);
      store_block(to, element, quants, scale);
    }
  }
}

template <class T>
ZIYA_HIDDEN void run_rope(Context<Cuda>& ctx, const char* name, const RopeArguments<T>& a,
                          std::int64_t rows) {
  constexpr int wide = 16 / sizeof(T);
  const bool whole =
      !a.interleaved && a.pairs % wide == 0 && whole_packs(a.q, a.q_stride, 2 * a.pairs) &&
      whole_packs(a.k, a.k_stride, 2 * a.pairs) && whole_packs(a.v, a.v_stride, 2 * a.pairs) &&
      alignment_of(a.cache.keys) == 16 && alignment_of(a.cache.values) == 16 &&
      a.cache.page_bytes % 32 == 0;
  const int heads = a.q_heads + a.k_heads + (a.cache.keys == nullptr ? 0 : a.k_heads);
  const int units = std::max(1, a.pairs / (whole ? wide : 1));
  const int block_heads = std::max(1, rope_threads / units);
  const dim3 grid(static_cast<unsigned>(rows), blocks_for(heads, block_heads));
  with_cached(a.cache.dtype, [&](auto element) {
    using C = decltype(element);
    const std::int64_t floats = 2 * a.pairs * (in_blocks<C> ? 1 + block_heads : 1);
    launch(ctx, name, whole ? rope_rows<T, C, wide> : rope_rows<T, C, 1>, grid, dim3(rope_threads),
           static_cast<std::size_t>(floats) * sizeof(float), a, block_heads);
  });
}

/// rope of q and k, then cache_append, in one pass; k stays as it is.
template <class T>
ZIYA_HIDDEN void rope_append(Context<Cuda>& ctx, View<T, Cuda> q, View<T, Cuda> k,
                             View<const T, Cuda> v, const CachedKeysValues<Cuda>& cache,
                             const RotaryRows& rows, const RopeTable<Cuda>& table,
                             RopePairing pairing) {
  RopeArguments<T> a{};
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
  a.positions = ctx.uploads().get(ctx.stream(), Upload::positions, rows.positions);
  a.interleaved = pairing == RopePairing::interleaved;
  a.sign = 1;
  a.cache = on_device(ctx, cache, rows.slots);
  a.slots = ctx.uploads().get(ctx.stream(), Upload::slots, rows.slots);
  a.places = ctx.uploads().get(ctx.stream(), Upload::places, rows.indices);
  run_rope(ctx, "rope_append", a, k.rows());
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
  if (cache.head_dim % 2 != 0) {
    throw ArgumentError("ZIYA-154", "cuda: cache_append: head size " +
                                        std::to_string(cache.head_dim) +
                                        ", expected an even number");
  }
  cuda::RopeArguments<T> a{};
  a.k = const_cast<T*>(k.data());  // without positions it is only read
  a.v = v.data();
  a.k_stride = k.row_stride();
  a.v_stride = v.row_stride();
  a.k_heads = static_cast<int>(cache.kv_heads);
  a.pairs = static_cast<int>(cache.head_dim / 2);
  a.cache = cuda::on_device(ctx, cache, rows.slots);
  a.slots = ctx.uploads().get(ctx.stream(), cuda::Upload::slots, rows.slots);
  a.places = ctx.uploads().get(ctx.stream(), cuda::Upload::places, rows.indices);
  cuda::run_rope(ctx, "cache_append", a, k.rows());
}

}  // namespace backend
ZIYA_NAMESPACE_END
