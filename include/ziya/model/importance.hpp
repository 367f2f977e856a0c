// SPDX-License-Identifier: Apache-2.0
// How strongly each input of each matrix is driven by a text: what quantisation should weigh.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/importance.hpp"
#include "ziya/model/llama.hpp"
#include "ziya/model/llama_names.hpp"

ZIYA_NAMESPACE_BEGIN

struct CalibrationOptions {
  std::int64_t context = 512;  ///< tokens that are run at once
  std::int32_t bos = -1;       ///< put in place of each window's first token; negative: not
  std::function<void(std::int64_t done, std::int64_t tokens)> progress{};
  const std::atomic<bool>* cancel = nullptr;
};

namespace detail {

/// Σ x² per column, and over how many rows.
struct SquareSums {
  std::vector<double> sums;
  std::int64_t rows = 0;

  void add(View<const float> x) {
    sums.resize(static_cast<std::size_t>(x.columns()));
    rows += x.rows();
    for (std::int64_t t = 0; t < x.rows(); ++t) {
      const float* row = x.row(t);
      for (std::size_t i = 0; i < sums.size(); ++i) {
        sums[i] += static_cast<double>(row[i]) * static_cast<double>(row[i]);
      }
    }
  }
};

}  // namespace detail

/// E[x_i²] over the tokens of a text, for the input x of every linear layer. The error that a
/// matrix W with errors D adds to W x is Σ_r (Σ_i D_ri x_i)²; where inputs are uncorrelated its
/// mean is Σ_r Σ_i D_ri² E[x_i²], which is what quantisation with importance makes small.
/// Memory is that of one layer's activations for `context` tokens.
/// @throws ArgumentError ZIYA-451 for an empty text; Error ZIYA-452 when cancelled
template <class Config>
Importance input_mean_squares(Context<Cpu>& ctx, const LlamaModel<Config>& model,
                              std::span<const std::int32_t> ids,
                              const CalibrationOptions& options = {}) {
  static_assert(std::is_same_v<typename Config::Device, Cpu>);
  if (ids.empty() || options.context < 1) {
    throw ArgumentError("ZIYA-451", "calibration: the text has no tokens");
  }
  std::map<std::string, detail::SquareSums> sums;
  const auto& weights = model.weights();
  LlamaSaved<float, Cpu> saved;
  saved.consume = [&](std::size_t index, const LlamaSaved<float, Cpu>::Layer& kept) {
    const LlamaLayer<Cpu>& layer = weights.layers[index];
    const auto add = [&](std::initializer_list<std::string_view> parts, View<const float> x) {
      for (const std::string_view part : parts) {
        sums[llama_names::of_layer(static_cast<std::int64_t>(index), part) + ".weight"].add(x);
      }
    };
    Tensor<float> x(kept.input.shape());
    layer.input_norm.forward(ctx, x.view(), kept.input.view());
    add({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, x.view());
    const auto heads = kept.attention.heads.view();
    add({"self_attn.o_proj"}, heads.reshape(Shape{heads.rows(), heads.columns()}));
    layer.post_attention_norm.forward(ctx, x.view(), kept.middle.view());
    add({"mlp.gate_proj", "mlp.up_proj"}, x.view());
    Tensor<float> product(kept.mlp.gate.shape());
    ops::silu_mul(ctx, product.view(), kept.mlp.gate.view(), kept.mlp.up.view());
    add({"mlp.down_proj"}, product.view());
  };
  const auto count = static_cast<std::int64_t>(ids.size());
  for (std::int64_t begin = 0; begin < count; begin += options.context) {
    if (options.cancel != nullptr && options.cancel->load(std::memory_order_relaxed)) {
      throw Error("ZIYA-452", "calibration: cancelled");
    }
    const std::int64_t end = std::min(begin + options.context, count);
    std::vector<std::int32_t> input(ids.begin() + begin, ids.begin() + end);
    if (options.bos >= 0) input.front() = options.bos;
    std::vector<std::int32_t> positions(input.size());
    for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int32_t>(i);
    const std::vector<std::int32_t> slots(input.size(), 0);
    Batch<float, Cpu> batch;
    batch.ids = input;
    batch.positions = positions;
    batch.slots = slots;
    batch.outputs = positions;
    Tensor<float> hidden(Shape{end - begin, model.shape().hidden});
    model.forward(ctx, hidden.view(), batch, &saved);
    sums[std::string(model.shape().tied_head ? llama_names::embedding : llama_names::head)].add(
        hidden.view());
    if (options.progress) options.progress(end, count);
  }
  Importance importance;
  for (const auto& [name, sum] : sums) {
    std::vector<float>& means = importance[name];
    for (const double square : sum.sums) {
      means.push_back(static_cast<float>(square / static_cast<double>(sum.rows)));
    }
  }
  return importance;
}

ZIYA_NAMESPACE_END
