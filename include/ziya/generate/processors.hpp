// SPDX-License-Identifier: Apache-2.0
// The logits processors of the reference, as small values that compose in any order.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/candidates.hpp"

ZIYA_NAMESPACE_BEGIN

/// Changes scores or removes candidates. `history` holds the ids of the prompt and of the answer so
/// far.
template <class P>
concept LogitsProcessor = requires(const P processor, Candidates& candidates,
                                   std::span<const std::int32_t> history) {
  processor.apply(candidates, history);
};

/// @throws ArgumentError naming the setting, what it is and what it may be
inline void check_setting(bool allowed, const char* name, double value, const char* domain) {
  if (!allowed) {
    throw ArgumentError("ZIYA-501", "sampling: " + std::string(name) + " is " +
                                        std::to_string(value) + ", expected " + domain);
  }
}

/// A score of a token that occurred already is divided by `penalty` when positive, multiplied when
/// negative; once, however often it occurred, and in the prompt as well as in the answer. 1 is
/// neutral. Source: Keskar et al., arXiv 1909.05858, section 4.1, as Transformers computes it
class RepetitionPenalty {
 public:
  /// @throws ArgumentError unless penalty > 0
  explicit RepetitionPenalty(float penalty = 1.0f) : penalty_(penalty) {
    check_setting(penalty > 0 && penalty < 1e30f, "repetition_penalty", penalty,
                  "a positive number");
  }
  void apply(Candidates& candidates, std::span<const std::int32_t> history) const {
    if (penalty_ == 1.0f) return;
    candidates.transform_only(
        history, [&](float score) { return score < 0 ? score * penalty_ : score / penalty_; });
  }

 private:
  float penalty_;
};

/// score ← score / temperature.
class Temperature {
 public:
  /// @throws ArgumentError unless temperature > 0
  explicit Temperature(float temperature = 1.0f) : temperature_(temperature) {
    check_setting(temperature > 0 && temperature < 1e30f, "temperature", temperature,
                  "a positive number (for the best token each time, turn sampling off)");
  }
  void apply(Candidates& candidates, std::span<const std::int32_t>) const {
    if (temperature_ == 1.0f) return;
    candidates.transform([&](float score) { return score / temperature_; });
  }

 private:
  float temperature_;
};

/// Keeps the k best and everything that equals the last of them. 0 keeps all.
/// Source: Fan et al., arXiv 1805.04833, section 5.4
class TopK {
 public:
  /// @throws ArgumentError for a negative number
  explicit TopK(int k = 0) : k_(k) {
    check_setting(k >= 0, "top_k", k, "0 (all tokens) or a positive number");
  }
  void apply(Candidates& candidates, std::span<const std::int32_t>) const {
    if (k_ > 0) candidates.keep_best(static_cast<std::size_t>(k_));
  }

 private:
  int k_;
};

/// Keeps the smallest set of best tokens that holds at least `p` of the probability, never less
/// than one; among equals at the edge the higher ids stay. 1 keeps all. That is the reference's
/// rule: sorted ascending and stable, whatever has a cumulative probability ≤ 1 − p goes.
/// Source: Holtzman et al., arXiv 1904.09751, section 3.1
class TopP {
 public:
  /// @throws ArgumentError unless 0 <= p <= 1
  explicit TopP(float p = 1.0f) : p_(p) {
    check_setting(p >= 0 && p <= 1, "top_p", p, "a number between 0 and 1");
  }
  void apply(Candidates& candidates, std::span<const std::int32_t>) const {
    if (p_ < 1.0f) candidates.keep_mass(p_);
  }

 private:
  float p_;
};

static_assert(LogitsProcessor<RepetitionPenalty> && LogitsProcessor<Temperature>);
static_assert(LogitsProcessor<TopK> && LogitsProcessor<TopP>);

ZIYA_NAMESPACE_END
