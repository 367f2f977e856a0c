// SPDX-License-Identifier: Apache-2.0
// Holds an adapter beside a loaded model, whatever the format of its weights.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/rope_table.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/model/llama_names.hpp"
#include "ziya/model/llama_weights.hpp"
#include "ziya/model/lora_adapter.hpp"
#include "ziya/nn/linear.hpp"
#include "ziya/nn/lora.hpp"

ZIYA_NAMESPACE_BEGIN

namespace detail {

inline Weight<Cpu> weight_of(std::vector<float> values, std::int64_t rows, std::int64_t columns) {
  auto owner = std::make_shared<const std::vector<float>>(std::move(values));
  const auto* data = reinterpret_cast<const std::byte*>(owner->data());
  return {DType::f32, rows, columns, data, std::move(owner)};
}

/// Rows of every head from halves (i, i + d/2) to pairs (2i, 2i + 1), as weights lie in GGUF.
inline std::vector<float> halves_to_pairs(const std::vector<float>& b, std::int64_t columns,
                                          std::int64_t head_dim) {
  std::vector<float> result(b.size());
  const auto rows = static_cast<std::int64_t>(b.size()) / columns;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t within = row % head_dim;
    const std::int64_t from = row - within + within / 2 + within % 2 * (head_dim / 2);
    std::memcpy(result.data() + row * columns, b.data() + from * columns,
                static_cast<std::size_t>(columns) * sizeof(float));
  }
  return result;
}

/// The two updates as one of both ranks: [B₁ B₂] [A₁; A₂].
inline nn::Lora<Cpu> stacked(const nn::Lora<Cpu>& first, const nn::Lora<Cpu>& second) {
  const auto floats = [](const Weight<Cpu>& w) { return reinterpret_cast<const float*>(w.data); };
  const std::int64_t in = first.a.columns, out = first.b.rows;
  const std::int64_t r = first.a.rows, s = second.a.rows;
  std::vector<float> a(floats(first.a), floats(first.a) + r * in);
  a.insert(a.end(), floats(second.a), floats(second.a) + s * in);
  std::vector<float> b;
  for (std::int64_t row = 0; row < out; ++row) {
    b.insert(b.end(), floats(first.b) + row * r, floats(first.b) + (row + 1) * r);
    b.insert(b.end(), floats(second.b) + row * s, floats(second.b) + (row + 1) * s);
  }
  return {weight_of(std::move(a), r + s, in), weight_of(std::move(b), out, r + s)};
}

}  // namespace detail

/// Sets `lora` of the linear layers that the adapter changes, in f32, and replaces embedding and
/// head that it holds whole. Several adapters add up. The model's weights are not copied.
/// @throws ConfigError ZIYA-622 when a shape does not fit or what is changed cannot be changed at
/// run time, FormatError ZIYA-623
inline void attach_lora(LlamaWeights<Cpu>& weights, const LoraAdapter& adapter,
                        const std::string& model = "the model") {
  struct Place {
    nn::Linear<Cpu>* linear = nullptr;
    std::int64_t pair_dim = 0;  // of heads whose rows lie in pairs; 0: rows in Hugging Face's order
  };
  std::map<std::string, std::size_t, std::less<>> by_name;  // layers one after the other, the head
  constexpr const char* parts[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                   "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                   "mlp.down_proj"};
  constexpr std::size_t part_count = std::size(parts);
  for (std::size_t i = 0; i < weights.layers.size() * part_count; ++i) {
    const auto layer = static_cast<std::int64_t>(i / part_count);
    by_name[llama_names::of_layer(layer, parts[i % part_count])] = i;
  }
  by_name["lm_head"] = weights.layers.size() * part_count;
  const auto place_at = [&](std::size_t index) -> Place {
    if (index / part_count == weights.layers.size()) return {&weights.head, 0};
    LlamaLayer<Cpu>& layer = weights.layers[index / part_count];
    nn::Attention<Cpu>& attention = layer.attention;
    nn::Linear<Cpu>* const linears[] = {&attention.q,   &attention.k,    &attention.v,
                                        &attention.o,   &layer.mlp.gate, &layer.mlp.up,
                                        &layer.mlp.down};
    const std::size_t part = index % part_count;
    const bool in_pairs = part < 2 && attention.pairing == RopePairing::interleaved;
    return {linears[part], in_pairs ? attention.head_dim : 0};
  };
  const auto refuse = [&](const std::string& what) {
    throw ConfigError("ZIYA-622", adapter.name() + ": " + what +
                                      " cannot be changed beside a model; merge the adapter first: "
                                      "ziya merge-lora");
  };
  const auto shape_of = [&](const std::string& tensor) -> std::optional<Shape> {
    if (tensor == llama_names::embedding) {
      return Shape{weights.embedding.rows, weights.embedding.columns};
    }
    const auto found = by_name.find(tensor.substr(0, tensor.rfind('.')));
    if (found == by_name.end()) return std::nullopt;
    const nn::Linear<Cpu>& linear = *place_at(found->second).linear;
    if (tensor.ends_with(".weight")) return Shape{linear.out_features(), linear.in_features()};
    if (tensor.ends_with(".bias") && !linear.bias.empty()) return Shape{linear.out_features()};
    return std::nullopt;
  };
  std::vector<std::string> modules;
  for (const auto& [name, place] : by_name) {
    if (name != "lm_head") modules.push_back(name);
  }
  adapter.check_fits(shape_of, modules, model, false);

  for (const auto& [target, stored] : adapter.replacements()) {
    if (target.ends_with(".bias")) {
      const Place place = place_at(by_name.at(target.substr(0, target.rfind('.'))));
      if (place.pair_dim != 0) refuse(target);
      const std::vector<float> values = adapter.floats(stored);
      Tensor<float> bias(Shape{static_cast<std::int64_t>(values.size())});
      std::copy(values.begin(), values.end(), bias.data());
      place.linear->bias = std::move(bias);
      continue;
    }
    if (target != llama_names::embedding && target != llama_names::head) refuse(target);
    MappedTensor tensor = adapter.checkpoint().map(stored);
    if (tensor.dtype == DType::f64) refuse(target + " of f64");
    const Weight<Cpu> whole{tensor.dtype, tensor.shape[0], tensor.shape[1], tensor.data,
                            std::move(tensor.owner)};
    if (target == llama_names::embedding) weights.embedding = whole;
    if (target == llama_names::head) weights.head.weight = whole;
  }
  for (const LoraPair& pair : adapter.pairs()) {
    const auto found = by_name.find(pair.module);
    if (pair.embedding || found == by_name.end()) refuse(pair.module);
    const Place place = place_at(found->second);
    std::vector<float> b = adapter.floats(pair.b);
    for (float& value : b) value = static_cast<float>(static_cast<double>(value) * pair.scale);
    if (place.pair_dim != 0) b = detail::halves_to_pairs(b, pair.rank(), place.pair_dim);
    nn::Lora<Cpu> lora{detail::weight_of(adapter.floats(pair.a), pair.rank(), pair.a_shape[1]),
                       detail::weight_of(std::move(b), pair.b_shape[0], pair.rank())};
    if (place.linear->lora) lora = detail::stacked(*place.linear->lora, lora);
    place.linear->lora = std::make_shared<const nn::Lora<Cpu>>(std::move(lora));
  }
}

ZIYA_NAMESPACE_END
