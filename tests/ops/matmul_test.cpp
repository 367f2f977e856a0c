// SPDX-License-Identifier: Apache-2.0
// Products with stored matrices, plain and fused, forward and backward.
#include "ziya/ops/matmul.hpp"

#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "ziya/ops/silu_mul.hpp"

namespace matmul_test {

using test::on_every_isa;
using test::on_threads;
using ziya::Context;
using ziya::Cpu;
using ziya::DType;
using ziya::Isa;
using ziya::Shape;
using ziya::View;

constexpr std::array stored_types{DType::f32, DType::f16, DType::bf16};

struct Case {
  std::int64_t tokens, in, out;
};
// One of everything, whole vectors, tails of every length class, several blocks of tokens and rows.
constexpr std::array cases{Case{1, 1, 1},     Case{1, 64, 8},    Case{3, 65, 7},
                           Case{7, 129, 33},  Case{13, 31, 70},  Case{6, 2048, 12},
                           Case{2, 300, 600}, Case{70, 2050, 9}, Case{523, 40, 18}};

std::vector<double> product(const std::vector<float>& x, const test::StoredMatrix& w,
                            std::int64_t tokens) {
  std::vector<double> y;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t o = 0; o < w.weight.rows; ++o) {
      double sum = 0;
      for (std::int64_t i = 0; i < w.weight.columns; ++i) {
        sum +=
            static_cast<double>(x[static_cast<std::size_t>(t * w.weight.columns + i)]) * w.at(o, i);
      }
      y.push_back(sum);
    }
  }
  return y;
}

View<const float> matrix(const std::vector<float>& values, std::int64_t rows) {
  return {values.data(), Shape{rows, static_cast<std::int64_t>(values.size()) / rows}};
}
View<float> matrix(std::vector<float>& values, std::int64_t rows) {
  return {values.data(), Shape{rows, static_cast<std::int64_t>(values.size()) / rows}};
}

std::vector<float> run(Context<Cpu>& ctx, const std::vector<float>& x, std::int64_t tokens,
                       const test::StoredMatrix& w) {
  std::vector<float> y(static_cast<std::size_t>(tokens * w.weight.rows), -1);
  ziya::ops::matmul(ctx, matrix(y, tokens), matrix(x, tokens), w.weight);
  return y;
}

TEST_CASE("matmul: every type, size and instruction set; a row does not know its batch",
          "[matmul]") {
  on_every_isa([](Isa isa) {
    for (const DType dtype : stored_types) {
      for (const Case& c : cases) {
        INFO(name(dtype) << " " << c.tokens << " x " << c.in << " x " << c.out);
        const auto x = test::random_values(c.tokens * c.in, 1);
        const auto w = test::random_matrix(dtype, c.out, c.in, 2);
        const auto y = on_threads(isa, [&](Context<Cpu>& ctx) { return run(ctx, x, c.tokens, w); });
        REQUIRE(test::row_error(y, product(test::as_met(isa, dtype, x), w, c.tokens), c.out) <
                test::op_tolerance);
        Context<Cpu> ctx({.threads = 2, .isa = isa});
        if (c.tokens >= test::other_order_from(isa)) continue;
        for (std::int64_t t = 0; t < c.tokens; ++t) {
          REQUIRE(
              test::same_bits(run(ctx, test::row_of(x, t, c.in), 1, w), test::row_of(y, t, c.out)));
        }
      }
    }
  });
}

TEST_CASE("matmul: every 16-bit number is widened exactly, in tails and in whole vectors",
          "[matmul]") {
  on_every_isa([](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    for (const DType dtype : {DType::f16, DType::bf16}) {
      for (const std::int64_t columns : {1, 32}) {
        constexpr std::int64_t rows = 65536;
        std::vector<std::uint16_t> bits(static_cast<std::size_t>(rows * columns), 0);
        for (std::int64_t r = 0; r < rows; ++r) {
          bits[static_cast<std::size_t>(r * columns + r % columns)] = static_cast<std::uint16_t>(r);
        }
        const ziya::Weight<Cpu> w{dtype, rows, columns,
                                  reinterpret_cast<const std::byte*>(bits.data()), nullptr};
        for (const std::int64_t tokens : {1, 64}) {
          const std::vector<float> x(static_cast<std::size_t>(tokens * columns), 1.0f);
          std::vector<float> y(static_cast<std::size_t>(tokens * rows));
          ziya::ops::matmul(ctx, matrix(y, tokens), matrix(x, tokens), w);
          const bool tiles = tokens >= test::other_order_from(isa);
          const bool no_subnormals = tiles || test::rounds_to_bf16(isa, dtype);
          int wrong = 0;
          for (std::uint32_t r = 0; r < rows; ++r) {
            const auto value = static_cast<std::uint16_t>(r);
            float expected = dtype == DType::f16 ? ziya::to_float(ziya::Half{value})
                                                 : ziya::to_float(ziya::BFloat16{value});
            const float found = y[static_cast<std::size_t>((tokens - 1) * rows) + r];
            if (tiles && std::isinf(expected)) {  // may be NaN
              wrong += std::isfinite(found);
              continue;
            }
            if (no_subnormals && std::fpclassify(expected) == FP_SUBNORMAL) expected = 0;
            wrong += std::isnan(expected) ? !std::isnan(found) : found != expected;
          }
          INFO(name(dtype) << ", " << columns << " columns, " << tokens << " tokens");
          REQUIRE(wrong == 0);
        }
      }
    }
  });
}

TEST_CASE("matmul: views with rows apart", "[matmul]") {
  on_every_isa([](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    const std::int64_t tokens = 5, in = 37, out = 11;
    const auto x = test::random_values(tokens * in, 3);
    const auto w = test::random_matrix(DType::bf16, out, in, 4);
    std::vector<float> wide_x(static_cast<std::size_t>(tokens * (in + 3)), 99);
    std::vector<float> wide_y(static_cast<std::size_t>(tokens * (out + 5)), 77);
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::copy_n(x.begin() + t * in, in, wide_x.begin() + t * (in + 3) + 1);
    }
    ziya::ops::matmul(ctx, matrix(wide_y, tokens).column_range(2, out),
                      matrix(wide_x, tokens).column_range(1, in), w.weight);
    const auto expected = run(ctx, x, tokens, w);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float* row = wide_y.data() + t * (out + 5);
      REQUIRE(test::same_bits({row + 2, row + 2 + out}, test::row_of(expected, t, out)));
      REQUIRE((row[0] == 77 && row[1] == 77 && row[2 + out] == 77));
    }
  });
}

TEST_CASE("the fused products are their composed references, bit for bit", "[matmul]") {
  on_every_isa([](Isa isa) {
    for (const Case& c : {Case{1, 65, 37}, Case{9, 128, 70}}) {
      const auto x = test::random_values(c.tokens * c.in, 5);
      const auto a = test::random_matrix(DType::f16, c.out, c.in, 6);
      const auto b = test::random_matrix(DType::f32, c.out, c.in, 7);
      const auto narrow = test::random_matrix(DType::bf16, 3, c.in, 8);
      const auto residual = test::random_values(c.tokens * c.out, 9);
      Context<Cpu> one({.threads = 1, .isa = isa});
      const auto ya = run(one, x, c.tokens, a), yb = run(one, x, c.tokens, b);

      auto sum = residual;
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += ya[i];
      REQUIRE(test::same_bits(sum, on_threads(isa, [&](Context<Cpu>& ctx) {
                                auto y = residual;
                                ziya::ops::matmul_add(ctx, matrix(y, c.tokens), matrix(x, c.tokens),
                                                      a.weight);
                                return y;
                              })));

      auto gated = ya;
      ziya::ops::silu_mul(one, matrix(gated, c.tokens), matrix(ya, c.tokens), matrix(yb, c.tokens));
      REQUIRE(test::same_bits(gated, on_threads(isa, [&](Context<Cpu>& ctx) {
                                std::vector<float> y(gated.size());
                                ziya::ops::matmul_silu_mul(ctx, matrix(y, c.tokens),
                                                           matrix(x, c.tokens), a.weight, b.weight);
                                return y;
                              })));

      auto all = ya;
      const auto yn = run(one, x, c.tokens, narrow);
      all.insert(all.end(), yb.begin(), yb.end());
      all.insert(all.end(), yn.begin(), yn.end());
      REQUIRE(test::same_bits(
          all, on_threads(isa, [&](Context<Cpu>& ctx) {
            std::vector<float> y(all.size());
            const std::int64_t size = c.tokens * c.out;
            const std::array<View<float>, 3> ys{
                View<float>(y.data(), Shape{c.tokens, c.out}),
                View<float>(y.data() + size, Shape{c.tokens, c.out}),
                View<float>(y.data() + 2 * size, Shape{c.tokens, 3})};
            const std::array<const ziya::Weight<Cpu>*, 3> ws{&a.weight, &b.weight, &narrow.weight};
            ziya::ops::matmul_many<Cpu, float>(ctx, ys, matrix(x, c.tokens), ws);
            return y;
          })));
    }
  });
}

TEST_CASE("matmul_backward against central differences", "[matmul][backward]") {
  const std::int64_t tokens = 3, in = 19, out = 6;
  const auto x = test::random_values(tokens * in, 1), dy = test::random_values(tokens * out, 2);
  on_every_isa([&](Isa isa) {
    for (const DType dtype : stored_types) {
      const auto w = test::random_matrix(dtype, out, in, 3);
      const auto loss = [&](const auto& input, const auto& weight) {
        double sum = 0;
        for (std::size_t t = 0; t < tokens; ++t) {
          for (std::size_t o = 0; o < out; ++o) {
            for (std::size_t i = 0; i < in; ++i) {
              sum += static_cast<double>(dy[t * out + o]) * static_cast<double>(input[t * in + i]) *
                     static_cast<double>(weight[o * in + i]);
            }
          }
        }
        return sum;
      };
      const auto by_x = test::gradient(x, [&](const auto& at) { return loss(at, w.values); });
      auto by_w = test::gradient(w.values, [&](const auto& at) { return loss(x, at); });
      for (double& value : by_w) value += 1;  // dw is added to
      std::vector<float> dx(x.size());
      const auto dw = on_threads(isa, [&](Context<Cpu>& ctx) {
        std::vector<float> result(w.values.size(), 1.0f);
        ziya::ops::matmul_backward(ctx, matrix(dx, tokens), matrix(result, out), matrix(dy, tokens),
                                   matrix(x, tokens), w.weight);
        return result;
      });
      REQUIRE(test::row_error(dx, by_x, in) < test::gradient_tolerance);
      REQUIRE(test::row_error(dw, by_w, in) < test::gradient_tolerance);
    }
  });
}

TEST_CASE("matmul refuses what does not fit", "[matmul]") {
  Context<Cpu> ctx({.threads = 1});
  std::vector<float> x(2 * 8), y(2 * 4);
  auto w = test::random_matrix(DType::f32, 4, 8, 1);
  const auto id = [&](std::int64_t x_width, std::int64_t y_rows, std::int64_t y_width) {
    return test::error_id<ziya::ShapeError>([&] {
      ziya::ops::matmul(ctx, View<float>(y.data(), Shape{y_rows, y_width}),
                        View<float>(x.data(), Shape{2, x_width}), w.weight);
    });
  };
  REQUIRE(id(8, 2, 4).empty());
  REQUIRE(id(7, 2, 4) == "ZIYA-110");
  REQUIRE(id(8, 1, 4) == "ZIYA-110");
  REQUIRE(id(8, 2, 3) == "ZIYA-110");
  w.weight.dtype = DType::i8;
  REQUIRE(test::error_id<ziya::ArgumentError>(
              [&] { ziya::ops::matmul(ctx, matrix(y, 2), matrix(x, 2), w.weight); }) == "ZIYA-113");
  REQUIRE_THROWS_WITH(
      ziya::ops::matmul_add(ctx, matrix(y, 2), View<float>(x.data(), Shape{2, 5}), w.weight),
      Catch::Contains("matmul_add"));
}

}  // namespace matmul_test
