// SPDX-License-Identifier: Apache-2.0
// Work on the GPU that translation units of both compilers do.
#pragma once

#include <cmath>

#include <ziya/ziya.hpp>

/// Whether a softmax of four equal numbers on the GPU is right.
template <class Tag>
bool softmax_is_right() {
  ziya::Context<ziya::Cuda> ctx;
  ziya::Tensor<float> x(ziya::Shape{1, 4});
  for (int i = 0; i < 4; ++i) x.data()[i] = 2;
  auto y = x.to<ziya::Cuda>();
  ziya::ops::softmax(ctx, y.view(), y.view());
  const auto result = y.to<ziya::Cpu>();
  return std::abs(result.data()[3] - 0.25f) < 1e-6f;
}

bool from_cpp();
bool from_cu();
