// SPDX-License-Identifier: Apache-2.0
// Scaled dot-product attention, over a paged cache or without one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>

#include "ziya/backend/cpu/attention.hpp"
#include "ziya/backend/cpu/cache_append.hpp"
#include "ziya/backend/cuda/attention.hpp"
#include "ziya/backend/cuda/rope.hpp"
#include "ziya/config.hpp"
#include "ziya/core/attention_rows.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/paged_cache.hpp"
#include "ziya/core/view.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

struct AttentionOptions {
  bool causal = true;  ///< without a cache: a query sees no later key
  float scale = 0;     ///< 0: 1 / sqrt(head_dim)
};

inline float attention_scale(const AttentionOptions& options, std::int64_t head_dim) {
  return options.scale != 0 ? options.scale : 1.0f / std::sqrt(static_cast<float>(head_dim));
}

template <class Device, class T>
void check_heads(const char* op, const View<T, Device>& out, const View<const T, Device>& q,
                 std::int64_t kv_heads, std::int64_t head_dim) {
  check_extent(op, "rank of q", q.shape().rank(), 3);
  check_extent(op, "head size of q", q.extent(2), head_dim);
  if (kv_heads < 1) {
    check_extent(op, "number of key heads", kv_heads, std::max<std::int64_t>(1, q.extent(1)));
  }
  check_extent(op, "query heads over a multiple of key heads", q.extent(1) % kv_heads, 0);
  check_extent(op, "rows of out", out.rows(), q.rows());
  check_extent(op, "width of out", out.columns(), q.columns());
}

/// The cache is of a type that ops read, and every place is within [0, limit], the length of a
/// slot.
template <class Device>
void check_places(const char* op, const CachedKeysValues<Device>& cache,
                  std::span<const std::int32_t> slots, std::span<const std::int64_t> places,
                  std::int64_t limit) {
  if ((!is_plain_float(cache.dtype) && cache.dtype != DType::q8_0) ||
      !can_cache(cache.dtype, cache.head_dim)) {
    throw ArgumentError("ZIYA-113", std::string(op) + ": a cache of type " +
                                        std::string(name(cache.dtype)) + " and heads of " +
                                        std::to_string(cache.head_dim) +
                                        ", expected f32, f16, bf16, or q8_0 and whole blocks");
  }
  for (std::size_t t = 0; t < places.size(); ++t) {
    if (slots[t] < 0 || places[t] < 0 || places[t] > limit) {
      throw ArgumentError("ZIYA-116", std::string(op) + ": token " + std::to_string(places[t]) +
                                          " of slot " + std::to_string(slots[t]) +
                                          " is outside the cache of " + std::to_string(limit) +
                                          " tokens per slot");
    }
  }
}

template <class Device, class T>
void check_segments(const char* op, const View<const T, Device>& q, const View<const T, Device>& k,
                    const View<const T, Device>& v, std::span<const Segment> segments) {
  check_extent(op, "rank of k", k.shape().rank(), 3);
  check_extent(op, "rank of v", v.shape().rank(), 3);
  check_extent(op, "rows of v", v.rows(), k.rows());
  check_extent(op, "width of v", v.columns(), k.columns());
  for (const Segment& s : segments) {
    (void)q.row_range(s.query_begin, s.query_count);
    (void)k.row_range(s.key_begin, s.key_count);
  }
}

template <class Device, class T>
void check_visible(const char* op, const View<T, Device>& out, const View<const T, Device>& q,
                   const CachedKeysValues<Device>& cache, const AttentionRows& rows) {
  check_heads(op, out, q, cache.kv_heads, cache.head_dim);
  check_extent(op, "number of slots", static_cast<std::int64_t>(rows.slots.size()), q.rows());
  check_extent(op, "number of lengths", static_cast<std::int64_t>(rows.visible.size()), q.rows());
  check_places(op, cache, rows.slots, rows.visible, cache.table_stride * cache.page_tokens);
}

/// out[t, h] = Σ_j softmax_j(scale · q[t, h] · k[j, g]) v[j, g] over the first visible[t] tokens of
/// slot slots[t]; g = h / (heads / kv_heads); zeros where nothing is visible. A row's result does
/// not depend on the other rows.
/// @param out, q (tokens, heads, head_dim)
/// @throws ShapeError; ArgumentError for a length beyond the cache or another stored type
/// Source: Vaswani et al., arXiv 1706.03762, eq. 1; online softmax: Milakov & Gimelshein,
/// arXiv 1805.02867, algorithm 3; Ainslie et al., arXiv 2305.13245 (grouped queries)
template <class Device, class T>
void attention(Context<Device>& ctx, View<T, Device> out, In<T, Device> q,
               const CachedKeysValues<Device>& cache, const AttentionRows& rows,
               const AttentionOptions& options = {}) {
  check_visible("attention", out, q, cache, rows);
  backend::attention(ctx, out, q, cache, rows, attention_scale(options, cache.head_dim));
}

/// The same without a cache: the queries of a segment attend to its keys; causal aligns the last
/// query with the last key.
/// @param out, q (queries, heads, head_dim)   @param k, v (keys, kv_heads, head_dim)
/// @throws ShapeError
template <class Device, class T>
void attention(Context<Device>& ctx, View<T, Device> out, In<T, Device> q, In<T, Device> k,
               In<T, Device> v, std::span<const Segment> segments,
               const AttentionOptions& options = {}) {
  check_segments("attention", q, k, v, segments);
  check_heads("attention", out, q, k.extent(1), k.extent(2));
  backend::attention(ctx, out, q, k, v, segments, options.causal,
                     attention_scale(options, k.extent(2)));
}

/// Gradients of the form without a cache.
/// @param dq, q, dout (queries, heads, head_dim)   @param dk, dv, k, v (keys, kv_heads, head_dim)
/// @throws ShapeError
template <class Device, class T>
void attention_backward(Context<Device>& ctx, View<T, Device> dq, View<T, Device> dk,
                        View<T, Device> dv, In<T, Device> dout, In<T, Device> q, In<T, Device> k,
                        In<T, Device> v, std::span<const Segment> segments,
                        const AttentionOptions& options = {}) {
  check_segments("attention_backward", q, k, v, segments);
  check_heads("attention_backward", dq, q, k.extent(1), k.extent(2));
  check_extent("attention_backward", "rows of dout", dout.rows(), q.rows());
  check_extent("attention_backward", "width of dout", dout.columns(), q.columns());
  check_extent("attention_backward", "rows of dk", dk.rows(), k.rows());
  check_extent("attention_backward", "width of dk", dk.columns(), k.columns());
  check_extent("attention_backward", "rows of dv", dv.rows(), k.rows());
  check_extent("attention_backward", "width of dv", dv.columns(), k.columns());
  backend::attention_backward(ctx, dq, dk, dv, dout, q, k, v, segments, options.causal,
                              attention_scale(options, k.extent(2)));
}

template <class Device, class T>
void check_append(const char* op, const CachedKeysValues<Device>& cache,
                  const View<const T, Device>& k, const View<const T, Device>& v,
                  const AppendRows& rows) {
  check_extent(op, "width of k", k.columns(), cache.kv_heads * cache.head_dim);
  check_extent(op, "width of v", v.columns(), k.columns());
  check_extent(op, "rows of v", v.rows(), k.rows());
  check_extent(op, "number of slots", static_cast<std::int64_t>(rows.slots.size()), k.rows());
  check_extent(op, "number of indices", static_cast<std::int64_t>(rows.indices.size()), k.rows());
  check_places(op, cache, rows.slots, rows.indices, cache.table_stride * cache.page_tokens - 1);
}

/// Stores keys and values of new tokens: row t goes to index indices[t] of slot slots[t], rounded
/// to the cache's type.
/// @param k, v (tokens, kv_heads, head_dim)
/// @throws ShapeError; ArgumentError for an index beyond the cache or another stored type
template <class Device, class T>
void cache_append(Context<Device>& ctx, const CachedKeysValues<Device>& cache, View<T, Device> k,
                  In<T, Device> v, const AppendRows& rows) {
  check_append("cache_append", cache, View<const T, Device>(k), v, rows);
  backend::cache_append(ctx, cache, View<const T, Device>(k), v, rows);
}

}  // namespace ops
ZIYA_NAMESPACE_END
