// SPDX-License-Identifier: Apache-2.0
// Whether written weights are a language model: the perplexity of a short text, layer by layer.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/merge_check.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/llama.hpp"
#include "ziya/model/llama_weights.hpp"
#include "ziya/ops/cross_entropy.hpp"
#include "ziya/ops/embedding.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

/// Three poems of the Tang dynasty and a verse of the King James Bible: what every model of these
/// languages has read, ziya-tiny too, and nobody owns.
inline constexpr std::string_view forward_check_text =
    "《相思》\n作者：王维\n红豆生南国，春来发几枝。\n愿君多采撷，此物最相思。\n"
    "《静夜思》\n作者：李白\n床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"
    "《鹿柴》\n作者：王维\n空山不见人，但闻人语响。\n返景入深林，复照青苔上。\n"
    "And God said, Let there be light: and there was light.";

struct ForwardCheck {
  std::int64_t tokens = 0;  ///< that were predicted
  double perplexity =
      0;  ///< exp of the mean negative log-likelihood; infinite when it is no number
};

/// The ids of forward_check_text, bos in front, at most 128 with it.
inline std::vector<std::int32_t> forward_check_ids(const Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids = tokenizer.encode(forward_check_text);
  constexpr std::size_t length = 128;
  if (ids.size() > length) ids.resize(length);
  return ids;
}

/// exp(−1/n Σ log p(ids[i + 1] | ids[0 … i])). One layer is loaded at a time: of sources that are
/// computed or converted, no more than one layer and one matrix of the head are in memory.
/// @throws ConfigError, FormatError, IoError as LlamaLoader; ArgumentError ZIYA-521 for less than
/// two ids, ZIYA-114 for ids outside the vocabulary
inline ForwardCheck streamed_perplexity(Context<Cpu>& ctx,
                                        const std::shared_ptr<const TensorSource>& source,
                                        LlamaShape shape, std::span<const std::int32_t> ids) {
  if (ids.size() < 2) throw ArgumentError("ZIYA-521", "perplexity: a text of less than two tokens");
  if (shape.vocabulary == unknown_vocabulary) {
    const std::size_t table = find_tensor(*source, llama_names::embedding);
    if (table < source->tensors().size()) shape.vocabulary = source->tensors()[table].shape[0];
  }
  const LlamaLoader loader(source, shape);
  const auto rows = static_cast<std::int64_t>(ids.size());
  Tensor<float> hidden(Shape{rows, shape.hidden});
  ops::embedding(ctx, hidden.view(), loader.embedding(), ids);

  std::vector<std::int32_t> positions, slots(ids.size(), 0);
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(rows); ++i) positions.push_back(i);
  LlamaShape one = shape;
  one.layers = 1;
  Tensor<float> normalised(Shape{rows, shape.hidden});
  for (std::int64_t i = 0; i < shape.layers; ++i) {
    LlamaWeights<Cpu> weights;
    weights.layers.push_back(loader.layer(i));
    weights.final_norm = loader.final_norm();
    const CpuModel model(one, std::move(weights));
    Batch<float, Cpu> batch;
    batch.embeddings = hidden.view();
    batch.positions = positions;
    batch.slots = slots;
    batch.outputs = positions;
    LlamaSaved<float, Cpu> saved;
    model.forward(ctx, normalised.view(), batch, &saved);
    hidden = std::move(saved.output);
  }

  // A few rows at a time: the logits of all would be as large as the rest together.
  const nn::Linear<Cpu> head{loader.head(), {}};
  constexpr std::int64_t step = 16;
  double sum = 0;
  Tensor<float> logits(Shape{step, shape.vocabulary}), losses(Shape{step});
  for (std::int64_t first = 0; first + 1 < rows; first += step) {
    const std::int64_t count = std::min(step, rows - 1 - first);
    const auto some = logits.view().row_range(0, count);
    const View<float, Cpu> loss(losses.data(), Shape{count});
    head.forward(ctx, some, View<const float, Cpu>(normalised.view().row_range(first, count)));
    ops::cross_entropy(
        ctx, loss, View<const float, Cpu>(some),
        ids.subspan(static_cast<std::size_t>(first + 1), static_cast<std::size_t>(count)));
    for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(losses.data()[i]);
  }
  const double perplexity = std::exp(sum / static_cast<double>(rows - 1));
  return {rows - 1,
          std::isfinite(perplexity) ? perplexity : std::numeric_limits<double>::infinity()};
}

/// A finding where the perplexity is above `limit`. @param limit docs/merging.md says how to choose
/// it
inline std::vector<MergeFinding> perplexity_finding(const ForwardCheck& check, double limit) {
  if (check.perplexity <= limit) return {};
  return {{"ZIYA-655", "the result does not know its languages: perplexity of a text of " +
                           std::to_string(check.tokens) + " tokens " +
                           detail::fixed(check.perplexity) + ", expected at most " +
                           detail::fixed(limit)}};
}

ZIYA_NAMESPACE_END
