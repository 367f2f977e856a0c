// SPDX-License-Identifier: Apache-2.0
// The weights of a model copied to another device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/model/llama_weights.hpp"
#include "ziya/nn/linear.hpp"
#include "ziya/nn/lora.hpp"
#include "ziya/nn/norm.hpp"
#include "ziya/ops/quantised_on.hpp"

ZIYA_NAMESPACE_BEGIN

/// @throws ArgumentError for a type that only the CPU reads
template <class Device>
Weight<Device> weight_on(const Weight<Cpu>& weight) {
  if constexpr (!std::is_same_v<Device, Cpu>) {
    if (is_quantised(weight.dtype)) return ops::quantised_on<Device>(weight);
  }
  if (!is_plain_float(weight.dtype)) {
    throw ArgumentError("ZIYA-153", "model: weights of type " + std::string(name(weight.dtype)) +
                                        " run on the CPU only; load them as q8_0 or f16");
  }
  auto memory = std::make_shared<Tensor<std::byte, Device>>(Shape{weight.bytes()});
  copy(Device{}, memory->data(), Cpu{}, weight.data, static_cast<std::size_t>(weight.bytes()));
  const std::byte* data = memory->data();
  return {weight.dtype, weight.rows, weight.columns, data, std::move(memory)};
}

/// What `weight` takes on a device.
template <class Device>
std::int64_t bytes_on(const Weight<Cpu>& weight) {
#if ZIYA_WITH_CUDA
  if constexpr (std::is_same_v<Device, Cuda>) return ops::bytes_on_gpu(weight);
#endif
  return weight.bytes();
}

template <class Device>
nn::RmsNorm<Device> norm_on(const nn::RmsNorm<Cpu>& norm) {
  return {norm.weight.template to<Device>(), norm.eps};
}

template <class Device>
nn::Linear<Device> linear_on(const nn::Linear<Cpu>& linear) {
  nn::Linear<Device> result;
  result.weight = weight_on<Device>(linear.weight);
  if (!linear.bias.empty()) result.bias = linear.bias.template to<Device>();
  if (linear.lora) {
    result.lora = std::make_shared<const nn::Lora<Device>>(
        nn::Lora<Device>{weight_on<Device>(linear.lora->a), weight_on<Device>(linear.lora->b)});
  }
  result.communicator = linear.communicator;
  result.split = linear.split;
  return result;
}

template <class Device>
LlamaLayer<Device> layer_on(const LlamaLayer<Cpu>& layer) {
  LlamaLayer<Device> moved;
  moved.input_norm = norm_on<Device>(layer.input_norm);
  moved.attention.q = linear_on<Device>(layer.attention.q);
  moved.attention.k = linear_on<Device>(layer.attention.k);
  moved.attention.v = linear_on<Device>(layer.attention.v);
  moved.attention.o = linear_on<Device>(layer.attention.o);
  moved.attention.query_heads = layer.attention.query_heads;
  moved.attention.kv_heads = layer.attention.kv_heads;
  moved.attention.head_dim = layer.attention.head_dim;
  moved.attention.pairing = layer.attention.pairing;
  moved.post_attention_norm = norm_on<Device>(layer.post_attention_norm);
  moved.mlp.gate = linear_on<Device>(layer.mlp.gate);
  moved.mlp.up = linear_on<Device>(layer.mlp.up);
  moved.mlp.down = linear_on<Device>(layer.mlp.down);
  return moved;
}

/// A copy of `weights` on `Device`, in the types they are stored in; a tied head stays one with the
/// embedding.
/// @throws BackendError before anything is copied when they do not fit into its free memory
template <class Device>
LlamaWeights<Device> weights_on(const LlamaWeights<Cpu>& weights) {
  std::int64_t bytes = 0;
  weights.visit(
      [&](const std::string&, const Weight<Cpu>& weight) { bytes += bytes_on<Device>(weight); });
  Memory<Device>::require(static_cast<std::size_t>(bytes), "the weights");

  LlamaWeights<Device> result;
  result.embedding = weight_on<Device>(weights.embedding);
  for (const LlamaLayer<Cpu>& layer : weights.layers) {
    result.layers.push_back(layer_on<Device>(layer));
  }
  result.final_norm = norm_on<Device>(weights.final_norm);
  if (weights.head.weight.data == weights.embedding.data) {
    result.head.weight = result.embedding;
  } else {
    result.head = linear_on<Device>(weights.head);
  }
  return result;
}

ZIYA_NAMESPACE_END
