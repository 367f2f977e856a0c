// SPDX-License-Identifier: Apache-2.0
// From named tensors of a checkpoint to the layers of a model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/gguf_names.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/llama_names.hpp"
#include "ziya/model/llama_shape.hpp"
#include "ziya/model/model_kind.hpp"
#include "ziya/nn/attention.hpp"
#include "ziya/nn/mlp.hpp"
#include "ziya/nn/norm.hpp"
#include "ziya/ops/quantize.hpp"

ZIYA_NAMESPACE_BEGIN

template <class Device>
struct LlamaLayer {
  nn::RmsNorm<Device> input_norm;
  nn::Attention<Device> attention;
  nn::RmsNorm<Device> post_attention_norm;
  nn::Mlp<Device> mlp;
};

template <class Device>
struct LlamaWeights {
  Weight<Device> embedding;  ///< (vocabulary, hidden)
  std::vector<LlamaLayer<Device>> layers;
  nn::RmsNorm<Device> final_norm;
  nn::Linear<Device> head;  ///< (vocabulary, hidden); the embedding's own bytes when tied

  /// f(name, weight) for every parameter, with Hugging Face's names.
  template <class F>
  void visit(F&& f) const {
    f(std::string(llama_names::embedding), embedding);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto layer = static_cast<std::int64_t>(i);
      layers[i].input_norm.visit(llama_names::of_layer(layer, "input_layernorm"), f);
      layers[i].attention.visit(llama_names::of_layer(layer, "self_attn"), f);
      layers[i].post_attention_norm.visit(llama_names::of_layer(layer, "post_attention_layernorm"),
                                          f);
      layers[i].mlp.visit(llama_names::of_layer(layer, "mlp"), f);
    }
    final_norm.visit("model.norm", f);
    if (head.weight.data != embedding.data) head.visit("lm_head", f);
  }
};

/// A layer of the shape's sizes. Its parts are made, in the order in which a token meets them, by
/// norm(name) and linear(name, out, in, with_bias); names are Hugging Face's within the layer.
template <class Device, class Norm, class Linear>
LlamaLayer<Device> make_layer(const LlamaShape& shape, const Norm& norm, const Linear& linear) {
  const std::int64_t queries = shape.query_heads * shape.head_dim;
  const std::int64_t keys = shape.kv_heads * shape.head_dim;
  LlamaLayer<Device> layer;
  layer.input_norm = norm("input_layernorm");
  layer.attention.query_heads = shape.query_heads;
  layer.attention.kv_heads = shape.kv_heads;
  layer.attention.head_dim = shape.head_dim;
  layer.attention.pairing = shape.rope_pairing;
  layer.attention.q = linear("self_attn.q_proj", queries, shape.hidden, shape.attention_bias);
  layer.attention.k = linear("self_attn.k_proj", keys, shape.hidden, shape.attention_bias);
  layer.attention.v = linear("self_attn.v_proj", keys, shape.hidden, shape.attention_bias);
  layer.attention.o = linear("self_attn.o_proj", shape.hidden, queries, shape.attention_bias);
  layer.post_attention_norm = norm("post_attention_layernorm");
  layer.mlp.gate = linear("mlp.gate_proj", shape.intermediate, shape.hidden, shape.mlp_bias);
  layer.mlp.up = linear("mlp.up_proj", shape.intermediate, shape.hidden, shape.mlp_bias);
  layer.mlp.down = linear("mlp.down_proj", shape.hidden, shape.intermediate, shape.mlp_bias);
  return layer;
}

/// Reads the tensors of a checkpoint, or of any other source, checking each against the shape that
/// config.json promises.
class LlamaLoader {
 public:
  /// @param dtype another type than the stored one makes a copy of every matrix; i8: integers with
  /// one scale per row
  LlamaLoader(std::shared_ptr<const TensorSource> source, const LlamaShape& shape,
              std::optional<DType> dtype = std::nullopt)
      : source_(std::move(source)), shape_(shape), dtype_(dtype) {
    for (std::size_t i = 0; i < source_->tensors().size(); ++i) {
      indices_.emplace(source_->tensors()[i].name, i);
    }
  }
  LlamaLoader(const Checkpoint& checkpoint, const LlamaShape& shape,
              std::optional<DType> dtype = std::nullopt)
      : LlamaLoader(std::make_shared<const CheckpointSource>(checkpoint), shape, dtype) {}

  /// Matrices stay where they are mapped; norms and biases become float.
  /// @throws ConfigError when tensors are missing, superfluous or of another shape than
  /// config.json says; FormatError for a delta, and for types that no kernel reads
  LlamaWeights<Cpu> load() const {
    refuse_delta();
    refuse_unexpected();
    refuse_other_head();
    LlamaWeights<Cpu> weights;
    weights.embedding = embedding();
    for (std::int64_t i = 0; i < shape_.layers; ++i) weights.layers.push_back(layer(i));
    weights.final_norm = final_norm();
    weights.head.weight = shape_.tied_head ? weights.embedding : head();
    return weights;
  }

  // Parts of load(), for going through a model one layer at a time; they throw the same.
  Weight<Cpu> embedding() const {
    return matrix(llama_names::embedding, shape_.vocabulary, shape_.hidden);
  }
  Weight<Cpu> head() const {
    return matrix(shape_.tied_head ? llama_names::embedding : llama_names::head, shape_.vocabulary,
                  shape_.hidden);
  }
  nn::RmsNorm<Cpu> final_norm() const { return norm(std::string(llama_names::final_norm)); }
  LlamaLayer<Cpu> layer(std::int64_t index) const {
    return make_layer<Cpu>(
        shape_,
        [&](const char* part) { return norm(llama_names::of_layer(index, part) + ".weight"); },
        [&](const char* part, std::int64_t out, std::int64_t in, bool bias) {
          return linear(llama_names::of_layer(index, part), out, in, bias);
        });
  }

 private:
  /// What messages begin with: where the model lies, if it lies somewhere as it is.
  std::string model() const {
    const auto* files = dynamic_cast<const CheckpointSource*>(source_.get());
    return (files == nullptr ? "model" : utf8_from_path(files->checkpoint().path())) + ": ";
  }

  nn::Linear<Cpu> linear(const std::string& name, std::int64_t out, std::int64_t in,
                         bool bias) const {
    nn::Linear<Cpu> result;
    result.weight = matrix(name + ".weight", out, in);
    if (bias) result.bias = vector(name + ".bias", out);
    return result;
  }
  nn::RmsNorm<Cpu> norm(const std::string& name) const {
    return {vector(name, shape_.hidden), static_cast<float>(shape_.rms_eps)};
  }

  MappedTensor mapped(std::string_view name, const Shape& expected) const {
    const auto found = indices_.find(name);
    if (found == indices_.end()) {
      throw ConfigError("ZIYA-431", model() + "tensor " + std::string(name) + " is missing");
    }
    const TensorSpec& tensor = source_->tensors()[found->second];
    if (tensor.shape != expected) {
      const std::string place = source_->place(found->second);
      throw ConfigError("ZIYA-432", model() + "tensor " + std::string(name) +
                                        (place.empty() ? "" : " in " + place) + " is " +
                                        tensor.shape.to_string() + ", config.json asks for " +
                                        expected.to_string());
    }
    const bool quantised = is_quantised(tensor.dtype) && expected.rank() == 2;
    if (!is_plain_float(tensor.dtype) && !quantised) {
      throw FormatError("ZIYA-433", model() + "tensor " + std::string(name) + " is stored as " +
                                        std::string(ziya::name(tensor.dtype)) +
                                        ", expected f32, f16 or bf16" +
                                        (expected.rank() == 2 ? " or a quantised type" : ""));
    }
    const std::int64_t block = info(tensor.dtype).block_elements;
    if (expected[expected.rank() - 1] % block != 0) {
      throw FormatError("ZIYA-433", "model: rows of tensor " + std::string(name) + " are " +
                                        std::to_string(expected[expected.rank() - 1]) +
                                        " wide, which blocks of " + std::to_string(block) + " (" +
                                        std::string(ziya::name(tensor.dtype)) + ") do not divide");
    }
    return source_->map(found->second);
  }

  Weight<Cpu> matrix(std::string_view name, std::int64_t rows, std::int64_t columns) const {
    MappedTensor tensor = mapped(name, Shape{rows, columns});
    Weight<Cpu> weight{tensor.dtype, rows, columns, tensor.data, std::move(tensor.owner)};
    if (!dtype_ || *dtype_ == weight.dtype) return weight;
    if (!context_) context_ = std::make_unique<Context<Cpu>>();
    return ops::converted(*context_, *dtype_, weight);
  }

  Tensor<float> vector(const std::string& name, std::int64_t size) const {
    const MappedTensor tensor = mapped(name, Shape{size});
    Tensor<float> result(Shape{size});
    quantize::dequantise_row(tensor.dtype, tensor.data, result.data(), size);
    return result;
  }

  void refuse_delta() const {
    if (is_delta(norm_statistics(*source_))) {
      throw FormatError(
          "ZIYA-434",
          model() +
              "the norm weights are near zero, so this is a delta, not a model; "
              "merge it with its base first: ziya merge-delta --base BASE --delta DELTA "
              "--target TARGET");
    }
  }

  /// A stored head that is not the embedding would be silently ignored where config.json ties them.
  /// Sixteen rows tell.
  void refuse_other_head() const {
    const auto table = indices_.find(std::string(llama_names::embedding));
    const auto head = indices_.find(std::string(llama_names::head));
    if (!shape_.tied_head || table == indices_.end() || head == indices_.end()) return;
    const TensorSpec &a = source_->tensors()[table->second], &b = source_->tensors()[head->second];
    bool same = a.dtype == b.dtype && a.shape == b.shape && a.shape.rank() == 2;
    const std::int64_t rows = same ? a.shape[0] : 0, row_bytes = same ? a.bytes() / rows : 0;
    std::vector<std::byte> of_table(static_cast<std::size_t>(row_bytes)), of_head = of_table;
    for (std::int64_t i = 0; same && i < std::min<std::int64_t>(rows, 16); ++i) {
      const std::int64_t row = (rows - 1) * i / 15;
      source_->read(table->second, row * a.shape[1], of_table);
      source_->read(head->second, row * a.shape[1], of_head);
      same = of_table == of_head;
    }
    if (same) return;
    throw ConfigError("ZIYA-436",
                      model() +
                          "config.json says tie_word_embeddings, but lm_head.weight is stored "
                          "and is not the embedding; one of them is wrong");
  }

  /// Tensors inside the layers that config.json knows nothing of would be silently ignored.
  void refuse_unexpected() const {
    std::vector<std::string> parts{"input_layernorm.weight",  "post_attention_layernorm.weight",
                                   "self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                   "self_attn.v_proj.weight", "self_attn.o_proj.weight",
                                   "mlp.gate_proj.weight",    "mlp.up_proj.weight",
                                   "mlp.down_proj.weight"};
    if (shape_.attention_bias) {
      for (const char* part : {"q", "k", "v", "o"}) {
        parts.push_back(std::string("self_attn.") + part + "_proj.bias");
      }
    }
    if (shape_.mlp_bias) {
      for (const char* part : {"gate", "up", "down"}) {
        parts.push_back(std::string("mlp.") + part + "_proj.bias");
      }
    }
    const auto* files = dynamic_cast<const CheckpointSource*>(source_.get());
    const bool gguf_names =
        files != nullptr && files->checkpoint().format() == CheckpointFormat::gguf;
    for (const TensorSpec& tensor : source_->tensors()) {
      if (gguf_names && !gguf::gguf_name(tensor.name)) {
        throw ConfigError("ZIYA-435", model() + "tensor " + tensor.name +
                                          " has no place in a model of the LLaMA architecture");
      }
      if (!tensor.name.starts_with(llama_names::layers)) continue;
      if (llama_names::is_rotary_cache(tensor.name)) continue;
      if (!expected(tensor.name, parts)) {
        throw ConfigError("ZIYA-435",
                          model() + "tensor " + tensor.name +
                              " has no place in the model that config.json describes (" +
                              std::to_string(shape_.layers) + " layers" +
                              (shape_.attention_bias ? "" : ", no attention_bias") +
                              (shape_.mlp_bias ? ")" : ", no mlp_bias)"));
      }
    }
  }
  bool expected(std::string_view name, const std::vector<std::string>& parts) const {
    const std::string_view rest = name.substr(llama_names::layers.size());
    const std::size_t dot = rest.find('.');
    if (dot == std::string_view::npos || dot == 0 || dot > 9) return false;
    std::int64_t layer = 0;
    for (const char c : rest.substr(0, dot)) {
      if (c < '0' || c > '9') return false;
      layer = layer * 10 + (c - '0');
    }
    if (layer >= shape_.layers) return false;
    for (const std::string& part : parts) {
      if (rest.substr(dot + 1) == part) return true;
    }
    return false;
  }

  std::shared_ptr<const TensorSource> source_;
  std::map<std::string, std::size_t, std::less<>> indices_;  // by name
  LlamaShape shape_;
  std::optional<DType> dtype_;
  mutable std::unique_ptr<Context<Cpu>> context_;  // for conversions, made when there is one
};

ZIYA_NAMESPACE_END
