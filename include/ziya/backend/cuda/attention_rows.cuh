// SPDX-License-Identifier: Apache-2.0
// Kernel of attention, a row at a time: its keys are split over blocks, of which the last one puts
// the parts together in their order.
#pragma once

#include "ziya/backend/cuda/device.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Where keys and values lie: token t of head h, seen from element 0 of its sequence's table.
struct KeyPlaces {
  const std::byte *keys, *values;
  const std::int32_t* table;  ///< null: tokens follow each other
  std::int64_t table_stride, page_tokens, page_bytes;
  std::int64_t head_stride, key_stride, value_stride;  ///< elements

  /// Page and token within it.
  __device__ std::int64_t page(std::int32_t slot, std::int64_t token) const {
    return table == nullptr ? 0 : table[slot * table_stride + token / page_tokens];
  }
  __device__ std::int64_t within(std::int64_t token) const {
    return table == nullptr ? token : token % page_tokens;
  }
  template <class C>
  __device__ const C* key(std::int32_t slot, std::int64_t head, std::int64_t token) const {
    return reinterpret_cast<const C*>(keys + page(slot, token) * page_bytes) + head * head_stride +
           within(token) * key_stride;
  }
  template <class C>
  __device__ const C* value(std::int32_t slot, std::int64_t head, std::int64_t token) const {
    return reinterpret_cast<const C*>(values + page(slot, token) * page_bytes) +
           head * head_stride + within(token) * value_stride;
  }
};

inline constexpr int row_threads = 256;
inline constexpr int most_head_dim = 256;

template <class T>
struct RowArguments {
  T* out;
  const T* q;
  std::int64_t out_stride, q_stride;
  int head_dim, group;  ///< query heads that share a key head
  float scale;
  KeyPlaces places;
  const std::int32_t* slots;    ///< (rows), or null: all 0
  const std::int64_t* visible;  ///< (rows) tokens that a row sees; −1: the row is left alone
  const std::int64_t* first;    ///< (rows) token that it sees first, or null
  float* parts;                 ///< (rows, heads, splits, head_dim + 2), for more than one split
  std::uint32_t* counters;      ///< (rows, heads) zeros
};

/// Grid: (splits, heads, rows). `N` elements of a key per load.
template <class T, class C, int N>
ZIYA_KERNEL void __launch_bounds__(row_threads) attention_rows(RowArguments<T> a) {
  constexpr int passes = N == 1 ? 8 : 2;  // × 32 lanes × N elements ≥ most_head_dim
  __shared__ float query[most_head_dim], scores[split_keys], sums[most_head_dim];
  __shared__ float gathered[row_threads / 32 * most_head_dim];
  __shared__ bool last;
  wait_for_previous();
  release_next();
  const int split = static_cast<int>(blockIdx.x), splits = static_cast<int>(gridDim.x);
  const std::int64_t head = blockIdx.y, row = blockIdx.z;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t visible = a.visible[row];
  const std::int64_t begin = std::int64_t{split} * split_keys;
  const auto count = static_cast<int>(
      min(static_cast<long long>(split_keys), static_cast<long long>(visible - begin)));
  const std::int64_t key_head = head / a.group;
  T* out = a.out + row * a.out_stride + head * a.head_dim;
  if (visible <= 0) {
    if (split == 0 && visible == 0) {
      for (int i = thread; i < a.head_dim; i += row_threads) out[i] = narrow<T>(0.0f);
    }
    return;
  }
  if (count <= 0) return;
  const std::int32_t slot = a.slots == nullptr ? 0 : a.slots[row];
  const std::int64_t offset = begin + (a.first == nullptr ? 0 : a.first[row]);
  for (int i = thread; i < a.head_dim; i += row_threads) {
    query[i] = widen(a.q[row * a.q_stride + head * a.head_dim + i]) * a.scale;
  }
  __syncthreads();

  // `lanes` threads, a power of two, share a key.
  int lanes = 1;
  while (lanes < 32 && lanes * N < a.head_dim) lanes *= 2;
  const int lane = thread % lanes, member = thread / lanes, members = row_threads / lanes;
  float largest = -INFINITY;
  for (int first = 0; first < count; first += members) {
    const int j = first + member;
    float sum = 0;
    if (j < count) {
      const C* key = a.places.template key<C>(slot, key_head, offset + j);
#pragma unroll
      for (int pass = 0; pass < passes; ++pass) {
        const int i = (pass * lanes + lane) * N;
        if (i < a.head_dim) {
          const auto k = *reinterpret_cast<const Pack<C, N>*>(key + i);
#pragma unroll
          for (int e = 0; e < N; ++e) sum = fmaf(query[i + e], widen(k.at[e]), sum);
        }
      }
    }
    for (int apart = lanes / 2; apart > 0; apart /= 2) {
      sum += __shfl_xor_sync(~0u, sum, apart);
    }
    if (j < count) {
      largest = fmaxf(largest, sum);
      if (lane == 0) scores[j] = sum;
    }
  }
  largest = block_max(largest);
  float total = 0;
  for (int j = thread; j < count; j += row_threads) {
    scores[j] = expf(scores[j] - largest);
    total += scores[j];
  }
  total = block_sum(total);

  float sum[passes][N] = {};
  for (int j = member; j < count; j += members) {
    const C* value = a.places.template value<C>(slot, key_head, offset + j);
    const float weight = scores[j];
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) {
      const int i = (pass * lanes + lane) * N;
      if (i < a.head_dim) {
        const auto v = *reinterpret_cast<const Pack<C, N>*>(value + i);
#pragma unroll
        for (int e = 0; e < N; ++e) sum[pass][e] = fmaf(weight, widen(v.at[e]), sum[pass][e]);
      }
    }
  }
  // Within a warp by shuffles, then over the warps through shared memory.
#pragma unroll
  for (int pass = 0; pass < passes; ++pass) {
#pragma unroll
    for (int e = 0; e < N; ++e) {
      for (int apart = 16; apart >= lanes; apart /= 2) {
        sum[pass][e] += __shfl_xor_sync(~0u, sum[pass][e], apart);
      }
      const int i = (pass * lanes + lane) * N + e;
      if (thread % 32 < lanes && i < a.head_dim)
        gathered[thread / 32 * most_head_dim + i] = sum[pass][e];
    }
  }
  __syncthreads();
  for (int i = thread; i < a.head_dim; i += row_threads) {
    float value = 0;
    for (int warp = 0; warp < row_threads / 32; ++warp) value += gathered[warp * most_head_dim + i];
    sums[i] = value;
  }
  __syncthreads();

  const auto used = static_cast<int>((visible + split_keys - 1) / split_keys);
  if (used == 1) {
    for (int i = thread; i < a.head_dim; i += row_threads) out[i] = narrow<T>(sums[i] / total);
    return;
  }
  const std::int64_t unit = row * gridDim.y + head, width = a.head_dim + 2;
  float* part = a.parts + (unit * splits + split) * width;
  for (int i = thread; i < a.head_dim; i += row_threads) part[i] = sums[i];
  if (thread == 0) part[a.head_dim] = largest, part[a.head_dim + 1] = total;
  __threadfence();
  __syncthreads();
  if (thread == 0) last = atomicAdd(&a.counters[unit], 1u) + 1 == static_cast<unsigned>(used);
  __syncthreads();
  if (!last) return;
  __threadfence();
  const float* all = a.parts + unit * splits * width;
  float highest = -INFINITY;
  for (int s = 0; s < used; ++s) highest = fmaxf(highest, __ldcg(&all[s * width + a.head_dim]));
  for (int i = thread; i < a.head_dim; i += row_threads) {
    float value = 0, weight = 0;
    for (int s = 0; s < used; ++s) {
      const float shrink = expf(__ldcg(&all[s * width + a.head_dim]) - highest);
      value += shrink * __ldcg(&all[s * width + i]);
      weight += shrink * __ldcg(&all[s * width + a.head_dim + 1]);
    }
    out[i] = narrow<T>(value / weight);
  }
  if (thread == 0) a.counters[unit] = 0;
}

}  // namespace cuda
ZIYA_NAMESPACE_END
