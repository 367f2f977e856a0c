// SPDX-License-Identifier: Apache-2.0
// Which kernel attention becomes: single rows split over their keys, or tiles of adjacent rows.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/backend/cuda/attention.hpp"
#include "ziya/backend/cuda/attention_singles.cuh"
#include "ziya/backend/cuda/attention_tiles.cuh"
#include "ziya/backend/cuda/attention_warpgroups.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/paged.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr std::int64_t least_tile = 16;  // rows of one sequence that are worth a tile

/// Whether a tile's loads and stores are aligned, for the types that the tensor cores take.
template <class T>
ZIYA_HIDDEN bool tiles_fit(View<T, Cuda> out, View<const T, Cuda> q, const KeyPlaces& places,
                           DType dtype) {
  const auto even = [](const T* data, std::int64_t stride) {
    return alignment_of(data) >= 4 && stride % 2 == 0;
  };
  return sizeof(T) == 2 && dtype == dtype_of<T> && q.extent(2) % 8 == 0 && q.extent(2) <= 128 &&
         even(out.data(), out.row_stride()) && alignment_of(q.data()) == 16 &&
         q.row_stride() % 8 == 0 && alignment_of(places.keys) == 16 &&
         alignment_of(places.values) == 16 && places.key_stride % 8 == 0 &&
         places.value_stride % 8 == 0 && places.page_bytes % 16 == 0;
}

/// Whether `attention_warpgroups` takes rows that `tiles_fit`.
template <class T>
ZIYA_HIDDEN bool warpgroups_fit(const Context<Cuda>& ctx, View<T, Cuda> out, View<const T, Cuda> q,
                                const KeyPlaces& places) {
  if constexpr (sizeof(T) == 2) {
    return q.rows() >= least_tile && q.extent(2) == warpgroup_dim &&
           alignment_of(out.data()) == 16 && out.row_stride() % 8 == 0 &&
           (places.table == nullptr || places.page_tokens % warpgroup_page == 0) &&
           has_warpgroups(ctx, attention_warpgroups<T>);
  }
  return false;
}

template <class T>
ZIYA_HIDDEN void run_tiles(Context<Cuda>& ctx, View<T, Cuda> out, View<const T, Cuda> q,
                           const KeyPlaces& places, std::vector<Tile> tiles, std::int64_t height,
                           std::span<const std::int64_t> visible, std::int64_t group, float scale) {
  if constexpr (sizeof(T) == 2) {
    // Short ones last, so that multiprocessors end together.
    std::stable_sort(tiles.begin(), tiles.end(),
                     [](const Tile& one, const Tile& other) { return one.most > other.most; });
    TileArguments<T> a{};
    a.out = out.data();
    a.q = q.data();
    a.out_stride = out.row_stride();
    a.q_stride = q.row_stride();
    a.head_dim = static_cast<int>(q.extent(2));
    a.group = static_cast<int>(group);
    a.scale = scale;
    a.places = places;
    a.tiles = ctx.uploads().get(ctx.stream(), Upload::tiles, std::span<const Tile>(tiles));
    a.visible = ctx.uploads().get(ctx.stream(), Upload::visible, visible);
    const dim3 grid(static_cast<unsigned>(q.extent(1)), static_cast<unsigned>(tiles.size()));
    if (warpgroups_fit(ctx, out, q, places)) {
      check(cudaFuncSetAttribute(attention_warpgroups<T>,
                                 cudaFuncAttributeMaxDynamicSharedMemorySize, warpgroup_shared),
            "attention");
      const unsigned blocks =
          std::min(grid.x * grid.y, static_cast<unsigned>(ctx.multiprocessors()));
      return launch(ctx, "attention", attention_warpgroups<T>, dim3(blocks),
                    dim3(warpgroup_threads), warpgroup_shared, a, grid.x, grid.x * grid.y,
                    ctx.counters());
    }
    const auto run = [&](auto whole, auto half, int dim) {
      const auto kernel = height == tile_rows ? whole : half;
      const std::size_t shared = static_cast<std::size_t>(height + 4 * tile_keys) *
                                 static_cast<std::size_t>(dim + 8) * sizeof(T);
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared)),
            "attention");
      launch(ctx, "attention", kernel, grid, dim3(tile_threads), shared, a);
    };
    if (a.head_dim <= 16) return run(attention_tiles<T, 16, 2>, attention_tiles<T, 16, 1>, 16);
    if (a.head_dim <= 64) return run(attention_tiles<T, 64, 2>, attention_tiles<T, 64, 1>, 64);
    if (a.head_dim <= 96) return run(attention_tiles<T, 96, 2>, attention_tiles<T, 96, 1>, 96);
    run(attention_tiles<T, 128, 2>, attention_tiles<T, 128, 1>, 128);
  }
}

/// Rows [begin, begin + count) of one sequence, in tiles.
inline void add_tiles(std::vector<Tile>& tiles, std::span<const std::int64_t> visible,
                      std::int64_t begin, std::int64_t count, std::int32_t slot, std::int64_t first,
                      std::int64_t height) {
  for (std::int64_t at = begin; at < begin + count; at += height) {
    const std::int64_t rows = std::min<std::int64_t>(height, begin + count - at);
    std::int64_t most = 0;
    for (std::int64_t t = at; t < at + rows; ++t) {
      most = std::max(most, visible[static_cast<std::size_t>(t)]);
    }
    tiles.push_back({static_cast<std::int32_t>(at), static_cast<std::int32_t>(rows), slot,
                     static_cast<std::int32_t>(most), first});
  }
}

/// Rows of a tile: half as many where whole tiles of four warps would leave multiprocessors without
/// work.
template <class T>
ZIYA_HIDDEN std::int64_t tile_height(const Context<Cuda>& ctx, View<T, Cuda> out,
                                     View<const T, Cuda> q, const KeyPlaces& places) {
  if (warpgroups_fit(ctx, out, q, places)) return warpgroup_rows;
  const std::int64_t tiles = (q.rows() + tile_rows - 1) / tile_rows * q.extent(1);
  return tiles < 4 * ctx.multiprocessors() ? tile_rows / 2 : tile_rows;
}

/// Where a cache has the tokens of the sequences in `slots`.
inline KeyPlaces places_in(Context<Cuda>& ctx, const CachedKeysValues<Cuda>& cache,
                           std::span<const std::int32_t> slots) {
  const CachedKeysValues<Cuda> placed = on_device(ctx, cache, slots);
  return {.keys = placed.keys,
          .values = placed.values,
          .table = placed.block_table,
          .table_stride = placed.table_stride,
          .page_tokens = static_cast<unsigned>(placed.page_tokens),
          .page_bytes = placed.page_bytes,
          .head_stride = placed.page_tokens * placed.head_dim,
          .key_stride = placed.head_dim,
          .value_stride = placed.head_dim,
          .scales = placed.scales};
}

/// Adjacent rows of one sequence.
struct RowRun {
  std::int32_t slot;
  std::int64_t begin, end;
  std::int64_t most;   ///< tokens that a row sees at most
  std::int64_t first;  ///< place of the sequence's first token among those that were widened
};

/// Rows against a cache in blocks: many of one sequence meet its tokens as plain numbers in scratch
/// memory, some heads at a time; others read the blocks.   @returns whether there were many
template <class T>
ZIYA_HIDDEN bool run_widened(Context<Cuda>& ctx, View<T, Cuda> out, View<const T, Cuda> q,
                             const KeyPlaces& places, std::int64_t kv_heads,
                             const AttentionRows& rows, float scale) {
  if constexpr (sizeof(T) == 2) {
    std::vector<RowRun> many;
    std::int64_t tokens = 0;
    for (std::int64_t begin = 0, end = 0; begin < q.rows(); begin = end) {
      RowRun run{rows.slots[static_cast<std::size_t>(begin)], begin, 0, 0, tokens};
      for (; end < q.rows() && rows.slots[static_cast<std::size_t>(end)] == run.slot; ++end) {
        run.most = std::max(run.most, rows.visible[static_cast<std::size_t>(end)]);
      }
      run.end = end;
      if (end - begin < least_tile) continue;
      tokens += run.most;
      many.push_back(run);
    }
    if (many.empty()) return false;
    const std::int64_t dim = q.extent(2), group = q.extent(1) / kv_heads;
    const std::int64_t head_elements = std::max<std::int64_t>(1, tokens) * dim;
    const std::int64_t part = std::clamp<std::int64_t>(
        most_widened / (2 * head_elements * static_cast<std::int64_t>(sizeof(T))), 1, kv_heads);
    Workspace<Cuda>::Scope scope(ctx.workspace());
    T* const keys = ctx.workspace().template take<T>(Shape{2, part, head_elements}).data();
    T* const values = keys + part * head_elements;
    const KeyPlaces widened{.keys = reinterpret_cast<const std::byte*>(keys),
                            .values = reinterpret_cast<const std::byte*>(values),
                            .table = nullptr,
                            .table_stride = 0,
                            .page_tokens = 1,
                            .page_bytes = 0,
                            .head_stride = head_elements,
                            .key_stride = dim,
                            .value_stride = dim};
    if (!tiles_fit(out, q, widened, dtype_of<T>)) return false;
    for (std::int64_t head = 0; head < kv_heads; head += part) {
      const std::int64_t count = std::min(part, kv_heads - head);
      const auto heads_of = [&](auto view) {
        return decltype(view)(view.data() + head * group * dim, Shape{q.rows(), count * group, dim},
                              view.row_stride());
      };
      const auto q_part = heads_of(q);
      const auto out_part = heads_of(out);
      const std::int64_t height = tile_height(ctx, out_part, q_part, widened);
      std::vector<Tile> tiles;
      for (const RowRun& run : many) {
        add_tiles(tiles, rows.visible, run.begin, run.end - run.begin, 0, run.first, height);
        const std::int64_t head_packs = dim / widen_each, packs = run.most * head_packs;
        launch(ctx, "attention", widen_heads<T>,
               dim3(blocks_for(packs, widen_threads), static_cast<unsigned>(count)),
               dim3(widen_threads), 0, keys + run.first * dim, values + run.first * dim, places,
               run.slot, packs, head_packs, head, head_elements);
      }
      run_tiles<T>(ctx, out_part, q_part, widened, std::move(tiles), height, rows.visible, group,
                   scale);
    }
    std::int64_t begin = 0;
    const auto run_others = [&](std::int64_t end) {
      if (begin < end) {
        run_rows<T>(ctx, out, q, places, DType::q8_0, {rows.slots, rows.visible, {}, begin, end},
                    group, scale);
      }
    };
    for (const RowRun& run : many) {
      run_others(run.begin);
      begin = run.end;
    }
    run_others(q.rows());
    return true;
  }
  return false;
}

/// Whether each row is the only one of its sequence, and sees its own token last.
inline bool one_token_each(const RotaryRows& rows) {
  for (std::size_t t = 0; t < rows.slots.size(); ++t) {
    if (rows.visible[t] != rows.indices[t] + 1) return false;
  }
  return one_row_each(rows.slots);
}

}  // namespace cuda
namespace backend {

template <class T>
void attention(Context<Cuda>& ctx, View<T, Cuda> out, View<const T, Cuda> q,
               const CachedKeysValues<Cuda>& cache, const AttentionRows& rows, float scale) {
  if (q.rows() == 0) return;
  const cuda::KeyPlaces places = cuda::places_in(ctx, cache, rows.slots);
  const std::int64_t group = q.extent(1) / cache.kv_heads;
  if (cache.dtype == DType::q8_0 &&
      cuda::run_widened<T>(ctx, out, q, places, cache.kv_heads, rows, scale)) {
    return;
  }
  std::vector<cuda::Tile> tiles;
  std::int64_t longest = 0;
  const std::int64_t height = cuda::tile_height(ctx, out, q, places);
  if (cuda::tiles_fit(out, q, places, cache.dtype)) {
    for (std::int64_t begin = 0, end = 0; begin < q.rows(); begin = end) {
      const std::int32_t slot = rows.slots[static_cast<std::size_t>(begin)];
      while (end < q.rows() && rows.slots[static_cast<std::size_t>(end)] == slot) ++end;
      longest = std::max(longest, end - begin);
      cuda::add_tiles(tiles, rows.visible, begin, end - begin, slot, 0, height);
    }
  }
  if (longest >= cuda::least_tile) {
    cuda::run_tiles<T>(ctx, out, q, places, std::move(tiles), height, rows.visible, group, scale);
  } else {
    cuda::run_rows<T>(ctx, out, q, places, cache.dtype, {rows.slots, rows.visible, {}}, group,
                      scale);
  }
}

template <class T>
void attention(Context<Cuda>& ctx, View<T, Cuda> out, View<const T, Cuda> q, View<const T, Cuda> k,
               View<const T, Cuda> v, std::span<const Segment> segments, bool causal, float scale) {
  if (q.rows() == 0) return;
  const std::int64_t head_dim = q.extent(2);
  const cuda::KeyPlaces places{.keys = reinterpret_cast<const std::byte*>(k.data()),
                               .values = reinterpret_cast<const std::byte*>(v.data()),
                               .table = nullptr,
                               .table_stride = 0,
                               .page_tokens = 1,
                               .page_bytes = 0,
                               .head_stride = head_dim,
                               .key_stride = k.row_stride(),
                               .value_stride = v.row_stride()};
  const std::int64_t group = q.extent(1) / k.extent(1);
  std::vector<std::int64_t> visible(static_cast<std::size_t>(q.rows()), -1);
  std::vector<std::int64_t> first(visible.size(), 0);
  std::vector<cuda::Tile> tiles;
  std::int64_t longest = 0;
  const std::int64_t height = cuda::tile_height(ctx, out, q, places);
  for (const Segment& s : segments) {
    for (std::int64_t i = 0; i < s.query_count; ++i) {
      const auto at = static_cast<std::size_t>(s.query_begin + i);
      visible[at] =
          causal ? std::max<std::int64_t>(0, s.key_count - s.query_count + i + 1) : s.key_count;
      first[at] = s.key_begin;
    }
    longest = std::max(longest, s.query_count);
    cuda::add_tiles(tiles, visible, s.query_begin, s.query_count, 0, s.key_begin, height);
  }
  if (longest >= cuda::least_tile && cuda::tiles_fit(out, q, places, dtype_of<T>)) {
    cuda::run_tiles<T>(ctx, out, q, places, std::move(tiles), height, visible, group, scale);
  } else {
    cuda::run_rows<T>(ctx, out, q, places, dtype_of<T>, {{}, visible, first}, group, scale);
  }
}

template <class T>
void rope_append_attention(Context<Cuda>& ctx, View<T, Cuda> out, View<T, Cuda> q, View<T, Cuda> k,
                           View<const T, Cuda> v, const CachedKeysValues<Cuda>& cache,
                           const RotaryRows& rows, const RopeTable<Cuda>& table,
                           RopePairing pairing, float scale) {
  if (q.rows() == 0) return;
  if (!cuda::one_token_each(rows)) {
    cuda::rope_append<T>(ctx, q, k, v, cache, rows, table, pairing);
    return attention<T>(ctx, out, q, cache, {rows.slots, rows.visible}, scale);
  }
  const cuda::NewTokens<T> fresh{
      .k = k.data(),
      .v = v.data(),
      .k_stride = k.row_stride(),
      .v_stride = v.row_stride(),
      .positions = ctx.uploads().get(ctx.stream(), cuda::Upload::positions, rows.positions),
      .places = ctx.uploads().get(ctx.stream(), cuda::Upload::places, rows.indices),
      .frequencies = table.frequencies(),
      .interleaved = pairing == RopePairing::interleaved};
  cuda::run_rows<T>(ctx, out, q, cuda::places_in(ctx, cache, rows.slots), cache.dtype,
                    {rows.slots, rows.visible, {}}, q.extent(1) / cache.kv_heads, scale, fresh);
}

}  // namespace backend
ZIYA_NAMESPACE_END
