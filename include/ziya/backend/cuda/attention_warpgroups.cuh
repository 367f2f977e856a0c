// SPDX-License-Identifier: Apache-2.0
// Kernel of attention, 128 rows of one head of size 128 at a time, for compute capability 9.0.
// Source: Shah et al., arXiv 2407.08608 (products by warpgroups); Dao, arXiv 2307.08691
#pragma once

#include "ziya/backend/cuda/attention_tiles.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/warpgroup.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int warpgroup_threads = 256;  // two groups of four warps, 64 rows each
inline constexpr int warpgroup_dim = 128;
/// Queries, and keys and values of two blocks; the start is moved to a whole KiB.
inline constexpr int warpgroup_shared = (tile_rows + 4 * tile_keys) * warpgroup_dim * 2 + 1024;

/// Grid: (heads, tiles). As `attention_tiles`, with both products from shared memory. Empty, and
/// without memory of its own, where it is not compiled for `sm_90a`.
template <class T>
ZIYA_KERNEL void __launch_bounds__(warpgroup_threads, 2) attention_warpgroups(TileArguments<T> a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  // Matrices in two halves of 64 columns, each as `describe` wants it.
  constexpr int half_dim = 64, chunks = warpgroup_dim / 8;
  __shared__ int seen_by[tile_rows];
  extern __shared__ std::byte unaligned[];
  const auto start = static_cast<unsigned>(__cvta_generic_to_shared(unaligned));
  T* const queries = reinterpret_cast<T*>(unaligned + (1024 - start % 1024) % 1024);
  T* const keys = queries + tile_rows * warpgroup_dim;     // [2][2][tile_keys][half_dim]
  T* const values = keys + 2 * tile_keys * warpgroup_dim;  // [2][2][tile_keys][half_dim]
  const auto element = [](int row, int chunk, int rows) {  // of eight columns
    return (chunk / 8 * rows + row) * half_dim + (chunk % 8 ^ row % 8) * 8;
  };
  release_next();
  wait_for_previous();
  // Late rows see most keys: those of all heads begin first.
  const Tile tile = a.tiles[gridDim.y - 1 - blockIdx.y];
  const std::int64_t head = blockIdx.x, to_head = head / a.group * a.places.head_stride;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int quad = lane / 4, within = lane % 4, group = warp / 4;

  const auto fetch = [&](int block) {
    T* const k_to = keys + (block % 2) * tile_keys * warpgroup_dim;
    T* const v_to = values + (block % 2) * tile_keys * warpgroup_dim;
    const int token = block * tile_keys;
    constexpr int apart = warpgroup_threads / chunks;
    const int chunk = thread % chunks, first = thread / chunks;
    const auto place = a.places.place(tile.slot, tile.first + token);
    const T* k = reinterpret_cast<const T*>(a.places.keys + place.page) + to_head +
                 (place.token + first) * a.places.key_stride + chunk * 8;
    const T* v = reinterpret_cast<const T*>(a.places.values + place.page) + to_head +
                 (place.token + first) * a.places.value_stride + chunk * 8;
#pragma unroll
    for (int j = first; j < tile_keys; j += apart) {
      const bool present = token + j < tile.most;
      // Nothing is read where nothing is present, but the address must be one of the cache.
      copy_async(k_to + element(j, chunk, tile_keys),
                 present ? k : reinterpret_cast<const T*>(a.places.keys), present);
      copy_async(v_to + element(j, chunk, tile_keys),
                 present ? v : reinterpret_cast<const T*>(a.places.values), present);
      k += apart * a.places.key_stride;
      v += apart * a.places.value_stride;
    }
    commit_copies();
  };
  const int blocks = (tile.most + tile_keys - 1) / tile_keys;
#pragma unroll 4
  for (int i = thread; i < tile_rows * chunks; i += warpgroup_threads) {
    const int index = i / chunks, chunk = i % chunks;
    const bool present = index < tile.count;
    const T* from = a.q + (tile.begin + index) * a.q_stride + head * warpgroup_dim + chunk * 8;
    copy_async(queries + element(index, chunk, tile_rows), present ? from : a.q, present);
  }
  if (blocks > 0) fetch(0);
  if (thread < tile_rows) {
    seen_by[thread] = thread < tile.count ? static_cast<int>(a.visible[tile.begin + thread]) : 0;
  }
  __syncthreads();
  // Row r of a thread: of its warp's 16 rows number quad + 8 r.
  int seen[2], least = tile.most;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    seen[r] = seen_by[warp * 16 + r * 8 + quad];
    least = min(least, seen[r]);
  }

  float out[warpgroup_dim / 2] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
  const float scale = a.scale * 1.44269504f;  // powers of two instead of e
  const std::uint64_t own = describe(queries + group * 64 * half_dim);
  for (int block = 0; block < blocks; ++block) {
    wait_for_copies<0>();
    publish_to_warpgroups();
    __syncthreads();  // this block has arrived, and everybody is done with the one before
    if (block + 1 < blocks) fetch(block + 1);
    const std::uint64_t k = describe(keys + (block % 2) * tile_keys * warpgroup_dim);
    // From one half of the columns of v to the other.
    const std::uint64_t v = describe(values + (block % 2) * tile_keys * warpgroup_dim,
                                     tile_keys * half_dim * sizeof(T));
    float scores[tile_keys / 2];
    begin_products();
#pragma unroll
    for (int step = 0; step < warpgroup_dim / 16; ++step) {
      const int in_half = step % 4 * 32, half = step / 4;  // bytes
      multiply_rows<T>(scores, own + ((half * tile_rows * 128 + in_half) >> 4),
                       k + ((half * tile_keys * 128 + in_half) >> 4), step > 0);
    }
    finish_products(scores);
    // Element 4 n + e of the scores: row quad + 8 (e / 2), key 8 n + 2 within + e % 2.
    const int first = block * tile_keys;
    if (first + tile_keys > least) {
#pragma unroll
      for (int i = 0; i < tile_keys / 2; ++i) {
        const int key = first + i / 4 * 8 + within * 2 + i % 2;
        if (key >= seen[i / 2 % 2]) scores[i] = -INFINITY;
      }
    }
    float shrink[2], base[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = -INFINITY;
#pragma unroll
      for (int n = 0; n < tile_keys / 8; ++n) {
        most = fmaxf(most, fmaxf(scores[4 * n + 2 * r], scores[4 * n + 2 * r + 1]));
      }
      base[r] = most;
    }
#pragma unroll
    for (int apart = 1; apart < 4; apart *= 2) {
#pragma unroll
      for (int r = 0; r < 2; ++r) base[r] = fmaxf(base[r], __shfl_xor_sync(~0u, base[r], apart));
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // A greater one makes the sums smaller when it is so by a factor of 2^8.
      const float most = base[r] * scale;
      const float kept = most > largest[r] + 8.0f ? most : largest[r];
      base[r] = kept == -INFINITY ? 0.0f : kept;  // a row that has seen nothing yet
      shrink[r] = power_of_two(largest[r] - base[r]);
      largest[r] = kept;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < tile_keys / 8; ++n) {
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          scores[4 * n + e] = power_of_two(fmaf(scores[4 * n + e], scale, -base[r]));
          sum += scores[4 * n + e];
        }
      }
      total[r] = fmaf(total[r], shrink[r], sum);
    }
    if (__any_sync(~0u, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
      for (int i = 0; i < warpgroup_dim / 2; ++i) out[i] *= shrink[i / 2 % 2];
    }
    unsigned p[tile_keys / 16][4];
#pragma unroll
    for (int step = 0; step < tile_keys / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        p[step][i] = pair_of<T>(scores[8 * step + 2 * i], scores[8 * step + 2 * i + 1]);
      }
    }
    begin_products();
#pragma unroll
    for (int step = 0; step < tile_keys / 16; ++step) {
      multiply_columns<T>(out, p[step], v + ((step * 16 * 128) >> 4));
    }
    finish_products(out);
  }
  wait_for_copies<0>();

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = total[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float inverse = sum > 0 ? 1.0f / sum : 0.0f;
    const int index = warp * 16 + r * 8 + quad;
    if (index >= tile.count) continue;
    T* to = a.out + (tile.begin + index) * a.out_stride + head * warpgroup_dim + within * 2;
#pragma unroll
    for (int d = 0; d < warpgroup_dim / 8; ++d) {
      *reinterpret_cast<unsigned*>(to + d * 8) =
          pair_of<T>(out[4 * d + 2 * r] * inverse, out[4 * d + 2 * r + 1] * inverse);
    }
  }
#else
  (void)a;
#endif
}

/// Whether the kernel is there: built for `sm_90a` and on such a GPU.
template <class T>
ZIYA_HIDDEN bool has_warpgroups(const Context<Cuda>& ctx) {
  if (ctx.capability() != 9) return false;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, attention_warpgroups<T>), "attention");
  return attributes.sharedSizeBytes > 0;
}

}  // namespace cuda
ZIYA_NAMESPACE_END
