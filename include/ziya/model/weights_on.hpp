// SPDX-License-Identifier: Apache-2.0
// The weights of a model copied to another device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/staging.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/io/platform.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/llama_names.hpp"
#include "ziya/model/llama_weights.hpp"
#include "ziya/nn/linear.hpp"
#include "ziya/nn/lora.hpp"
#include "ziya/nn/norm.hpp"
#include "ziya/ops/quantised_on.hpp"

ZIYA_NAMESPACE_BEGIN

/// Reads matrices that are mapped from the files of `source`, which outlives it, so that no page
/// has to be mapped.
inline StagedRead reads_of(const TensorSource& source) {
  return {
      [&source](const std::byte* from, std::span<std::byte> out) { source.read_mapped(from, out); },
      platform::prefer_large_pages};
}

/// @param float8 rounded to f8_e4m3 on a GPU   @throws ArgumentError for a type that only the CPU
/// reads; as ops::float8_on
template <class Device>
Weight<Device> weight_on(const Weight<Cpu>& weight, Staging<Device>& staging,
                         [[maybe_unused]] bool float8 = false) {
#if ZIYA_WITH_CUDA
  if constexpr (std::is_same_v<Device, Cuda>) {
    if (float8) return ops::float8_on<Device>(weight, staging);
  }
#endif
  if constexpr (!std::is_same_v<Device, Cpu>) {
    if (is_quantised(weight.dtype)) return ops::quantised_on<Device>(weight, staging);
  }
  if (!is_plain_float(weight.dtype)) {
    throw ArgumentError("ZIYA-153", "model: weights of type " + std::string(name(weight.dtype)) +
                                        " run on the CPU only; load them as q8_0 or f16");
  }
  auto memory = std::make_shared<Tensor<std::byte, Device>>(Shape{weight.bytes()});
  staging.copy(memory->data(), weight.data, static_cast<std::size_t>(weight.bytes()), weight.owner);
  const std::byte* data = memory->data();
  return {weight.dtype, weight.rows, weight.columns, data, std::move(memory)};
}

/// The same of one matrix alone.
template <class Device>
Weight<Device> weight_on(const Weight<Cpu>& weight) {
  Staging<Device> staging;
  Weight<Device> result = weight_on(weight, staging);
  staging.finish();
  return result;
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
Tensor<float, Device> vector_on(const Tensor<float>& vector, Staging<Device>& staging) {
  // Layers may go while their matrices wait.
  const auto values = std::make_shared<const Tensor<float>>(vector.to<Cpu>());
  Tensor<float, Device> result(vector.shape());
  staging.copy(reinterpret_cast<std::byte*>(result.data()),
               reinterpret_cast<const std::byte*>(values->data()),
               static_cast<std::size_t>(vector.elements()) * sizeof(float), values);
  return result;
}

template <class Device>
nn::RmsNorm<Device> norm_on(const nn::RmsNorm<Cpu>& norm, Staging<Device>& staging) {
  return {vector_on(norm.weight, staging), norm.eps};
}

template <class Device>
nn::Linear<Device> linear_on(const nn::Linear<Cpu>& linear, Staging<Device>& staging,
                             bool float8 = false) {
  nn::Linear<Device> result;
  result.weight = weight_on(linear.weight, staging, float8);
  if (!linear.bias.empty()) result.bias = vector_on(linear.bias, staging);
  if (linear.lora) {
    result.lora = std::make_shared<const nn::Lora<Device>>(
        nn::Lora<Device>{weight_on(linear.lora->a, staging), weight_on(linear.lora->b, staging)});
  }
  result.communicator = linear.communicator;
  result.split = linear.split;
  return result;
}

template <class Device>
LlamaLayer<Device> layer_on(const LlamaLayer<Cpu>& layer, Staging<Device>& staging,
                            bool float8 = false) {
  LlamaLayer<Device> moved;
  moved.input_norm = norm_on(layer.input_norm, staging);
  moved.attention.q = linear_on(layer.attention.q, staging, float8);
  moved.attention.k = linear_on(layer.attention.k, staging, float8);
  moved.attention.v = linear_on(layer.attention.v, staging, float8);
  moved.attention.o = linear_on(layer.attention.o, staging, float8);
  moved.attention.query_heads = layer.attention.query_heads;
  moved.attention.kv_heads = layer.attention.kv_heads;
  moved.attention.head_dim = layer.attention.head_dim;
  moved.attention.pairing = layer.attention.pairing;
  moved.post_attention_norm = norm_on(layer.post_attention_norm, staging);
  moved.mlp.gate = linear_on(layer.mlp.gate, staging, float8);
  moved.mlp.up = linear_on(layer.mlp.up, staging, float8);
  moved.mlp.down = linear_on(layer.mlp.down, staging, float8);
  return moved;
}

/// A copy of `weights` on `Device`, in the types they are stored in; a tied head stays one with the
/// embedding.
/// @param float8 matrices of layers, but not embedding, head and adapters, become f8_e4m3
/// @param progress (bytes so far, of all)
/// @param read how the bytes of mapped matrices are read, if not where they are mapped: `reads_of`
/// @throws BackendError before anything is copied when they do not fit into its free memory
template <class Device>
LlamaWeights<Device> weights_on(
    const LlamaWeights<Cpu>& weights,
    const std::function<void(std::int64_t, std::int64_t)>& progress = {},
    const StagedRead& read = {}, bool float8 = false) {
  std::int64_t bytes = 0, total = 0;
  weights.visit([&](const std::string& name, const Weight<Cpu>& weight) {
    bytes += float8 && llama_names::is_layer_matrix(name) ? weight.rows * (weight.columns + 4)
                                            : bytes_on<Device>(weight);
    total += weight.bytes();
  });
  Memory<Device>::require(static_cast<std::size_t>(bytes), "the weights");

  const auto count = [&](std::int64_t done) {
    if (progress) progress(done, total);
  };
  Staging<Device> staging(count, read);
  LlamaWeights<Device> result;
  result.embedding = weight_on(weights.embedding, staging);
  for (const LlamaLayer<Cpu>& layer : weights.layers) {
    result.layers.push_back(layer_on(layer, staging, float8));
  }
  result.final_norm = norm_on(weights.final_norm, staging);
  if (weights.head.weight.data == weights.embedding.data) {
    result.head.weight = result.embedding;
  } else {
    result.head = linear_on(weights.head, staging);
  }
  staging.finish();
  return result;
}

ZIYA_NAMESPACE_END
