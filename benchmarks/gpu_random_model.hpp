// SPDX-License-Identifier: Apache-2.0
// Models of any size with random weights, made on the GPU: speed does not depend on the numbers.
#pragma once

#include <cuda_fp8.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "ziya/ziya.hpp"

namespace gpu_random_model {

using namespace ziya;

/// `bytes` of random elements in ±0.03 (f8_e4m3: ±448), of f32 their upper halves; the pattern's
/// length is prime, so rows differ.
inline std::shared_ptr<Tensor<std::byte, Cuda>> random_bytes(DType dtype, std::int64_t bytes) {
  constexpr std::int64_t elements = 1'000'003;
  std::vector<std::uint16_t> pattern;
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < elements; ++i) {
    state = state * 1664525u + 1013904223u;
    const float value = (static_cast<float>(state >> 8) / 16777216.0f - 0.5f) * 0.06f;
    if (dtype == DType::f8_e4m3) {  // the same twice
      pattern.push_back(static_cast<std::uint16_t>(
          __nv_cvt_float_to_fp8(value / 0.03f * 448, __NV_SATFINITE, __NV_E4M3) * 257));
    } else {
      pattern.push_back(dtype == DType::f16 ? to_half(value).bits : to_bfloat16(value).bits);
    }
  }
  auto memory = std::make_shared<Tensor<std::byte, Cuda>>(Shape{bytes});
  const std::int64_t length = elements * 2;
  copy(Cuda{}, memory->data(), Cpu{}, pattern.data(),
       static_cast<std::size_t>(std::min(length, bytes)));
  for (std::int64_t at = length; at < bytes; at *= 2) {
    copy(Cuda{}, memory->data() + at, Cuda{}, memory->data(),
         static_cast<std::size_t>(std::min(at, bytes - at)));
  }
  return memory;
}

/// Blocks of a quantised type: random integers, scales that make them fit into about ±0.03.
class RandomBlocks {
 public:
  RandomBlocks(DType dtype, std::int64_t most_elements) : dtype_(dtype) {
    constexpr std::int64_t blocks = 10'007;  // a prime, so rows differ
    bytes_.resize(static_cast<std::size_t>(bytes_of(dtype, most_elements)));
    std::uint32_t state = 1;
    quantize::with_block(dtype, [&](auto block) {
      const float steps = dtype == DType::q8_0   ? 127
                          : dtype == DType::q6_k ? 127 * 32
                          : sizeof block > 64    ? 63 * 15
                                                 : 8;
      for (std::size_t i = 0; i < blocks && (i + 1) * sizeof block <= bytes_.size(); ++i) {
        auto* raw = reinterpret_cast<std::uint8_t*>(&block);
        for (std::size_t j = 0; j < sizeof block; ++j) {
          state = state * 1664525u + 1013904223u;
          raw[j] = static_cast<std::uint8_t>(state >> 24);
        }
        block.d = to_half(0.03f / steps);
        if constexpr (requires { block.dmin; }) block.dmin = to_half(0.015f / 63);
        if constexpr (requires { block.m; }) block.m = to_half(-0.015f);
        std::memcpy(bytes_.data() + i * sizeof block, &block, sizeof block);
      }
      for (std::size_t at = blocks * sizeof block; at < bytes_.size(); at *= 2) {
        std::memcpy(bytes_.data() + at, bytes_.data(), std::min(at, bytes_.size() - at));
      }
    });
  }
  [[nodiscard]] Weight<Cuda> matrix(std::int64_t rows, std::int64_t columns) {
    return weight_on<Cuda>(Weight<Cpu>{dtype_, rows, columns, bytes_.data(), nullptr}, staging_);
  }
  /// Before a matrix is used.
  void finish() { staging_.finish(); }

 private:
  DType dtype_;
  std::vector<std::byte> bytes_;
  Staging<Cuda> staging_;
};

/// Matrices of plain numbers, one after another in random memory; f8_e4m3 with scales that make
/// them fit into ±0.03.
class RandomNumbers {
 public:
  RandomNumbers(DType dtype, std::int64_t elements, std::int64_t most_rows) : dtype_(dtype) {
    if (elements == 0) return;
    constexpr std::int64_t slack = 256 * 1024;  // between matrices
    Tensor<float> scales(Shape{most_rows});
    std::fill_n(scales.data(), most_rows, 0.03f / 448);
    memory_ = std::make_shared<Memory>(
        Memory{random_bytes(dtype, bytes_of(dtype, elements) + slack), scales.to<Cuda>()});
  }
  [[nodiscard]] Weight<Cuda> matrix(std::int64_t rows, std::int64_t columns) {
    Weight<Cuda> weight{dtype_, rows, columns, memory_->bytes->data() + used_, memory_};
    if (dtype_ == DType::f8_e4m3) weight.row_scales = memory_->scales.data();
    used_ += (weight.bytes() + 255) / 256 * 256;
    return weight;
  }

 private:
  struct Memory {
    std::shared_ptr<Tensor<std::byte, Cuda>> bytes;
    Tensor<float, Cuda> scales;
  };
  DType dtype_;
  std::shared_ptr<const Memory> memory_;
  std::int64_t used_ = 0;
};

/// A model of any size with such weights; beside f8_e4m3, embedding and head are what activations
/// are.
template <class Config>
LlamaModel<Config> make(const LlamaShape& shape, DType dtype = dtype_of<typename Config::Compute>) {
  const bool blocks = is_quantised(dtype), float8 = dtype == DType::f8_e4m3;
  const std::int64_t table = shape.vocabulary * shape.hidden, ends = float8 ? 2 * table : 0;
  RandomNumbers numbers(dtype, blocks ? 0 : shape.parameters() - ends, shape.vocabulary);
  RandomNumbers beside(dtype_of<typename Config::Compute>, ends, shape.vocabulary);
  RandomBlocks random(blocks ? dtype : DType::q8_0, blocks ? table : 0);
  const auto matrix = [&](std::int64_t rows, std::int64_t columns) {
    return blocks ? random.matrix(rows, columns) : numbers.matrix(rows, columns);
  };
  const auto end = [&] {  // embedding or head
    return float8 ? beside.matrix(shape.vocabulary, shape.hidden)
                  : matrix(shape.vocabulary, shape.hidden);
  };
  const auto linear = [&](const char*, std::int64_t out, std::int64_t in, bool) {
    nn::Linear<Cuda> result;
    result.weight = matrix(out, in);
    return result;
  };
  const auto norm = [&](const char*) {
    Tensor<float> ones(Shape{shape.hidden});
    std::fill_n(ones.data(), shape.hidden, 1.0f);
    return nn::RmsNorm<Cuda>{ones.to<Cuda>(), 1e-6f};
  };
  LlamaWeights<Cuda> weights;
  weights.embedding = end();
  for (std::int64_t i = 0; i < shape.layers; ++i) {
    weights.layers.push_back(make_layer<Cuda>(shape, norm, linear));
  }
  weights.final_norm = norm("norm");
  weights.head.weight = end();
  random.finish();
  return LlamaModel<Config>(shape, std::move(weights));
}

}  // namespace gpu_random_model
