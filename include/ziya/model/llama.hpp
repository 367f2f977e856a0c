// SPDX-License-Identifier: Apache-2.0
// The LLaMA model: token ids or embeddings in, hidden states and logits out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/attention_rows.hpp"
#include "ziya/core/decode_hook.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/batch.hpp"
#include "ziya/model/llama_config.hpp"
#include "ziya/model/llama_shape.hpp"
#include "ziya/model/llama_weights.hpp"
#include "ziya/model/load_weights.hpp"
#include "ziya/model/weights_on.hpp"
#include "ziya/nn/kv_cache.hpp"
#include "ziya/nn/selected_rows.hpp"
#include "ziya/ops/embedding.hpp"

ZIYA_NAMESPACE_BEGIN

/// Types of a model; sizes are `LlamaShape`'s.
struct CpuConfig {
  using Device = Cpu;
  using Compute = float;  ///< activations
};

/// What training and tests want to see of a forward pass.
template <class T, class Device>
struct LlamaSaved {
  struct Layer {
    Tensor<T, Device> input, middle;  ///< residual stream before attention, and before the MLP
    nn::AttentionSaved<T, Device> attention;
    nn::MlpSaved<T, Device> mlp;
  };
  std::vector<Layer> layers;
  Tensor<T, Device> output;  ///< residual stream after the last layer
  /// Takes each layer's activations as soon as they exist; `layers` then keeps none of them.
  std::function<void(std::size_t, const Layer&)> consume{};
};

/// Immutable after loading, so threads may share one; what changes lives in Context and KvCache.
/// Source: Touvron et al., arXiv 2302.13971
template <class Config>
class LlamaModel {
 public:
  using Device = typename Config::Device;
  using T = typename Config::Compute;

  /// Maps a Hugging Face directory or a GGUF file; on another device than the CPU, copies the
  /// mapped weights there. @throws ConfigError, FormatError, IoError, BackendError
  static LlamaModel load(const std::filesystem::path& directory, const LoadOptions& options = {}) {
    return load(std::make_shared<const CheckpointSource>(Checkpoint::open(directory)),
                read_llama_shape(directory), options);
  }
  /// From any source: what lies in files stays there, what is computed (a merge) comes into memory.
  static LlamaModel load(std::shared_ptr<const TensorSource> source, LlamaShape shape,
                         const LoadOptions& options = {});

  LlamaModel(const LlamaShape& shape, LlamaWeights<Device> weights)
      : shape_(shape), weights_(std::move(weights)), table_(rope_table(0)) {}

  [[nodiscard]] const LlamaShape& shape() const { return shape_; }
  [[nodiscard]] const LlamaWeights<Device>& weights() const { return weights_; }

  /// Runs the rows of `batch`, appends their keys and values to `cache`, and gives the normalised
  /// hidden state of each row in `batch.outputs`. When it throws, the cache is as it was.
  /// Of the last layer only keys and values are computed of rows that are not wanted.
  /// With dynamic rope scaling, the length of a sequence is its last position in this batch + 1.
  /// @param hidden (outputs, hidden)
  /// @throws ArgumentError for ids outside the vocabulary, outputs outside the batch, unknown
  /// slots, a full cache
  void forward(Context<Device>& ctx, View<T, Device> hidden, const Batch<T, Device>& batch,
               KvCache<Device>& cache) const;

  /// What forward does between `cache.prepare` and `cache.commit`, for decode hooks: it only
  /// enqueues work on the device.
  void run_prepared(Context<Device>& ctx, View<T, Device> hidden, const Batch<T, Device>& batch,
                    const KvCache<Device>& cache, const typename KvCache<Device>::Step& step) const;

  /// x ← the residual stream behind all layers: for a model that is a part of a longer one, and has
  /// neither embedding nor head. Between `cache.prepare` and `cache.commit`.
  /// @param x (rows, hidden)   @param batch whose positions and slots count
  void run_layers(Context<Device>& ctx, View<T, Device> x, const Batch<T, Device>& batch,
                  const KvCache<Device>& cache, const typename KvCache<Device>::Step& step) const;

  /// `forward` without a cache: rows attend to the rows before them with the same slot, which must
  /// be adjacent. For training and scoring.
  /// @param saved activations of every layer, or null
  void forward(Context<Device>& ctx, View<T, Device> hidden, const Batch<T, Device>& batch,
               LlamaSaved<T, Device>* saved = nullptr) const;

  /// logits = hidden · headᵀ, in 32 bits.
  /// @param logits (n, vocabulary)   @param hidden (n, hidden)
  void logits(Context<Device>& ctx, View<float, Device> logits, In<T, Device> hidden) const;

 private:
  using Rows = typename nn::Attention<Device>::Rows;

  void run(Context<Device>& ctx, View<T, Device> hidden, const Batch<T, Device>& batch, Rows& rows,
           const KvCache<Device>* cache, LlamaSaved<T, Device>* saved) const {
    typename Workspace<Device>::Scope scope(ctx.workspace());
    const auto x = ctx.workspace().template take<T>({batch.rows(), shape_.hidden});
    const Rotary rotary = rotary_runs(batch);
    rows.rotary = rotary.runs;

    const bool every_row = wants_every_row(batch), narrows = !every_row && cache != nullptr;
    embed(ctx, x, batch);
    auto y = through_layers(ctx, x, rows, narrows ? &batch.outputs : nullptr, cache, saved);
    if (saved != nullptr) saved->output = clone(x);
    if (!every_row && !narrows) y = gather(ctx, x, batch.outputs);
    if (!batch.outputs.empty()) weights_.final_norm.template forward<T>(ctx, hidden, y);
  }

  /// x ← x after every layer.
  /// @param wanted with a cache: rows to which the last layer narrows the stream; null: all
  /// @returns the stream behind the last layer
  View<T, Device> through_layers(Context<Device>& ctx, View<T, Device> x, const Rows& rows,
                                 const std::span<const std::int32_t>* wanted,
                                 const KvCache<Device>* cache, LlamaSaved<T, Device>* saved) const {
    if (saved != nullptr) saved->layers.resize(weights_.layers.size());
    for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
      const LlamaLayer<Device>& layer = weights_.layers[i];
      auto* keep = saved != nullptr ? &saved->layers[i] : nullptr;
      CachedKeysValues<Device> past;
      if (cache != nullptr) past = cache->layer(static_cast<std::int64_t>(i));
      if (wanted != nullptr && i + 1 == weights_.layers.size()) {
        return through_last_layer(ctx, x, layer, rows, *wanted, past);
      }
      if (keep) keep->input = clone(x);
      layer.attention.add_to(ctx, x, layer.input_norm, rows, cache != nullptr ? &past : nullptr,
                             keep ? &keep->attention : nullptr);
      if (keep) keep->middle = clone(x);
      layer.mlp.add_to(ctx, x, layer.post_attention_norm, keep ? &keep->mlp : nullptr);
      if (keep && saved->consume) {
        saved->consume(i, *keep);
        *keep = {};
      }
    }
    return x;
  }

  /// Keys and values of all rows, everything else of those that are wanted, which it returns.
  static View<T, Device> through_last_layer(Context<Device>& ctx, View<T, Device> x,
                                            const LlamaLayer<Device>& layer, const Rows& rows,
                                            std::span<const std::int32_t> wanted,
                                            const CachedKeysValues<Device>& past) {
    layer.attention.append(ctx, x, layer.input_norm, rows, past);
    const View<T, Device> y = gather(ctx, x, wanted);
    if (wanted.empty()) return y;
    const nn::SelectedRows<Device> selected(rows, wanted);
    layer.attention.attend(ctx, y, layer.input_norm, selected.rows(), past);
    layer.mlp.add_to(ctx, y, layer.post_attention_norm);
    return y;
  }

  void embed(Context<Device>& ctx, View<T, Device> x, const Batch<T, Device>& batch) const {
    if (batch.embeddings.empty()) {
      ops::embedding(ctx, x, weights_.embedding, batch.ids);
    } else {
      const std::int64_t at_once = batch.embeddings.contiguous() ? x.rows() : 1;
      for (std::int64_t i = 0; i < x.rows(); i += at_once) {
        copy(Device{}, x.row(i), Device{}, batch.embeddings.row(i),
             static_cast<std::size_t>(at_once * shape_.hidden) * sizeof(T));
      }
    }
  }
  /// Whether the outputs are all rows in their order.
  static bool wants_every_row(const Batch<T, Device>& batch) {
    if (static_cast<std::int64_t>(batch.outputs.size()) != batch.rows()) return false;
    for (std::size_t i = 0; i < batch.outputs.size(); ++i) {
      if (batch.outputs[i] != static_cast<std::int32_t>(i)) return false;
    }
    return true;
  }
  /// x[rows[i]]: an embedding whose table is x.
  static View<T, Device> gather(Context<Device>& ctx, View<T, Device> x,
                                std::span<const std::int32_t> rows) {
    const auto out = ctx.workspace().template take<T>({std::ssize(rows), x.columns()});
    const Weight<Device> table{dtype_of<T>, x.rows(), x.columns(),
                               reinterpret_cast<const std::byte*>(x.data()), nullptr};
    if (!rows.empty()) ops::embedding(ctx, out, table, rows);
    return out;
  }
  static Tensor<T, Device> clone(View<T, Device> x) {
    Tensor<T, Device> result(x.shape());
    copy(Device{}, result.data(), Device{}, x.data(),
         static_cast<std::size_t>(x.elements()) * sizeof(T));
    return result;
  }

  struct Rotary {
    std::vector<RopeTable<Device>> tables;
    std::vector<nn::RotaryRun<Device>> runs;
  };
  /// One table for all rows; the dynamic scaling needs one per sequence.
  Rotary rotary_runs(const Batch<T, Device>& batch) const {
    Rotary rotary;
    if (shape_.rope_scaling.kind != RopeScaling::Kind::dynamic) {
      rotary.runs.push_back({0, std::ssize(batch.positions), &table_});
      return rotary;
    }
    for_each_run(batch.slots, [&](std::int64_t begin, std::int64_t count) {
      const auto positions =
          batch.positions.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
      const std::int32_t longest = *std::max_element(positions.begin(), positions.end());
      rotary.tables.push_back(rope_table(std::int64_t{longest} + 1));
      rotary.runs.push_back({begin, count, nullptr});
    });
    for (std::size_t i = 0; i < rotary.runs.size(); ++i) rotary.runs[i].table = &rotary.tables[i];
    return rotary;
  }
  RopeTable<Device> rope_table(std::int64_t length) const {
    return RopeTable<Device>(
        inverse_frequencies(shape_.head_dim, shape_.rope_base, shape_.rope_scaling, length));
  }
  template <class F>
  static void for_each_run(std::span<const std::int32_t> slots, F&& f) {
    const auto rows = static_cast<std::int64_t>(slots.size());
    for (std::int64_t begin = 0, end = 0; begin < rows; begin = end) {
      while (end < rows &&
             slots[static_cast<std::size_t>(end)] == slots[static_cast<std::size_t>(begin)]) {
        ++end;
      }
      f(begin, end - begin);
    }
  }

  bool run_hook(Context<Device>& ctx, View<T, Device> hidden, const Batch<T, Device>& batch,
                KvCache<Device>& cache) const {
    const DecodeHook* hook = ctx.decode_hook();
    if (hook == nullptr || !batch.embeddings.empty() || !wants_every_row(batch)) return false;
    if (!one_row_each(batch.slots)) return false;
    if (shape_.rope_scaling.kind == RopeScaling::Kind::dynamic) return false;
    const DecodeStep step{batch.ids.data(),   batch.positions.data(),
                          batch.slots.data(), batch.rows(),
                          dtype_of<T>,        hidden.data()};
    return hook->run(hook->self, this, &cache, step);
  }

  LlamaShape shape_;
  LlamaWeights<Device> weights_;
  RopeTable<Device> table_;
};

/// The model as most programs use it: 32-bit activations on the CPU.
using CpuModel = LlamaModel<CpuConfig>;

#if ZIYA_WITH_CUDA
/// On an NVIDIA GPU: 32-bit activations follow the CPU's closely; 16-bit ones are what the tensor
/// cores are fast with, for weights of the same type.
struct CudaConfig {
  using Device = Cuda;
  using Compute = float;
};
struct CudaHalfConfig {
  using Device = Cuda;
  using Compute = Half;
};
struct CudaBFloat16Config {
  using Device = Cuda;
  using Compute = BFloat16;
};
using CudaModel = LlamaModel<CudaConfig>;
#endif

template <class Config>
void LlamaModel<Config>::forward(Context<Device>& ctx, View<T, Device> hidden,
                                 const Batch<T, Device>& batch, KvCache<Device>& cache) const {
  check_batch(batch, hidden, shape_.hidden);
  if (run_hook(ctx, hidden, batch, cache)) return;
  run_prepared(ctx, hidden, batch, cache, cache.prepare(batch.slots));
  cache.commit();
}

template <class Config>
void LlamaModel<Config>::run_prepared(Context<Device>& ctx, View<T, Device> hidden,
                                      const Batch<T, Device>& batch, const KvCache<Device>& cache,
                                      const typename KvCache<Device>::Step& step) const {
  Rows rows;
  rows.positions = batch.positions;
  rows.slots = batch.slots;
  rows.indices = step.indices;
  rows.visible = step.visible;
  run(ctx, hidden, batch, rows, &cache, nullptr);
}

template <class Config>
void LlamaModel<Config>::run_layers(Context<Device>& ctx, View<T, Device> x,
                                    const Batch<T, Device>& batch, const KvCache<Device>& cache,
                                    const typename KvCache<Device>::Step& step) const {
  typename Workspace<Device>::Scope scope(ctx.workspace());
  const Rotary rotary = rotary_runs(batch);
  Rows rows;
  rows.positions = batch.positions;
  rows.slots = batch.slots;
  rows.indices = step.indices;
  rows.visible = step.visible;
  rows.rotary = rotary.runs;
  (void)through_layers(ctx, x, rows, nullptr, &cache, nullptr);
}

template <class Config>
void LlamaModel<Config>::forward(Context<Device>& ctx, View<T, Device> hidden,
                                 const Batch<T, Device>& batch,
                                 LlamaSaved<T, Device>* saved) const {
  check_batch(batch, hidden, shape_.hidden);
  std::vector<Segment> segments;
  for_each_run(batch.slots, [&](std::int64_t begin, std::int64_t count) {
    segments.push_back({begin, count, begin, count});
  });
  Rows rows;
  rows.positions = batch.positions;
  rows.segments = segments;
  run(ctx, hidden, batch, rows, nullptr, saved);
}

template <class Config>
void LlamaModel<Config>::logits(Context<Device>& ctx, View<float, Device> logits,
                                In<T, Device> hidden) const {
  if constexpr (std::is_same_v<T, float>) {
    weights_.head.forward(ctx, logits, hidden);
  } else if (!weights_.head.lora && weights_.head.bias.empty()) {
    ops::matmul(ctx, logits, hidden, weights_.head.weight);
  } else {  // what follows the product is in 16 bits, and so is the sum
    typename Workspace<Device>::Scope scope(ctx.workspace());
    const auto narrow = ctx.workspace().template take<T>(logits.shape());
    weights_.head.forward(ctx, narrow, hidden);
    std::vector<std::int32_t> rows(static_cast<std::size_t>(logits.rows()));
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::int32_t>(i);
    const Weight<Device> table{dtype_of<T>, narrow.rows(), narrow.columns(),
                               reinterpret_cast<const std::byte*>(narrow.data()), nullptr};
    ops::embedding(ctx, logits, table, rows);
  }
}

template <class Config>
LlamaModel<Config> LlamaModel<Config>::load(std::shared_ptr<const TensorSource> source,
                                            LlamaShape shape, const LoadOptions& options) {
  const bool float8 = !std::is_same_v<Device, Cpu> && options.dtype == DType::f8_e4m3;
  LoadOptions on_host = options;
  if (float8) on_host.dtype.reset();
  LlamaWeights<Cpu> weights = load_llama_weights(source, shape, on_host);
  if constexpr (std::is_same_v<Device, Cpu>) {
    return LlamaModel(shape, std::move(weights));
  } else {
    return LlamaModel(shape,
                      weights_on<Device>(weights, options.progress, reads_of(*source), float8));
  }
}

#if ZIYA_COMPILED
extern template class LlamaModel<CpuConfig>;
#endif

ZIYA_NAMESPACE_END
