// SPDX-License-Identifier: Apache-2.0
// Tokens drawn on the device where the logits are, for the settings that it knows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/random.hpp"
#include "ziya/core/token_draw.hpp"
#include "ziya/core/view.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/generate/sampler_state.hpp"
#include "ziya/ops/draw_token.hpp"

ZIYA_NAMESPACE_BEGIN

/// Greedy choice and draws with penalties for repetition, temperature, top_k and top_p. Gives the
/// id that the processors on the CPU give, with the same random number: only a draw within 1e-13 of
/// the edge between two tokens may fall to the other. Everything else, errors included, is left to
/// the processors.
class DeviceDraw {
 public:
  void configure(const GenerationConfig& config) {
    draw_.reset();
    if (!is_simple(config)) return;
    TokenDraw draw;
    draw.best = !config.do_sample;
    draw.temperature_last = config.order == SamplerOrder::llama_cpp;
    draw.repetition_penalty = config.repetition_penalty;
    draw.temperature = config.temperature;
    draw.top_k = config.top_k;
    draw.top_p = config.top_p;
    draw_ = draw;
    presence_ = config.presence_penalty;
    frequency_ = config.frequency_penalty;
    last_tokens_ = draw.temperature_last ? config.penalty_last_tokens : -1;
  }

  /// Whether the settings are such that a device may draw.
  [[nodiscard]] bool possible() const { return draw_.has_value(); }

  /// The next token; none where the processors have to find it, and then `state` is as it was.
  template <class Device>
  std::optional<std::int32_t> sample(Context<Device>& ctx, View<const float, Device> logits,
                                     SamplerState& state) const {
    if constexpr (ops::draws_tokens<Device>) {
      if (!draw_) return std::nullopt;
      TokenDraw draw = *draw_;
      Random random = state.random;
      if (!draw.best) draw.uniform = random.uniform();
      const auto id = ops::draw_token(ctx, logits, changes_of(state), draw);
      if (id) state.random = random;
      return id;
    } else {
      return std::nullopt;
    }
  }

  /// What the penalties change: the ids that occurred, each once; valid until `state` changes.
  [[nodiscard]] std::span<const ScoreChange> changes_of(SamplerState& state) const {
    std::vector<ScoreChange>& changes = state.changes;
    changes.clear();
    const bool repetition = draw_ && draw_->repetition_penalty != 1.0f;
    const bool counts = presence_ != 0 || frequency_ != 0;
    if (repetition) add(state, last_of(state.history, last_tokens_), true);
    if (counts) {
      add(state, last_tokens_ < 0 ? state.answer() : last_of(state.history, last_tokens_), false);
    }
    return changes;
  }

 private:
  static bool is_simple(const GenerationConfig& config) {
    const bool tokens = config.sequence_bias.empty() && config.bad_words_ids.empty() &&
                        config.min_length == 0 && config.min_new_tokens == 0 &&
                        !config.forced_bos_id && config.forced_eos_ids.empty() &&
                        config.suppress_tokens.empty() && config.begin_suppress_tokens.empty() &&
                        config.decay_factor == 1.0 && !config.constraint;
    const bool repetition = config.dry.multiplier == 0 && config.no_repeat_ngram_size == 0;
    if (!tokens || !repetition) return false;
    return !config.do_sample ||
           (config.min_p == 0 && config.typical_p == 1 && config.epsilon_cutoff == 0 &&
            config.eta_cutoff == 0 && config.xtc_probability == 0 && !config.mirostat.enabled &&
            config.top_k <= 1024);
  }

  /// Merges the ids of `counted` into the changes, which stand by ascending id.
  void add(SamplerState& state, std::span<const std::int32_t> counted, bool repetition) const {
    std::vector<ScoreChange>& changes = state.changes;
    state.ids.assign(counted.begin(), counted.end());
    std::sort(state.ids.begin(), state.ids.end());
    const std::size_t known = changes.size();
    for (std::size_t i = 0, at = 0; i < state.ids.size();) {
      const std::int32_t id = state.ids[i];
      std::size_t end = i;
      while (end < state.ids.size() && state.ids[end] == id) ++end;
      while (at < known && changes[at].id < id) ++at;
      const bool present = at < known && changes[at].id == id;
      if (!present) changes.push_back({id, 0, 0});
      ScoreChange& change = present ? changes[at] : changes.back();
      if (repetition) {
        change.repeated = 1;
      } else {
        change.amount = -(static_cast<float>(end - i) * frequency_ + presence_);
      }
      i = end;
    }
  }

  std::optional<TokenDraw> draw_;
  float presence_ = 0, frequency_ = 0;
  std::int64_t last_tokens_ = -1;
};

ZIYA_NAMESPACE_END
