// SPDX-License-Identifier: Apache-2.0
// Kernel of attention, a row at a time: its keys are split over blocks, of which the last one puts
// the parts together in their order. Of a row whose token is new it also does the rotation, and
// what stores key and value.
#pragma once

#include <type_traits>

#include "ziya/backend/cuda/attention_keys.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/rope.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int row_threads = 512;

/// How `Lanes` threads share a key, of which they load `N` elements at once, and what a thread
/// holds of its keys: packs as bits, which take no more registers than they have to.
template <class C, int N, int Lanes>
struct RowTile {
  using Bits = std::conditional_t<
      sizeof(C) * N == 16, uint4,
      std::conditional_t<sizeof(C) * N == 8, uint2,
                         std::conditional_t<sizeof(C) * N == 4, std::uint32_t, std::uint16_t>>>;
  static constexpr int passes = N == 8   ? 1
                                : N == 4 ? 2
                                         : 8;  // × Lanes × N elements ≥ the head size
  static constexpr int members = row_threads / Lanes, keys_each = split_keys / members;
  /// Blocks per multiprocessor, by registers: keys and values are on their way together.
  static constexpr int resident = keys_each * passes * sizeof(Bits) <= 64 ? 2 : 1;
  Bits bits[keys_each][passes];

  /// A thread's n-th key of a part, and the first element that it has of one.
  static __device__ int key(int n) { return n * members + static_cast<int>(threadIdx.x) / Lanes; }
  static __device__ int element(int pass) {
    return (pass * Lanes + static_cast<int>(threadIdx.x) % Lanes) * N;
  }
};

/// Grid: (blocks, heads, rows); a block takes every blocks-th part of `split_keys` keys.
template <class T, class C, int N, int Lanes>
ZIYA_KERNEL void __launch_bounds__(row_threads, RowTile<C, N, Lanes>::resident)
    attention_rows(RowArguments<T> a) {
  using Tile = RowTile<C, N, Lanes>;
  constexpr int passes = Tile::passes, keys_each = Tile::keys_each;
  __shared__ alignas(16) float query[most_head_dim];
  __shared__ float scores[split_keys];
  __shared__ alignas(32) float gathered[row_threads / 32][most_head_dim];
  __shared__ C *key_rows[split_keys], *value_rows[split_keys];
  __shared__ float2 turns[most_head_dim / 2];
  __shared__ alignas(16) C fresh[2][most_head_dim];  // key and value of the new token
  __shared__ bool last;
  const int blocks = static_cast<int>(gridDim.x), thread = static_cast<int>(threadIdx.x);
  const unsigned head = blockIdx.y, row = blockIdx.z;
  // Which tokens a row sees and where they lie was uploaded, and no kernel writes it: that may be
  // read before the work before this kernel ends.
  const auto visible = static_cast<int>(a.visible[row]);
  const int used = (visible + split_keys - 1) / split_keys;
  T* out = a.out + row * a.out_stride + head * a.head_dim;
  int part = static_cast<int>(blockIdx.x);
  if (part >= used) {
    release_next();
    wait_for_previous();
    if (part == 0 && visible == 0) {
      for (int i = thread; i < a.head_dim; i += row_threads) out[i] = narrow<T>(0.0f);
    }
    return;
  }
  const std::int32_t slot = a.slots == nullptr ? 0 : a.slots[row];
  const std::int64_t first = a.first == nullptr ? 0 : a.first[row];
  const auto key_head = static_cast<std::int64_t>(head / a.group);
  const auto keys_of = [&](int index) { return min(split_keys, visible - index * split_keys); };
  const auto place_in = [&](int index) {
    return a.places.place(slot, first + index * split_keys + thread);
  };
  const auto key_at = [&](const KeyPlaces::Place& place) {
    return a.places.template head_at<C>(a.places.keys, place, key_head, a.places.key_stride).at;
  };
  const auto value_at = [&](const KeyPlaces::Place& place) {
    return a.places.template head_at<C>(a.places.values, place, key_head, a.places.value_stride).at;
  };
  int count = keys_of(part);
  if (thread < count) {
    const auto place = place_in(part);
    key_rows[thread] = key_at(place);
    value_rows[thread] = value_at(place);
  }

  // A new token: 128 threads each turn the pairs of the query and of the key and take those of the
  // value. One block of the heads that share a key stores it; every one uses its own copy.
  const bool appends = a.fresh.k != nullptr, owns = (used - 1) % blocks == part;
  const int role = thread / (most_head_dim / 2), pair = thread % (most_head_dim / 2);
  const int pairs = a.head_dim / 2;
  C* stored = nullptr;
  if (appends) {
    if (role == 0 && pair < pairs) {
      turns[pair] = turn_of(static_cast<float>(a.fresh.positions[row]), a.fresh.frequencies[pair]);
    } else if (owns && head % a.group == 0) {
      const auto place = a.places.place(slot, a.fresh.places[row]);
      stored = role == 1 ? key_at(place) : value_at(place);
    }
  }
  release_next();
  // What a row sees before its new token was stored for other places than those of now: they have
  // been uploaded since, and no kernel starts before a copy that is ahead of it has ended. So these
  // keys and values may be read now; past the first-level cache, which may hold their lines as they
  // were before. All other keys may be a result of the work before this kernel.
  if (!appends) wait_for_previous();
  __syncthreads();
  Tile keys, values;
  const auto fetch = [&](Tile& held, C* const* rows, int index, int present) {
    if (appends && index == used - 1) --present;
#pragma unroll
    for (int n = 0; n < keys_each; ++n) {
      const int j = Tile::key(n);
#pragma unroll
      for (int pass = 0; pass < passes; ++pass) {
        const int i = Tile::element(pass);
        if (j < present && i < a.head_dim) {
          held.bits[n][pass] = __ldcg(reinterpret_cast<const typename Tile::Bits*>(rows[j] + i));
        }
      }
    }
  };
  fetch(keys, key_rows, part, count);
  fetch(values, value_rows, part, count);
  if (!appends) {
    for (int i = thread; i < a.head_dim; i += row_threads) {
      query[i] = widen(a.q[row * a.q_stride + head * a.head_dim + i]) * a.scale;
    }
  } else {
    wait_for_previous();
    if (pair < pairs && (role == 0 || (owns && role < 3))) {
      const int at = a.fresh.interleaved ? 2 * pair : pair;
      const int other = at + (a.fresh.interleaved ? 1 : pairs);
      const T* from = role == 0   ? a.q + row * a.q_stride + head * a.head_dim
                      : role == 1 ? a.fresh.k + row * a.fresh.k_stride + key_head * a.head_dim
                                  : a.fresh.v + row * a.fresh.v_stride + key_head * a.head_dim;
      float x = widen(from[at]), y = widen(from[other]);
      if (role < 2) {
        const float2 two = turned(x, y, turns[pair]);
        x = widen(narrow<T>(two.x)), y = widen(narrow<T>(two.y));
      }
      if (role == 0) {
        query[at] = x * a.scale, query[other] = y * a.scale;
      } else {
        C* to = fresh[role - 1];
        to[at] = narrow<C>(x), to[other] = narrow<C>(y);
        if (stored != nullptr) stored[at] = to[at], stored[other] = to[other];
      }
    }
  }
  __syncthreads();

  const auto take_fresh = [&](Tile& held, int n, int which) {
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) {
      const int i = Tile::element(pass);
      if (i < a.head_dim) {
        held.bits[n][pass] = *reinterpret_cast<const typename Tile::Bits*>(fresh[which] + i);
      }
    }
  };
  const unsigned unit = row * gridDim.y + head;
  const int width = a.head_dim + 2;
  float* all = a.parts + std::int64_t{unit} * a.splits * width;
  while (true) {
    const int next = part + blocks, upcoming = next < used ? keys_of(next) : 0;
    const int added = appends && part == used - 1 ? count - 1 : -1;  // the new token among the keys
    KeyPlaces::Place ahead{};
    if (thread < upcoming) ahead = place_in(next);
    float sums[keys_each];
#pragma unroll
    for (int n = 0; n < keys_each; ++n) {
      const int j = Tile::key(n);
      if (j == added) take_fresh(keys, n, 0);
      float sum = 0;
#pragma unroll
      for (int pass = 0; pass < passes; ++pass) {
        float met = sum;
        const int i = Tile::element(pass);
        float key[N];
        widen_pack(key, reinterpret_cast<const Pack<C, N>&>(keys.bits[n][pass]));
#pragma unroll
        for (int e = 0; e < N; ++e) met = fmaf(query[i + e], key[e], met);
        sum = i < a.head_dim ? met : sum;
      }
      sums[n] = sum;
    }
#pragma unroll
    for (int apart = Lanes / 2; apart > 0; apart /= 2) {
#pragma unroll
      for (int n = 0; n < keys_each; ++n) sums[n] += __shfl_xor_sync(~0u, sums[n], apart);
    }
    if (thread % Lanes == 0) {
#pragma unroll
      for (int n = 0; n < keys_each; ++n) {
        scores[Tile::key(n)] = Tile::key(n) < count ? sums[n] : -INFINITY;
      }
    }
    if (thread < upcoming) {
      key_rows[thread] = key_at(ahead);
      value_rows[thread] = value_at(ahead);
    }
    __syncthreads();
    fetch(keys, key_rows, next, upcoming);  // on their way while the scores become weights

    // Every warp for itself; the total, those that put the sums of all together.
    float largest = -INFINITY, total = 0;
#pragma unroll
    for (int j = thread % 32; j < split_keys; j += 32) largest = fmaxf(largest, scores[j]);
    largest = warp_max(largest);
    if (thread - thread % 32 < a.head_dim) {
#pragma unroll
      for (int j = thread % 32; j < split_keys; j += 32) total += __expf(scores[j] - largest);
      total = warp_sum(total);
    }
    float sum[passes][N] = {};
#pragma unroll
    for (int n = 0; n < keys_each; ++n) {
      const int j = Tile::key(n);
      if (j >= count) continue;
      if (j == added) take_fresh(values, n, 1);
      const float weight = __expf(scores[j] - largest);
#pragma unroll
      for (int pass = 0; pass < passes; ++pass) {
        float value[N];
        widen_pack(value, reinterpret_cast<const Pack<C, N>&>(values.bits[n][pass]));
#pragma unroll
        for (int e = 0; e < N; ++e) sum[pass][e] = fmaf(weight, value[e], sum[pass][e]);
      }
    }
    fetch(values, value_rows, next, upcoming);
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) {
#pragma unroll
      for (int e = 0; e < N; ++e) {
#pragma unroll
        for (int apart = 16; apart >= Lanes; apart /= 2) {
          sum[pass][e] += __shfl_xor_sync(~0u, sum[pass][e], apart);
        }
      }
      const int i = Tile::element(pass);
      if (thread % 32 < Lanes && i < a.head_dim) {
        *reinterpret_cast<Pack<float, N>*>(&gathered[thread / 32][i]) =
            reinterpret_cast<const Pack<float, N>&>(sum[pass]);
      }
    }
    __syncthreads();
    if (thread < a.head_dim) {
      float value = 0;
#pragma unroll
      for (int warp = 0; warp < row_threads / 32; ++warp) value += gathered[warp][thread];
      if (used == 1) {
        out[thread] = narrow<T>(value / total);
      } else {
        all[part * width + thread] = value;
      }
    }
    if (used == 1) return;
    if (thread == 0) {
      all[part * width + a.head_dim] = largest, all[part * width + a.head_dim + 1] = total;
    }
    if (next >= used) break;
    part = next, count = upcoming;
  }

  __threadfence();
  __syncthreads();
  if (thread == 0) {
    last = atomicAdd(&a.counters[unit], 1u) + 1 == static_cast<unsigned>(min(blocks, used));
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  float highest = -INFINITY;
  for (int s = thread % 32; s < used; s += 32) {
    highest = fmaxf(highest, __ldcg(&all[s * width + a.head_dim]));
  }
  highest = warp_max(highest);
  if (thread < a.head_dim) {
    float value = 0, weight = 0;
#pragma unroll 8
    for (int s = 0; s < used; ++s) {
      const float shrink = expf(__ldcg(&all[s * width + a.head_dim]) - highest);
      value = fmaf(shrink, __ldcg(&all[s * width + thread]), value);
      weight = fmaf(shrink, __ldcg(&all[s * width + a.head_dim + 1]), weight);
    }
    out[thread] = narrow<T>(value / weight);
  }
  if (thread == 0) a.counters[unit] = 0;
}

}  // namespace cuda
ZIYA_NAMESPACE_END
