// SPDX-License-Identifier: Apache-2.0
// What a set of tensors is: a model, a delta, an adapter, a reward model, a part of Fengshen's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/io/tensor_sample.hpp"
#include "ziya/io/tensor_source.hpp"

ZIYA_NAMESPACE_BEGIN

enum class ModelKind { model, delta, adapter, reward, fengshen };

constexpr std::string_view name(ModelKind kind) {
  switch (kind) {
    case ModelKind::model:
      return "model";
    case ModelKind::delta:
      return "delta";
    case ModelKind::adapter:
      return "adapter";
    case ModelKind::reward:
      return "reward model";
    case ModelKind::fengshen:
      return "Fengshen part";
  }
  return "";
}

/// Where a norm's weights are those of differences; measured as docs/merging.md says.
struct KindLimits {
  double norm_median = 0.15;    ///< median |weight| below: a delta
  double negative_share = 0.2;  ///< share of negative weights above: a delta
};

/// Of the weights of all norms: medians over the tensors.
struct NormStatistics {
  std::size_t tensors = 0;
  double median_magnitude = 0;  ///< of the tensors' median |weight|
  double negative_share = 0;    ///< of the tensors' share of weights below 0
};

/// @throws IoError, FormatError
inline NormStatistics norm_statistics(const TensorSource& source) {
  std::vector<double> magnitudes, shares;
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    const TensorSpec& tensor = source.tensors()[i];
    if (!(tensor.name.ends_with("norm.weight") || tensor.name.ends_with("layernorm.scale")) ||
        tensor.shape.rank() != 1 || tensor.shape.elements() == 0) {
      continue;
    }
    std::vector<double> weights;
    double negative = 0;
    for (const float w :
         read_floats(source, i, 0, std::min<std::int64_t>(tensor.shape.elements(), 65536))) {
      weights.push_back(std::abs(static_cast<double>(w)));
      negative += w < 0;
    }
    if (weights.empty()) continue;
    shares.push_back(negative / static_cast<double>(weights.size()));
    magnitudes.push_back(median(std::move(weights)));
  }
  return {magnitudes.size(), median(magnitudes), median(shares)};
}

/// Trained norms are positive and of order 1, in single layers of LLaMA down to 0.03; differences
/// have both signs and are small. Both are judged by the median over all layers, so a few odd
/// tensors decide nothing.
inline bool is_delta(const NormStatistics& norms, const KindLimits& limits = {}) {
  return norms.tensors > 0 && (norms.median_magnitude < limits.norm_median ||
                               norms.negative_share > limits.negative_share);
}

/// Names decide where they can; numbers tell a delta from a model. @throws IoError, FormatError
inline ModelKind model_kind(const TensorSource& source, const KindLimits& limits = {}) {
  bool reward = false;
  for (const TensorSpec& tensor : source.tensors()) {
    const std::string_view name = tensor.name;
    if (name.find(".lora_A.") != name.npos || name.find(".lora_B.") != name.npos) {
      return ModelKind::adapter;
    }
    if (name.find("attention.query_key_value") != name.npos ||
        name.find("embed_in.word_embeddings") != name.npos) {
      return ModelKind::fengshen;
    }
    reward = reward || name == "value_head.weight" || name == "v_head.summary.weight" ||
             name == "score.weight";
  }
  if (is_delta(norm_statistics(source), limits)) return ModelKind::delta;
  return reward ? ModelKind::reward : ModelKind::model;
}

ZIYA_NAMESPACE_END
