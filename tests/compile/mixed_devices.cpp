// SPDX-License-Identifier: Apache-2.0
// Must not compile: an op on the CPU gets a view of GPU memory. With ZIYA_DEVICE=Cpu it must.
#include <ziya/core/tensor.hpp>
#include <ziya/ops/rms_norm.hpp>

#ifndef ZIYA_DEVICE
#define ZIYA_DEVICE Cuda
#endif

int main() {
  ziya::Context<ziya::Cpu> ctx;
  ziya::Tensor<float> y(ziya::Shape{1, 8}), weight(ziya::Shape{8});
  ziya::View<const float, ziya::ZIYA_DEVICE> x(nullptr, ziya::Shape{1, 8});
  ziya::ops::rms_norm(ctx, y.view(), x, weight.view(), 1e-6f);
}
