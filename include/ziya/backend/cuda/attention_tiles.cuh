// SPDX-License-Identifier: Apache-2.0
// Kernel of attention, 64 rows of one head at a time, on the tensor cores.
// Source: Dao, arXiv 2307.08691 (order of work); Milakov & Gimelshein, arXiv 1805.02867 (softmax)
#pragma once

#include "ziya/backend/cuda/attention_rows.cuh"
#include "ziya/backend/cuda/device.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int tile_rows = 64;
inline constexpr int tile_keys = 64;
inline constexpr int tile_threads = 128;  // each warp has 16 rows

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
  const Tile* tiles;
  const std::int64_t* visible;
};

__device__ inline void copy_async(void* to, const void* from, bool present) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = present ? 16 : 0;  // what is not copied becomes zero
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
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

/// c (16 × 8) += a (16 × 16) · b (16 × 8)
template <class T>
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  if constexpr (std::is_same_v<T, Half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

template <class T>
__device__ inline unsigned pair_of(float low, float high) {
  return static_cast<unsigned>(narrow<T>(low).bits) | static_cast<unsigned>(narrow<T>(high).bits)
                                                          << 16;
}

/// Grid: (tiles, heads). `Dim`: head size rounded up to whole matrices; the rest is zeros.
template <class T, int Dim>
ZIYA_KERNEL void __launch_bounds__(tile_threads) attention_tiles(TileArguments<T> a) {
  constexpr int pitch = Dim + 8;  // so that eight rows lie in different banks
  constexpr int chunks = Dim / 8;
  extern __shared__ __align__(16) std::byte shared[];
  T* const keys = reinterpret_cast<T*>(shared);    // [2][tile_keys][pitch]
  T* const values = keys + 2 * tile_keys * pitch;  // [2][tile_keys][pitch]
  wait_for_previous();
  release_next();
  // Late rows see most keys: they begin first.
  const Tile tile = a.tiles[gridDim.x - 1 - blockIdx.x];
  const std::int64_t head = blockIdx.y, key_head = head / a.group;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int quad = lane / 4, within = lane % 4;

  const auto fetch = [&](int block) {
    T* const k_to = keys + (block % 2) * tile_keys * pitch;
    T* const v_to = values + (block % 2) * tile_keys * pitch;
    for (int i = thread; i < tile_keys * chunks; i += tile_threads) {
      const int j = i / chunks, part = i % chunks * 8;
      const int token = block * tile_keys + j;
      const bool present = token < tile.most && part < a.head_dim;
      const std::int64_t at = present ? tile.first + token : tile.first;
      const int column = present ? part : 0;
      copy_async(k_to + j * pitch + part,
                 a.places.template key<T>(tile.slot, key_head, at) + column, present);
      copy_async(v_to + j * pitch + part,
                 a.places.template value<T>(tile.slot, key_head, at) + column, present);
    }
    commit_copies();
  };
  const int blocks = (tile.most + tile_keys - 1) / tile_keys;
  if (blocks > 0) fetch(0);

  // Queries as operand a: rows quad and quad + 8 of the warp's 16, in registers throughout.
  unsigned queries[Dim / 16][4];
  int seen[2];
  std::int64_t rows[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int index = warp * 16 + quad + 8 * r;
    rows[r] = index < tile.count ? tile.begin + index : -1;
    seen[r] = rows[r] < 0 ? 0 : static_cast<int>(a.visible[rows[r]]);
#pragma unroll
    for (int step = 0; step < Dim / 16; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int column = step * 16 + half * 8 + within * 2;
        const bool present = rows[r] >= 0 && column < a.head_dim;
        queries[step][r + 2 * half] =
            present ? *reinterpret_cast<const unsigned*>(a.q + rows[r] * a.q_stride +
                                                         head * a.head_dim + column)
                    : 0u;
      }
    }
  }

  float out[Dim / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
  const float scale = a.scale * 1.44269504f;  // powers of two instead of e
  for (int block = 0; block < blocks; ++block) {
    if (block + 1 < blocks) {
      fetch(block + 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    const T* k = keys + (block % 2) * tile_keys * pitch;
    const T* v = values + (block % 2) * tile_keys * pitch;

    float scores[tile_keys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < Dim / 16; ++step) {
#pragma unroll
      for (int n = 0; n < tile_keys / 16; ++n) {
        unsigned b[4];
        const int row = n * 16 + lane / 16 * 8 + lane % 8, column = step * 16 + lane / 8 % 2 * 8;
        load_matrices(b, k + row * pitch + column);
        multiply<T>(scores[2 * n], queries[step], b[0], b[1]);
        multiply<T>(scores[2 * n + 1], queries[step], b[2], b[3]);
      }
    }
    // Element e of a score matrix: row quad + 8 (e / 2), key 2 within + e % 2.
#pragma unroll
    for (int n = 0; n < tile_keys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = block * tile_keys + n * 8 + within * 2 + e % 2;
        scores[n][e] = key < seen[e / 2] ? scores[n][e] * scale : -INFINITY;
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = largest[r];
#pragma unroll
      for (int n = 0; n < tile_keys / 8; ++n) {
        most = fmaxf(most, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
      }
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      const float base = most == -INFINITY ? 0.0f : most;  // a row that has seen nothing yet
      const float shrink = exp2f(largest[r] - base);
      largest[r] = most;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < tile_keys / 8; ++n) {
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          scores[n][e] = exp2f(scores[n][e] - base);
          sum += scores[n][e];
        }
      }
      total[r] = total[r] * shrink + sum;
#pragma unroll
      for (int d = 0; d < Dim / 8; ++d) {
        out[d][2 * r] *= shrink;
        out[d][2 * r + 1] *= shrink;
      }
    }
#pragma unroll
    for (int step = 0; step < tile_keys / 16; ++step) {
      const unsigned p[4] = {pair_of<T>(scores[2 * step][0], scores[2 * step][1]),
                             pair_of<T>(scores[2 * step][2], scores[2 * step][3]),
                             pair_of<T>(scores[2 * step + 1][0], scores[2 * step + 1][1]),
                             pair_of<T>(scores[2 * step + 1][2], scores[2 * step + 1][3])};
#pragma unroll
      for (int d = 0; d < Dim / 16; ++d) {
        unsigned b[4];
        const int row = step * 16 + lane / 8 % 2 * 8 + lane % 8, column = d * 16 + lane / 16 * 8;
        load_transposed(b, v + row * pitch + column);
        multiply<T>(out[2 * d], p, b[0], b[1]);
        multiply<T>(out[2 * d + 1], p, b[2], b[3]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = total[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float inverse = sum > 0 ? 1.0f / sum : 0.0f;
    if (rows[r] < 0) continue;
    T* to = a.out + rows[r] * a.out_stride + head * a.head_dim;
#pragma unroll
    for (int d = 0; d < Dim / 8; ++d) {
      const int column = d * 8 + within * 2;
      if (column < a.head_dim) {
        *reinterpret_cast<unsigned*>(to + column) =
            pair_of<T>(out[d][2 * r] * inverse, out[d][2 * r + 1] * inverse);
      }
    }
  }
}

}  // namespace cuda
ZIYA_NAMESPACE_END
