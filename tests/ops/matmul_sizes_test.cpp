// SPDX-License-Identifier: Apache-2.0
// Products of every small size: whatever tiles a size is cut into, an element keeps its bits.
#include <catch2/catch.hpp>
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

TEST_CASE("matmul: 1 … 13 tokens by 1 … 9 rows of odd widths", "[matmul]") {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t columns : {1, 7, 8, 15, 16, 17, 63, 64, 100, 257}) {
      const auto x = test::random_values(tokens * columns, 1);
      const auto w = test::random_matrix(dtype, rows, columns, 2);
      std::vector<double> expected;
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t o = 0; o < rows; ++o) {
          double sum = 0;
          for (std::int64_t i = 0; i < columns; ++i) {
            sum += static_cast<double>(x[static_cast<std::size_t>(t * columns + i)]) * w.at(o, i);
          }
          expected.push_back(sum);
        }
      }
      test::on_every_isa([&](Isa isa) {
        CAPTURE(ziya::name(dtype), columns);
        const auto whole = test::on_threads(
            isa, [&](Context<Cpu>& ctx) { return product(ctx, x, tokens, w.weight); });
        CHECK(test::row_error(whole, expected, rows) < test::op_tolerance);
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
  for (const Shape shape : {Shape{137, 2055}, Shape{37, 7001}}) {
    const std::int64_t high = shape.high, columns = shape.columns;
    const auto x = test::random_values(many * columns, 1);
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const auto w = test::random_matrix(dtype, high, columns, 2);
      std::vector<double> expected;
      for (std::int64_t t = 0; t < many; ++t) {
        for (std::int64_t o = 0; o < high; ++o) {
          double sum = 0;
          for (std::int64_t i = 0; i < columns; ++i) {
            sum += static_cast<double>(x[static_cast<std::size_t>(t * columns + i)]) * w.at(o, i);
          }
          expected.push_back(sum);
        }
      }
      test::on_every_isa([&](Isa isa) {
        CAPTURE(ziya::name(dtype));
        const auto whole = test::on_threads(
            isa, [&](Context<Cpu>& ctx) { return product(ctx, x, many, w.weight); });
        CHECK(test::row_error(whole, expected, high) < test::op_tolerance);
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

TEST_CASE("matmul: of empty sums, of no tokens, of no rows", "[matmul]") {
  test::on_every_isa([](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    const auto w = test::random_matrix(DType::f32, 3, 4, 1);
    auto empty = w.weight;
    empty.columns = 0;
    CHECK(product(ctx, {}, 2, empty) == std::vector<float>(6, 0.0f));
    CHECK(product(ctx, {}, 0, w.weight).empty());
    empty = w.weight;
    empty.rows = 0;
    CHECK(product(ctx, std::vector<float>(8), 2, empty).empty());
  });
}

}  // namespace matmul_sizes_test
