// SPDX-License-Identifier: Apache-2.0
// A short name for a model's weights, from samples of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/model/llama_shape.hpp"
#include "ziya/model/llama_weights.hpp"

ZIYA_NAMESPACE_BEGIN

/// 16 hexadecimal digits that differ for models of another shape and, for all practical purposes,
/// for other weights: FNV-1a over sizes and 32 stretches of 64 bytes of every stored matrix. Cheap
/// enough for every start; it guards against mistakes, not against somebody who wants a collision.
template <class Device>
std::string sampled_fingerprint(const LlamaShape& shape, const LlamaWeights<Device>& weights) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](const void* data, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) {
      hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
    }
  };
  const auto add_matrix = [&](const Weight<Device>& weight) {
    const std::array<std::int64_t, 3> sizes{weight.rows, weight.columns,
                                            static_cast<std::int64_t>(weight.dtype)};
    add(sizes.data(), sizeof sizes);
    constexpr std::int64_t stretches = 32, length = 64;
    std::array<std::byte, length> bytes;
    const std::int64_t step = std::max(weight.bytes() / stretches, length);
    for (std::int64_t at = 0; at + length <= weight.bytes(); at += step) {
      copy(Cpu{}, bytes.data(), Device{}, weight.data + at, bytes.size());
      add(bytes.data(), bytes.size());
    }
  };
  const std::array<std::int64_t, 7> sizes{shape.hidden,      shape.layers,   shape.query_heads,
                                          shape.kv_heads,    shape.head_dim, shape.vocabulary,
                                          shape.intermediate};
  add(sizes.data(), sizeof sizes);
  add_matrix(weights.embedding);
  for (const auto& layer : weights.layers) {
    add_matrix(layer.attention.q.weight);
    add_matrix(layer.attention.o.weight);
    add_matrix(layer.mlp.down.weight);
  }
  add_matrix(weights.head.weight);
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[(hash >> shift) & 15];
  return text;
}

ZIYA_NAMESPACE_END
