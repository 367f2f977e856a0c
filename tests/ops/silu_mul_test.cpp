// SPDX-License-Identifier: Apache-2.0
// The gate of a SwiGLU layer against its formula in double.
#include "ziya/ops/silu_mul.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace silu_mul_test {

using ziya::Context;
using ziya::Cpu;
using ziya::Isa;
using ziya::View;
namespace ops = ziya::ops;

double silu(double v) { return v / (1 + std::exp(-v)); }

std::vector<float> silu_mul(Context<Cpu>& ctx, const std::vector<float>& gate,
                            const std::vector<float>& up, std::int64_t width) {
  const std::int64_t rows = static_cast<std::int64_t>(gate.size()) / width;
  std::vector<float> y(gate.size());
  ops::silu_mul(ctx, View<float>(y.data(), {rows, width}), {gate.data(), {rows, width}},
                {up.data(), {rows, width}});
  return y;
}

TEST_CASE("silu_mul: every width and instruction set; a row does not know its batch",
          "[silu_mul]") {
  for (const std::int64_t width : {1, 7, 16, 17, 63, 64, 100, 257}) {
    const auto gate = test::random_values(9 * width, 1, 10), up = test::random_values(9 * width, 2);
    std::vector<double> expected;
    for (std::size_t i = 0; i < gate.size(); ++i) {
      expected.push_back(silu(static_cast<double>(gate[i])) * static_cast<double>(up[i]));
    }
    test::on_every_isa([&](Isa isa) {
      CAPTURE(width);
      const auto y =
          test::on_threads(isa, [&](Context<Cpu>& ctx) { return silu_mul(ctx, gate, up, width); });
      CHECK(test::row_error(y, expected, width) < test::op_tolerance);
      Context<Cpu> ctx({.threads = 1, .isa = isa});
      for (std::int64_t row = 0; row < 9; ++row) {
        CHECK(test::same_bits(
            silu_mul(ctx, test::row_of(gate, row, width), test::row_of(up, row, width), width),
            test::row_of(y, row, width)));
      }
    });
  }
}

TEST_CASE("silu_mul is accurate element by element over ±85, and calm beyond", "[silu_mul]") {
  std::vector<float> gate;
  for (double v = -85; v <= 85; v += 0.031) gate.push_back(static_cast<float>(v));
  const auto count = static_cast<std::int64_t>(gate.size());
  const std::vector<float> extremes{-1e30f, -1e10f, -1000.0f, -104.0f, -90.0f, -88.5f,
                                    -0.0f,  0.0f,   88.5f,    90.0f,   104.0f, 1e30f};
  test::on_every_isa([&](Isa isa) {
    Context<Cpu> ctx({.threads = 1, .isa = isa});
    const std::vector<float> ones(gate.size(), 1.0f);
    const auto y = silu_mul(ctx, gate, ones, count);
    double worst = 0;
    for (std::size_t i = 0; i < gate.size(); ++i) {
      const double expected = silu(static_cast<double>(gate[i]));
      if (expected == 0) continue;
      worst = std::max(worst, std::abs(static_cast<double>(y[i]) / expected - 1));
    }
    CHECK(worst < 1e-6);
    const auto far = silu_mul(ctx, extremes, std::vector<float>(extremes.size(), 1.0f),
                              static_cast<std::int64_t>(extremes.size()));
    for (std::size_t i = 0; i < far.size(); ++i) {
      CAPTURE(extremes[i]);
      CHECK(std::isfinite(far[i]));
      CHECK(std::abs(far[i] - std::max(extremes[i], 0.0f)) <= 1e-7f * std::abs(extremes[i]));
      if (extremes[i] < 0) CHECK(std::abs(far[i]) < 1e-8f);
    }
  });
}

TEST_CASE("silu_mul: views with rows apart", "[silu_mul]") {
  constexpr std::int64_t rows = 3, width = 13;
  const auto source = test::random_values(rows * 2 * width, 1, 4);
  const View<const float> both(source.data(), {rows, 2 * width});  // gate | up, as one product
  test::on_every_isa([&](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    std::vector<float> target(rows * 20, 7.0f);
    const auto y = View<float>(target.data(), {rows, 20}).column_range(3, width);
    ops::silu_mul(ctx, y, both.column_range(0, width), both.column_range(width, width));
    for (std::int64_t i = 0; i < rows; ++i) {
      const float* row = both.row(i);
      CHECK(test::same_bits(
          {y.row(i), y.row(i) + width},
          silu_mul(ctx, {row, row + width}, {row + width, row + 2 * width}, width)));
      CHECK(target[static_cast<std::size_t>(i * 20 + 2)] == 7.0f);
      CHECK(target[static_cast<std::size_t>(i * 20 + 3 + width)] == 7.0f);
    }
  });
}

TEST_CASE("silu_mul_backward against central differences", "[silu_mul][backward]") {
  constexpr std::int64_t rows = 3, width = 17;
  const auto gate = test::random_values(rows * width, 1, 6),
             up = test::random_values(rows * width, 2);
  const auto dy = test::random_values(rows * width, 3);
  const auto loss = [&](auto&& g, auto&& u) {
    double sum = 0;
    for (std::size_t i = 0; i < dy.size(); ++i) {
      sum +=
          silu(static_cast<double>(g[i])) * static_cast<double>(u[i]) * static_cast<double>(dy[i]);
    }
    return sum;
  };
  const auto dgate = test::gradient(gate, [&](const auto& at) { return loss(at, up); });
  const auto dup = test::gradient(up, [&](const auto& at) { return loss(gate, at); });
  test::on_every_isa([&](Isa isa) {
    std::vector<float> found_dup(up.size());
    const auto found = test::on_threads(isa, [&](Context<Cpu>& ctx) {
      std::vector<float> result(gate.size());
      ops::silu_mul_backward(ctx, View<float>(result.data(), {rows, width}),
                             View<float>(found_dup.data(), {rows, width}),
                             {dy.data(), {rows, width}}, {gate.data(), {rows, width}},
                             {up.data(), {rows, width}});
      return result;
    });
    CHECK(test::row_error(found, dgate, rows * width) < test::gradient_tolerance);
    CHECK(test::row_error(found_dup, dup, rows * width) < test::gradient_tolerance);
  });
}

TEST_CASE("silu_mul refuses what does not fit", "[silu_mul]") {
  Context<Cpu> ctx({.threads = 1});
  std::vector<float> memory(100);
  const View<float> two(memory.data(), {2, 8}), three(memory.data(), {3, 8});
  const View<float> narrow(memory.data(), {2, 7});
  CHECK_THROWS_MATCHES(ops::silu_mul(ctx, two, two, narrow), ziya::ShapeError,
                       Catch::Message("silu_mul: width of up is 7, expected 8 [ZIYA-110]"));
  CHECK_THROWS_MATCHES(ops::silu_mul(ctx, three, two, two), ziya::ShapeError,
                       Catch::Message("silu_mul: rows of y is 3, expected 2 [ZIYA-110]"));
  CHECK_THROWS_AS(ops::silu_mul(ctx, narrow, two, two), ziya::ShapeError);
  CHECK_THROWS_AS(ops::silu_mul(ctx, two, two, three), ziya::ShapeError);
  for (int wrong = 0; wrong < 4; ++wrong) {
    const auto view = [&](int i) { return i == wrong ? narrow : two; };
    CHECK_THROWS_MATCHES(ops::silu_mul_backward(ctx, view(0), view(1), view(2), two, view(3)),
                         ziya::ShapeError,
                         Catch::Message("silu_mul_backward: width is 7, expected 8 [ZIYA-110]"));
  }
}

}  // namespace silu_mul_test
