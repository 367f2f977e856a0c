// SPDX-License-Identifier: Apache-2.0
// The largest elements of a row against a full stable sort.
#include "ziya/ops/top_k.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"

namespace top_k_test {

using ziya::Context;
using ziya::Cpu;
using ziya::Isa;
using ziya::View;
namespace ops = ziya::ops;

void check(Context<Cpu>& ctx, const std::vector<float>& row, std::size_t k) {
  std::vector<std::int32_t> order(row.size()), ids(k, -1);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return row[static_cast<std::size_t>(a)] > row[static_cast<std::size_t>(b)];
  });
  order.resize(k);
  std::vector<float> values(k), expected;
  for (const std::int32_t id : order) expected.push_back(row[static_cast<std::size_t>(id)]);
  ops::top_k(ctx, ids, values,
             View<const float>(row.data(), {static_cast<std::int64_t>(row.size())}));
  CHECK(ids == order);
  CHECK(values == expected);
}

TEST_CASE("top_k: largest first, of equal ones the smaller index", "[top_k]") {
  test::on_every_isa([](Isa isa) {
    for (const int threads : {1, 2, 5}) {
      Context<Cpu> ctx({.threads = threads, .isa = isa});
      for (const std::size_t width : {1u, 7u, 64u, 1000u}) {
        auto distinct = test::random_values(static_cast<std::int64_t>(width), 1);
        auto tied = distinct;
        for (float& value : tied) value = std::round(value * 3);
        for (const std::size_t k : {std::size_t{0}, std::size_t{1}, width / 2, width}) {
          check(ctx, distinct, k);
          check(ctx, tied, k);
          check(ctx, std::vector<float>(width, -INFINITY), k);
        }
      }
      check(ctx, {-INFINITY, 1.0f, INFINITY, 1.0f, 0.0f, -0.0f}, 6);
    }
  });
}

TEST_CASE("top_k takes a row of a matrix", "[top_k]") {
  Context<Cpu> ctx({.threads = 1});
  std::vector<float> memory{9, 9, 9, 1, 3, 2, 9, 9, 9};
  std::vector<std::int32_t> ids(2);
  std::vector<float> values(2);
  ops::top_k(ctx, ids, values, View<float>(memory.data(), {3, 3}).row_range(1, 1));
  CHECK(ids == std::vector<std::int32_t>{1, 2});
  CHECK(values == std::vector<float>{3, 2});
}

TEST_CASE("top_k refuses what does not fit", "[top_k]") {
  Context<Cpu> ctx({.threads = 1});
  std::vector<float> memory(3), values(4);
  std::vector<std::int32_t> ids(4);
  const View<float> row(memory.data(), {3});
  CHECK_THROWS_MATCHES(ops::top_k(ctx, ids, values, row), ziya::ShapeError,
                       Catch::Message("top_k: k is 4, expected 3 [ZIYA-110]"));
  values.resize(2);
  CHECK_THROWS_MATCHES(ops::top_k(ctx, ids, values, row), ziya::ShapeError,
                       Catch::Message("top_k: number of values is 2, expected 4 [ZIYA-110]"));
}

}  // namespace top_k_test
