// SPDX-License-Identifier: Apache-2.0
// Attention of rows one at a time, each split over its keys: which kernel, and how many blocks.
#pragma once

#include <algorithm>
#include <span>
#include <string>

#include "ziya/backend/cuda/attention_blocks.cuh"
#include "ziya/backend/cuda/attention_rows.cuh"
#include "ziya/backend/cuda/device.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

struct RowPlaces {
  std::span<const std::int32_t> slots;  ///< empty: no cache
  std::span<const std::int64_t> visible;
  std::span<const std::int64_t> first;  ///< empty: zeros
  std::int64_t begin = 0, end = -1;     ///< rows that are wanted; −1: all
};

inline constexpr std::int64_t most_part_floats = std::int64_t{1} << 24;

template <class T>
ZIYA_HIDDEN void run_rows(Context<Cuda>& ctx, View<T, Cuda> out, View<const T, Cuda> q,
                          const KeyPlaces& places, DType dtype, const RowPlaces& rows,
                          std::int64_t group, float scale, const NewTokens<T>& fresh = {}) {
  const std::int64_t heads = q.extent(1), head_dim = q.extent(2);
  if (head_dim > most_head_dim) {
    throw ArgumentError("ZIYA-154", "cuda: attention: head size " + std::to_string(head_dim) +
                                        ", expected at most " + std::to_string(most_head_dim));
  }
  const std::int64_t longest = *std::max_element(rows.visible.begin(), rows.visible.end());
  const std::int64_t splits = key_splits(longest);
  RowArguments<T> a{};
  a.out_stride = out.row_stride();
  a.q_stride = q.row_stride();
  a.head_dim = static_cast<int>(head_dim);
  a.group = static_cast<unsigned>(group);
  a.scale = scale;
  a.places = places;
  a.splits = static_cast<int>(splits);
  a.counters = ctx.counters();
  const auto* visible = ctx.uploads().get(ctx.stream(), Upload::visible, rows.visible);
  const std::int32_t* slots = nullptr;
  const std::int64_t* first = nullptr;
  if (!rows.slots.empty()) slots = ctx.uploads().get(ctx.stream(), Upload::slots, rows.slots);
  if (!rows.first.empty()) first = ctx.uploads().get(ctx.stream(), Upload::places, rows.first);

  Workspace<Cuda>::Scope scope(ctx.workspace());
  const std::int64_t floats = heads * splits * (head_dim + 2);
  const std::int64_t end = rows.end < 0 ? q.rows() : rows.end;
  const std::int64_t at_once = std::max<std::int64_t>(
      1, std::min({end - rows.begin, std::int64_t{65535}, Context<Cuda>::counter_count / heads,
                   most_part_floats / floats}));
  if (splits > 1) a.parts = ctx.workspace().template take<float>(Shape{at_once, floats}).data();
  for (std::int64_t begin = rows.begin; begin < end; begin += at_once) {
    const std::int64_t count = std::min(at_once, end - begin);
    a.out = out.row(begin);
    a.q = q.row(begin);
    a.visible = visible + begin;
    a.slots = slots == nullptr ? nullptr : slots + begin;
    a.first = first == nullptr ? nullptr : first + begin;
    a.fresh = fresh;
    if (fresh.k != nullptr) {
      a.fresh.k += begin * fresh.k_stride;
      a.fresh.v += begin * fresh.v_stride;
      a.fresh.positions += begin;
      a.fresh.places += begin;
    }
    // No more blocks than there is room for: further parts are fetched while one is worked on.
    const auto run = [&](auto kernel, int threads) {
      const std::int64_t room =
          std::int64_t{ctx.multiprocessors()} *
          ctx.resident_blocks(reinterpret_cast<const void*>(kernel), threads, 0);
      const std::int64_t blocks = std::clamp<std::int64_t>(room / (heads * count), 1, splits);
      const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(heads),
                      static_cast<unsigned>(count));
      launch(ctx, "attention", kernel, grid, dim3(static_cast<unsigned>(threads)), 0, a);
    };
    if (dtype == DType::q8_0) {
      run(head_dim <= 128 ? attention_blocks<T, 1> : attention_blocks<T, 2>, block_threads);
      continue;
    }
    with_stored(dtype, [&](auto element) {
      using C = decltype(element);
      constexpr int wide = 16 / sizeof(C);
      const bool whole = head_dim % wide == 0 && alignment_of(places.keys) == 16 &&
                         alignment_of(places.values) == 16 && places.key_stride % wide == 0 &&
                         places.value_stride % wide == 0 && places.page_bytes % 16 == 0;
      constexpr std::int64_t few = 16 * wide * (wide == 4 ? 2 : 1);  // elements of 16 lanes
      run(!whole            ? attention_rows<T, C, 1, 32>
          : head_dim <= few ? attention_rows<T, C, wide, 16>
                            : attention_rows<T, C, wide, 32>,
          row_threads);
    });
  }
}

}  // namespace cuda
ZIYA_NAMESPACE_END
