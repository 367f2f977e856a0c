// SPDX-License-Identifier: Apache-2.0
// Products of more than a few tokens with weights in panels: blocks become f16 operands in
// registers, where the tensor cores meet them with up to 128 tokens at a time. For compute
// capability 9.0, compiled for `sm_90a`.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ziya/backend/cuda/bulk_copy.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/panel.cuh"
#include "ziya/backend/cuda/panel_rows.cuh"
#include "ziya/backend/cuda/panel_whole.cuh"
#include "ziya/backend/cuda/warpgroup.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// A block's share: 64 rows of each of its groups of four warps × N tokens, 128 columns at a time,
/// or those of a panel where it has 256: of up to 16 tokens by `PanelRows`, of up to 64 where its
/// scales are small integers.
template <class Block, int N>
struct PanelTile {
  using Form = Panel<Block>;
  static constexpr bool few = N <= 16, in_rows = few && Form::super;
  static constexpr bool whole = !few && N <= 64 && Form::exact_products;
  static constexpr int steps = in_rows || whole ? 1 : Form::columns / 128;  // of a panel
  static constexpr int groups = few ? 2 : N == 128 && Form::bytes > 3000 ? 3 : 4;
  static constexpr int warps = 4 * groups, threads = 32 * warps, rows = 64 * groups;
  static constexpr int x_bytes = [] {
    if constexpr (in_rows) return PanelRows<Block, N / 8>::bytes;
    if constexpr (whole) return WholePanel<Block>::bytes;
    return N * 128 * 2;
  }();
  static constexpr int x_stages = whole ? 3 : in_rows ? 4 : few ? 6 : N == 64 ? 5 : 4;
  /// Two blocks share a multiprocessor where there are few tokens.
  static constexpr int budget = few ? 110 * 1024 : 225 * 1024;
  static constexpr int fitting = (budget - x_stages * x_bytes) / (warps * Form::bytes);
  static constexpr int w_stages = std::clamp(fitting, 2, 6);
  static constexpr int shared =
      std::max(x_stages * x_bytes + w_stages * warps * Form::bytes, N*(rows + 4) * 4) + 1024;
  static_assert(shared <= 226 * 1024);
};

/// x in tiles of `tile` tokens × 128 columns as they lie in shared memory: two halves of 64
/// columns, rows of 128 bytes as `describe` wants them, the columns of each 32 in the order in
/// which the lanes of a panel have them. Zeros up to whole tiles and panels. Grid: tokens of whole
/// tiles. A thread per eight columns.
template <int Run>
ZIYA_KERNEL void make_tiles(Half* y, const Half* x, std::int64_t x_stride, int tokens, int columns,
                            int padded, int tile) {
  release_next();
  wait_for_previous();
  const int token = static_cast<int>(blockIdx.x), row = token % tile;
  const auto* from = reinterpret_cast<const std::uint32_t*>(x + token * x_stride);
  auto* to = reinterpret_cast<uint4*>(y + std::int64_t{token / tile} * tile * padded);
  for (int i = static_cast<int>(threadIdx.x); i < padded / 8; i += static_cast<int>(blockDim.x)) {
    const int group = i / 4, step = i % 4 / 2, half = i % 2;
    uint4 pairs{};
    if (32 * group < columns && token < tokens) {
      const auto pair = [&](int t) {
        return from[16 * group + (Run == 8 ? 4 * t + 2 * step + half : 8 * step + 2 * t + half)];
      };
      pairs = {pair(0), pair(1), pair(2), pair(3)};
    }
    to[(i / 8 * tile + row) * 8 + (i % 8 ^ row % 8)] = pairs;
  }
}

inline constexpr int most_splits = 8;  // blocks of a cluster that every GPU with clusters takes

/// Grid: (parts of the tokens, parts of the rows, parts of the columns), the last in clusters,
/// whose sums are added up in their order.
/// @param a x as `PanelTile` wants it, `x_stride` columns of whole panels
template <class Block, int N>
ZIYA_KERNEL void __launch_bounds__(PanelTile<Block, N>::threads)
    panel_products(MatvecArguments<Half, std::byte> a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Form = Panel<Block>;
  using Tile = PanelTile<Block, N>;
  __shared__ CopyBarrier x_full[Tile::x_stages], x_empty[Tile::x_stages];
  __shared__ CopyBarrier w_full[Tile::warps][Tile::w_stages];
  extern __shared__ std::byte unaligned[];
  const auto start = static_cast<unsigned>(__cvta_generic_to_shared(unaligned));
  std::byte* const shared = unaligned + (1024 - start % 1024) % 1024;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  std::byte* const ring =
      shared + Tile::x_stages * Tile::x_bytes + warp * Tile::w_stages * Form::bytes;

  int tile = static_cast<int>(blockIdx.y), index = 0;
  const auto tiles_of = [&](int i) {
    return static_cast<int>((a.parts[i].rows + Tile::rows - 1) / Tile::rows);
  };
  while (index + 1 < matvec_parts && tile >= tiles_of(index)) tile -= tiles_of(index++);
  const auto part = a.parts[index];
  const int panels = static_cast<int>(a.x_stride / Form::columns);
  const int split = static_cast<int>(blockIdx.z), splits = static_cast<int>(gridDim.z);
  const int begin = panels * split / splits, count = panels * (split + 1) / splits - begin;
  const int bands = static_cast<int>((part.rows + panel_rows - 1) / panel_rows);
  const int band = min(tile * Tile::warps + warp, bands - 1);  // of rows past the end: any
  const std::byte* const w = part.w + (std::int64_t{band} * panels + begin) * Form::bytes;
  const auto* const x = reinterpret_cast<const std::byte*>(a.x) +
                        (std::int64_t{blockIdx.x} * panels + begin) * Tile::steps * Tile::x_bytes;

  const auto fetch_w = [&](int panel) {
    if (panel >= count) return;
    w_full[warp][panel % Tile::w_stages].fetch(ring + panel % Tile::w_stages * Form::bytes,
                                               w + std::int64_t{panel} * Form::bytes, Form::bytes);
  };
  const int all_steps = count * Tile::steps;
  const auto fetch_x = [&](int step) {
    if (step >= all_steps) return;
    x_full[step % Tile::x_stages].fetch(shared + step % Tile::x_stages * Tile::x_bytes,
                                        x + std::int64_t{step} * Tile::x_bytes, Tile::x_bytes);
  };
  if (lane == 0) {
    for (int i = 0; i < Tile::w_stages; ++i) w_full[warp][i].init(1);
    if (thread == 0) {
      for (int i = 0; i < Tile::x_stages; ++i) x_full[i].init(1), x_empty[i].init(Tile::warps);
    }
    CopyBarrier::publish();
    for (int i = 0; i < Tile::w_stages; ++i) fetch_w(i);
  }
  __syncthreads();
  release_next();
  wait_for_previous();
  if (thread == 0) {
    for (int i = 0; i < Tile::x_stages; ++i) fetch_x(i);
  }

  float sums[N / 2] = {};
  [[maybe_unused]] unsigned operands[2][2][4];
  int step = 0;
  for (int panel = 0; panel < count; ++panel) {
    Form form;
    w_full[warp][panel % Tile::w_stages].wait(panel / Tile::w_stages % 2);
    form.load(ring + panel % Tile::w_stages * Form::bytes, lane);
    __syncwarp();
    if (lane == 0) fetch_w(panel + Tile::w_stages);
    form.open();
#pragma unroll
    for (int part_of = 0; part_of < Tile::steps; ++part_of, ++step) {
      const int stage = step % Tile::x_stages;
      x_full[stage].wait(step / Tile::x_stages % 2);
      if constexpr (Tile::in_rows) {
        PanelRows<Block, N / 8>::add(sums, form, shared + stage * Tile::x_bytes);
        __syncwarp();
      } else if constexpr (Tile::whole) {
        WholePanel<Block>::add(sums, form, shared + stage * Tile::x_bytes);
      } else {
        const std::uint64_t tokens = describe(shared + stage * Tile::x_bytes);
#pragma unroll
        for (int g = 0; g < 4; ++g) {
          unsigned(&now)[2][4] = operands[g % 2];
          form.operands(now, 4 * part_of + g);
          begin_products();
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int bytes = g / 2 * N * 128 + g % 2 * 64 + half * 32;
            multiply_registers<N>(sums, now[half], tokens + (bytes >> 4));
          }
          commit_products();
          if (g < 3) wait_for_products<1>();
        }
        wait_for_products<0>();
      }
      if (lane > 0) continue;
      x_empty[stage].arrive();  // the tile may be replaced when all warps are done with it
      const int free = step - 1;
      if (thread == 0 && free >= 0 && free + Tile::x_stages < all_steps) {
        x_empty[free % Tile::x_stages].wait(free / Tile::x_stages % 2);
        fetch_x(free + Tile::x_stages);
      }
    }
  }
#pragma unroll
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");

  // Through shared memory, so that a token's rows are written side by side. Blocks that have parts
  // of the columns read each other's sums there, each for some of the tokens.
  auto* const result = reinterpret_cast<float*>(shared);
  constexpr int stride = Tile::rows + 4;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, token = i / 4 * 8 + lane % 4 * 2 + i % 2;
    result[token * stride + row] = sums[i];
  }
  __syncthreads();
  if (splits > 1) meet_cluster();
  const int first_token = static_cast<int>(blockIdx.x) * N;
  const int tokens = min(N, static_cast<int>(a.tokens) - first_token);
  const int from = tokens * split / splits, to = tokens * (split + 1) / splits;
  for (int i = from * Tile::rows + thread; i < to * Tile::rows; i += Tile::threads) {
    const std::int64_t row = std::int64_t{tile} * Tile::rows + i % Tile::rows;
    if (row >= part.rows) continue;
    const float* const at = &result[i / Tile::rows * stride + i % Tile::rows];
    float sum = *at;
    if (splits > 1) {
      float of_part[most_splits];  // all under way before the first is added
#pragma unroll
      for (int s = 0; s < most_splits; ++s) of_part[s] = s < splits ? of_cluster(at, s) : 0.0f;
      sum = of_part[0];
#pragma unroll
      for (int s = 1; s < most_splits; ++s) sum += of_part[s];
    }
    finish_row(a, part, row, first_token + i / Tile::rows, sum);
  }
  if (splits > 1) meet_cluster();  // nobody reads what has ended
#else
  (void)a;
#endif
}

/// Into how many parts the columns are divided: what leaves the fewest multiprocessors idle.
/// @param clusters how many of so many blocks there is room for
template <class Clusters>
int panel_splits(std::int64_t units, int panels, const Clusters& clusters) {
  int best = 1;
  double least = 1e30;
  for (int splits = 1; splits <= std::clamp(panels / 3, 1, most_splits); ++splits) {
    const std::int64_t room = std::max(1, clusters(splits)), waves = (units + room - 1) / room;
    const int longest = (panels + splits - 1) / splits;
    const double cost = static_cast<double>(waves) * (longest + 3 + (splits > 1 ? 1 : 0));
    if (cost < least) best = splits, least = cost;
  }
  return best;
}

template <class Block, int N>
ZIYA_HIDDEN void launch_panel_products(Context<Cuda>& ctx, MatvecArguments<Half, std::byte> a) {
  using Tile = PanelTile<Block, N>;
  std::int64_t tiles = 0;
  for (const auto& part : a.parts) tiles += (part.rows + Tile::rows - 1) / Tile::rows;
  const std::int64_t token_parts = (a.tokens + N - 1) / N;
  const auto kernel = panel_products<Block, N>;
  const auto clusters = [&](int blocks) {
    return ctx.resident_clusters(reinterpret_cast<const void*>(kernel), Tile::threads, Tile::shared,
                                 blocks);
  };
  const int splits = panel_splits(tiles * token_parts,
                                  static_cast<int>(a.x_stride / Panel<Block>::columns), clusters);
  launch_clusters(ctx, "matmul", kernel,
                  dim3(static_cast<unsigned>(token_parts), static_cast<unsigned>(tiles),
                       static_cast<unsigned>(splits)),
                  dim3(1, 1, static_cast<unsigned>(splits)), dim3(Tile::threads),
                  static_cast<std::size_t>(Tile::shared), a);
}

/// Any number of tokens, N at a time.   @param a x in whole packs, not gated
template <class Block, int N>
ZIYA_HIDDEN void run_panel_tiles(Context<Cuda>& ctx, MatvecArguments<Half, std::byte> a) {
  using Tile = PanelTile<Block, N>;
  using Form = Panel<Block>;
  Workspace<Cuda>::Scope scope(ctx.workspace());
  const std::int64_t panels = (a.columns + Form::columns - 1) / Form::columns;
  const std::int64_t padded = panels * Form::columns, parts = (a.tokens + N - 1) / N;
  const auto x =
      ctx.workspace().template take<std::byte>(Shape{parts * panels * Tile::steps * Tile::x_bytes});
  const dim3 grid(static_cast<unsigned>(parts * N));
  const dim3 block(
      static_cast<unsigned>(std::min<std::int64_t>(1024, (padded / 8 + 31) / 32 * 32)));
  if constexpr (Tile::in_rows) {
    launch(ctx, "matmul", make_panel_rows<Block, N / 8>, dim3(static_cast<unsigned>(panels)),
           dim3(static_cast<unsigned>(4 * Form::groups * N)), 0, x.data(), a.x, a.x_stride,
           a.tokens, a.columns);
  } else if constexpr (Tile::whole) {
    launch(ctx, "matmul", make_whole_panels<Block>, grid, block, 0, x.data(), a.x, a.x_stride,
           a.tokens, a.columns, padded);
  } else {
    launch(ctx, "matmul", make_tiles<Form::run>, grid, block, 0, reinterpret_cast<Half*>(x.data()),
           a.x, a.x_stride, a.tokens, a.columns, padded, N);
  }
  a.x = reinterpret_cast<const Half*>(x.data());
  a.x_stride = padded;
  launch_panel_products<Block, N>(ctx, a);
}

template <class Block>
ZIYA_HIDDEN void run_panel_products(Context<Cuda>& ctx, const MatvecArguments<Half, std::byte>& a) {
  if constexpr (Panel<Block>::super) {
    if (a.tokens <= 8) return run_panel_tiles<Block, 8>(ctx, a);
  }
  if (a.tokens <= 16) return run_panel_tiles<Block, 16>(ctx, a);
  if (a.tokens <= 64) return run_panel_tiles<Block, 64>(ctx, a);
  run_panel_tiles<Block, 128>(ctx, a);
}

/// Whether so many tokens are theirs: the kernels are there, built for `sm_90a` and on such a GPU,
/// and quicker than those of a few tokens and than those of 16-bit weights behind a conversion
/// (upper limits measured on an H200, lower ones on an H100).
ZIYA_HIDDEN inline bool takes_panel_products(const Context<Cuda>& ctx, DType dtype,
                                             std::int64_t tokens) {
  const bool super = info(dtype).block_elements == 256;
  const std::int64_t most = !super ? 768 : dtype == DType::q6_k ? 512 : 384;
  return tokens > (super ? 4 : 8) && tokens <= most &&
         has_warpgroups(ctx, panel_products<blocks::Q4_0, 16>);
}

}  // namespace cuda
ZIYA_NAMESPACE_END
