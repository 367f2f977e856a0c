// SPDX-License-Identifier: Apache-2.0
// A kernel of one's own behind the library's, on the same stream; nvcc makes both from headers.
#include <cmath>
#include <cstdio>
#include <iostream>
#include <ziya/ziya.hpp>

namespace {

/// out = −Σ p log p
__global__ void entropy(float* out, const float* p, int count) {
  float sum = 0;
  for (int i = 0; i < count; ++i) sum -= p[i] * logf(p[i]);
  *out = sum;
}

}  // namespace

int main() try {
  ziya::Context<ziya::Cuda> ctx;
  ziya::Tensor<float> logits(ziya::Shape{1, 4});
  for (int i = 0; i < 4; ++i) logits.data()[i] = 1;
  auto row = logits.to<ziya::Cuda>();
  ziya::Tensor<float, ziya::Cuda> result(ziya::Shape{1});
  ziya::ops::softmax(ctx, row.view(), row.view());
  entropy<<<1, 1, 0, ctx.stream()>>>(result.data(), row.data(), 4);
  std::printf("entropy of four equal tokens: %.4f\n",
              static_cast<double>(*result.to<ziya::Cpu>().data()));
} catch (const ziya::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
