// SPDX-License-Identifier: Apache-2.0
// Processors that cut the tail, or the head, of the distribution by probability.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "ziya/config.hpp"
#include "ziya/generate/candidates.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/generate/sampler_state.hpp"

ZIYA_NAMESPACE_BEGIN

/// Keeps tokens with probability ≥ min_p · max(probability). 0 keeps all.
/// Source: Nguyen et al., arXiv 2407.01082, section 3
class MinP {
 public:
  /// @param at_least so many stay in any case   @throws ArgumentError unless 0 <= min_p <= 1
  explicit MinP(float min_p = 0.0f, int at_least = 1) : min_p_(min_p), at_least_(at_least) {
    check_setting(min_p >= 0 && min_p <= 1, "min_p", min_p, "a number between 0 and 1");
  }
  void apply(Candidates& candidates, std::span<const std::int32_t>) const {
    if (min_p_ == 0) return;
    candidates.keep_above(candidates.best().score + std::log(min_p_),
                          static_cast<std::size_t>(at_least_));
  }

 private:
  float min_p_;
  int at_least_;
};

/// Keeps the tokens whose information −log p is nearest to the entropy H = −Σ p log p, as many as
/// hold `mass` of the probability: with d = |−log p − H| ascending, d of the first whose cumulative
/// probability reaches the mass is the limit, and what equals it stays. 1 keeps all.
/// Source: Meister et al., arXiv 2202.00666, section 5.1, ties as Transformers has them
class TypicalP {
 public:
  /// @param at_least so many stay in any case   @throws ArgumentError unless 0 < mass <= 1
  explicit TypicalP(float mass = 1.0f, int at_least = 1) : mass_(mass), at_least_(at_least) {
    check_setting(mass > 0 && mass <= 1, "typical_p", mass, "above 0 and at most 1");
  }
  void apply(SamplerState& state) const {
    if (mass_ == 1.0f) return;
    Candidates& candidates = state.candidates;
    const double log_sum = candidates.log_sum();
    double entropy = 0;
    candidates.for_each([&](const Candidate& candidate) {
      const double log_p = candidate.score - log_sum;
      entropy -= std::exp(log_p) * log_p;
    });
    const auto distance = [&](const Candidate& candidate) {
      return std::abs(static_cast<float>(log_sum - candidate.score - entropy));
    };
    state.amounts.clear();
    candidates.for_each([&](const Candidate& candidate) {
      state.amounts.push_back({candidate.id, candidate.score});
    });
    // A heap sorts only as far as the mass reaches; what is taken stands behind `end`, last first.
    const auto farther = [&](const Candidate& a, const Candidate& b) {
      return distance(a) > distance(b);
    };
    std::make_heap(state.amounts.begin(), state.amounts.end(), farther);
    auto end = state.amounts.end();
    double total = 0;
    float limit = 0;
    const auto taken = [&] { return static_cast<int>(state.amounts.end() - end); };
    while (end != state.amounts.begin()) {
      const float next = distance(state.amounts.front());
      const bool enough = total >= mass_;
      if (enough && taken() >= at_least_ && next > limit) break;
      if (!enough) limit = next;
      total += std::exp(state.amounts.front().score - log_sum);
      std::pop_heap(state.amounts.begin(), end--, farther);
    }
    candidates.assign_list({&*end, static_cast<std::size_t>(state.amounts.end() - end)});
  }

 private:
  float mass_;
  int at_least_;
};

/// Keeps tokens with probability ≥ epsilon, and the best. 0 keeps all.
/// Source: Hewitt et al., arXiv 2210.15191, section 4
class EpsilonCutoff {
 public:
  /// @param at_least so many stay in any case   @throws ArgumentError unless 0 <= epsilon < 1
  explicit EpsilonCutoff(float epsilon = 0.0f, int at_least = 1)
      : epsilon_(epsilon), at_least_(at_least) {
    check_setting(epsilon >= 0 && epsilon < 1, "epsilon_cutoff", epsilon, "from 0 to below 1");
  }
  void apply(Candidates& candidates, std::span<const std::int32_t>) const {
    if (epsilon_ == 0) return;
    candidates.keep_above(static_cast<float>(candidates.log_sum() + std::log(epsilon_)),
                          static_cast<std::size_t>(at_least_));
  }

 private:
  float epsilon_;
  int at_least_;
};

/// Keeps tokens with probability ≥ min(epsilon, √epsilon · exp(−H)), and the best. 0 keeps all.
/// Source: Hewitt et al., arXiv 2210.15191, section 4
class EtaCutoff {
 public:
  /// @param at_least so many stay in any case   @throws ArgumentError unless 0 <= epsilon < 1
  explicit EtaCutoff(float epsilon = 0.0f, int at_least = 1)
      : epsilon_(epsilon), at_least_(at_least) {
    check_setting(epsilon >= 0 && epsilon < 1, "eta_cutoff", epsilon, "from 0 to below 1");
  }
  void apply(Candidates& candidates, std::span<const std::int32_t>) const {
    if (epsilon_ == 0) return;
    const double log_sum = candidates.log_sum();
    double entropy = 0;
    candidates.for_each([&](const Candidate& candidate) {
      const double log_p = candidate.score - log_sum;
      entropy -= std::exp(log_p) * log_p;
    });
    const double least = std::min<double>(epsilon_, std::sqrt(epsilon_) * std::exp(-entropy));
    candidates.keep_above(static_cast<float>(log_sum + std::log(least)),
                          static_cast<std::size_t>(at_least_));
  }

 private:
  float epsilon_;
  int at_least_;
};

/// Exclude top choices: with probability `probability`, and when at least two tokens have a
/// probability ≥ threshold, all of these but the least likely go. Probability 0 is neutral, and so
/// is a threshold above 0.5, which two tokens cannot reach.
/// Source: the definition in text-generation-webui's pull request 6335, as llama.cpp computes it
class Xtc {
 public:
  /// @throws ArgumentError unless both lie between 0 and 1
  explicit Xtc(float probability = 0.0f, float threshold = 0.1f)
      : probability_(probability), threshold_(threshold) {
    check_setting(probability >= 0 && probability <= 1, "xtc_probability", probability,
                  "a number between 0 and 1");
    check_setting(threshold >= 0 && threshold <= 1, "xtc_threshold", threshold,
                  "a number between 0 and 1");
  }
  void apply(SamplerState& state) const {
    if (probability_ == 0 || threshold_ > 0.5f) return;
    if (state.random.uniform() >= probability_) return;
    Candidates& candidates = state.candidates;
    const double log_sum = candidates.log_sum();
    std::size_t above = 0;
    candidates.for_each([&](const Candidate& candidate) {
      if (std::exp(candidate.score - log_sum) >= threshold_) ++above;
    });
    if (above < 2) return;
    candidates.narrow();
    candidates.drop_best(above - 1);
  }

 private:
  float probability_, threshold_;
};

static_assert(LogitsProcessor<MinP> && LogitsProcessor<TypicalP> && LogitsProcessor<Xtc>);
static_assert(LogitsProcessor<EpsilonCutoff> && LogitsProcessor<EtaCutoff>);

ZIYA_NAMESPACE_END
