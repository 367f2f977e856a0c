// SPDX-License-Identifier: Apache-2.0
// Kernel of attention, 192 rows of one head of size 128 at a time, for compute capability 9.0.
// Source: Shah et al., arXiv 2407.08608 (warps that fetch, products by warpgroups); Dao, arXiv
// 2307.08691
#pragma once

#include <climits>
#include <cstdint>

#include "ziya/backend/cuda/attention_tiles.cuh"
#include "ziya/backend/cuda/bulk_copy.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/warpgroup.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int warpgroup_count = 3;  // groups of four warps, 64 rows each
inline constexpr int warpgroup_rows = 64 * warpgroup_count;
inline constexpr int warpgroup_threads = 128 * (warpgroup_count + 1);  // one group fetches
inline constexpr int warpgroup_keys = 128;                             // of a block
inline constexpr int warpgroup_page = 64;  // keys that have to follow each other
inline constexpr int warpgroup_dim = 128;
/// Queries, and keys and values of two blocks; the start is moved to a whole KiB.
inline constexpr int warpgroup_shared =
    (warpgroup_rows + 4 * warpgroup_keys) * warpgroup_dim * 2 + 1024;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

inline constexpr int warpgroup_half = warpgroup_dim / 2;  // columns, 128 bytes as `describe` has it

/// Rows of one head, with the blocks of keys that they see.
struct alignas(16) HeadTile {
  int head, begin, count;  ///< rows; count −1: no tile is left
  int blocks;
};

/// What the warps of a block share besides queries, keys and values. References: of one struct in
/// shared memory the compiler keeps the address in registers, of which the warps that fetch have
/// too few (2048 tokens take 93 µs instead of 86).
struct WarpgroupMeeting {
  CopyBarrier &queries_full, &queries_empty;
  CopyBarrier (&keys_full)[2], (&keys_empty)[2], (&values_full)[2], (&values_empty)[2];
  HeadTile& tile;
  int (&seen)[warpgroup_rows];  ///< tokens that the tile's rows see, 0 behind them
  unsigned (&drawn)[2];

  __device__ void init() const {
    queries_full.init(2 * 128);  // each thread that fetches: what it has written, what it copies
    queries_empty.init(128 * warpgroup_count);  // each that reads `tile` and `seen`
    for (int stage = 0; stage < 2; ++stage) {
      keys_full[stage].init(128), values_full[stage].init(128);
      keys_empty[stage].init(4 * warpgroup_count), values_empty[stage].init(4 * warpgroup_count);
    }
    CopyBarrier::publish();
  }
};

/// Where the 16 bytes of columns 8 · chunk and on of a row lie, in a matrix in two halves.
__device__ inline int warpgroup_element(int row, int chunk, int rows) {
  return (chunk / 8 * rows + row) * warpgroup_half + (chunk % 8 ^ row % 8) * 8;
}

/// Four warps fetch tile after tile; blocks draw the next one from a counter, which is zero before
/// and after.
template <class T>
__device__ __forceinline__ void fetch_tiles(const TileArguments<T>& a, unsigned heads,
                                            unsigned items, std::uint32_t* counter,
                                            const WarpgroupMeeting& meeting, T* queries, T* keys,
                                            T* values) {
  constexpr int chunks = warpgroup_dim / 8, apart = 128 / chunks;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  // A thread copies one column of every `apart`-th row: eight, so all are exchanged alike.
  const int chunk = thread % chunks, first = thread / chunks;
  int fetched_keys = 0, fetched_values = 0;  // blocks
  for (int turn = 0;; ++turn) {
    // Drawn late, so that who is done early gets more.
    if (thread == 0) {
      unsigned number = blockIdx.x;
      if (turn > 0) {
        number = atomicAdd(counter, 1u);
        if (number == items - 1) *counter = 0;  // the last: each block draws one without a tile
        number += gridDim.x;
      }
      meeting.drawn[turn % 2] = number;
    }
    asm volatile("bar.sync 1, 128;" ::: "memory");
    const unsigned item = meeting.drawn[turn % 2];
    if (item >= items) {
      meeting.queries_empty.wait((turn + 1) % 2);
      if (thread == 0) meeting.tile.count = -1;
      meeting.queries_full.arrive();
      meeting.queries_full.arrive_after_copies();
      return;
    }
    const Tile tile = a.tiles[item / heads];
    const int head = static_cast<int>(item % heads);
    const std::int64_t to_head = head / a.group * a.places.head_stride;
    const int blocks = (tile.most + warpgroup_keys - 1) / warpgroup_keys;
    const auto fetch = [&](CopyBarrier* full, CopyBarrier* empty, int& fetched, T* ring,
                           const std::byte* from, std::int64_t stride, int block) {
      const int stage = fetched % 2;
      empty[stage].wait((fetched / 2 + 1) % 2);
      ++fetched;
      T* to = ring + stage * warpgroup_keys * warpgroup_dim +
              warpgroup_element(first, chunk, warpgroup_keys);
#pragma unroll
      for (int part = 0; part < warpgroup_keys; part += warpgroup_page) {
        const int token = block * warpgroup_keys + part;
        const auto place = a.places.place(
            tile.slot, tile.first + min(token, (tile.most - 1) / warpgroup_page * warpgroup_page));
        const T* p = reinterpret_cast<const T*>(from + place.page) + to_head +
                     (place.token + first) * stride + chunk * 8;
        if (token + warpgroup_page <= tile.most) {
#pragma unroll
          for (int j = 0; j < warpgroup_page; j += apart) {
            copy_async(to + (part + j) * warpgroup_half, p, true);
            p += apart * stride;
          }
        } else {
#pragma unroll
          for (int j = 0; j < warpgroup_page; j += apart) {
            // Nothing is read where nothing is present, but the address must be one of the cache.
            const bool present = token + first + j < tile.most;
            copy_async(to + (part + j) * warpgroup_half,
                       present ? p : reinterpret_cast<const T*>(from), present);
            p += apart * stride;
          }
        }
      }
      full[stage].arrive_after_copies();
    };
    const auto fetch_keys = [&](int block) {
      fetch(meeting.keys_full, meeting.keys_empty, fetched_keys, keys, a.places.keys,
            a.places.key_stride, block);
    };
    const auto fetch_values = [&](int block) {
      fetch(meeting.values_full, meeting.values_empty, fetched_values, values, a.places.values,
            a.places.value_stride, block);
    };
    int seen[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = thread + 128 * i;
      if (row < tile.count) seen[i] = static_cast<int>(a.visible[tile.begin + row]);
    }
    if (blocks > 0) fetch_keys(0);
    meeting.queries_empty.wait((turn + 1) % 2);
    if (thread == 0) meeting.tile = {head, tile.begin, tile.count, blocks};
    meeting.seen[thread] = seen[0];
    if (thread + 128 < warpgroup_rows) meeting.seen[thread + 128] = seen[1];
    const T* q = a.q + (tile.begin + first) * a.q_stride + head * warpgroup_dim + chunk * 8;
#pragma unroll 4
    for (int j = 0; j < warpgroup_rows; j += apart) {
      const bool present = first + j < tile.count;
      copy_async(queries + warpgroup_element(first, chunk, warpgroup_rows) + j * warpgroup_half,
                 present ? q : a.q, present);
      q += apart * a.q_stride;
    }
    meeting.queries_full.arrive();
    meeting.queries_full.arrive_after_copies();
    for (int block = 1; block < blocks; ++block) {
      fetch_keys(block);
      fetch_values(block - 1);
    }
    if (blocks > 0) fetch_values(blocks - 1);
  }
}

/// Rows 64 · group and on of tile after tile. While one group is at its softmax, others multiply.
template <class T>
__device__ __forceinline__ void attend_tiles(const TileArguments<T>& a, int group,
                                             const WarpgroupMeeting& meeting, const T* queries,
                                             const T* keys, const T* values) {
  const int thread = static_cast<int>(threadIdx.x) % 128, warp = thread / 32, lane = thread % 32;
  const int quad = lane / 4, within = lane % 4;
  // Row r of a thread: of its group's 64 rows number 16 warp + quad + 8 r.
  const int of_warp = group * 64 + warp * 16;
  const float scale = a.scale * 1.44269504f;  // powers of two instead of e
  const std::uint64_t own = describe(queries + group * 64 * warpgroup_half);
  int used = 0;  // blocks
  for (int turn = 0;; ++turn) {
    meeting.queries_full.wait(turn % 2);
    const HeadTile tile = meeting.tile;
    if (tile.count < 0) return;
    publish_to_warpgroups();
    // Where keys have to be hidden from some row of the group, and where from all.
    int seen[2], least = INT_MAX, most = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = group * 64 + half * 32 + lane, sees = meeting.seen[row];
      if (row < tile.count) least = min(least, sees);
      most = max(most, sees);
      seen[half] = meeting.seen[of_warp + half * 8 + quad];
    }
    least = __reduce_min_sync(~0u, least);
    most = __reduce_max_sync(~0u, most);
    const int blocks = (most + warpgroup_keys - 1) / warpgroup_keys;
    const auto free_queries = [&] { meeting.queries_empty.arrive(); };
    if (blocks == 0) free_queries();

    float out[warpgroup_dim / 2] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
    for (int block = 0; block < blocks; ++block, ++used) {
      const int stage = used % 2, parity = used / 2 % 2;
      const std::uint64_t k = describe(keys + stage * warpgroup_keys * warpgroup_dim);
      // From one half of the columns of v to the other.
      const std::uint64_t v = describe(values + stage * warpgroup_keys * warpgroup_dim,
                                       warpgroup_keys * warpgroup_half * sizeof(T));
      float scores[warpgroup_keys / 2];
      meeting.keys_full[stage].wait(parity);
      publish_to_warpgroups();
      begin_products();
#pragma unroll
      for (int step = 0; step < warpgroup_dim / 16; ++step) {
        const int in_half = step % 4 * 32, half = step / 4;  // bytes
        multiply_rows<T, warpgroup_keys>(
            scores, own + ((half * warpgroup_rows * 128 + in_half) >> 4),
            k + ((half * warpgroup_keys * 128 + in_half) >> 4), step > 0);
      }
      finish_products(scores);
      if (lane == 0) meeting.keys_empty[stage].arrive();
      if (block == blocks - 1) free_queries();
      // Element 4 n + e of the scores: row quad + 8 (e / 2), key 8 n + 2 within + e % 2.
      const int first = block * warpgroup_keys;
      if (first + warpgroup_keys > least) {
#pragma unroll
        for (int i = 0; i < warpgroup_keys / 2; ++i) {
          const int key = first + i / 4 * 8 + within * 2 + i % 2;
          if (key >= seen[i / 2 % 2]) scores[i] = -INFINITY;
        }
      }
      float shrink[2], base[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float even = -INFINITY, odd = -INFINITY;
#pragma unroll
        for (int n = 0; n < warpgroup_keys / 8; ++n) {
          even = fmaxf(even, scores[4 * n + 2 * r]);
          odd = fmaxf(odd, scores[4 * n + 2 * r + 1]);
        }
        base[r] = fmaxf(even, odd);
      }
#pragma unroll
      for (int apart = 1; apart < 4; apart *= 2) {
#pragma unroll
        for (int r = 0; r < 2; ++r) base[r] = fmaxf(base[r], __shfl_xor_sync(~0u, base[r], apart));
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        // A greater one makes the sums smaller when it is so by a factor of 2^8.
        const float greatest = base[r] * scale;
        const float kept = greatest > largest[r] + 8.0f ? greatest : largest[r];
        base[r] = kept == -INFINITY ? 0.0f : kept;  // a row that has seen nothing yet
        shrink[r] = power_of_two(largest[r] - base[r]);
        largest[r] = kept;
        float even = 0, odd = 0;
#pragma unroll
        for (int n = 0; n < warpgroup_keys / 8; ++n) {
          float& one = scores[4 * n + 2 * r];
          float& other = scores[4 * n + 2 * r + 1];
          one = power_of_two(fmaf(one, scale, -base[r]));
          other = power_of_two(fmaf(other, scale, -base[r]));
          even += one, odd += other;
        }
        total[r] = fmaf(total[r], shrink[r], even + odd);
      }
      if (__any_sync(~0u, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
        for (int i = 0; i < warpgroup_dim / 2; ++i) out[i] *= shrink[i / 2 % 2];
      }
      unsigned p[warpgroup_keys / 16][4];
#pragma unroll
      for (int step = 0; step < warpgroup_keys / 16; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          p[step][i] = pair_of<T>(scores[8 * step + 2 * i], scores[8 * step + 2 * i + 1]);
        }
      }
      meeting.values_full[stage].wait(parity);
      publish_to_warpgroups();
      begin_products();
#pragma unroll
      for (int step = 0; step < warpgroup_keys / 16; ++step) {
        multiply_columns<T>(out, p[step], v + ((step * 16 * 128) >> 4));
      }
      finish_products(out);
      if (lane == 0) meeting.values_empty[stage].arrive();
    }
    // Keys that only rows of other groups see.
    for (int block = blocks; block < tile.blocks; ++block, ++used) {
      const int stage = used % 2, parity = used / 2 % 2;
      meeting.keys_full[stage].wait(parity);
      __syncwarp();
      if (lane == 0) meeting.keys_empty[stage].arrive();
      meeting.values_full[stage].wait(parity);
      __syncwarp();
      if (lane == 0) meeting.values_empty[stage].arrive();
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = total[r];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const float inverse = sum > 0 ? 1.0f / sum : 0.0f;
      const int row = of_warp + r * 8 + quad;
      T* to = a.out + (tile.begin + row) * a.out_stride + tile.head * warpgroup_dim + within * 8;
#pragma unroll
      for (int d = 0; d < warpgroup_dim / 32; ++d) {
        unsigned words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = 16 * d + 4 * i + 2 * r;
          words[i] = pair_of<T>(out[at] * inverse, out[at + 1] * inverse);
        }
        const uint4 eight = exchange_words(words);
        if (row < tile.count) *reinterpret_cast<uint4*>(to + d * 32) = eight;
      }
    }
  }
}

#endif

/// Grid: as many blocks as fit, at most `items`, which are tiles × heads. Four warps fetch
/// queries and blocks of keys and values; three groups of four have 64 rows each. Empty, and
/// without memory of its own, where it is not compiled for `sm_90a`.
template <class T>
ZIYA_KERNEL void __launch_bounds__(warpgroup_threads, 1)
    attention_warpgroups(TileArguments<T> a, unsigned heads, unsigned items,
                         std::uint32_t* counter) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ CopyBarrier queries_full, queries_empty;
  __shared__ CopyBarrier keys_full[2], keys_empty[2], values_full[2], values_empty[2];
  __shared__ HeadTile tile;
  __shared__ int seen[warpgroup_rows];
  __shared__ unsigned drawn[2];
  const WarpgroupMeeting meeting{queries_full, queries_empty, keys_full, keys_empty, values_full,
                                 values_empty, tile,          seen,      drawn};
  extern __shared__ std::byte unaligned[];
  const auto start = static_cast<unsigned>(__cvta_generic_to_shared(unaligned));
  // Matrices in two halves of 64 columns, each as `describe` wants it.
  T* const queries = reinterpret_cast<T*>(unaligned + (1024 - start % 1024) % 1024);
  T* const keys = queries + warpgroup_rows * warpgroup_dim;     // [2][2][keys][half]
  T* const values = keys + 2 * warpgroup_keys * warpgroup_dim;  // [2][2][keys][half]
  if (threadIdx.x == 0) meeting.init();
  release_next();
  __syncthreads();
  wait_for_previous();
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);  // the warp's, as one
  if (group == warpgroup_count) {
    give_registers_back<32>();
    fetch_tiles(a, heads, items, counter, meeting, queries, keys, values);
  } else {
    take_registers<160>();
    attend_tiles(a, group, meeting, queries, keys, values);
  }
#else
  (void)a, (void)heads, (void)items, (void)counter;
#endif
}

}  // namespace cuda
ZIYA_NAMESPACE_END
