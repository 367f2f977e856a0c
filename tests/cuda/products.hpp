// SPDX-License-Identifier: Apache-2.0
// What every product with weights must give, whatever they are stored in.
#pragma once

#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cuda/devices.hpp"
#include "ziya/ops/matmul.hpp"

namespace test {

/// Plain, added, many and gated products of x with two weights against sums in double.
/// @param expected, second x · wᵀ and x · w2ᵀ   @param added, wide what a sum with what is there,
/// and 32-bit results of 16-bit x, may be off   @param plain of all others
template <class T, class Device>
void check_products_of(Context<Device>& ctx, const Tensor<T, Device>& x, const Weight<Device>& w,
                       const Weight<Device>& w2, const std::vector<double>& expected,
                       const std::vector<double>& second, double added, double wide,
                       double plain = tolerance<T>) {
  namespace ops = ziya::ops;
  using ziya::View;
  const std::int64_t out = w.rows;
  const Shape shape{x.shape()[0], out};
  auto y = poisoned<T, Device>(shape), z = poisoned<T, Device>(shape);
  ops::matmul(ctx, y.view(), x.view(), w);
  CHECK(row_error(values_of(y), expected, out) < plain);

  ops::matmul_add(ctx, y.view(), x.view(), w2);
  auto sum = expected;
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += second[i];
  CHECK(row_error(values_of(y), sum, out) < added);

  y = poisoned<T, Device>(shape);
  const std::array<View<T, Device>, 2> ys{y.view(), z.view()};
  const std::array<const Weight<Device>*, 2> ws{&w, &w2};
  ops::matmul_many<Device, T>(ctx, ys, x.view(), ws);
  CHECK(row_error(values_of(y), expected, out) < plain);
  CHECK(row_error(values_of(z), second, out) < plain);

  y = poisoned<T, Device>(shape);
  ops::matmul_silu_mul(ctx, y.view(), x.view(), w, w2);
  auto gated = expected;
  for (std::size_t i = 0; i < gated.size(); ++i) {
    gated[i] = expected[i] / (1 + std::exp(-expected[i])) * second[i];
  }
  CHECK(row_error(values_of(y), gated, out) < 3 * plain);

  if constexpr (!std::is_same_v<T, float>) {
    auto result = poisoned<float, Device>(shape);
    ops::matmul(ctx, result.view(), View<const T, Device>(x.view()), w);
    CHECK(row_error(values_of(result), expected, out) < wide);
  }
}

}  // namespace test
