// SPDX-License-Identifier: Apache-2.0
// Draws against the distribution they should come from.
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <vector>

#include "support/chi_square.hpp"
#include "ziya/backend/cpu/context.hpp"
#include "ziya/generate/sampling.hpp"

namespace chi_square_test {

using namespace ziya;

using test::p_value;
using test::sanitized;
using test::upper_gamma;

TEST_CASE("the chi-square test itself: known quantiles") {
  CHECK(upper_gamma(0.5, 3.841458820694124 / 2) == Approx(0.05).epsilon(1e-9));
  CHECK(upper_gamma(5.0, 18.307038053275146 / 2) == Approx(0.05).epsilon(1e-9));
  CHECK(upper_gamma(50.0, 149.4492527638126 / 2) == Approx(0.001).epsilon(1e-6));
}

struct Distribution {
  std::vector<float> logits;
  float temperature = 1;
  int top_k = 0;
  float top_p = 1;
  float penalty = 1;
};

std::vector<float> normal(int size, double spread, std::uint64_t seed) {
  Random random{seed, 0};
  std::vector<float> logits;
  for (int i = 0; i < size; ++i) {
    const double u = 1 - random.uniform(), v = random.uniform();
    logits.push_back(
        static_cast<float>(spread * std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v)));
  }
  return logits;
}

const std::vector<std::int32_t> history{0, 3, 3, 5};

/// From the definitions, in double, with nothing shared with the library: what may be drawn how
/// often.
std::map<std::int32_t, double> exact(const Distribution& from) {
  std::vector<std::pair<double, std::int32_t>> scores;
  for (std::size_t i = 0; i < from.logits.size(); ++i) {
    double score = from.logits[i];
    if (i == 0 || i == 3 || i == 5) score *= score < 0 ? from.penalty : 1.0 / from.penalty;
    scores.emplace_back(score / from.temperature, static_cast<std::int32_t>(i));
  }
  std::sort(scores.rbegin(), scores.rend());
  if (from.top_k > 0) scores.resize(std::min<std::size_t>(scores.size(), from.top_k));
  double total = 0, above = 0;
  for (const auto& [score, id] : scores) total += std::exp(score);
  std::map<std::int32_t, double> kept;
  for (const auto& [score, id] : scores) {
    if (above >= from.top_p * total) break;
    kept[id] = std::exp(score);
    above += kept[id];
  }
  for (auto& [id, probability] : kept) probability /= above;
  return kept;
}

TEST_CASE("a million draws from each of twelve distributions; 2 % of temperature would be seen") {
  const std::vector<Distribution> distributions{{{0.0f, 1.0f}},
                                                {{-1.0f, 0.5f, 2.0f}, 1.7f},
                                                {normal(8, 1.0, 1)},
                                                {normal(12, 2.0, 2), 0.7f},
                                                {normal(20, 2.0, 3), 1.0f, 10},
                                                {normal(20, 1.5, 4), 1.0f, 0, 0.85f},
                                                {normal(30, 1.0, 5), 0.9f, 20, 0.85f},
                                                {normal(24, 1.0, 6), 1.0f, 0, 1.0f, 1.3f},
                                                {normal(16, 3.0, 7), 3.0f, 7, 0.95f, 1.18f},
                                                {normal(10, 0.5, 8), 0.5f},
                                                {normal(40, 1.0, 9), 1.3f, 0, 0.6f},
                                                {{-20.0f, 0.0f, 0.5f, -3.0f, 1.0f, 1.5f}, 1.0f, 5}};
  REQUIRE(distributions.size() == 12);
  // Under a sanitizer the path is what counts, and a draw costs ten times as much.
  constexpr int draws = sanitized ? 20'000 : 1'000'000;
  Context<Cpu> ctx({.threads = 1});
  const auto draw = [&](const Distribution& from, float temperature, std::uint64_t seed,
                        int count) {
    const Multinomial policy(RepetitionPenalty(from.penalty), Temperature(temperature),
                             TopK(from.top_k), TopP(from.top_p));
    SamplerState state;
    state.random.seed = seed;
    state.history = history;
    std::vector<std::int64_t> counts(from.logits.size());
    const View<const float, Cpu> row(from.logits.data(),
                                     Shape{static_cast<std::int64_t>(from.logits.size())});
    for (int i = 0; i < count; ++i) {
      ++counts[static_cast<std::size_t>(policy.sample(ctx, row, state))];
    }
    std::map<std::int32_t, std::int64_t> drawn;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] != 0) drawn[static_cast<std::int32_t>(i)] = counts[i];
    }
    return drawn;
  };
  for (std::size_t i = 0; i < distributions.size(); ++i) {
    const Distribution& from = distributions[i];
    INFO("distribution " << i);
    const auto expected = exact(from);
    const auto p = p_value(expected, draw(from, from.temperature, 100 + i, draws), draws);
    CHECK(p > 0.001);
    if (sanitized) continue;
    constexpr int fewer = 400'000;  // are enough to see it
    const auto wrong =
        p_value(expected, draw(from, from.temperature * 1.02f, 200 + i, fewer), fewer);
    CHECK(wrong < 0.001);
  }
}

}  // namespace chi_square_test
