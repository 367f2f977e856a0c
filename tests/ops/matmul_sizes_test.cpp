// SPDX-License-Identifier: Apache-2.0
// Products of every small size: whatever tiles a size is cut into, an element keeps its bits.
#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "ziya/ops/matmul.hpp"

namespace matmul_sizes_test {

using ziya::Context;
using ziya::Cpu;
using ziya::DType;
using ziya::Isa;
using ziya::View;

constexpr std::int64_t tokens = 13, rows = 9;

std::vector<float> product(Context<Cpu>& ctx, const std::vector<float>& x, std::int64_t count,
                           const ziya::Weight<Cpu>& w) {
  std::vector<float> y(static_cast<std::size_t>(count * w.rows), -1);
  ziya::ops::matmul(ctx, View<float>(y.data(), {count, w.rows}), {x.data(), {count, w.columns}}, w);
  return y;
}

/// The sums in double, of activations as the instruction set meets them.
std::vector<double> expected(Isa isa, const std::vector<float>& x, std::int64_t count,
                             const test::StoredMatrix& w) {
  const auto met = test::as_met(isa, w.weight.dtype, x);
  std::vector<double> y;
  for (std::int64_t t = 0; t < count; ++t) {
    for (std::int64_t o = 0; o < w.weight.rows; ++o) {
      double sum = 0;
      for (std::int64_t i = 0; i < w.weight.columns; ++i) {
        sum += static_cast<double>(met[static_cast<std::size_t>(t * w.weight.columns + i)]) *
               w.at(o, i);
      }
      y.push_back(sum);
    }
  }
  return y;
}

TEST_CASE("matmul: 1 … 13 tokens by 1 … 9 rows of odd widths", "[matmul]") {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t columns : {1, 7, 8, 15, 16, 17, 63, 64, 100, 257}) {
      const auto x = test::random_values(tokens * columns, 1);
      const auto w = test::random_matrix(dtype, rows, columns, 2);
      test::on_every_isa([&](Isa isa) {
        CAPTURE(ziya::name(dtype), columns);
        const auto whole = test::on_threads(
            isa, [&](Context<Cpu>& ctx) { return product(ctx, x, tokens, w.weight); });
        CHECK(test::row_error(whole, expected(isa, x, tokens, w), rows) < test::op_tolerance);
        Context<Cpu> ctx({.threads = 1, .isa = isa});
        for (std::int64_t count = 1; count <= tokens; ++count) {
          for (std::int64_t part = 1; part <= rows; ++part) {
            ziya::Weight<Cpu> last_rows = w.weight;  // the last `part` rows, the last tokens
            last_rows.rows = part;
            last_rows.data = w.weight.row(rows - part);
            const std::vector<float> last(x.end() - count * columns, x.end());
            const auto y = product(ctx, last, count, last_rows);
            for (std::int64_t t = 0; t < count; ++t) {
              const auto row = test::row_of(whole, tokens - count + t, rows);
              if (!test::same_bits(test::row_of(y, t, part), {row.end() - part, row.end()})) {
                FAIL(count << " tokens by " << part << " rows differ at token " << t);
              }
            }
          }
        }
      });
    }
  }
}

TEST_CASE("matmul: many tokens by several blocks of wide rows", "[matmul]") {
  struct Shape {
    std::int64_t high, columns;
  };
  constexpr std::int64_t many = 61;
  for (const Shape shape : {Shape{137, 2055}, Shape{37, 7001}, Shape{5, 43100}}) {
    const std::int64_t high = shape.high, columns = shape.columns;
    const auto x = test::random_values(many * columns, 1);
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const auto w = test::random_matrix(dtype, high, columns, 2);
      test::on_every_isa([&](Isa isa) {
        CAPTURE(ziya::name(dtype));
        const auto whole = test::on_threads(
            isa, [&](Context<Cpu>& ctx) { return product(ctx, x, many, w.weight); });
        CHECK(test::row_error(whole, expected(isa, x, many, w), high) < test::op_tolerance);
        Context<Cpu> ctx({.threads = 1, .isa = isa});
        for (const std::int64_t count : {1, 2, 3, 7, 24, 48, 50}) {
          const std::vector<float> last(x.end() - count * columns, x.end());
          const auto y = product(ctx, last, count, w.weight);
          CHECK(test::same_bits(y, {whole.end() - count * high, whole.end()}));
        }
      });
    }
  }
}

TEST_CASE("matmul: a prompt's tokens do not know their places nor their neighbours", "[matmul]") {
  struct Shape {
    std::int64_t many, high, columns;
  };
  for (const Shape s : {Shape{64, 1, 1}, Shape{67, 33, 31}, Shape{81, 40, 33}, Shape{97, 300, 64},
                        Shape{70, 18, 1100}, Shape{600, 21, 48}}) {
    const auto x = test::random_values(s.many * s.columns, 1);
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const auto w = test::random_matrix(dtype, s.high, s.columns, 2);
      test::on_every_isa([&](Isa isa) {
        CAPTURE(ziya::name(dtype), s.many, s.high, s.columns);
        const auto whole = test::on_threads(
            isa, [&](Context<Cpu>& ctx) { return product(ctx, x, s.many, w.weight); });
        CHECK(test::row_error(whole, expected(isa, x, s.many, w), s.high) < test::op_tolerance);
        Context<Cpu> ctx({.threads = 1, .isa = isa});
        for (const std::int64_t count : {64, 65, 66, 80, 513}) {
          if (count > s.many) continue;
          for (const std::int64_t part : {s.high, (s.high + 1) / 2}) {
            ziya::Weight<Cpu> last_rows = w.weight;
            last_rows.rows = part;
            last_rows.data = w.weight.row(s.high - part);
            const std::vector<float> last(x.end() - count * s.columns, x.end());
            const auto y = product(ctx, last, count, last_rows);
            for (std::int64_t t = 0; t < count; ++t) {
              const auto row = test::row_of(whole, s.many - count + t, s.high);
              if (!test::same_bits(test::row_of(y, t, part), {row.end() - part, row.end()})) {
                FAIL(count << " tokens by " << part << " rows differ at token " << t);
              }
            }
          }
        }
      });
    }
  }
}

/// Rows of numbers of one size each, from 1e-30 to what a product of finite numbers may be, with a
/// token and a row of w that hold an infinity or no number.
TEST_CASE("matmul: a prompt of numbers of every size, and of some that are none", "[matmul]") {
  constexpr std::int64_t many = 70, high = 20, columns = 40;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float largest = std::numeric_limits<float>::max();
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    auto x = test::random_values(many * columns, 1);
    for (std::int64_t t = 0; t < many; ++t) {
      for (std::int64_t i = 0; i < columns; ++i) {
        float& value = x[static_cast<std::size_t>(t * columns + i)];
        value = t == 3 ? (i == 5 ? largest : 0)
                       : std::ldexp(value, static_cast<int>(t * 3) - 100);  // to 2^107
      }
    }
    auto values = test::random_values(high * columns, 2);
    for (std::int64_t r = 0; r < high; ++r) {
      values[static_cast<std::size_t>(r * columns + 5)] = 0.75f;
      for (std::int64_t i = 0; i < columns; ++i) {
        auto& value = values[static_cast<std::size_t>(r * columns + i)];
        value = std::ldexp(value, static_cast<int>(r % 4) * -6);  // halves without exponents, too
      }
    }
    values[11 * columns + 7] = infinity;
    x[static_cast<std::size_t>(13 * columns + 2)] = -infinity;
    x[static_cast<std::size_t>(14 * columns + 39)] = std::numeric_limits<float>::quiet_NaN();
    x[static_cast<std::size_t>(15 * columns + 1)] = std::bit_cast<float>(0x7fffffffu);
    x[static_cast<std::size_t>(16 * columns + 20)] = std::bit_cast<float>(0xff800001u);
    const auto w = test::stored(dtype, high, columns, values);
    test::on_every_isa([&](Isa isa) {
      CAPTURE(ziya::name(dtype));
      const auto y =
          test::on_threads(isa, [&](Context<Cpu>& ctx) { return product(ctx, x, many, w.weight); });
      const auto sums = expected(isa, x, many, w);
      for (std::int64_t t = 0; t < many; ++t) {
        double scale = 0, difference = 0;
        for (std::int64_t r = 0; r < high; ++r) {
          const float found = y[static_cast<std::size_t>(t * high + r)];
          const double sum = sums[static_cast<std::size_t>(t * high + r)];
          if (r == 11 || (t >= 13 && t <= 16) ||
              !std::isfinite(sum)) {  // bf16 has no largest float
            if (std::isfinite(found)) FAIL("a finite product of token " << t << ", row " << r);
            continue;
          }
          scale = std::max(scale, std::abs(sum));
          difference = std::max(difference, std::abs(static_cast<double>(found) - sum));
        }
        if (!(difference <= test::op_tolerance * scale)) FAIL("token " << t);
      }
    });
  }
}

TEST_CASE("matmul: of empty sums, of no tokens, of no rows", "[matmul]") {
  test::on_every_isa([](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    const auto w = test::random_matrix(DType::f32, 3, 4, 1);
    auto empty = w.weight;
    empty.columns = 0;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      empty.dtype = dtype;
      CHECK(product(ctx, {}, 2, empty) == std::vector<float>(6, 0.0f));
    }
    CHECK(product(ctx, {}, 0, w.weight).empty());
    empty = w.weight;
    empty.rows = 0;
    CHECK(product(ctx, std::vector<float>(8), 2, empty).empty());
  });
}

}  // namespace matmul_sizes_test
