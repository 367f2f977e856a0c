// SPDX-License-Identifier: Apache-2.0
// Products of many tokens with weights of 16 bits, and what follows them, for compute capability
// 9.0: blocks that stay and take tile after tile of the results, one warp that fetches by tensor
// maps, products by warpgroups, sums that become results in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <type_traits>

#include "ziya/backend/cuda/bulk_copy.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/mma.cuh"
#include "ziya/backend/cuda/silu_mul.cuh"
#include "ziya/backend/cuda/warpgroup.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int gemm_parts = 3;          // weights of one launch
inline constexpr int gemm_step = 64;          // columns of x and w at a time, 128 bytes
inline constexpr int gemm_threads = 3 * 128;  // four warps fetch (one does), eight multiply
inline constexpr int gemm_cluster = 2;        // blocks that share rows of x
inline constexpr int gemm_group = 2048;       // tokens that meet all weights before the next do

/// What becomes of the sums.
enum class GemmResult {
  stored,
  added,  ///< to what y was
  gated,  ///< y = silu(gate) · up, both rounded before; gate and up are the first two weights
};

template <class T>
struct GemmArguments {
  CUtensorMap x, w[gemm_parts];
  T* y[gemm_parts];
  std::int64_t y_stride[gemm_parts];
  int rows[gemm_parts];  ///< of w; 0: there is no such part
  int tokens, columns;
};

/// A block's tile: `Rows` tokens for each of two groups of warps, `Width` rows of weights.
template <int Rows, int Width>
struct GemmShape {
  static constexpr int tokens = 2 * Rows;
  static constexpr int x_bytes = tokens * gemm_step * 2, w_bytes = Width * gemm_step * 2;
  static constexpr int stages = (226 * 1024) / (x_bytes + w_bytes);
  static constexpr int shared = stages * (x_bytes + w_bytes) + 1024;  // starts at a whole KiB
};

/// Tiles beside each other, in pairs for a cluster, and one below the other.
template <int Rows, int Width, GemmResult Result>
struct GemmTiles {
  static constexpr int width = Result == GemmResult::gated ? Width / 2 : Width;
  int beside[gemm_parts] = {}, pairs, below;

  template <class T>
  ZIYA_HD explicit GemmTiles(const GemmArguments<T>& a) {
    int all = 0;
    for (int part = 0; part < (Result == GemmResult::gated ? 1 : gemm_parts); ++part) {
      all += beside[part] = (a.rows[part] + width - 1) / width;
    }
    pairs = (all + gemm_cluster - 1) / gemm_cluster;
    below = (a.tokens + GemmShape<Rows, Width>::tokens - 1) / GemmShape<Rows, Width>::tokens;
  }
  [[nodiscard]] ZIYA_HD int count() const { return pairs * below; }
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// The first token, part and row of weights of a tile. Rows beyond the last part count as its own.
struct GemmTile {
  int token, part, row;
};
template <int Rows, int Width, GemmResult Result>
__device__ inline GemmTile tile_of(const GemmTiles<Rows, Width, Result>& tiles, int number,
                                   int rank) {
  constexpr int height = GemmShape<Rows, Width>::tokens, group = gemm_group / height;
  const int first = number / (group * tiles.pairs) * group;
  const int in_group = number - first * tiles.pairs, high = min(group, tiles.below - first);
  int column = in_group / high * gemm_cluster + rank, part = 0;
#pragma unroll
  for (int p = 0; p + 1 < gemm_parts; ++p) {
    if (part == p && column >= tiles.beside[p] && tiles.beside[p + 1] > 0) {
      column -= tiles.beside[p], ++part;
    }
  }
  return {(first + in_group % high) * height, part, column * tiles.width};
}

/// One thread fetches: its block's rows of weights and, for both blocks, half of the tokens.
template <int Rows, int Width, GemmResult Result, class T>
__device__ inline void fetch_operands(const GemmArguments<T>& a, std::byte* ring, CopyBarrier* full,
                                      CopyBarrier* empty) {
  using Shape = GemmShape<Rows, Width>;
  const GemmTiles<Rows, Width, Result> tiles(a);
  const int rank = cluster_rank(), clusters = static_cast<int>(gridDim.x) / gemm_cluster;
  int fetched = 0;
  for (int n = static_cast<int>(blockIdx.x) / gemm_cluster; n < tiles.count(); n += clusters) {
    const GemmTile at = tile_of(tiles, n, rank);
    for (int column = 0; column < a.columns; column += gemm_step, ++fetched) {
      const int stage = fetched % Shape::stages;
      empty[stage].wait((fetched / Shape::stages + 1) % 2);
      full[stage].expect(Shape::x_bytes + Shape::w_bytes);
      std::byte* x = ring + stage * (Shape::x_bytes + Shape::w_bytes);
      std::byte* w = x + Shape::x_bytes;
      full[stage].fetch_box(x + rank * (Shape::x_bytes / 2), a.x, column, at.token + rank * Rows,
                            (1u << gemm_cluster) - 1);
      if constexpr (Result == GemmResult::gated) {
        full[stage].fetch_box(w, a.w[0], column, at.row);
        full[stage].fetch_box(w + Shape::w_bytes / 2, a.w[1], column, at.row);
      } else {
        full[stage].fetch_box(w, a.w[at.part], column, at.row);
      }
    }
  }
}

/// Four warps multiply: `Rows` tokens of tile after tile.
template <int Rows, int Width, GemmResult Result, class T>
__device__ inline void multiply_tiles(const GemmArguments<T>& a, const std::byte* ring,
                                      CopyBarrier* full, CopyBarrier* empty) {
  using Shape = GemmShape<Rows, Width>;
  constexpr bool gated = Result == GemmResult::gated, added = Result == GemmResult::added;
  constexpr int eights = (gated ? Width / 2 : Width) / 8, packs = (eights + 3) / 4;
  constexpr int bands = Rows / 32;  // of eight rows of a warp
  const GemmTiles<Rows, Width, Result> tiles(a);
  // Known to be the same in all lanes, or products would wait for each other.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128 - 1, 0);
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int rank = cluster_rank(), clusters = static_cast<int>(gridDim.x) / gemm_cluster;
  const int steps = (a.columns + gemm_step - 1) / gemm_step;
  int used = 0;
  for (int n = static_cast<int>(blockIdx.x) / gemm_cluster; n < tiles.count(); n += clusters) {
    const GemmTile at = tile_of(tiles, n, rank);
    const int rows = a.rows[at.part];
    const std::int64_t stride = a.y_stride[at.part];
    // Band b: token 64 (b / 2) + 16 warp + 8 (b % 2) + lane / 4.
    const int token = at.token + group * Rows + warp * 16 + lane / 4;
    T* const y = a.y[at.part] + token * stride + at.row + lane % 4 * 8;
    const auto present = [&](int band, int four) {
      return token + band / 2 * 64 + band % 2 * 8 < a.tokens && four * 4 + lane % 4 < eights &&
             at.row + (four * 4 + lane % 4) * 8 < rows;
    };
    const auto pack = [&](int band, int four) {
      return reinterpret_cast<uint4*>(y + (band / 2 * 64 + band % 2 * 8) * stride + four * 32);
    };
    uint4 old[added ? packs : 1];  // what the next band is added to
    const auto ask = [&](int band) {
#pragma unroll
      for (int i = 0; i < packs; ++i) old[i] = present(band, i) ? *pack(band, i) : uint4{};
    };
    if constexpr (added) ask(0);

    // Element 4 n + e of 64 rows: band e / 2, column 8 n + 2 (lane % 4) + e % 2.
    float sums[Rows / 64][Width / 2];
    for (int step = 0; step < steps; ++step, ++used) {
      const int stage = used % Shape::stages;
      full[stage].wait(used / Shape::stages % 2);
      const std::byte* x = ring + stage * (Shape::x_bytes + Shape::w_bytes);
      const std::uint64_t of_x = describe(x + group * Rows * gemm_step * 2);
      const std::uint64_t of_w = describe(x + Shape::x_bytes);
      begin_products();
#pragma unroll
      for (int k = 0; k < gemm_step / 16; ++k) {
#pragma unroll
        for (int r = 0; r < Rows / 64; ++r) {
          multiply_rows<T, Width>(sums[r], of_x + ((r * 64 * gemm_step * 2 + k * 32) >> 4),
                                  of_w + (k * 32 >> 4), step > 0 || k > 0);
        }
      }
      commit_products();
      // Those of the step before are done: its place can be filled again, in both blocks.
      wait_for_products<1>();
      if (step > 0 && lane < gemm_cluster) {
        empty[(used - 1) % Shape::stages].arrive_at(lane);
      }
    }
#pragma unroll
    for (int r = 0; r < Rows / 64; ++r) take_sums(sums[r]);
    if (lane < gemm_cluster) empty[(used - 1) % Shape::stages].arrive_at(lane);

#pragma unroll
    for (int band = 0; band < bands; ++band) {
      uint4 other[added ? packs : 1];
      if constexpr (added) {
        // From the order of memory to that of sums.
#pragma unroll
        for (int i = 0; i < packs; ++i) {
          const unsigned words[4] = {old[i].x, old[i].y, old[i].z, old[i].w};
          other[i] = exchange_words(words);
        }
        if (band + 1 < bands) ask(band + 1);
      }
#pragma unroll
      for (int four = 0; four < packs; ++four) {
        unsigned words[4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (4 * four + i >= eights) continue;
          const float* sum = sums[band / 2] + 4 * (4 * four + i) + 2 * (band % 2);
          float2 two{sum[0], sum[1]};
          if constexpr (gated) {
            const float* up = sum + Width / 4;
            two.x = silu(widen(narrow<T>(two.x))) * widen(narrow<T>(up[0]));
            two.y = silu(widen(narrow<T>(two.y))) * widen(narrow<T>(up[1]));
          } else if constexpr (added) {
            const uint4& o = other[four];
            const unsigned bits = i == 0 ? o.x : i == 1 ? o.y : i == 2 ? o.z : o.w;
            const auto pair = *reinterpret_cast<const Pack<T, 2>*>(&bits);
            two.x += widen(pair.at[0]), two.y += widen(pair.at[1]);
          }
          words[i] = pair_of<T>(two.x, two.y);
        }
        const uint4 eight = exchange_words(words);
        if (present(band, four)) *pack(band, four) = eight;
      }
    }
  }
}

#endif

/// Without memory of its own where it is not compiled for `sm_90a`.
template <class T, int Rows, int Width, GemmResult Result>
ZIYA_KERNEL void __launch_bounds__(gemm_threads, 1)
    gemm(const __grid_constant__ GemmArguments<T> a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shape = GemmShape<Rows, Width>;
  extern __shared__ std::byte gemm_memory[];
  __shared__ CopyBarrier full[Shape::stages], empty[Shape::stages];
  std::byte* ring = gemm_memory + (1024 - __cvta_generic_to_shared(gemm_memory) % 1024) % 1024;
  release_next();
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Shape::stages; ++stage) {
      full[stage].init(1);
      empty[stage].init(gemm_cluster * 8);  // a lane of each warp that multiplies
    }
    CopyBarrier::publish();
  }
  meet_cluster();
  wait_for_previous();
  if (threadIdx.x < 128) {
    give_registers_back<40>();
    if (threadIdx.x == 0) fetch_operands<Rows, Width, Result>(a, ring, full, empty);
    __syncwarp();
  } else {
    take_registers<232>();
    multiply_tiles<Rows, Width, Result>(a, ring, full, empty);
  }
  meet_cluster();  // nobody leaves while the other block sends to it
#else
  (void)a;
#endif
}

/// Products in tiles of one size.
template <int Rows, int Width, GemmResult Result, class T>
struct GemmPlan {
  using Shape = GemmShape<Rows, Width>;
  using Tiles = GemmTiles<Rows, Width, Result>;
  static auto kernel() { return gemm<T, Rows, Width, Result>; }

  /// The part of the GPU's time in which it computes what is wanted: clusters take turns, and edges
  /// of tiles are for nothing.
  static double efficiency(const Context<Cuda>& ctx, const GemmArguments<T>& a) {
    const Tiles tiles(a);
    const int clusters = ctx.multiprocessors() / gemm_cluster;
    const int rounds = (tiles.count() + clusters - 1) / clusters;
    double rows = 0;
    for (int part = 0; part < (Result == GemmResult::gated ? 1 : gemm_parts); ++part) {
      rows += a.rows[part];
    }
    const double tile = Shape::tokens * Tiles::width;
    return a.tokens * rows / (tile * gemm_cluster * clusters * rounds);
  }
  static void run(Context<Cuda>& ctx, GemmArguments<T> a, View<const T, Cuda> x,
                  std::span<const Weight<Cuda>* const> ws) {
    a.x = tensor_map(x.data(), x.rows(), x.columns(), x.row_stride(), gemm_step, Rows);
    for (std::size_t n = 0; n < ws.size(); ++n) {
      a.w[n] = tensor_map(reinterpret_cast<const T*>(ws[n]->data), ws[n]->rows, ws[n]->columns,
                          ws[n]->columns, gemm_step, Tiles::width);
    }
    (void)ctx.resident_blocks(reinterpret_cast<const void*>(kernel()), gemm_threads, Shape::shared);
    const int clusters = std::min(Tiles(a).count(), ctx.multiprocessors() / gemm_cluster);
    launch_clusters(ctx, "matmul", kernel(), dim3(static_cast<unsigned>(clusters * gemm_cluster)),
                    dim3(gemm_cluster), dim3(gemm_threads), Shape::shared, a);
  }
};

/// Of the multiprocessors' time; below, the library's parts of sums and smaller tiles are better
/// (measured on an H200).
inline constexpr double least_efficiency = 0.9;

/// ys[n] = x · ws[n]ᵀ, added to or gated as `Result` has it, if all is in whole packs of 16-bit
/// type T and there is enough of it.   @returns whether it was
template <GemmResult Result, class T>
ZIYA_HIDDEN bool run_gemm(Context<Cuda>& ctx, std::span<const View<T, Cuda>> ys,
                          View<const T, Cuda> x, std::span<const Weight<Cuda>* const> ws) {
  if constexpr (sizeof(T) == 2) {
    constexpr bool gated = Result == GemmResult::gated;
    constexpr int most = Result == GemmResult::added ? 160 : 192;
    if (ctx.capability() != 9 || ws.empty() || ws.size() > gemm_parts || x.rows() < 1 ||
        x.columns() < 1 || x.rows() > INT32_MAX / 2 || x.row_stride() < x.columns() ||
        !whole_packs(x.data(), x.row_stride(), x.columns())) {
      return false;
    }
    GemmArguments<T> a{};
    a.tokens = static_cast<int>(x.rows());
    a.columns = static_cast<int>(x.columns());
    for (std::size_t n = 0; n < ws.size(); ++n) {
      const Weight<Cuda>& w = *ws[n];
      if (w.dtype != dtype_of<T> || alignment_of(w.data) < 16 || w.rows < 1 ||
          w.rows > INT32_MAX / 2 ||
          (n < ys.size() && !whole_packs(ys[n].data(), ys[n].row_stride(), w.rows))) {
        return false;
      }
      a.rows[n] = static_cast<int>(w.rows);
      if (n < ys.size()) a.y[n] = ys[n].data(), a.y_stride[n] = ys[n].row_stride();
    }
    const auto run = [&]<class Plan>(Plan) {
      if (!has_warpgroups(ctx, Plan::kernel())) return false;
      Plan::run(ctx, a, x, ws);
      return true;
    };
    using Large = GemmPlan<128, most, Result, T>;
    const double large = Large::efficiency(ctx, a);
    if constexpr (Result != GemmResult::added) {
      // For fewer tokens, or for other numbers of rounds.
      using Small =
          std::conditional_t<gated, GemmPlan<128, 144, Result, T>, GemmPlan<64, 256, Result, T>>;
      const double small = Small::efficiency(ctx, a);
      if (small > large && small >= least_efficiency) return run(Small{});
    }
    return large >= least_efficiency && run(Large{});
  }
  return false;
}

}  // namespace cuda
ZIYA_NAMESPACE_END
