// SPDX-License-Identifier: Apache-2.0
// A model whose first layers run on the host and whose last ones on other devices.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/split.hpp"
#include "ziya/core/staging.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/model/batch.hpp"
#include "ziya/model/llama.hpp"
#include "ziya/model/llama_shape.hpp"
#include "ziya/model/llama_weights.hpp"
#include "ziya/model/sampled_fingerprint.hpp"
#include "ziya/model/split_context.hpp"
#include "ziya/model/split_plan.hpp"
#include "ziya/model/weights_on.hpp"
#include "ziya/nn/split_cache.hpp"
#include "ziya/ops/embedding.hpp"

ZIYA_NAMESPACE_BEGIN

/// Sizes of a split model; its caches are split alike.
struct SplitShape : LlamaShape {
  std::int64_t near_layers = 0;
  std::vector<SplitPart> parts;

  [[nodiscard]] SplitCacheShape cache_shape() const {
    SplitCacheShape result;
    static_cast<CacheShape&>(result) = LlamaShape::cache_shape();
    result.near_layers = near_layers;
    result.parts = parts;
    return result;
  }
};

/// In a generator's place of a `LlamaModel`. Rows pass the embedding and the first layers on the
/// host in 32 bits, then each part in turn; only the residual stream goes from one to the next, and
/// hidden rows and logits come back to the host. With far devices of the host's own kind and type
/// the results are those of the whole model to the bit.
/// @tparam Config of the far parts: `CudaConfig`, `CudaHalfConfig`, …
template <class Config>
class SplitModel {
 public:
  using Far = typename Config::Device;
  using FarT = typename Config::Compute;
  using Device = Split<Far>;
  using T = float;

  /// @param plan at least one layer on a far device   @param weights all of them; matrices of the
  /// far parts are copied there, part by part
  /// @param progress (bytes so far, of those of the far parts)
  /// @param read how their bytes are read, if not where they are mapped: `reads_of`
  SplitModel(const LlamaShape& shape, const SplitPlan& plan, LlamaWeights<Cpu> weights,
             const std::function<void(std::int64_t, std::int64_t)>& progress = {},
             const StagedRead& read = {})
      : near_(part_of(shape, plan.near_layers), {}) {
    fingerprint_ = sampled_fingerprint(shape, weights);
    static_cast<LlamaShape&>(shape_) = shape;
    shape_.near_layers = plan.near_layers;
    shape_.parts = plan.parts;
    auto layer = static_cast<std::size_t>(plan.near_layers);
    std::int64_t before = 0, total = 0;
    for (const std::int64_t bytes : plan.weights) total += bytes;
    for (const SplitPart& part : plan.parts) {
      set_current(Far{}, part.device);
      std::int64_t last = 0;
      const auto count = [&](std::int64_t done) {
        last = done;
        if (progress) progress(before + done, total);
      };
      Staging<Far> staging(count, read);
      LlamaWeights<Far> moved;
      for (std::int64_t i = 0; i < part.layers; ++i, ++layer) {
        moved.layers.push_back(layer_on(weights.layers[layer], staging));
        weights.layers[layer] = {};  // what was converted in memory is not needed twice
      }
      moved.final_norm = norm_on(weights.final_norm, staging);
      if (&part == &plan.parts.back()) moved.head = linear_on(weights.head, staging);
      staging.finish();
      before += last;
      far_.emplace_back(part_of(shape, part.layers), std::move(moved));
    }
    weights.layers.resize(static_cast<std::size_t>(plan.near_layers));
    weights.head = {};
    near_ = LlamaModel<CpuConfig>(part_of(shape, plan.near_layers), std::move(weights));
  }

  [[nodiscard]] const SplitShape& shape() const { return shape_; }
  /// `sampled_fingerprint` of the whole model: what is saved with sessions.
  [[nodiscard]] const std::string& fingerprint() const { return fingerprint_; }

  /// As `LlamaModel::forward`.   @param hidden (outputs, hidden)
  void forward(Context<Device>& ctx, View<float, Device> hidden, const Batch<float, Device>& batch,
               KvCache<Device>& cache) const {
    check_batch(batch, hidden, shape_.hidden);
    const auto step = cache.prepare(batch.slots);
    typename Workspace<Device>::Scope scope(ctx.workspace());
    const Shape shape{batch.rows(), shape_.hidden};
    const View<float> x(ctx.workspace().template take<float>(shape).data(), shape);
    run_near(ctx.near(), x, batch, cache, step);
    const View<FarT> stream(ctx.workspace().template take<FarT>(shape).data(), shape);
    convert(x, stream);
    for (std::size_t i = 0; i + 1 < far_.size(); ++i) {
      run_far(ctx.far(i), i, stream, batch, cache, step);
    }
    const View<FarT> wanted(ctx.workspace().template take<FarT>(hidden.shape()).data(),
                            hidden.shape());
    run_last(ctx.far(far_.size() - 1), wanted, stream, batch, cache, step);
    for (std::int64_t i = 0; i < hidden.rows(); ++i) {
      convert(wanted.row_range(i, 1), View<float>(hidden.row(i), Shape{1, shape_.hidden}));
    }
    cache.commit();
  }

  /// @param logits (n, vocabulary)   @param hidden (n, hidden)
  void logits(Context<Device>& ctx, View<float, Device> logits,
              View<const float, Device> hidden) const {
    Context<Far>& far = ctx.far(far_.size() - 1);
    set_current(Far{}, shape_.parts.back().device);
    typename Workspace<Device>::Scope scope(ctx.workspace());
    typename Workspace<Far>::Scope far_scope(far.workspace());
    const View<FarT> rows(ctx.workspace().template take<FarT>(hidden.shape()).data(),
                          hidden.shape());
    convert(View<const float>(hidden.data(), hidden.shape()), rows);
    const auto there = far.workspace().template take<FarT>(hidden.shape());
    const auto result = far.workspace().template take<float>(logits.shape());
    copy(Far{}, there.data(), Cpu{}, rows.data(), bytes(rows));
    far_.back().logits(far, result, View<const FarT, Far>(there));
    copy(Cpu{}, logits.data(), Far{}, result.data(),
         static_cast<std::size_t>(logits.elements()) * sizeof(float));
  }

 private:
  static LlamaShape part_of(LlamaShape shape, std::int64_t layers) {
    shape.layers = layers;
    return shape;
  }
  template <class U, class Part>
  static std::size_t bytes(View<U, Part> view) {
    return static_cast<std::size_t>(view.elements()) * sizeof(U);
  }
  /// Contiguous rows, rounded to nearest.
  template <class From, class To>
  static void convert(View<From> from, View<To> to) {
    for (std::int64_t i = 0; i < to.elements(); ++i) {
      if constexpr (std::is_same_v<To, Half>) {
        to.data()[i] = to_half(to_float(from.data()[i]));
      } else if constexpr (std::is_same_v<To, BFloat16>) {
        to.data()[i] = to_bfloat16(to_float(from.data()[i]));
      } else {
        to.data()[i] = to_float(from.data()[i]);
      }
    }
  }
  template <class Part, class U>
  static Batch<U, Part> rows_of(const Batch<float, Device>& batch) {
    Batch<U, Part> rows;
    rows.positions = batch.positions;
    rows.slots = batch.slots;
    return rows;
  }

  void run_near(Context<Cpu>& ctx, View<float> x, const Batch<float, Device>& batch,
                const KvCache<Device>& cache, const typename KvCache<Device>::Step& step) const {
    if (batch.embeddings.empty()) {
      ops::embedding(ctx, x, near_.weights().embedding, batch.ids);
    } else {
      for (std::int64_t i = 0; i < x.rows(); ++i) {
        copy(Cpu{}, x.row(i), Cpu{}, batch.embeddings.row(i), bytes(x.row_range(i, 1)));
      }
    }
    if (shape_.near_layers == 0) return;
    const typename KvCache<Cpu>::Step places{step.indices, step.visible};
    near_.run_layers(ctx, x, rows_of<Cpu, float>(batch), cache.near(), places);
  }

  /// stream ← the residual stream behind part `i`.
  void run_far(Context<Far>& ctx, std::size_t i, View<FarT> stream,
               const Batch<float, Device>& batch, const KvCache<Device>& cache,
               const typename KvCache<Device>::Step& step) const {
    set_current(Far{}, shape_.parts[i].device);
    typename Workspace<Far>::Scope scope(ctx.workspace());
    const auto x = stream_on(ctx, stream);
    const typename KvCache<Far>::Step places{step.indices, step.visible};
    far_[i].run_layers(ctx, x, rows_of<Far, FarT>(batch), cache.far(i), places);
    copy(Cpu{}, stream.data(), Far{}, x.data(), bytes(stream));
  }
  /// wanted ← the hidden states behind the last part.
  void run_last(Context<Far>& ctx, View<FarT> wanted, View<FarT> stream,
                const Batch<float, Device>& batch, const KvCache<Device>& cache,
                const typename KvCache<Device>::Step& step) const {
    const std::size_t i = far_.size() - 1;
    set_current(Far{}, shape_.parts[i].device);
    typename Workspace<Far>::Scope scope(ctx.workspace());
    Batch<FarT, Far> rows = rows_of<Far, FarT>(batch);
    rows.embeddings = stream_on(ctx, stream);
    rows.outputs = batch.outputs;
    const auto hidden = ctx.workspace().template take<FarT>(wanted.shape());
    const typename KvCache<Far>::Step places{step.indices, step.visible};
    far_[i].run_prepared(ctx, hidden, rows, cache.far(i), places);
    copy(Cpu{}, wanted.data(), Far{}, hidden.data(), bytes(hidden));
  }
  static View<FarT, Far> stream_on(Context<Far>& ctx, View<FarT> stream) {
    const auto x = ctx.workspace().template take<FarT>(stream.shape());
    copy(Far{}, x.data(), Cpu{}, stream.data(), bytes(stream));
    return x;
  }

  SplitShape shape_;
  std::string fingerprint_;
  LlamaModel<CpuConfig> near_;           ///< without a head
  std::vector<LlamaModel<Config>> far_;  ///< without an embedding; the last one has the head
};

ZIYA_NAMESPACE_END
