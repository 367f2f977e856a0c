// SPDX-License-Identifier: Apache-2.0
// Models of any size with random weights, made in memory: speed does not depend on the numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "ziya/ziya.hpp"

namespace random_model {

using ziya::Cpu;
using ziya::DType;

/// Layers of a 1.1B model (hidden 2048, intermediate 5632), as many as `bytes` read per token need.
inline ziya::LlamaShape shape_of(DType dtype, double bytes) {
  ziya::LlamaShape shape;
  shape.hidden = 2048;
  shape.intermediate = 5632;
  shape.query_heads = 16;
  shape.kv_heads = 16;
  shape.head_dim = 128;
  shape.vocabulary = 32000;
  shape.layers = 1;
  const auto size = static_cast<double>(ziya::info(dtype).block_bytes);
  while (static_cast<double>(shape.parameters_read_per_token()) * size < bytes) ++shape.layers;
  return shape;
}

/// The shapes of the family, by name: tiny is the bundled miniature's.
inline ziya::LlamaShape shape_named(const std::string& name) {
  ziya::LlamaShape shape;
  const auto set = [&](std::int64_t hidden, std::int64_t intermediate, std::int64_t layers,
                       std::int64_t heads, std::int64_t vocabulary) {
    shape.hidden = hidden;
    shape.intermediate = intermediate;
    shape.layers = layers;
    shape.query_heads = shape.kv_heads = heads;
    shape.head_dim = hidden / heads;
    shape.vocabulary = vocabulary;
  };
  if (name == "tiny") set(256, 768, 3, 4, 4480);
  if (name == "1b") set(2048, 5632, 22, 16, 32000);
  if (name == "7b") set(4096, 11008, 32, 32, 32000);
  if (name == "13b") set(5120, 13824, 40, 40, 39424);
  return shape;
}

/// Hands out parts of one allocation filled with random elements in ±0.03, like a mapped file.
class RandomBytes {
 public:
  RandomBytes(DType dtype, std::int64_t elements)
      : dtype_(dtype), memory_(std::make_shared<Memory>()) {
    const ziya::DTypeInfo type = ziya::info(dtype);
    // A prime number of blocks, so that rows differ; memory holds them again and again, at
    // addresses of their own.
    const std::int64_t blocks = type.block_elements == 1    ? 1'000'003
                                : type.block_elements == 32 ? 65'537
                                                            : 8'191;
    std::vector<float> values(static_cast<std::size_t>(blocks * type.block_elements));
    std::uint32_t state = 1;
    for (float& value : values) {
      state = state * 1664525u + 1013904223u;
      value = (static_cast<float>(state >> 8) / 16777216.0f - 0.5f) * 0.06f;
    }
    const auto count = static_cast<std::int64_t>(values.size());
    std::vector<std::byte> pattern(static_cast<std::size_t>(blocks * type.block_bytes));
    if (dtype == DType::i8) {
      ziya::quantize::quantise_i8_row(values.data(), reinterpret_cast<std::int8_t*>(pattern.data()),
                                      count);
    } else {
      ziya::quantize::quantise_row(dtype, values.data(), pattern.data(), count);
    }
    const std::int64_t bytes = ziya::bytes_of(dtype, elements);
    memory_->bytes = ziya::Tensor<std::byte>(ziya::Shape{bytes});
    for (std::int64_t at = 0; at < bytes; at += std::ssize(pattern)) {
      std::memcpy(
          memory_->bytes.data() + at, pattern.data(),
          static_cast<std::size_t>(std::min<std::int64_t>(std::ssize(pattern), bytes - at)));
    }
    if (dtype == DType::i8) memory_->scales.assign(max_rows, 0.03f / 127);
  }
  ziya::Weight<Cpu> matrix(std::int64_t rows, std::int64_t columns) {
    ziya::Weight<Cpu> weight{dtype_, rows, columns, memory_->bytes.data() + used_, memory_};
    if (dtype_ == DType::i8) weight.row_scales = memory_->scales.data();
    used_ += weight.bytes();
    return weight;
  }

 private:
  static constexpr std::size_t max_rows = 1 << 16;
  struct Memory {
    ziya::Tensor<std::byte> bytes;
    std::vector<float> scales;
  };

  DType dtype_;
  std::int64_t used_ = 0;
  std::shared_ptr<Memory> memory_;
};

inline ziya::CpuModel make(const ziya::LlamaShape& shape, DType dtype) {
  RandomBytes bytes(dtype, shape.parameters());
  const auto norm = [&](const char*) {
    ziya::nn::RmsNorm<Cpu> result{ziya::Tensor<float>(ziya::Shape{shape.hidden}), 1e-6f};
    std::fill_n(result.weight.data(), shape.hidden, 1.0f);
    return result;
  };
  const auto linear = [&](const char*, std::int64_t out, std::int64_t in, bool) {
    ziya::nn::Linear<Cpu> result;
    result.weight = bytes.matrix(out, in);
    return result;
  };
  ziya::LlamaWeights<Cpu> weights;
  weights.embedding = bytes.matrix(shape.vocabulary, shape.hidden);
  for (std::int64_t i = 0; i < shape.layers; ++i) {
    weights.layers.push_back(ziya::make_layer<Cpu>(shape, norm, linear));
  }
  weights.final_norm = norm("norm");
  weights.head.weight = bytes.matrix(shape.vocabulary, shape.hidden);
  return ziya::CpuModel(shape, std::move(weights));
}

/// Multiply-adds × 2 of a prefill whose last row alone is wanted: it alone meets the head, and of
/// the rows before it the last layer computes keys and values, no more.
inline double prefill_operations(const ziya::LlamaShape& shape, std::int64_t tokens) {
  const std::int64_t queries = shape.query_heads * shape.head_dim;
  const std::int64_t head = shape.vocabulary * shape.hidden;
  const std::int64_t layers = shape.parameters_read_per_token() - head;
  const std::int64_t narrowed = shape.hidden * (2 * queries + 3 * shape.intermediate);
  const std::int64_t seen = (shape.layers - 1) * (tokens * (tokens + 1) / 2) + tokens;
  return 2.0 *
         static_cast<double>(layers * tokens - narrowed * (tokens - 1) + head + 2 * queries * seen);
}

/// One sequence of a model that is prefilled and then continued greedily.
class Runner {
 public:
  Runner(const ziya::CpuModel& model, ziya::Context<Cpu>& ctx, std::int64_t max_tokens)
      : model_(model),
        ctx_(ctx),
        cache_(model.shape().cache_shape(), {.max_tokens = max_tokens}),
        hidden_(ziya::Shape{1, model.shape().hidden}),
        logits_(ziya::Shape{1, model.shape().vocabulary}) {}

  /// Runs `count` tokens in one batch; only the last one meets the head.
  void prefill(std::int64_t count) {
    cache_.release(0);
    ids_.resize(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < ids_.size(); ++i) {
      ids_[i] = static_cast<std::int32_t>((i * 7919 + 3) % 256);
    }
    run(0);
  }
  /// One token: the largest logit of the last step.
  void decode() {
    const float* begin = logits_.data();
    const auto best = std::max_element(begin, begin + logits_.elements()) - begin;
    ids_.assign(1, static_cast<std::int32_t>(best));
    run(cache_.length(0));
  }
  void truncate(std::int64_t length) { cache_.truncate(0, length); }

 private:
  void run(std::int64_t first) {
    const auto rows = ids_.size();
    positions_.resize(rows);
    for (std::size_t i = 0; i < rows; ++i) {
      positions_[i] = static_cast<std::int32_t>(first + static_cast<std::int64_t>(i));
    }
    slots_.assign(rows, 0);
    const std::int32_t last = static_cast<std::int32_t>(rows) - 1;
    ziya::Batch<float, Cpu> batch;
    batch.ids = ids_;
    batch.positions = positions_;
    batch.slots = slots_;
    batch.outputs = std::span(&last, 1);
    model_.forward(ctx_, hidden_, batch, cache_);
    model_.logits(ctx_, logits_, ziya::View<const float>(hidden_));
  }

  const ziya::CpuModel& model_;
  ziya::Context<Cpu>& ctx_;
  ziya::KvCache<Cpu> cache_;
  ziya::Tensor<float> hidden_, logits_;
  std::vector<std::int32_t> ids_, positions_, slots_;
};

}  // namespace random_model
