// SPDX-License-Identifier: Apache-2.0
#include "ziya/generate/sampling.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "ziya/backend/cpu/context.hpp"

namespace sampling_test {

using namespace ziya;

constexpr float masked = -std::numeric_limits<float>::infinity();

View<const float, Cpu> row(const std::vector<float>& logits) {
  return {logits.data(), Shape{static_cast<std::int64_t>(logits.size())}};
}

template <class Policy>
std::int32_t sample(const Policy& policy, const std::vector<float>& logits, SamplerState& state) {
  static Context<Cpu> ctx({.threads = 1});
  return policy.sample(ctx, row(logits), state);
}

template <class Policy>
std::int32_t sample(const Policy& policy, const std::vector<float>& logits) {
  SamplerState state;
  return sample(policy, logits, state);
}

std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST_CASE("greedy takes the first maximum, whatever processors left") {
  CHECK(sample(Greedy{}, {1, 5, 2, 5}) == 1);
  CHECK(sample(Greedy{TopK{2}}, {1, 5, 2, 5}) == 1);
  CHECK(sample(Greedy{}, {masked, masked, -1e30f, masked}) == 2);
  SamplerState state;
  const std::vector<std::int32_t> history{1};
  state.history = history;
  CHECK(sample(Greedy{RepetitionPenalty{3}}, {1, 5, 2, 3}, state) == 3);
}

TEST_CASE("processors compose in the order in which they are given") {
  // Probabilities .4 .3 .2 .1: top-p 0.5 keeps two of all, and one of the best two.
  const std::vector<float> logits{std::log(0.4f), std::log(0.3f), std::log(0.2f), std::log(0.1f)};
  const auto kept = [&](const auto& chain) {
    SamplerState state;
    std::vector<std::int32_t> ids;
    chain.run(row(logits), state).for_each([&](const Candidate& c) { ids.push_back(c.id); });
    return ids;
  };
  CHECK(kept(ProcessorChain(TopP(0.5f))) == std::vector<std::int32_t>{0, 1});
  CHECK(kept(ProcessorChain(TopK(2), TopP(0.5f))) == std::vector<std::int32_t>{0});
  CHECK(kept(ProcessorChain(TopP(0.75f), TopK(2))) == std::vector<std::int32_t>{0, 1});
  CHECK(kept(ProcessorChain(TopP(0.75f), TopK(1))) == std::vector<std::int32_t>{0});
  CHECK(kept(ProcessorChain(TopK(3), Temperature(0.01f), TopP(0.99f))).size() == 1);
  CHECK(kept(ProcessorChain()).size() == 4);
}

/// A processor that a program may write itself.
struct Forbid {
  std::int32_t id;
  void apply(Candidates& candidates, std::span<const std::int32_t>) const {
    candidates.transform_only(std::span(&id, 1), [](float) { return masked; });
  }
};
static_assert(LogitsProcessor<Forbid>);

TEST_CASE("a processor after narrowing changes scores and order") {
  CHECK(sample(Greedy{Forbid{1}}, {1, 5, 2, 4}) == 3);
  CHECK(sample(Greedy{TopK{2}, Forbid{1}}, {1, 5, 2, 4}) == 3);
  SamplerState state;
  const std::vector<std::int32_t> history{1};
  state.history = history;
  CHECK(sample(Greedy{TopK{2}, RepetitionPenalty{4}}, {1, 5, 2, 4}, state) == 3);
  CHECK_THROWS_AS(sample(Greedy{TopK{1}, Forbid{1}}, {1, 5, 2, 4}), BackendError);
}

TEST_CASE("history outside the row counts for nothing") {
  SamplerState state;
  const std::vector<std::int32_t> history{-1, 4, 1'000'000, std::numeric_limits<int>::min()};
  state.history = history;
  CHECK(sample(Greedy{RepetitionPenalty{2}}, {1, 5, 2, 4}, state) == 1);
}

TEST_CASE("a draw is the inverse of the cumulative distribution") {
  const std::vector<float> logits{std::log(1.0f), masked, std::log(2.0f), std::log(1.0f)};
  Candidates candidates;
  const auto at = [&](double uniform) {
    candidates.assign(logits);
    return candidates.at_quantile(uniform);
  };
  CHECK(at(0) == 0);
  CHECK(at(0.2499) == 0);
  CHECK(at(0.2501) == 2);
  CHECK(at(0.7499) == 2);
  CHECK(at(0.7501) == 3);
  CHECK(at(std::nextafter(1.0, 0.0)) == 3);
  candidates.assign(logits);
  candidates.keep_best(1);
  CHECK(candidates.at_quantile(0.999) == 2);
}

TEST_CASE("rounding at the end never chooses an impossible token") {
  Candidates candidates;
  for (int n = 1; n < 300; ++n) {
    std::vector<float> logits(static_cast<std::size_t>(n), 0.1f);
    logits.push_back(-2000.0f);  // exp underflows: possible in name only
    candidates.assign(logits);
    CHECK(candidates.at_quantile(std::nextafter(1.0, 0.0)) < n);
  }
}

TEST_CASE("the same seed gives the same tokens, another seed others") {
  const std::vector<float> logits(1000, 0.0f);
  const auto draws = [&](std::uint64_t seed) {
    SamplerState state;
    state.random.seed = seed;
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 20; ++i) ids.push_back(sample(Multinomial{TopK{0}}, logits, state));
    return ids;
  };
  CHECK(draws(1) == draws(1));
  CHECK(draws(1) != draws(2));
}

TEST_CASE("logits that are no distribution are refused, with the token named") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& logits :
       {std::vector<float>{1, 2, nan}, {nan, nan, nan}, {1, 2, -masked}}) {
    CHECK_THROWS_AS(sample(Greedy{}, logits), BackendError);
    CHECK_THROWS_AS(sample(Multinomial{}, logits), BackendError);
    CHECK_THROWS_AS(sample(Multinomial{TopK{2}, TopP{0.5f}}, logits), BackendError);
  }
  CHECK(message([&] {
          sample(Greedy{}, {1, nan});
        }) == "sampling: the score of token 1 is NaN [ZIYA-502]");
  for (const std::vector<float>& logits : {std::vector<float>{masked, masked}, {}}) {
    CHECK(message([&] { sample(Greedy{}, logits); }) ==
          "sampling: every token is masked [ZIYA-503]");
    CHECK_THROWS_AS(sample(Multinomial{TopP{0.5f}}, logits), BackendError);
    CHECK_THROWS_AS(sample(Multinomial{TopK{1}}, logits), BackendError);
  }
  // A temperature that makes a score overflow is not silently a certainty.
  CHECK_THROWS_AS(sample(Multinomial{Temperature{1e-38f}}, {20, 1}), BackendError);
}

TEST_CASE("settings outside their domain are refused by name") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float value : {0.0f, -1.0f, nan, -masked}) {
    CHECK_THROWS_AS(Temperature{value}, ArgumentError);
    CHECK_THROWS_AS(RepetitionPenalty{value}, ArgumentError);
  }
  for (const float value : {-0.1f, 1.1f, nan}) CHECK_THROWS_AS(TopP{value}, ArgumentError);
  CHECK_THROWS_AS(TopK{-1}, ArgumentError);
  CHECK(message([] { TopP{2}; }) ==
        "sampling: top_p is 2.000000, expected a number between 0 and 1 [ZIYA-501]");
}

}  // namespace sampling_test
