// SPDX-License-Identifier: Apache-2.0
// A vector added to every row.
#include "ziya/ops/add_bias.hpp"

#include <catch2/catch.hpp>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"

namespace add_bias_test {

using ziya::Context;
using ziya::Cpu;
using ziya::Isa;
using ziya::View;
namespace ops = ziya::ops;

TEST_CASE("add_bias is one addition per element, in views with rows apart too", "[add_bias]") {
  for (const std::int64_t width : {1, 7, 16, 17, 257}) {
    const auto bias = test::random_values(width, 1);
    const auto source = test::random_values(9 * (width + 3), 2);
    auto expected = source;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const std::int64_t column = static_cast<std::int64_t>(i) % (width + 3) - 2;
      if (0 <= column && column < width) expected[i] += bias[static_cast<std::size_t>(column)];
    }
    test::on_every_isa([&](Isa isa) {
      CHECK(test::same_bits(expected, test::on_threads(isa, [&](Context<Cpu>& ctx) {
                              auto y = source;
                              ops::add_bias(
                                  ctx, View<float>(y.data(), {9, width + 3}).column_range(2, width),
                                  {bias.data(), {width}});
                              return y;
                            })));
    });
  }
}

TEST_CASE("add_bias refuses what does not fit", "[add_bias]") {
  Context<Cpu> ctx({.threads = 1});
  std::vector<float> memory(30);
  CHECK_THROWS_MATCHES(ops::add_bias(ctx, View<float>(memory.data(), {3, 10}),
                                     View<const float>(memory.data(), {9})),
                       ziya::ShapeError,
                       Catch::Message("add_bias: width of bias is 9, expected 10 [ZIYA-110]"));
}

}  // namespace add_bias_test
