// SPDX-License-Identifier: Apache-2.0
// One piece of work that every translation unit of this program compiles with its own flags.
#pragma once

#include <vector>

#include <ziya/ziya.hpp>

/// A norm, a product with a 16-bit weight and a softmax on one instruction set.
template <class Tag>
std::vector<float> block(ziya::Isa isa) {
  ziya::Context<ziya::Cpu> ctx({.threads = 2, .isa = isa});
  constexpr int tokens = 3, width = 72, out = 37;
  ziya::Tensor<float> x(ziya::Shape{tokens, width}), y(ziya::Shape{tokens, width});
  ziya::Tensor<float> norm(ziya::Shape{width}), logits(ziya::Shape{tokens, out});
  std::vector<ziya::Half> bytes(width * out);
  ziya::Random random{.seed = 7};
  for (int i = 0; i < tokens * width; ++i) x.data()[i] = static_cast<float>(random.uniform() - 0.5);
  for (int i = 0; i < width; ++i) norm.data()[i] = static_cast<float>(random.uniform());
  for (auto& half : bytes) half = ziya::to_half(static_cast<float>(random.uniform() - 0.5));
  const ziya::Weight<ziya::Cpu> weight{ziya::DType::f16, out, width,
                                       reinterpret_cast<const std::byte*>(bytes.data()), nullptr};
  ziya::ops::rms_norm(ctx, y.view(), x.view(), norm.view(), 1e-6f);
  ziya::ops::matmul(ctx, logits.view(), y.view(), weight);
  ziya::ops::softmax(ctx, logits.view(), logits.view());
  return {logits.data(), logits.data() + tokens * out};
}

std::vector<float> plain(ziya::Isa isa);
std::vector<float> native(ziya::Isa isa);
std::vector<float> fast(ziya::Isa isa);
