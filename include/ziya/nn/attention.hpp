// SPDX-License-Identifier: Apache-2.0
// Multi-head attention with rotary positions and grouped queries.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/paged_cache.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/nn/linear.hpp"
#include "ziya/nn/norm.hpp"
#include "ziya/ops/attention.hpp"
#include "ziya/ops/matmul.hpp"
#include "ziya/ops/rope.hpp"
#include "ziya/ops/rope_append_attention.hpp"

ZIYA_NAMESPACE_BEGIN
namespace nn {

/// Activations that a backward pass needs: rotated queries and keys, values, and the heads'
/// outputs.
template <class T, class Device>
struct AttentionSaved {
  Tensor<T, Device> q, k, v, heads;
};

/// Rows of a batch that share one rotation: a run of tokens of one sequence.
template <class Device>
struct RotaryRun {
  std::int64_t begin = 0, count = 0;
  const RopeTable<Device>* table = nullptr;
};

/// x += o(attend(rope(q(n)), rope(k(n)), v(n))), n = norm(x).
/// Source: Vaswani et al., arXiv 1706.03762, eq. 1; Su et al., arXiv 2104.09864; Ainslie et al.,
/// arXiv 2305.13245 (grouped queries)
template <class Device>
struct Attention {
  Linear<Device> q, k, v, o;
  std::int64_t query_heads = 0, kv_heads = 0, head_dim = 0;
  RopePairing pairing = RopePairing::halves;

  /// How the rows of a batch lie in their sequences.
  struct Rows {
    std::span<const std::int32_t> positions;
    std::span<const RotaryRun<Device>> rotary;
    std::span<const std::int32_t> slots;    ///< with a cache
    std::span<const std::int64_t> indices;  ///< with a cache: where a row is stored
    std::span<const std::int64_t> visible;  ///< with a cache: keys that a row sees
    std::span<const Segment> segments;      ///< without a cache
  };

  /// Appends keys and values to the cache and attends to everything a row sees there; with a null
  /// cache, causally within each segment.
  /// @param x (tokens, hidden)
  template <class T>
  void add_to(Context<Device>& ctx, View<T, Device> x, const RmsNorm<Device>& norm,
              const Rows& rows, const CachedKeysValues<Device>* cache,
              AttentionSaved<T, Device>* saved = nullptr) const {
    typename Workspace<Device>::Scope scope(ctx.workspace());
    const std::int64_t tokens = x.rows();
    const Shape query_shape{tokens, query_heads, head_dim}, key_shape{tokens, kv_heads, head_dim};
    View<T, Device> queries, keys, values, heads;
    if (saved != nullptr) {
      queries = saved->q = Tensor<T, Device>(query_shape);
      keys = saved->k = Tensor<T, Device>(key_shape);
      values = saved->v = Tensor<T, Device>(key_shape);
      heads = saved->heads = Tensor<T, Device>(query_shape);
    } else {
      queries = ctx.workspace().template take<T>(query_shape);
      keys = ctx.workspace().template take<T>(key_shape);
      values = ctx.workspace().template take<T>(key_shape);
      heads = ctx.workspace().template take<T>(query_shape);
    }
    project<T, 3>(ctx, {queries, keys, values}, {&q, &k, &v}, x, norm);
    const bool one_rotation = rows.rotary.size() == 1 && rows.rotary.front().count == tokens;
    if (cache != nullptr && one_rotation && saved == nullptr) {
      ops::rope_append_attention<Device, T>(
          ctx, heads, queries, keys, values, *cache,
          {rows.positions, rows.slots, rows.indices, rows.visible}, *rows.rotary.front().table,
          pairing);
      return o.template add_to<T>(ctx, x, flat(heads));
    }
    rotate(ctx, queries, rows);
    rotate(ctx, keys, rows);
    if (cache != nullptr) {
      ops::cache_append(ctx, *cache, keys, values, {rows.slots, rows.indices});
      ops::attention(ctx, heads, queries, *cache, {rows.slots, rows.visible}, {});
    } else {
      ops::attention(ctx, heads, queries, keys, values, rows.segments, {.causal = true});
    }
    o.template add_to<T>(ctx, x, flat(heads));
  }

  /// The part of add_to that later tokens need: keys and values of norm(x) go to the cache.
  /// @param x (tokens, hidden)
  template <class T>
  void append(Context<Device>& ctx, View<T, Device> x, const RmsNorm<Device>& norm,
              const Rows& rows, const CachedKeysValues<Device>& cache) const {
    typename Workspace<Device>::Scope scope(ctx.workspace());
    const Shape shape{x.rows(), kv_heads, head_dim};
    const auto keys = ctx.workspace().template take<T>(shape);
    const auto values = ctx.workspace().template take<T>(shape);
    project<T, 2>(ctx, {keys, values}, {&k, &v}, x, norm);
    rotate(ctx, keys, rows);
    ops::cache_append(ctx, cache, keys, values, {rows.slots, rows.indices});
  }
  /// The rest of it: x += o(attend(rope(q(norm(x))))) of rows whose keys and values are there.
  /// @param x (tokens, hidden)   @param rows `indices` do not count
  template <class T>
  void attend(Context<Device>& ctx, View<T, Device> x, const RmsNorm<Device>& norm,
              const Rows& rows, const CachedKeysValues<Device>& cache) const {
    typename Workspace<Device>::Scope scope(ctx.workspace());
    const Shape shape{x.rows(), query_heads, head_dim};
    const auto queries = ctx.workspace().template take<T>(shape);
    const auto heads = ctx.workspace().template take<T>(shape);
    project<T, 1>(ctx, {queries}, {&q}, x, norm);
    rotate(ctx, queries, rows);
    ops::attention(ctx, heads, queries, cache, {rows.slots, rows.visible}, {});
    o.template add_to<T>(ctx, x, flat(heads));
  }

  template <class F>
  void visit(const std::string& name, F&& f) const {
    q.visit(name + ".q_proj", f);
    k.visit(name + ".k_proj", f);
    v.visit(name + ".v_proj", f);
    o.visit(name + ".o_proj", f);
  }

 private:
  template <class T>
  static View<T, Device> flat(View<T, Device> heads) {
    return heads.reshape(Shape{heads.rows(), heads.columns()});
  }
  template <class T>
  void rotate(Context<Device>& ctx, View<T, Device> x, const Rows& rows) const {
    for (const RotaryRun<Device>& run : rows.rotary) {
      const auto positions = rows.positions.subspan(static_cast<std::size_t>(run.begin),
                                                    static_cast<std::size_t>(run.count));
      ops::rope(ctx, x.row_range(run.begin, run.count), positions, *run.table, pairing);
    }
  }
  /// outputs[n] ← linears[n] of norm(x), in one pass.
  template <class T, std::size_t N>
  void project(Context<Device>& ctx, const std::array<View<T, Device>, N>& outputs,
               const std::array<const Linear<Device>*, N>& linears, In<T, Device> x,
               const RmsNorm<Device>& norm) const {
    std::array<View<T, Device>, N> flats;
    std::array<const Weight<Device>*, N> weights;
    bool plain = true;
    for (std::size_t n = 0; n < N; ++n) {
      flats[n] = flat(outputs[n]);
      weights[n] = &linears[n]->weight;
      plain = plain && linears[n]->plain();
    }
    if (plain) {
      return ops::norm_matmul_many<Device, T>(ctx, flats, x, norm.weight.view(), norm.eps, weights);
    }
    typename Workspace<Device>::Scope scope(ctx.workspace());
    const auto n = ctx.workspace().template take<T>(x.shape());
    norm.template forward<T>(ctx, n, x);
    ops::matmul_many<Device, T>(ctx, flats, n, weights);
    for (std::size_t i = 0; i < N; ++i) linears[i]->template finish<T>(ctx, flats[i], n);
  }
};

}  // namespace nn
ZIYA_NAMESPACE_END
