// SPDX-License-Identifier: Apache-2.0
// Rows of a table, in every stored type, and their gradient.
#include "ziya/ops/embedding.hpp"

#include <catch2/catch.hpp>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace embedding_test {

using ziya::Context;
using ziya::Cpu;
using ziya::DType;
using ziya::Isa;
using ziya::View;
namespace ops = ziya::ops;

constexpr std::int64_t vocabulary = 11;
const std::vector<std::int32_t> ids{0, 10, 3, 3, 7, 10, 1, 2, 9};
constexpr std::int64_t tokens = 9;

TEST_CASE("embedding gives exactly the stored numbers", "[embedding]") {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t width : {1, 7, 16, 17, 64, 257}) {
      const auto table = test::random_matrix(dtype, vocabulary, width, 1);
      std::vector<float> expected;
      for (const std::int32_t id : ids) {
        const auto row = test::row_of(table.values, id, width);
        expected.insert(expected.end(), row.begin(), row.end());
      }
      test::on_every_isa([&](Isa isa) {
        CAPTURE(ziya::name(dtype), width);
        CHECK(test::same_bits(
            expected, test::on_threads(isa, [&](Context<Cpu>& ctx) {
              std::vector<float> y(expected.size());
              ops::embedding(ctx, View<float>(y.data(), {tokens, width}), table.weight, ids);
              return y;
            })));
      });
    }
  }
}

TEST_CASE("embedding writes into views with rows apart", "[embedding]") {
  const auto table = test::random_matrix(DType::bf16, vocabulary, 5, 1);
  Context<Cpu> ctx({.threads = 2});
  std::vector<float> target(tokens * 8, 7.0f);
  const auto y = View<float>(target.data(), {tokens, 8}).column_range(2, 5);
  ops::embedding(ctx, y, table.weight, ids);
  for (std::int64_t t = 0; t < tokens; ++t) {
    auto expected = test::row_of(table.values, ids[static_cast<std::size_t>(t)], 5);
    expected.insert(expected.begin(), 2, 7.0f);
    expected.push_back(7.0f);
    CHECK(test::same_bits(test::row_of(target, t, 8), expected));
  }
}

TEST_CASE("embedding_backward adds to the rows used, as often as they were",
          "[embedding][backward]") {
  constexpr std::int64_t width = 7;
  const auto table = test::random_values(vocabulary * width, 1);
  const auto dy = test::random_values(tokens * width, 2);
  auto expected = test::gradient(table, [&](const std::vector<double>& at) {
    double sum = 0;
    for (std::size_t t = 0; t < ids.size(); ++t) {
      for (std::size_t j = 0; j < width; ++j) {
        sum += at[static_cast<std::size_t>(ids[t]) * width + j] *
               static_cast<double>(dy[t * width + j]);
      }
    }
    return sum;
  });
  for (double& value : expected) value += 0.5;  // what stood there before stays
  test::on_every_isa([&](Isa isa) {
    const auto found = test::on_threads(isa, [&](Context<Cpu>& ctx) {
      std::vector<float> dtable(table.size(), 0.5f);
      ops::embedding_backward(ctx, View<float>(dtable.data(), {vocabulary, width}),
                              {dy.data(), {tokens, width}}, ids);
      return dtable;
    });
    CHECK(test::row_error(found, expected, width) < test::gradient_tolerance);
    CHECK(test::row_of(found, 4, width) == std::vector<float>(width, 0.5f));
  });
}

TEST_CASE("embedding refuses ids outside the table and what does not fit", "[embedding]") {
  Context<Cpu> ctx({.threads = 1});
  const auto table = test::random_matrix(DType::f32, 4, 3, 1);
  std::vector<float> memory(30);
  const View<float> y(memory.data(), {2, 3});
  const auto look_up = [&](const View<float>& out, const std::vector<std::int32_t>& which) {
    ops::embedding(ctx, out, table.weight, which);
  };
  CHECK_NOTHROW(look_up(y, {0, 3}));
  CHECK_THROWS_MATCHES(look_up(y, {0, 4}), ziya::ArgumentError,
                       Catch::Message("embedding: id 4 is outside the table of 4 rows [ZIYA-114]"));
  CHECK_THROWS_MATCHES(
      look_up(y, {-1, 0}), ziya::ArgumentError,
      Catch::Message("embedding: id -1 is outside the table of 4 rows [ZIYA-114]"));
  CHECK_THROWS_MATCHES(look_up(y, {0}), ziya::ShapeError,
                       Catch::Message("embedding: rows of y is 2, expected 1 [ZIYA-110]"));
  CHECK_THROWS_MATCHES(look_up(View<float>(memory.data(), {2, 4}), {0, 1}), ziya::ShapeError,
                       Catch::Message("embedding: width of y is 4, expected 3 [ZIYA-110]"));
  auto integers = table.weight;
  integers.dtype = DType::i8;
  CHECK_THROWS_MATCHES(
      ops::embedding(ctx, y, integers, std::vector<std::int32_t>{0, 1}), ziya::ArgumentError,
      Catch::Message(
          "embedding: type i8 is not one of f32, f16, bf16, i8 with scales of rows, or a "
          "quantised type [ZIYA-113]"));
  CHECK_THROWS_AS(ops::embedding_backward(ctx, y, y, std::vector<std::int32_t>{0, 2}),
                  ziya::ArgumentError);
  CHECK_THROWS_AS(ops::embedding_backward(ctx, y, y, std::vector<std::int32_t>{0}),
                  ziya::ShapeError);
  CHECK_THROWS_AS(ops::embedding_backward(ctx, View<float>(memory.data(), {4, 4}), y,
                                          std::vector<std::int32_t>{0, 1}),
                  ziya::ShapeError);
}

}  // namespace embedding_test
