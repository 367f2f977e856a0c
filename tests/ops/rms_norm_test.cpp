// SPDX-License-Identifier: Apache-2.0
// Root-mean-square normalisation against its formula in double.
#include "ziya/ops/rms_norm.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace rms_norm_test {

using ziya::Context;
using ziya::Cpu;
using ziya::Isa;
using ziya::View;
namespace ops = ziya::ops;

constexpr float eps = 1e-5f;

/// x / sqrt(mean(x²) + eps) * weight
std::vector<double> reference(const std::vector<double>& x, const std::vector<double>& weight) {
  const std::size_t width = weight.size();
  std::vector<double> y;
  for (std::size_t row = 0; row < x.size(); row += width) {
    double squares = 0;
    for (std::size_t j = 0; j < width; ++j) squares += x[row + j] * x[row + j];
    const double rms = std::sqrt(squares / static_cast<double>(width) + static_cast<double>(eps));
    for (std::size_t j = 0; j < width; ++j) y.push_back(x[row + j] / rms * weight[j]);
  }
  return y;
}

std::vector<double> doubles(const std::vector<float>& x) { return {x.begin(), x.end()}; }

std::vector<float> rms_norm(Context<Cpu>& ctx, const std::vector<float>& x,
                            const std::vector<float>& weight) {
  const auto width = static_cast<std::int64_t>(weight.size());
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / width;
  std::vector<float> y(x.size());
  ops::rms_norm(ctx, View<float>(y.data(), {rows, width}), {x.data(), {rows, width}},
                {weight.data(), {width}}, eps);
  return y;
}

TEST_CASE("rms_norm: every width and instruction set; a row does not know its batch",
          "[rms_norm]") {
  for (const std::int64_t width : {1, 7, 16, 17, 63, 64, 100, 257}) {
    const auto x = test::random_values(9 * width, 1, 3), weight = test::random_values(width, 2);
    const auto expected = reference(doubles(x), doubles(weight));
    test::on_every_isa([&](Isa isa) {
      CAPTURE(width);
      const auto y =
          test::on_threads(isa, [&](Context<Cpu>& ctx) { return rms_norm(ctx, x, weight); });
      CHECK(test::row_error(y, expected, width) < test::op_tolerance);
      Context<Cpu> ctx({.threads = 1, .isa = isa});
      for (std::int64_t row = 0; row < 9; ++row) {
        CHECK(test::same_bits(rms_norm(ctx, test::row_of(x, row, width), weight),
                              test::row_of(y, row, width)));
      }
    });
  }
}

TEST_CASE("rms_norm: eps alone holds a row of zeros, small rows keep their size", "[rms_norm]") {
  test::on_every_isa([](Isa isa) {
    Context<Cpu> ctx({.threads = 1, .isa = isa});
    const std::vector<float> ones(33, 1.0f);
    CHECK(rms_norm(ctx, std::vector<float>(33, 0.0f), ones) == std::vector<float>(33, 0.0f));
    const std::vector<float> small(33, 1e-4f);  // its square is a thousandth of eps
    CHECK(test::row_error(rms_norm(ctx, small, ones), reference(doubles(small), doubles(ones)),
                          33) < test::op_tolerance);
  });
}

TEST_CASE("rms_norm: views with rows apart, and in place", "[rms_norm]") {
  constexpr std::int64_t rows = 4, width = 17, wide = 40;
  const auto source = test::random_values(rows * wide, 1), weight = test::random_values(width, 2);
  test::on_every_isa([&](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    const auto x = View<const float>(source.data(), {rows, wide}).column_range(5, width);
    std::vector<float> target(rows * wide, 7.0f), whole = source;
    const auto y = View<float>(target.data(), {rows, wide}).column_range(20, width);
    ops::rms_norm(ctx, y, x, {weight.data(), {width}}, eps);
    const auto in_place = View<float>(whole.data(), {rows, wide}).column_range(5, width);
    ops::rms_norm(ctx, in_place, in_place, {weight.data(), {width}}, eps);
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::vector<float> row(x.row(i), x.row(i) + width);
      const auto expected = rms_norm(ctx, row, weight);
      CHECK(test::same_bits({y.row(i), y.row(i) + width}, expected));
      CHECK(test::same_bits({in_place.row(i), in_place.row(i) + width}, expected));
      for (std::int64_t j = 0; j < wide; ++j) {
        if (j < 20 || j >= 20 + width) REQUIRE(target[static_cast<std::size_t>(i * wide + j)] == 7);
      }
    }
  });
}

TEST_CASE("rms_norm_backward against central differences", "[rms_norm][backward]") {
  constexpr std::int64_t rows = 3, width = 19;
  const auto x = test::random_values(rows * width, 1), weight = test::random_values(width, 2);
  const auto dy = test::random_values(rows * width, 3);
  const auto loss = [&](const std::vector<double>& y) {
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * static_cast<double>(dy[i]);
    return sum;
  };
  const auto dx = test::gradient(
      x, [&](const std::vector<double>& at) { return loss(reference(at, doubles(weight))); });
  auto dweight = test::gradient(
      weight, [&](const std::vector<double>& at) { return loss(reference(doubles(x), at)); });
  for (double& value : dweight) value += 0.25;  // what stood there before stays
  test::on_every_isa([&](Isa isa) {
    std::vector<float> found_dweight;
    const auto found = test::on_threads(isa, [&](Context<Cpu>& ctx) {
      std::vector<float> result(x.size());
      found_dweight.assign(width, 0.25f);
      ops::rms_norm_backward(ctx, View<float>(result.data(), {rows, width}),
                             View<float>(found_dweight.data(), {width}), {dy.data(), {rows, width}},
                             {x.data(), {rows, width}}, {weight.data(), {width}}, eps);
      return result;
    });
    CHECK(test::row_error(found, dx, rows * width) < test::gradient_tolerance);
    CHECK(test::row_error(found_dweight, dweight, width) < test::gradient_tolerance);
  });
}

TEST_CASE("rms_norm refuses what does not fit", "[rms_norm]") {
  Context<Cpu> ctx({.threads = 1});
  std::vector<float> memory(100);
  const View<float> two(memory.data(), {2, 8}), three(memory.data(), {3, 8});
  const View<float> narrow(memory.data(), {2, 7}), weight(memory.data(), {8});
  const View<float> short_weight(memory.data(), {7});
  CHECK_THROWS_MATCHES(ops::rms_norm(ctx, two, two, short_weight, eps), ziya::ShapeError,
                       Catch::Message("rms_norm: width of weight is 7, expected 8 [ZIYA-110]"));
  CHECK_THROWS_MATCHES(ops::rms_norm(ctx, narrow, two, weight, eps), ziya::ShapeError,
                       Catch::Message("rms_norm: width of y is 7, expected 8 [ZIYA-110]"));
  CHECK_THROWS_MATCHES(ops::rms_norm(ctx, three, two, weight, eps), ziya::ShapeError,
                       Catch::Message("rms_norm: rows of y is 3, expected 2 [ZIYA-110]"));
  CHECK_THROWS_AS(ops::rms_norm_backward(ctx, two, short_weight, two, two, weight, eps),
                  ziya::ShapeError);
  CHECK_THROWS_AS(ops::rms_norm_backward(ctx, three, weight, two, two, weight, eps),
                  ziya::ShapeError);
  CHECK_THROWS_AS(ops::rms_norm_backward(ctx, two, weight, narrow, two, weight, eps),
                  ziya::ShapeError);
}

}  // namespace rms_norm_test
