// SPDX-License-Identifier: Apache-2.0
// Kernel of attention against keys and values in blocks of 8-bit numbers, a row at a time, for
// single rows of one sequence or of many. Products are those of bytes on the tensor cores; a warp
// meets 32 keys, and a block of four warps a part of `split_keys`. Of a row whose token is new it
// also does the rotation, and what stores key and value.
#pragma once

#include "ziya/backend/cuda/attention_bytes.cuh"
#include "ziya/backend/cuda/attention_keys.cuh"
#include "ziya/backend/cuda/cached_blocks.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/rope.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int block_warps = split_keys / 32, block_threads = 32 * block_warps;

/// Sums over some of a row's keys: Σ 2^(score − greatest) × value and, as `total`, without the
/// value.
template <int Passes>
struct PartSums {
  float greatest = -INFINITY, total = 0, value[Passes] = {};

  /// Those of keys that follow, in one part; or in some, `ends` their greatest and total.
  __device__ void add(const PartSums& more) {
    const float2 ends[1]{{more.greatest, more.total}};
    float values[1][Passes];
#pragma unroll
    for (int p = 0; p < Passes; ++p) values[0][p] = more.value[p];
    add(ends, values);
  }
  template <int Parts>
  __device__ void add(const float2 (&ends)[Parts], const float (&values)[Parts][Passes]) {
    float most = greatest;
#pragma unroll
    for (int n = 0; n < Parts; ++n) most = fmaxf(most, ends[n].x);
    const float mine = power_of_two(greatest - most);
    greatest = most;
    total *= mine;
#pragma unroll
    for (int p = 0; p < Passes; ++p) value[p] *= mine;
#pragma unroll
    for (int n = 0; n < Parts; ++n) {
      const float its = power_of_two(ends[n].x - most);
      total = fmaf(ends[n].y, its, total);
#pragma unroll
      for (int p = 0; p < Passes; ++p) value[p] = fmaf(values[n][p], its, value[p]);
    }
  }
};

/// Grid: (blocks, heads, rows); a block takes every blocks-th part of `split_keys` keys. `Passes`:
/// of 128 elements, head sizes up to 256.
template <class T, int Passes>
ZIYA_KERNEL void __launch_bounds__(block_threads, Passes* digit_pairs<T> == 1 ? 4 : 2)
    attention_blocks(RowArguments<T> a) {
  constexpr int pairs = digit_pairs<T>, most = 128 * Passes;
  __shared__ alignas(16) float query[most];
  __shared__ alignas(32) float fresh[2][most];  // key and value of the new token
  __shared__ NewBlocks<Passes> fresh_blocks[2];
  __shared__ alignas(16) float sums[2][block_warps][most];
  __shared__ float2 ends[2][block_warps];  // the greatest score of a warp's keys, their total
  __shared__ float2 turns[most / 2];
  __shared__ alignas(8) WeightDigits digits[block_warps][Passes][pairs];
  __shared__ bool last;
  const int blocks = static_cast<int>(gridDim.x), thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32, lane = thread % 32;
  const unsigned head = blockIdx.y, row = blockIdx.z;
  // Which tokens a row sees and where they lie was uploaded, and no kernel writes it: that may be
  // read before the work before this kernel ends.
  const auto visible = static_cast<int>(a.visible[row]);
  const int used = (visible + split_keys - 1) / split_keys;
  T* const out = a.out + row * a.out_stride + head * a.head_dim;
  int part = static_cast<int>(blockIdx.x);
  if (part >= used) {
    release_next();
    wait_for_previous();
    if (part == 0 && visible == 0) {
      for (int i = thread; i < a.head_dim; i += block_threads) out[i] = narrow<T>(0.0f);
    }
    return;
  }
  const std::int32_t slot = a.slots == nullptr ? 0 : a.slots[row];
  const auto key_head = static_cast<std::int64_t>(head / a.group);
  const int each = a.head_dim / block_quants;
  // A new token is turned and rounded by the blocks that meet it; one block of the heads that share
  // a key stores it.
  const bool appends = a.fresh.k != nullptr, meets = appends && (used - 1) % blocks == part;
  // The first block of the lane's key, or of the last one that is stored; values lie as keys do.
  const auto block_at = [&](int key) {
    const auto index = static_cast<unsigned>(key);
    const unsigned page = a.places.page_of(index), tokens = a.places.page_tokens;
    const auto stored = static_cast<unsigned>(a.places.table[slot * a.places.table_stride + page]);
    return stored * static_cast<unsigned>(a.places.page_bytes / block_quants) +
           (static_cast<unsigned>(key_head) * tokens + index - page * tokens) *
               static_cast<unsigned>(each);
  };
  const int stored = appends ? visible - 1 : visible;
  const auto block_of = [&](int index) {
    return block_at(min(index * split_keys + 32 * warp + lane_key(), max(0, stored - 1)));
  };
  const auto first_of = [&](int index) { return index * split_keys + 32 * warp; };
  const StoredBlocks stored_keys{a.places.keys, a.places.keys + a.places.scales, each};
  const StoredBlocks stored_values{a.places.values, a.places.values + a.places.scales, each};
  KeyBytes<Passes> keys{};  // zeros where a row sees nothing but its new token
  ValueBytes<Passes> values{};

#pragma unroll 1
  for (int i = thread; appends && i < a.head_dim / 2; i += block_threads) {
    turns[i] = turn_of(static_cast<float>(a.fresh.positions[row]), a.fresh.frequencies[i]);
  }
  release_next();
  // What a row sees before its new token was stored for other places than those of now: they have
  // been uploaded since, and no kernel starts before a copy that is ahead of it has ended. So these
  // keys and values may be read now; past the first-level cache, which may hold their lines as they
  // were before. All other keys may be a result of the work before this kernel.
  if (!appends) wait_for_previous();
  const unsigned place = block_of(part);
  unsigned ahead = block_of(min(part + blocks, used - 1));
  if (first_of(part) < stored) {
    keys.fetch(stored_keys, place);
    values.fetch(stored_values, place);
  }
  __syncthreads();
  if (appends) wait_for_previous();
#pragma unroll 1
  for (int i = thread; i < (meets ? 3 : 1) * most / 2; i += block_threads) {
    const int role = i / (most / 2), pair = i % (most / 2), half = a.head_dim / 2;
    float* const to = role == 0 ? query : fresh[role - 1];
    const bool halves = appends && !a.fresh.interleaved && pair < half;
    const int at = halves ? pair : 2 * pair, other = at + (halves ? half : 1);
    const T* from = role == 0   ? a.q + row * a.q_stride + head * a.head_dim
                    : role == 1 ? a.fresh.k + row * a.fresh.k_stride + key_head * a.head_dim
                                : a.fresh.v + row * a.fresh.v_stride + key_head * a.head_dim;
    float x = 0, y = 0;  // behind the head
    if (pair < half) x = widen(from[at]), y = widen(from[other]);
    if (appends && role < 2 && pair < half) {
      const float2 two = turned(x, y, turns[pair]);
      x = widen(narrow<T>(two.x)), y = widen(narrow<T>(two.y));
    }
    const float times = role == 0 ? a.scale * 1.44269504f : 1.0f;  // log₂ e
    to[at] = x * times, to[other] = y * times;
  }
  __syncthreads();
  if (meets && thread < 2 * most / 8) {
    const int role = thread / (most / 8), eight = 8 * (thread % (most / 8));
    Half scale;
    const auto quants =
        encode_nearest(reinterpret_cast<const Pack<float, 8>*>(fresh[role] + eight)->at, scale);
    NewBlocks<Passes>& kept = fresh_blocks[role];
    store_block({kept.quants, reinterpret_cast<Half*>(kept.scales)}, eight, quants, scale);
    if (head % a.group == 0 && eight < a.head_dim) {
      const StoredBlocks& stored = role == 0 ? stored_keys : stored_values;
      store_block(stored.head(block_at(static_cast<int>(a.fresh.places[row]))), eight, quants,
                  scale);
    }
  }
  if (meets) __syncthreads();
  int greatest = 0;
  for (int i = lane; i < most; i += 32) {
    greatest = max(greatest, __float_as_int(query[i]) & 0x7fffffff);
  }
  // Of NaN and infinity what makes every product NaN.
  const float step = __int_as_float(__reduce_max_sync(~0u, greatest)) / QueryBytes<pairs>::largest;
  const float inverse = step > 0 ? 1.0f / step : 0.0f;
  QueryBytes<pairs> query_bytes[Passes];
#pragma unroll
  for (int p = 0; p < Passes; ++p) query_bytes[p].make(query + 128 * p, inverse);

  const unsigned unit = row * gridDim.y + head;
  const int width = a.head_dim + 2;
  float* const all = a.parts + std::int64_t{unit} * a.splits * width;
  const bool alone = blocks == 1 || used == 1;
  PartSums<Passes> result;
  for (int round = 0;; ++round) {
    const int next = part + blocks, buffer = round % 2;
    const bool goes_on = next < used && first_of(next) < visible;
    const unsigned later = block_of(min(next + blocks, used - 1));
    if (first_of(part) < visible) {
      // The new token is not among those that were fetched.
      const int added = appends ? visible - 1 - first_of(part) : 32;
      if (added < 32) {
        keys.put(fresh_blocks[0], added);
        values.put(fresh_blocks[1], added);
      }
      const float product = keys.meet(query_bytes) * step;
      if (goes_on) keys.fetch(stored_keys, ahead);
      const float score = first_of(part) + lane_key() < visible ? product : -INFINITY;
      const float most_of = warp_max(score), weight = power_of_two(score - most_of);
      const float total = warp_sum(weight);
      values.sum(sums[buffer][warp], digits[warp], weight);
      if (goes_on) values.fetch(stored_values, ahead);
      if (lane == 0) ends[buffer][warp] = {most_of, total};
    } else if (lane == 0) {
      ends[buffer][warp] = {-INFINITY, 0};
    }
    __syncthreads();
    float2 warp_ends[block_warps];
    float warp_values[block_warps][Passes];
#pragma unroll
    for (int w = 0; w < block_warps; ++w) {
      warp_ends[w] = ends[buffer][w];
#pragma unroll
      for (int p = 0; p < Passes; ++p) {
        warp_values[w][p] = warp_ends[w].y > 0 ? sums[buffer][w][thread + block_threads * p] : 0.0f;
      }
    }
    PartSums<Passes> sum;
    sum.add(warp_ends, warp_values);
    if (alone) {
      result.add(sum);
    } else {
#pragma unroll
      for (int p = 0; p < Passes; ++p) {
        const int i = thread + block_threads * p;
        if (i < a.head_dim) all[part * width + i] = sum.value[p];
      }
      if (thread == 0) {
        all[part * width + a.head_dim] = sum.greatest;
        all[part * width + a.head_dim + 1] = sum.total;
      }
    }
    if (next >= used) break;
    part = next, ahead = later;
  }

  if (!alone) {
    __threadfence();
    __syncthreads();
    if (thread == 0) {
      last = atomicAdd(&a.counters[unit], 1u) + 1 == static_cast<unsigned>(min(blocks, used));
      if (last) a.counters[unit] = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
#pragma unroll 4
    for (int s = 0; s < used; ++s) {
      const float* const from = all + s * width;
      PartSums<Passes> sum;
      sum.greatest = __ldcg(from + a.head_dim), sum.total = __ldcg(from + a.head_dim + 1);
#pragma unroll
      for (int p = 0; p < Passes; ++p) {
        const int i = thread + block_threads * p;
        if (i < a.head_dim) sum.value[p] = __ldcg(from + i);
      }
      result.add(sum);
    }
  }
#pragma unroll
  for (int p = 0; p < Passes; ++p) {
    const int i = thread + block_threads * p;
    if (i < a.head_dim) out[i] = narrow<T>(result.value[p] / result.total);
  }
}

}  // namespace cuda
ZIYA_NAMESPACE_END
