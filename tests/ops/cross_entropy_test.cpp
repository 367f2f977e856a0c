// SPDX-License-Identifier: Apache-2.0
// Negative log-likelihood against its formula in double.
#include "ziya/ops/cross_entropy.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace cross_entropy_test {

using ziya::Context;
using ziya::Cpu;
using ziya::Isa;
using ziya::View;
namespace ops = ziya::ops;

using Labels = std::vector<std::int32_t>;

/// log Σ_k e^x[k] − x[label] per row, 0 where the label is −100.
std::vector<double> reference(const std::vector<double>& x, const Labels& labels,
                              std::int64_t width) {
  std::vector<double> loss;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const double* row = x.data() + static_cast<std::int64_t>(i) * width;
    const double largest = *std::max_element(row, row + width);
    double sum = 0;
    for (std::int64_t k = 0; k < width; ++k) sum += std::exp(row[k] - largest);
    loss.push_back(labels[i] == -100 ? 0 : std::log(sum) + largest - row[labels[i]]);
  }
  return loss;
}

std::vector<float> cross_entropy(Context<Cpu>& ctx, const std::vector<float>& logits,
                                 const Labels& labels) {
  const auto rows = static_cast<std::int64_t>(labels.size());
  const std::int64_t width = static_cast<std::int64_t>(logits.size()) / rows;
  std::vector<float> loss(labels.size(), 9.0f);
  ops::cross_entropy(ctx, View<float>(loss.data(), {rows}), {logits.data(), {rows, width}}, labels);
  return loss;
}

TEST_CASE("cross_entropy: every width and instruction set; a row does not know its batch",
          "[cross_entropy]") {
  for (const std::int64_t width : {1, 7, 16, 17, 64, 100, 257}) {
    const auto last = static_cast<std::int32_t>(width - 1);
    const Labels labels{0, last, -100, last / 2, -100, last / 3, 0, last, last / 2};
    const auto logits = test::random_values(9 * width, 1, 20);
    const auto expected =
        reference(std::vector<double>(logits.begin(), logits.end()), labels, width);
    test::on_every_isa([&](Isa isa) {
      CAPTURE(width);
      const auto loss = test::on_threads(
          isa, [&](Context<Cpu>& ctx) { return cross_entropy(ctx, logits, labels); });
      CHECK(test::row_error(loss, expected, 9) < test::op_tolerance);
      Context<Cpu> ctx({.threads = 1, .isa = isa});
      for (std::size_t row = 0; row < labels.size(); ++row) {
        const auto alone = test::row_of(logits, static_cast<std::int64_t>(row), width);
        CHECK(test::same_bits(cross_entropy(ctx, alone, {labels[row]}), {loss[row]}));
      }
    });
  }
}

TEST_CASE("cross_entropy: large logits do not overflow", "[cross_entropy]") {
  test::on_every_isa([](Isa isa) {
    Context<Cpu> ctx({.threads = 1, .isa = isa});
    CHECK(cross_entropy(ctx, {1e30f, 0.0f}, {0}) == std::vector<float>{0.0f});
    CHECK(cross_entropy(ctx, {1e30f, 0.0f}, {1}) == std::vector<float>{1e30f});
    CHECK(cross_entropy(ctx, {-INFINITY, 5.0f}, {1}) == std::vector<float>{0.0f});
  });
}

TEST_CASE("cross_entropy_backward against central differences", "[cross_entropy][backward]") {
  constexpr std::int64_t rows = 4, width = 19;
  constexpr float scale = 1.0f / 3;
  const Labels labels{4, -100, 0, 18};
  const auto logits = test::random_values(rows * width, 1, 3);
  const auto expected = test::gradient(logits, [&](const std::vector<double>& at) {
    double sum = 0;
    for (const double loss : reference(at, labels, width)) sum += loss;
    return sum * static_cast<double>(scale);
  });
  test::on_every_isa([&](Isa isa) {
    const auto found = test::on_threads(isa, [&](Context<Cpu>& ctx) {
      std::vector<float> wide(rows * 25, 7.0f);
      const auto dlogits = View<float>(wide.data(), {rows, 25}).column_range(3, width);
      ops::cross_entropy_backward(ctx, dlogits, {logits.data(), {rows, width}}, labels, scale);
      std::vector<float> result;
      for (std::int64_t i = 0; i < rows; ++i) {
        result.insert(result.end(), dlogits.row(i), dlogits.row(i) + width);
        CHECK(dlogits.row(i)[-1] == 7.0f);
        CHECK(dlogits.row(i)[width] == 7.0f);
      }
      return result;
    });
    CHECK(test::row_error(found, expected, width) < test::gradient_tolerance);
    CHECK(test::row_of(found, 1, width) == std::vector<float>(width, 0.0f));
  });
}

TEST_CASE("cross_entropy refuses labels outside the classes and what does not fit",
          "[cross_entropy]") {
  Context<Cpu> ctx({.threads = 1});
  std::vector<float> memory(30);
  CHECK_THROWS_MATCHES(cross_entropy(ctx, memory, Labels{0, 1, 10}), ziya::ArgumentError,
                       Catch::Message("cross_entropy: label 10 is outside 10 classes [ZIYA-115]"));
  CHECK_THROWS_MATCHES(cross_entropy(ctx, memory, Labels{0, -1, 1}), ziya::ArgumentError,
                       Catch::Message("cross_entropy: label -1 is outside 10 classes [ZIYA-115]"));
  const View<float> logits(memory.data(), {3, 10}), loss(memory.data(), {3});
  const Labels two{0, 1}, three{0, 1, 2};
  CHECK_THROWS_MATCHES(
      ops::cross_entropy(ctx, loss, logits, two), ziya::ShapeError,
      Catch::Message("cross_entropy: number of labels is 2, expected 3 [ZIYA-110]"));
  CHECK_THROWS_MATCHES(
      ops::cross_entropy(ctx, View<float>(memory.data(), {2}), logits, three), ziya::ShapeError,
      Catch::Message("cross_entropy: elements of loss is 2, expected 3 [ZIYA-110]"));
  CHECK_THROWS_AS(ops::cross_entropy_backward(ctx, logits, logits, two, 1), ziya::ShapeError);
  CHECK_THROWS_AS(
      ops::cross_entropy_backward(ctx, View<float>(memory.data(), {3, 9}), logits, three, 1),
      ziya::ShapeError);
  CHECK_THROWS_AS(ops::cross_entropy_backward(ctx, logits, logits, Labels{0, 1, 10}, 1),
                  ziya::ArgumentError);
}

}  // namespace cross_entropy_test
