// SPDX-License-Identifier: Apache-2.0
// The logits processors of the reference, as small values that compose in any order.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/candidates.hpp"
#include "ziya/generate/sampler_state.hpp"

ZIYA_NAMESPACE_BEGIN

/// Changes scores or removes candidates. `history` holds the ids of the prompt and of the answer so
/// far.
template <class P>
concept HistoryProcessor = requires(const P processor, Candidates& candidates,
                                    std::span<const std::int32_t> history) {
  processor.apply(candidates, history);
};

/// One that needs more: where the answer begins, how long it may become, random numbers.
template <class P>
concept StateProcessor = requires(const P processor, SamplerState& state) {
  processor.apply(state);
};

template <class P>
concept LogitsProcessor = HistoryProcessor<P> || StateProcessor<P>;

template <LogitsProcessor P>
void apply(const P& processor, SamplerState& state) {
  if constexpr (StateProcessor<P>) {
    processor.apply(state);
  } else {
    processor.apply(state.candidates, state.history);
  }
}

/// The last `count` of `history`; all of it when count is negative.
inline std::span<const std::int32_t> last_of(std::span<const std::int32_t> history,
                                             std::int64_t count) {
  if (count < 0 || static_cast<std::size_t>(count) >= history.size()) return history;
  return history.last(static_cast<std::size_t>(count));
}

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
  /// @param last_tokens how far it looks back; −1: to the beginning
  /// @throws ArgumentError unless penalty > 0
  explicit RepetitionPenalty(float penalty = 1.0f, std::int64_t last_tokens = -1)
      : penalty_(penalty), last_tokens_(last_tokens) {
    check_setting(penalty > 0 && penalty < 1e30f, "repetition_penalty", penalty,
                  "a positive number");
  }
  void apply(Candidates& candidates, std::span<const std::int32_t> history) const {
    if (penalty_ == 1.0f) return;
    candidates.transform_only(last_of(history, last_tokens_), [&](float score) {
      return score < 0 ? score * penalty_ : score / penalty_;
    });
  }

 private:
  float penalty_;
  std::int64_t last_tokens_;
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
    // A copy, which no score can be written over: so the division goes by vectors.
    candidates.transform([by = temperature_](float score) { return score / by; });
  }

 private:
  float temperature_;
};

/// Keeps the k best and everything that equals the last of them. 0 keeps all.
/// Source: Fan et al., arXiv 1805.04833, section 5.4
class TopK {
 public:
  /// @throws ArgumentError for a negative number
  /// @param at_least so many stay in any case
  explicit TopK(int k = 0, int at_least = 1) : k_(k), at_least_(at_least) {
    check_setting(k >= 0, "top_k", k, "0 (all tokens) or a positive number");
  }
  void apply(Candidates& candidates, std::span<const std::int32_t>) const {
    if (k_ > 0) candidates.keep_best(static_cast<std::size_t>(std::max(k_, at_least_)));
  }

 private:
  int k_, at_least_;
};

/// Keeps the smallest set of best tokens that holds at least `p` of the probability, never less
/// than one; among equals at the edge the higher ids stay. 1 keeps all. That is the reference's
/// rule: sorted ascending and stable, whatever has a cumulative probability ≤ 1 − p goes.
/// Source: Holtzman et al., arXiv 1904.09751, section 3.1
class TopP {
 public:
  /// @throws ArgumentError unless 0 <= p <= 1
  /// @param at_least so many stay in any case
  explicit TopP(float p = 1.0f, int at_least = 1) : p_(p), at_least_(at_least) {
    check_setting(p >= 0 && p <= 1, "top_p", p, "a number between 0 and 1");
  }
  void apply(Candidates& candidates, std::span<const std::int32_t>) const {
    if (p_ < 1.0f) candidates.keep_mass(p_, static_cast<std::size_t>(at_least_));
  }

 private:
  float p_;
  int at_least_;
};

static_assert(LogitsProcessor<RepetitionPenalty> && LogitsProcessor<Temperature>);
static_assert(LogitsProcessor<TopK> && LogitsProcessor<TopP>);

ZIYA_NAMESPACE_END
