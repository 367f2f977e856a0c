// SPDX-License-Identifier: Apache-2.0
// Softmax of rows against its formula in double.
#include "ziya/ops/softmax.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace softmax_test {

using ziya::Context;
using ziya::Cpu;
using ziya::Isa;
using ziya::View;
namespace ops = ziya::ops;

std::vector<double> reference(const std::vector<double>& x, std::int64_t width) {
  std::vector<double> y;
  for (auto row = x.begin(); row != x.end(); row += width) {
    const double largest = *std::max_element(row, row + width);
    double sum = 0;
    for (std::int64_t j = 0; j < width; ++j) sum += std::exp(row[j] - largest);
    for (std::int64_t j = 0; j < width; ++j) y.push_back(std::exp(row[j] - largest) / sum);
  }
  return y;
}

std::vector<double> doubles(const std::vector<float>& x) { return {x.begin(), x.end()}; }

std::vector<float> softmax(Context<Cpu>& ctx, const std::vector<float>& x, std::int64_t width) {
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / width;
  std::vector<float> y(x.size());
  ops::softmax(ctx, View<float>(y.data(), {rows, width}), {x.data(), {rows, width}});
  return y;
}

TEST_CASE("softmax: every width and instruction set; a row does not know its batch", "[softmax]") {
  for (const std::int64_t width : {1, 7, 16, 17, 63, 64, 100, 257}) {
    for (const double scale : {1.0, 90.0}) {
      const auto x = test::random_values(9 * width, 1, scale);
      const auto expected = reference(doubles(x), width);
      test::on_every_isa([&](Isa isa) {
        CAPTURE(width, scale);
        const auto y =
            test::on_threads(isa, [&](Context<Cpu>& ctx) { return softmax(ctx, x, width); });
        CHECK(test::row_error(y, expected, width) < test::op_tolerance);
        Context<Cpu> ctx({.threads = 1, .isa = isa});
        for (std::int64_t row = 0; row < 9; ++row) {
          CHECK(test::same_bits(softmax(ctx, test::row_of(x, row, width), width),
                                test::row_of(y, row, width)));
        }
      });
    }
  }
}

TEST_CASE("softmax: masked entries are 0, large ones do not overflow", "[softmax]") {
  test::on_every_isa([](Isa isa) {
    Context<Cpu> ctx({.threads = 1, .isa = isa});
    for (const std::int64_t width : {2, 8, 17, 40}) {
      for (std::int64_t kept = 0; kept < width; ++kept) {
        std::vector<float> x(static_cast<std::size_t>(width), -INFINITY);
        std::vector<float> expected(x.size(), 0.0f);
        x[static_cast<std::size_t>(kept)] = -3.0f;
        expected[static_cast<std::size_t>(kept)] = 1.0f;
        REQUIRE(softmax(ctx, x, width) == expected);
      }
    }
    CHECK(softmax(ctx, {3e38f, -3e38f, 3e38f, 0.0f}, 4) ==
          std::vector<float>{0.5f, 0.0f, 0.5f, 0.0f});
    CHECK(softmax(ctx, {-3e38f, -3e38f}, 2) == std::vector<float>{0.5f, 0.5f});
    const auto y = softmax(ctx, {0.0f, NAN, 1.0f}, 3);
    for (const float value : y) CHECK(std::isnan(value));  // never hidden behind a number
  });
}

TEST_CASE("softmax in place, over views with rows apart", "[softmax]") {
  const auto source = test::random_values(4 * 30, 1, 5);
  test::on_every_isa([&](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    auto x = source;
    const auto part = View<float>(x.data(), {4, 30}).column_range(7, 19);
    ops::softmax(ctx, part, part);
    for (std::int64_t i = 0; i < 4; ++i) {
      auto expected = test::row_of(source, i, 30);
      const auto y = softmax(ctx, {expected.begin() + 7, expected.begin() + 26}, 19);
      std::copy(y.begin(), y.end(), expected.begin() + 7);
      CHECK(test::same_bits(test::row_of(x, i, 30), expected));
    }
  });
}

TEST_CASE("softmax_backward against central differences", "[softmax][backward]") {
  constexpr std::int64_t rows = 3, width = 17;
  const auto x = test::random_values(rows * width, 1, 2), dy = test::random_values(rows * width, 2);
  const auto expected = test::gradient(x, [&](const std::vector<double>& at) {
    const auto y = reference(at, width);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * static_cast<double>(dy[i]);
    return sum;
  });
  test::on_every_isa([&](Isa isa) {
    const auto dx = test::on_threads(isa, [&](Context<Cpu>& ctx) {
      const auto y = softmax(ctx, x, width);
      std::vector<float> result(x.size());
      ops::softmax_backward(ctx, View<float>(result.data(), {rows, width}),
                            {dy.data(), {rows, width}}, {y.data(), {rows, width}});
      return result;
    });
    CHECK(test::row_error(dx, expected, width) < test::gradient_tolerance);
  });
}

TEST_CASE("softmax refuses what does not fit", "[softmax]") {
  Context<Cpu> ctx({.threads = 1});
  std::vector<float> memory(100);
  const View<float> two(memory.data(), {2, 8}), three(memory.data(), {3, 8});
  const View<float> narrow(memory.data(), {2, 7});
  CHECK_THROWS_MATCHES(ops::softmax(ctx, narrow, two), ziya::ShapeError,
                       Catch::Message("softmax: width of y is 7, expected 8 [ZIYA-110]"));
  CHECK_THROWS_MATCHES(ops::softmax(ctx, three, two), ziya::ShapeError,
                       Catch::Message("softmax: rows of y is 3, expected 2 [ZIYA-110]"));
  CHECK_THROWS_AS(ops::softmax_backward(ctx, narrow, two, two), ziya::ShapeError);
  CHECK_THROWS_AS(ops::softmax_backward(ctx, two, three, two), ziya::ShapeError);
  CHECK_NOTHROW(ops::softmax(ctx, View<float>(memory.data(), {2, 0}),
                             View<const float>(memory.data(), {2, 0})));
}

}  // namespace softmax_test
