// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding against rotations in double.
#include "ziya/ops/rope.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <utility>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace rope_test {

using ziya::Context;
using ziya::Cpu;
using ziya::Isa;
using ziya::RopePairing;
using ziya::View;
namespace ops = ziya::ops;

using Positions = std::vector<std::int32_t>;

/// θ_i = 10000^(−2 i / head_dim), stored in 32 bits.
ziya::RopeTable<Cpu> table_of(std::int64_t head_dim) {
  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < head_dim / 2; ++i) {
    frequencies.push_back(static_cast<float>(
        std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim))));
  }
  return ziya::RopeTable<Cpu>(std::move(frequencies));
}

/// The two elements of pair i.
std::pair<std::int64_t, std::int64_t> pair_of(std::int64_t i, std::int64_t head_dim,
                                              RopePairing pairing) {
  if (pairing == RopePairing::halves) return {i, i + head_dim / 2};
  return {2 * i, 2 * i + 1};
}

/// Cosine and sine in double of the angle, which the definition takes in 32 bits.
std::vector<double> reference(const std::vector<double>& x, const Positions& positions,
                              std::int64_t heads, std::int64_t head_dim, RopePairing pairing,
                              double sign = 1) {
  const auto table = table_of(head_dim);
  std::vector<double> y = x;
  for (std::size_t t = 0; t < positions.size(); ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t base = (static_cast<std::int64_t>(t) * heads + h) * head_dim;
      for (std::int64_t i = 0; i < head_dim / 2; ++i) {
        const auto [p, q] = pair_of(i, head_dim, pairing);
        const auto first = static_cast<std::size_t>(base + p);
        const auto second = static_cast<std::size_t>(base + q);
        const float angle = static_cast<float>(positions[t]) * table.frequencies()[i];
        const double c = std::cos(static_cast<double>(angle));
        const double s = sign * std::sin(static_cast<double>(angle));
        y[first] = x[first] * c - x[second] * s;
        y[second] = x[second] * c + x[first] * s;
      }
    }
  }
  return y;
}

std::vector<double> doubles(const std::vector<float>& x) { return {x.begin(), x.end()}; }

std::vector<float> rope(Context<Cpu>& ctx, std::vector<float> x, const Positions& positions,
                        std::int64_t heads, std::int64_t head_dim, RopePairing pairing) {
  const auto tokens = static_cast<std::int64_t>(positions.size());
  ops::rope(ctx, View<float>(x.data(), {tokens, heads, head_dim}), positions, table_of(head_dim),
            pairing);
  return x;
}

TEST_CASE("rope: head sizes, pairings and instruction sets; a row does not know its batch",
          "[rope]") {
  const Positions positions{0, 1, 2, 3, 17, 511, 2047, 5, 5, 100000};
  const auto tokens = static_cast<std::int64_t>(positions.size());
  for (const std::int64_t head_dim : {2, 8, 16, 24, 64, 88, 128}) {
    for (const RopePairing pairing : {RopePairing::halves, RopePairing::interleaved}) {
      const std::int64_t heads = 3, width = heads * head_dim;
      const auto x = test::random_values(tokens * width, 1);
      const auto expected = reference(doubles(x), positions, heads, head_dim, pairing);
      test::on_every_isa([&](Isa isa) {
        CAPTURE(head_dim, static_cast<int>(pairing));
        const auto y = test::on_threads(isa, [&](Context<Cpu>& ctx) {
          return rope(ctx, x, positions, heads, head_dim, pairing);
        });
        CHECK(test::row_error(y, expected, width) < test::op_tolerance);
        Context<Cpu> ctx({.threads = 1, .isa = isa});
        for (std::int64_t t = 0; t < tokens; ++t) {
          CHECK(test::same_bits(
              rope(ctx, test::row_of(x, t, width), {positions[static_cast<std::size_t>(t)]}, heads,
                   head_dim, pairing),
              test::row_of(y, t, width)));
        }
        CHECK(test::same_bits(test::row_of(y, 0, width), test::row_of(x, 0, width)));
      });
    }
  }
}

TEST_CASE("rope: the pairings are one rotation in two orders of elements", "[rope]") {
  constexpr std::int64_t heads = 2, head_dim = 24;
  const Positions positions{3, 40, 7};
  const auto halves = test::random_values(3 * heads * head_dim, 1);
  const auto interleaved_of = [](const std::vector<float>& x) {
    std::vector<float> y(x.size());
    for (std::int64_t head = 0; head < 3 * heads; ++head) {
      for (std::int64_t i = 0; i < head_dim / 2; ++i) {
        const auto base = static_cast<std::size_t>(head * head_dim);
        const auto pair = static_cast<std::size_t>(i);
        y[base + 2 * pair] = x[base + pair];
        y[base + 2 * pair + 1] = x[base + pair + head_dim / 2];
      }
    }
    return y;
  };
  test::on_every_isa([&](Isa isa) {
    Context<Cpu> ctx({.threads = 1, .isa = isa});
    CHECK(test::same_bits(
        rope(ctx, interleaved_of(halves), positions, heads, head_dim, RopePairing::interleaved),
        interleaved_of(rope(ctx, halves, positions, heads, head_dim, RopePairing::halves))));
  });
}

TEST_CASE("rope: products of queries and keys depend on the distance alone", "[rope]") {
  constexpr std::int64_t head_dim = 32;
  const auto q = test::random_values(head_dim, 1), k = test::random_values(head_dim, 2);
  Context<Cpu> ctx({.threads = 1});
  const auto product = [&](std::int32_t m, std::int32_t n) {
    const auto a = rope(ctx, q, {m}, 1, head_dim, RopePairing::halves);
    const auto b = rope(ctx, k, {n}, 1, head_dim, RopePairing::halves);
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    }
    return sum;
  };
  CHECK(product(9, 4) == Approx(product(105, 100)).margin(1e-4));
  CHECK(product(9, 4) == Approx(product(5, 0)).margin(1e-4));
  CHECK(std::abs(product(9, 4) - product(4, 9)) > 1e-3);  // a direction, not only a distance
}

TEST_CASE("rope turns one part of a fused row and leaves the rest", "[rope]") {
  constexpr std::int64_t heads = 2, head_dim = 8, width = heads * head_dim, wide = 3 * width;
  const Positions positions{2, 30, 4};
  const auto source = test::random_values(3 * wide, 1);
  test::on_every_isa([&](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    auto x = source;
    const auto part = View<float>(x.data(), {3, wide}).column_range(width, width);
    ops::rope(ctx, part.reshape({3, heads, head_dim}), positions, table_of(head_dim));
    for (std::int64_t t = 0; t < 3; ++t) {
      auto expected = test::row_of(source, t, wide);
      const auto turned =
          rope(ctx, {expected.begin() + width, expected.begin() + 2 * width},
               {positions[static_cast<std::size_t>(t)]}, heads, head_dim, RopePairing::halves);
      std::copy(turned.begin(), turned.end(), expected.begin() + width);
      CHECK(test::same_bits(test::row_of(x, t, wide), expected));
    }
  });
}

TEST_CASE("rope_backward against central differences, and it turns back", "[rope][backward]") {
  constexpr std::int64_t heads = 2, head_dim = 8;
  const Positions positions{0, 3, 50};
  const auto x = test::random_values(3 * heads * head_dim, 1);
  const auto dy = test::random_values(3 * heads * head_dim, 2);
  for (const RopePairing pairing : {RopePairing::halves, RopePairing::interleaved}) {
    const auto expected = test::gradient(x, [&](const std::vector<double>& at) {
      const auto y = reference(at, positions, heads, head_dim, pairing);
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * static_cast<double>(dy[i]);
      return sum;
    });
    test::on_every_isa([&](Isa isa) {
      const auto backward = [&](Context<Cpu>& ctx, std::vector<float> dx) {
        ops::rope_backward(ctx, View<float>(dx.data(), {3, heads, head_dim}), positions,
                           table_of(head_dim), pairing);
        return dx;
      };
      const auto dx = test::on_threads(isa, [&](Context<Cpu>& ctx) { return backward(ctx, dy); });
      CHECK(test::row_error(dx, expected, heads * head_dim) < test::gradient_tolerance);
      Context<Cpu> ctx({.threads = 1, .isa = isa});
      const auto turned = rope(ctx, x, positions, heads, head_dim, pairing);
      CHECK(test::row_error(backward(ctx, turned), doubles(x), heads * head_dim) <
            test::op_tolerance);
    });
  }
}

TEST_CASE("rope refuses what does not fit", "[rope]") {
  Context<Cpu> ctx({.threads = 1});
  std::vector<float> memory(100);
  const auto table = table_of(8);
  const Positions two{0, 1}, three{0, 1, 2};
  const View<float> x(memory.data(), {2, 3, 8});
  CHECK_THROWS_MATCHES(ops::rope(ctx, View<float>(memory.data(), {2, 24}), two, table),
                       ziya::ShapeError,
                       Catch::Message("rope: rank of x is 2, expected 3 [ZIYA-110]"));
  CHECK_THROWS_MATCHES(ops::rope(ctx, x, three, table), ziya::ShapeError,
                       Catch::Message("rope: number of positions is 3, expected 2 [ZIYA-110]"));
  CHECK_THROWS_MATCHES(ops::rope(ctx, x, two, table_of(10)), ziya::ShapeError,
                       Catch::Message("rope: head size is 8, expected 10 [ZIYA-110]"));
  CHECK_THROWS_MATCHES(
      ops::rope_backward(ctx, x, three, table), ziya::ShapeError,
      Catch::Message("rope_backward: number of positions is 3, expected 2 [ZIYA-110]"));
}

}  // namespace rope_test
