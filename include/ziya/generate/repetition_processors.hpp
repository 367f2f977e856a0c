// SPDX-License-Identifier: Apache-2.0
// Processors against repetition: counts, n-grams, and long repeated stretches.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/generate/candidates.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/generate/sampler_state.hpp"

ZIYA_NAMESPACE_BEGIN

/// score(t) ← score(t) − count(t) · frequency − [count(t) > 0] · presence, where count(t) is how
/// often t occurs in the answer so far. Zeros are neutral, negative ones encourage repetition.
/// Source: OpenAI, API reference, "frequency and presence penalties"
class CountPenalty {
 public:
  /// @param last_tokens −1: the answer counts; else: the last so many of prompt and answer, as
  /// llama.cpp counts   @throws ArgumentError for what is no finite number
  explicit CountPenalty(float presence = 0.0f, float frequency = 0.0f,
                        std::int64_t last_tokens = -1)
      : presence_(presence), frequency_(frequency), last_tokens_(last_tokens) {
    check_setting(std::abs(presence) < 1e30f, "presence_penalty", presence, "a finite number");
    check_setting(std::abs(frequency) < 1e30f, "frequency_penalty", frequency, "a finite number");
  }
  void apply(SamplerState& state) const {
    if (presence_ == 0 && frequency_ == 0) return;
    const auto counted = last_tokens_ < 0 ? state.answer() : last_of(state.history, last_tokens_);
    state.ids.assign(counted.begin(), counted.end());
    std::sort(state.ids.begin(), state.ids.end());
    state.amounts.clear();
    for (std::size_t i = 0; i < state.ids.size();) {
      std::size_t end = i;
      while (end < state.ids.size() && state.ids[end] == state.ids[i]) ++end;
      state.amounts.push_back(
          {state.ids[i], -(static_cast<float>(end - i) * frequency_ + presence_)});
      i = end;
    }
    state.candidates.add(state.amounts);
  }

 private:
  float presence_, frequency_;
  std::int64_t last_tokens_;
};

/// Removes every token that would complete an n-gram of prompt and answer a second time. 0 is
/// neutral.   Source: Paulus et al., arXiv 1705.04304, section 2.5
class NoRepeatNgram {
 public:
  /// @throws ArgumentError for a negative size
  explicit NoRepeatNgram(int size = 0) : size_(size) {
    check_setting(size >= 0, "no_repeat_ngram_size", size, "0 (off) or a positive number");
  }
  void apply(SamplerState& state) const {
    const auto history = state.history;
    const auto size = static_cast<std::size_t>(size_);
    if (size == 0 || history.size() < size) return;
    const auto ending = history.last(size - 1);
    state.ids.clear();
    for (std::size_t i = 0; i + size <= history.size(); ++i) {
      if (std::equal(ending.begin(), ending.end(),
                     history.begin() + static_cast<std::ptrdiff_t>(i)))
        state.ids.push_back(history[i + size - 1]);
    }
    state.candidates.remove(state.ids);
  }

 private:
  int size_;
};

struct DryOptions {
  float multiplier = 0.0f;  ///< 0: off
  float base = 1.75f;
  int allowed_length = 2;                   ///< repeating so many tokens costs nothing yet
  std::int64_t last_tokens = -1;            ///< how far it looks back; −1: to the beginning
  std::vector<std::int32_t> breakers = {};  ///< ids that no repeated stretch crosses
};

/// Don't repeat yourself: let L(t) be the length of the longest stretch that ends the history,
/// holds no breaker, and stood somewhere before with t behind it. Where L(t) ≥ allowed_length,
/// score(t) ← score(t) − multiplier · base^(L(t) − allowed_length).
/// Source: the definition in text-generation-webui's pull request 5677
class Dry {
 public:
  /// @throws ArgumentError unless multiplier >= 0, base >= 1 and allowed_length >= 1
  explicit Dry(DryOptions options = {}) : options_(std::move(options)) {
    check_setting(options_.multiplier >= 0 && options_.multiplier < 1e30f, "dry_multiplier",
                  options_.multiplier, "0 (off) or a positive number");
    check_setting(options_.base >= 1 && options_.base < 1e30f, "dry_base", options_.base,
                  "1 or more");
    check_setting(options_.allowed_length >= 1, "dry_allowed_length", options_.allowed_length,
                  "1 or more");
    std::sort(options_.breakers.begin(), options_.breakers.end());
  }
  void apply(SamplerState& state) const {
    if (options_.multiplier == 0) return;
    const auto history = last_of(state.history, options_.last_tokens);
    repeated_before(history, state.ids);
    state.amounts.clear();
    for (std::size_t i = 0; i + 1 < history.size(); ++i) {
      const std::int32_t length = state.ids[i];
      if (length < options_.allowed_length) continue;
      state.amounts.push_back({history[i + 1], static_cast<float>(length)});
    }
    // Of each id the longest stretch counts; it stands first among equals.
    auto& amounts = state.amounts;
    std::sort(amounts.begin(), amounts.end(), in_order_of_ids);
    std::size_t kept = 0;
    for (const Candidate& amount : amounts) {
      if (kept == 0 || amounts[kept - 1].id != amount.id) amounts[kept++] = amount;
    }
    amounts.resize(kept);
    for (Candidate& amount : amounts) {
      const double beyond = amount.score - static_cast<float>(options_.allowed_length);
      const double penalty = options_.multiplier * std::pow(double{options_.base}, beyond);
      amount.score = -static_cast<float>(std::min(penalty, 1e30));
    }
    state.candidates.add(amounts);
  }

 private:
  [[nodiscard]] bool breaks(std::int32_t id) const {
    return std::binary_search(options_.breakers.begin(), options_.breakers.end(), id);
  }

  /// lengths[i] = how many ids before and at i equal those at the end of the history, up to the
  /// first breaker. By the Z algorithm on the reversed history, linear in its length.
  /// Source: Gusfield, "Algorithms on Strings, Trees, and Sequences", 1997, section 1.4
  void repeated_before(std::span<const std::int32_t> history,
                       std::vector<std::int32_t>& lengths) const {
    const std::size_t size = history.size();
    lengths.assign(size, 0);
    std::size_t most = 0;
    while (most < size && !breaks(history[size - 1 - most])) ++most;
    const auto back = [&](std::size_t i) { return history[size - 1 - i]; };
    std::size_t left = 0, right = 0;  // the stretch farthest back that is known to match
    for (std::size_t i = 1; i < size; ++i) {
      std::size_t length = 0;
      if (i < right) {
        length = std::min(right - i, static_cast<std::size_t>(lengths[size - 1 - (i - left)]));
      }
      while (i + length < size && back(length) == back(i + length)) ++length;
      if (i + length > right) left = i, right = i + length;
      lengths[size - 1 - i] = static_cast<std::int32_t>(length);
    }
    for (std::int32_t& length : lengths) {
      length = std::min(length, static_cast<std::int32_t>(most));
    }
  }

  DryOptions options_;
};

static_assert(LogitsProcessor<CountPenalty> && LogitsProcessor<NoRepeatNgram>);
static_assert(LogitsProcessor<Dry>);

ZIYA_NAMESPACE_END
