// SPDX-License-Identifier: Apache-2.0
// Processors that name tokens: biases, bad words, and where an answer may or has to end.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/generate/candidates.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/generate/sampler_state.hpp"

ZIYA_NAMESPACE_BEGIN

/// A bias for the last id of a sequence, where the others stand before it.
struct SequenceBiasEntry {
  std::vector<std::int32_t> ids;
  float bias = 0;

  friend bool operator==(const SequenceBiasEntry&, const SequenceBiasEntry&) = default;
};

/// score(last) ← score(last) + Σ bias of the sequences whose other ids end the history. One id
/// alone is what the OpenAI API calls logit_bias. −infinity removes the token.
class SequenceBias {
 public:
  /// @throws ArgumentError for an empty sequence, a negative id, or a bias that is NaN or +infinity
  explicit SequenceBias(std::vector<SequenceBiasEntry> entries = {})
      : entries_(std::move(entries)) {
    for (const SequenceBiasEntry& entry : entries_) {
      check_setting(!entry.ids.empty(), "sequence_bias (or bad_words_ids) of ids", 0,
                    "one at least");
      check_setting(*std::min_element(entry.ids.begin(), entry.ids.end()) >= 0,
                    "sequence_bias (or bad_words_ids): an id", -1, "ids of the vocabulary");
      check_setting(entry.bias < std::numeric_limits<float>::infinity(), "sequence_bias",
                    entry.bias, "a number");
    }
  }
  void apply(SamplerState& state) const {
    if (entries_.empty()) return;
    auto& amounts = state.amounts;
    amounts.clear();
    for (const SequenceBiasEntry& entry : entries_) {
      const std::size_t before = entry.ids.size() - 1;
      if (before > state.history.size()) continue;
      const auto ending = state.history.last(before);
      if (!std::equal(ending.begin(), ending.end(), entry.ids.begin())) continue;
      amounts.push_back({entry.ids.back(), entry.bias});
    }
    std::sort(amounts.begin(), amounts.end(), in_order_of_ids);
    std::size_t kept = 0;
    for (std::size_t i = 0; i < amounts.size(); ++i) {
      if (kept > 0 && amounts[kept - 1].id == amounts[i].id) {
        amounts[kept - 1].score += amounts[i].score;
      } else {
        amounts[kept++] = amounts[i];
      }
    }
    amounts.resize(kept);
    state.candidates.add(amounts);
  }

 private:
  std::vector<SequenceBiasEntry> entries_;
};

/// Removes the last id of each sequence where the others stand before it. Sequences that are an end
/// id alone count for nothing, as in the reference.
inline SequenceBias bad_words(const std::vector<std::vector<std::int32_t>>& words,
                              std::span<const std::int32_t> eos_ids) {
  std::vector<SequenceBiasEntry> entries;
  for (const auto& ids : words) {
    const bool is_eos =
        ids.size() == 1 && std::find(eos_ids.begin(), eos_ids.end(), ids.front()) != eos_ids.end();
    if (!is_eos) entries.push_back({ids, -std::numeric_limits<float>::infinity()});
  }
  return SequenceBias(std::move(entries));
}

/// No end id before prompt and answer have `min_length` ids and the answer `min_new_tokens`.
class MinLength {
 public:
  /// @throws ArgumentError for negative lengths
  explicit MinLength(std::vector<std::int32_t> eos_ids = {}, std::int64_t min_length = 0,
                     std::int64_t min_new_tokens = 0)
      : eos_ids_(std::move(eos_ids)), min_length_(min_length), min_new_tokens_(min_new_tokens) {
    check_setting(min_length >= 0, "min_length", static_cast<double>(min_length), "0 or more");
    check_setting(min_new_tokens >= 0, "min_new_tokens", static_cast<double>(min_new_tokens),
                  "0 or more");
  }
  void apply(SamplerState& state) const {
    const auto length = static_cast<std::int64_t>(state.history.size());
    const auto answered = static_cast<std::int64_t>(state.answer().size());
    if (length < min_length_ || answered < min_new_tokens_) state.candidates.remove(eos_ids_);
  }

 private:
  std::vector<std::int32_t> eos_ids_;
  std::int64_t min_length_, min_new_tokens_;
};

/// After a history of one id comes `id`, with score 0, and nothing else. A negative id is neutral.
class ForcedBos {
 public:
  explicit ForcedBos(std::int32_t id = -1) : id_(id) {}
  void apply(Candidates& candidates, std::span<const std::int32_t> history) const {
    if (id_ >= 0 && history.size() == 1) candidates.force({&id_, 1});
  }

 private:
  std::int32_t id_;
};

/// The last id that the limit allows is one of `ids`, with score 0, and nothing else.
class ForcedEos {
 public:
  explicit ForcedEos(std::vector<std::int32_t> ids = {}) : ids_(std::move(ids)) {}
  void apply(SamplerState& state) const {
    if (!ids_.empty() && state.history.size() + 1 == state.limit) state.candidates.force(ids_);
  }

 private:
  std::vector<std::int32_t> ids_;
};

/// Raises the end ids once the answer has more than `start` ids:
/// score ← score + |score| · (factor^(ids beyond start) − 1). Factor 1 is neutral.
class ExponentialDecayLengthPenalty {
 public:
  /// @throws ArgumentError unless start >= 0 and factor > 0
  explicit ExponentialDecayLengthPenalty(std::vector<std::int32_t> eos_ids = {},
                                         std::int64_t start = 0, double factor = 1.0)
      : eos_ids_(std::move(eos_ids)), start_(start), factor_(factor) {
    check_setting(start >= 0, "exponential_decay_length_penalty: start", static_cast<double>(start),
                  "0 or more");
    check_setting(factor > 0 && factor < 1e30, "exponential_decay_length_penalty: factor", factor,
                  "a positive number");
  }
  void apply(SamplerState& state) const {
    const auto beyond = static_cast<std::int64_t>(state.answer().size()) - start_;
    if (factor_ == 1.0 || beyond <= 0) return;
    const double rise = std::clamp(std::pow(factor_, static_cast<double>(beyond)) - 1, -1e30, 1e30);
    state.candidates.transform_only(eos_ids_, [&](float score) {
      return std::isfinite(score) ? static_cast<float>(score + std::abs(score) * rise) : score;
    });
  }

 private:
  std::vector<std::int32_t> eos_ids_;
  std::int64_t start_;
  double factor_;
};

/// Removes `always`, and at the beginning of the answer `at_begin` too.
class SuppressTokens {
 public:
  explicit SuppressTokens(std::vector<std::int32_t> always = {},
                          std::vector<std::int32_t> at_begin = {}, bool forced_bos = false)
      : always_(std::move(always)), at_begin_(std::move(at_begin)), forced_bos_(forced_bos) {}
  void apply(SamplerState& state) const {
    state.candidates.remove(always_);
    const std::size_t begin = state.prompt_size > 1 || !forced_bos_ ? 0 : 1;
    if (state.answer().size() == begin) state.candidates.remove(at_begin_);
  }

 private:
  std::vector<std::int32_t> always_, at_begin_;
  bool forced_bos_;  ///< a prompt of one id is answered by bos: the answer begins behind it
};

static_assert(LogitsProcessor<SequenceBias> && LogitsProcessor<MinLength>);
static_assert(LogitsProcessor<ForcedBos> && LogitsProcessor<ForcedEos>);
static_assert(LogitsProcessor<ExponentialDecayLengthPenalty> && LogitsProcessor<SuppressTokens>);

ZIYA_NAMESPACE_END
