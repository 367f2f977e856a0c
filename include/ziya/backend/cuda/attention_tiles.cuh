// SPDX-License-Identifier: Apache-2.0
// Kernel of attention, 128 rows of one head at a time, on the tensor cores.
// Source: Dao, arXiv 2307.08691 (order of work); Milakov & Gimelshein, arXiv 1805.02867 (softmax)
#pragma once

#include "ziya/backend/cuda/attention_keys.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/mma.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int tile_rows = 128;  // at most; half of it where tiles are few
inline constexpr int tile_keys = 64;
inline constexpr int tile_threads = 128;  // each warp has a quarter of the rows

/// Adjacent rows of one sequence.
struct Tile {
  std::int32_t begin, count;  ///< rows
  std::int32_t slot;          ///< of the block table
  std::int32_t most;          ///< tokens that the row that sees most sees
  std::int64_t first;         ///< token that all see first
};

template <class T>
struct TileArguments {
  T* out;
  const T* q;
  std::int64_t out_stride, q_stride;
  int head_dim, group;
  float scale;
  KeyPlaces places;
  const Tile* tiles;  ///< those that see most first
  const std::int64_t* visible;
};

inline constexpr int widen_threads = 256;
inline constexpr int widen_each = 16;  // elements of a thread, of a key and of a value

/// Grid: (blocks, heads): the first `packs` packs of elements of each head's keys and values, which
/// are blocks in the cache, become plain numbers in (heads, head_elements).
template <class T>
ZIYA_KERNEL void __launch_bounds__(widen_threads)
    widen_heads(T* keys, T* values, KeyPlaces places, std::int32_t slot, unsigned packs,
                unsigned head_packs, std::int64_t first_head, std::int64_t head_elements) {
  release_next();
  wait_for_previous();
  const unsigned pack = blockIdx.x * widen_threads + threadIdx.x;
  if (pack >= packs) return;
  const int at = static_cast<int>(pack % head_packs) * widen_each;
  const auto place = places.place(slot, pack / head_packs);
  const std::int64_t head = first_head + blockIdx.y;
  const CachedHead<Quant> from[2] = {
      places.head_at<Quant>(places.keys, place, head, places.key_stride),
      places.head_at<Quant>(places.values, place, head, places.value_stride)};
  uint4 bits[2];
  Half scales[2];
#pragma unroll
  for (int of = 0; of < 2; ++of) {
    bits[of] = __ldcg(reinterpret_cast<const uint4*>(from[of].at + at));
    scales[of] = load_scale(from[of], at);
  }
  const std::int64_t to = blockIdx.y * head_elements + std::int64_t{pack} * widen_each;
#pragma unroll
  for (int of = 0; of < 2; ++of) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float numbers[8];
      widen_pack(numbers, reinterpret_cast<const Pack<Quant, 8>*>(&bits[of])[half]);
      Pack<T, 8> rounded;
#pragma unroll
      for (int e = 0; e < 8; ++e) rounded.at[e] = narrow<T>(numbers[e] * widen(scales[of]));
      reinterpret_cast<Pack<T, 8>*>((of == 0 ? keys : values) + to)[half] = rounded;
    }
  }
}

/// Four 8 × 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(unsigned (&to)[4], const void* row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_transposed(unsigned (&to)[4], const void* row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

/// Grid: (heads, tiles). `Dim`: head size rounded up to whole matrices; the rest is zeros.
/// A block of keys lies in shared memory while the next one is on its way; a warp meets half of it
/// at a time with one or two sets of 16 rows; with two, every matrix of keys or values is used
/// twice.
template <class T, int Dim, int Sets>
ZIYA_KERNEL void __launch_bounds__(tile_threads) attention_tiles(TileArguments<T> a) {
  constexpr int pitch = Dim + 8;  // so that eight rows lie in different banks
  constexpr int chunks = Dim / 8, half_keys = tile_keys / 2, rows_here = 64 * Sets;
  extern __shared__ __align__(16) std::byte shared[];
  T* const queries = reinterpret_cast<T*>(shared);  // [rows_here][pitch]
  T* const keys = queries + rows_here * pitch;      // [2][tile_keys][pitch]
  T* const values = keys + 2 * tile_keys * pitch;   // [2][tile_keys][pitch]
  release_next();
  wait_for_previous();
  const Tile tile = a.tiles[blockIdx.y];
  const std::int64_t head = blockIdx.x, to_head = head / a.group * a.places.head_stride;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int quad = lane / 4, within = lane % 4;

  const bool whole_pages = a.places.table == nullptr || a.places.page_tokens % tile_keys == 0;
  const auto fetch = [&](int block) {
    T* const k_to = keys + (block % 2) * tile_keys * pitch;
    T* const v_to = values + (block % 2) * tile_keys * pitch;
    const int token = block * tile_keys;
    // A thread copies one column of every `apart`-th row.
    constexpr int columns = chunks <= 2 ? 2 : chunks <= 8 ? 8 : 16, apart = tile_threads / columns;
    const int part = thread % columns * 8, first = thread / columns;
    if (part >= Dim) {
      commit_copies();
      return;
    }
    auto place = a.places.place(tile.slot, tile.first + token);
    const T* k = reinterpret_cast<const T*>(a.places.keys + place.page) + to_head +
                 (place.token + first) * a.places.key_stride + part;
    const T* v = reinterpret_cast<const T*>(a.places.values + place.page) + to_head +
                 (place.token + first) * a.places.value_stride + part;
    const bool column_present = part < a.head_dim;
#pragma unroll
    for (int j = first; j < tile_keys; j += apart) {
      const bool present = column_present && token + j < tile.most;
      if (!whole_pages && present) {
        place = a.places.place(tile.slot, tile.first + token + j);
        k = reinterpret_cast<const T*>(a.places.keys + place.page) + to_head +
            place.token * a.places.key_stride + part;
        v = reinterpret_cast<const T*>(a.places.values + place.page) + to_head +
            place.token * a.places.value_stride + part;
      }
      // Nothing is read where nothing is present, but the address must be one of the cache.
      copy_async(k_to + j * pitch + part, present ? k : reinterpret_cast<const T*>(a.places.keys),
                 present);
      copy_async(v_to + j * pitch + part, present ? v : reinterpret_cast<const T*>(a.places.values),
                 present);
      k += apart * a.places.key_stride;
      v += apart * a.places.value_stride;
    }
    commit_copies();
  };
  const int blocks = (tile.most + tile_keys - 1) / tile_keys;
#pragma unroll 4
  for (int i = thread; i < rows_here * chunks; i += tile_threads) {
    const int index = i / chunks, part = i % chunks * 8;
    const bool present = index < tile.count && part < a.head_dim;
    const T* from = a.q + (tile.begin + index) * a.q_stride + head * a.head_dim + part;
    copy_async(queries + index * pitch + part, present ? from : a.q, present);
  }
  if (blocks > 0) fetch(0);

  // Row r of a thread: set r / 2, of its 16 rows number quad + 8 (r % 2).
  int seen[2 * Sets], least = tile.most;
#pragma unroll
  for (int r = 0; r < 2 * Sets; ++r) {
    const int index = warp * 16 * Sets + r / 2 * 16 + r % 2 * 8 + quad;
    seen[r] = index < tile.count ? static_cast<int>(a.visible[tile.begin + index]) : 0;
    least = min(least, seen[r]);
  }
  float out[Sets][Dim / 8][4] = {};
  float largest[2 * Sets], total[2 * Sets] = {};
#pragma unroll
  for (float& value : largest) value = -INFINITY;
  const float scale = a.scale * 1.44269504f;  // powers of two instead of e
  const T* const own = queries + (warp * 16 * Sets + lane % 16) * pitch + lane / 16 * 8;
  for (int block = 0; block < blocks; ++block) {
    wait_for_copies<0>();
    __syncthreads();  // this block has arrived, and everybody is done with the one before
    if (block + 1 < blocks) fetch(block + 1);
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
      const int first = block * tile_keys + part * half_keys;
      const T* k = keys + ((block % 2) * tile_keys + part * half_keys) * pitch;
      const T* v = values + ((block % 2) * tile_keys + part * half_keys) * pitch;
      float scores[Sets][half_keys / 8][4] = {};
#pragma unroll
      for (int step = 0; step < Dim / 16; ++step) {
        unsigned rows[Sets][4];
#pragma unroll
        for (int set = 0; set < Sets; ++set) {
          load_matrices(rows[set], own + set * 16 * pitch + step * 16);
        }
#pragma unroll
        for (int n = 0; n < half_keys / 16; ++n) {
          unsigned b[4];
          load_matrices(
              b, k + (n * 16 + lane / 16 * 8 + lane % 8) * pitch + step * 16 + lane / 8 % 2 * 8);
#pragma unroll
          for (int set = 0; set < Sets; ++set) {
            multiply<T>(scores[set][2 * n], rows[set], b[0], b[1]);
            multiply<T>(scores[set][2 * n + 1], rows[set], b[2], b[3]);
          }
        }
      }
      // Element e of a score matrix: row quad + 8 (e / 2), key 2 within + e % 2.
      if (first + half_keys > least) {
#pragma unroll
        for (int set = 0; set < Sets; ++set) {
#pragma unroll
          for (int n = 0; n < half_keys / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const int key = first + n * 8 + within * 2 + e % 2;
              if (key >= seen[2 * set + e / 2]) scores[set][n][e] = -INFINITY;
            }
          }
        }
      }
#pragma unroll
      for (int r = 0; r < 2 * Sets; ++r) {
        const int set = r / 2, e = r % 2 * 2;
        float most = -INFINITY;
#pragma unroll
        for (int n = 0; n < half_keys / 8; ++n) {
          most = fmaxf(most, fmaxf(scores[set][n][e], scores[set][n][e + 1]));
        }
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        most = fmaxf(most * scale, largest[r]);
        const float base = most == -INFINITY ? 0.0f : most;  // a row that has seen nothing yet
        const float shrink = power_of_two(largest[r] - base);
        largest[r] = most;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < half_keys / 8; ++n) {
          scores[set][n][e] = power_of_two(fmaf(scores[set][n][e], scale, -base));
          scores[set][n][e + 1] = power_of_two(fmaf(scores[set][n][e + 1], scale, -base));
          sum += scores[set][n][e] + scores[set][n][e + 1];
        }
        total[r] = total[r] * shrink + sum;
        if (__any_sync(~0u, shrink != 1.0f)) {
#pragma unroll
          for (int d = 0; d < Dim / 8; ++d) {
            out[set][d][e] *= shrink;
            out[set][d][e + 1] *= shrink;
          }
        }
      }
#pragma unroll
      for (int step = 0; step < half_keys / 16; ++step) {
        unsigned p[Sets][4];
#pragma unroll
        for (int set = 0; set < Sets; ++set) {
          const auto& s = scores[set];
          p[set][0] = pair_of<T>(s[2 * step][0], s[2 * step][1]);
          p[set][1] = pair_of<T>(s[2 * step][2], s[2 * step][3]);
          p[set][2] = pair_of<T>(s[2 * step + 1][0], s[2 * step + 1][1]);
          p[set][3] = pair_of<T>(s[2 * step + 1][2], s[2 * step + 1][3]);
        }
#pragma unroll
        for (int d = 0; d < Dim / 16; ++d) {
          unsigned b[4];
          load_transposed(
              b, v + (step * 16 + lane / 8 % 2 * 8 + lane % 8) * pitch + d * 16 + lane / 16 * 8);
#pragma unroll
          for (int set = 0; set < Sets; ++set) {
            multiply<T>(out[set][2 * d], p[set], b[0], b[1]);
            multiply<T>(out[set][2 * d + 1], p[set], b[2], b[3]);
          }
        }
      }
    }
  }
  wait_for_copies<0>();

#pragma unroll
  for (int r = 0; r < 2 * Sets; ++r) {
    float sum = total[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float inverse = sum > 0 ? 1.0f / sum : 0.0f;
    const int index = warp * 16 * Sets + r / 2 * 16 + r % 2 * 8 + quad, e = r % 2 * 2;
    if (index >= tile.count) continue;
    T* to = a.out + (tile.begin + index) * a.out_stride + head * a.head_dim;
#pragma unroll
    for (int d = 0; d < Dim / 8; ++d) {
      const int column = d * 8 + within * 2;
      if (column < a.head_dim) {
        *reinterpret_cast<unsigned*>(to + column) =
            pair_of<T>(out[r / 2][d][e] * inverse, out[r / 2][d][e + 1] * inverse);
      }
    }
  }
}

}  // namespace cuda
ZIYA_NAMESPACE_END
