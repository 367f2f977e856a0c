// SPDX-License-Identifier: Apache-2.0
// Kernel of attention, a row at a time: its keys are split over blocks, of which the last one puts
// the parts together in their order.
#pragma once

#include "ziya/backend/cuda/device.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Where keys and values lie: strides in elements, a page in bytes.
struct KeyPlaces {
  const std::byte *keys, *values;
  const std::int32_t* table;  ///< null: tokens follow each other
  std::int64_t table_stride;
  unsigned page_tokens;
  std::int64_t page_bytes, head_stride, key_stride, value_stride;

  /// Bytes from `keys` to token 0 of the page that holds `token`, and the token's place in it.
  struct Place {
    std::int64_t page;
    std::int64_t token;
  };
  __device__ Place place(std::int32_t slot, std::int64_t token) const {
    if (table == nullptr) return {0, token};
    const auto index = static_cast<unsigned>(token);
    return {table[slot * table_stride + index / page_tokens] * page_bytes, index % page_tokens};
  }
};

inline constexpr int row_threads = 512;
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

/// Grid: (splits, heads, rows). `Lanes` threads share a key and load `N` elements of it at once.
template <class T, class C, int N, int Lanes>
ZIYA_KERNEL void __launch_bounds__(row_threads) attention_rows(RowArguments<T> a) {
  constexpr int passes = N == 8 ? 1 : N == 4 ? 2 : 8;  // × Lanes × N elements ≥ the head size
  constexpr int members = row_threads / Lanes, keys_each = split_keys / members;
  __shared__ float query[most_head_dim], scores[split_keys], sums[most_head_dim];
  __shared__ float gathered[row_threads / 32][most_head_dim];
  __shared__ const C *key_rows[split_keys], *value_rows[split_keys];
  __shared__ bool last;
  // Which tokens a row sees and where they lie was uploaded, and no kernel writes it: that may be
  // read before the work before this kernel ends.
  const int split = static_cast<int>(blockIdx.x), splits = static_cast<int>(gridDim.x);
  const std::int64_t head = blockIdx.y, row = blockIdx.z;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t visible = a.visible[row];
  const std::int64_t begin = std::int64_t{split} * split_keys;
  const auto count = static_cast<int>(
      min(static_cast<long long>(split_keys), static_cast<long long>(visible - begin)));
  T* out = a.out + row * a.out_stride + head * a.head_dim;
  if (thread < count) {
    const std::int32_t slot = a.slots == nullptr ? 0 : a.slots[row];
    const std::int64_t token = begin + thread + (a.first == nullptr ? 0 : a.first[row]);
    const auto place = a.places.place(slot, token);
    const std::int64_t to_head = head / a.group * a.places.head_stride;
    key_rows[thread] = reinterpret_cast<const C*>(a.places.keys + place.page) + to_head +
                       place.token * a.places.key_stride;
    value_rows[thread] = reinterpret_cast<const C*>(a.places.values + place.page) + to_head +
                         place.token * a.places.value_stride;
  }
  release_next();
  wait_for_previous();
  if (visible <= 0) {
    if (split == 0 && visible == 0) {
      for (int i = thread; i < a.head_dim; i += row_threads) out[i] = narrow<T>(0.0f);
    }
    return;
  }
  if (count <= 0) return;
  for (int i = thread; i < a.head_dim; i += row_threads) {
    query[i] = widen(a.q[row * a.q_stride + head * a.head_dim + i]) * a.scale;
  }
  __syncthreads();

  const int lane = thread % Lanes, member = thread / Lanes;
  Pack<C, N> loaded[keys_each][passes];
  const auto fetch = [&](const C* const* rows) {
#pragma unroll
    for (int n = 0; n < keys_each; ++n) {
      const int j = n * members + member;
#pragma unroll
      for (int pass = 0; pass < passes; ++pass) {
        const int i = (pass * Lanes + lane) * N;
        if (j < count && i < a.head_dim) {
          loaded[n][pass] = *reinterpret_cast<const Pack<C, N>*>(rows[j] + i);
        }
      }
    }
  };
  fetch(key_rows);
#pragma unroll
  for (int n = 0; n < keys_each; ++n) {
    const int j = n * members + member;
    float sum = 0;
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) {
      const int i = (pass * Lanes + lane) * N;
      if (i >= a.head_dim) continue;
#pragma unroll
      for (int e = 0; e < N; ++e) sum = fmaf(query[i + e], widen(loaded[n][pass].at[e]), sum);
    }
#pragma unroll
    for (int apart = Lanes / 2; apart > 0; apart /= 2) {
      sum += __shfl_xor_sync(~0u, sum, apart);
    }
    if (lane == 0) scores[j] = j < count ? sum : -INFINITY;
  }
  fetch(value_rows);  // on their way while the scores become weights
  __syncthreads();

  // Every warp for itself.
  float largest = -INFINITY, total = 0;
#pragma unroll
  for (int j = thread % 32; j < split_keys; j += 32) largest = fmaxf(largest, scores[j]);
  largest = warp_max(largest);
#pragma unroll
  for (int j = thread % 32; j < split_keys; j += 32) total += expf(scores[j] - largest);
  total = warp_sum(total);
  float sum[passes][N] = {};
#pragma unroll
  for (int n = 0; n < keys_each; ++n) {
    const int j = n * members + member;
    if (j >= count) continue;
    const float weight = expf(scores[j] - largest);
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) {
#pragma unroll
      for (int e = 0; e < N; ++e) {
        sum[pass][e] = fmaf(weight, widen(loaded[n][pass].at[e]), sum[pass][e]);
      }
    }
  }
#pragma unroll
  for (int pass = 0; pass < passes; ++pass) {
#pragma unroll
    for (int e = 0; e < N; ++e) {
#pragma unroll
      for (int apart = 16; apart >= Lanes; apart /= 2) {
        sum[pass][e] += __shfl_xor_sync(~0u, sum[pass][e], apart);
      }
      const int i = (pass * Lanes + lane) * N + e;
      if (thread % 32 < Lanes && i < a.head_dim) gathered[thread / 32][i] = sum[pass][e];
    }
  }
  __syncthreads();
  for (int i = thread; i < a.head_dim; i += row_threads) {
    float value = 0;
#pragma unroll
    for (int warp = 0; warp < row_threads / 32; ++warp) value += gathered[warp][i];
    sums[i] = value;
  }

  // From here on a thread touches only what it wrote, until the last block reads the others' parts.
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
