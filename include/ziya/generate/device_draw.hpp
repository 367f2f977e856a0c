// SPDX-License-Identifier: Apache-2.0
// Which tokens a device may draw where the logits are, and how.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/random.hpp"
#include "ziya/core/token_draw.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/generate/sampler_state.hpp"

ZIYA_NAMESPACE_BEGIN

/// Greedy choice and draws with penalties for repetition, temperature, top_k and top_p. They give
/// the id that the processors on the CPU give, with the same random number: only a draw within
/// 1e-13 of the edge between two tokens may fall to the other. Everything else, errors included, is
/// left to the processors.
class DeviceDraw {
 public:
  void configure(const GenerationConfig& config) {
    draw_.on_host = !is_simple(config);
    draw_.best = !config.do_sample;
    draw_.temperature_last = config.order == SamplerOrder::llama_cpp;
    draw_.repetition_penalty = config.repetition_penalty;
    draw_.temperature = config.temperature;
    draw_.top_k = config.top_k;
    draw_.top_p = config.top_p;
    presence_ = config.presence_penalty;
    frequency_ = config.frequency_penalty;
    last_tokens_ = draw_.temperature_last ? config.penalty_last_tokens : -1;
  }

  /// Whether the settings are such that a device may draw.
  [[nodiscard]] bool possible() const { return !draw_.on_host; }

  /// How a device draws the token behind `state.history`.
  /// @param changes gets what the penalties change: the ids that occurred, each once
  /// @param after `state.random` once the token is taken
  /// @param ahead tokens at the end of the history that are guesses: each took a random number more
  TokenDraw next(std::vector<ScoreChange>& changes, Random& after, SamplerState& state,
                 std::size_t ahead = 0) const {
    TokenDraw draw = draw_;
    if (draw.on_host) return draw;
    after = state.random;
    if (!draw.best) {
      after.position += ahead;
      draw.uniform = after.uniform();
    }
    const std::size_t first = changes.size();
    const bool counts = presence_ != 0 || frequency_ != 0;
    if (draw.repetition_penalty != 1.0f) {
      add(changes, first, state, last_of(state.history, last_tokens_), true);
    }
    if (counts) {
      add(changes, first, state,
          last_tokens_ < 0 ? state.answer() : last_of(state.history, last_tokens_), false);
    }
    draw.first_change = static_cast<std::int32_t>(first);
    draw.changes = static_cast<std::int32_t>(changes.size() - first);
    return draw;
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

  /// Merges the ids of `counted` into the changes from `first` on, which stand by ascending id.
  void add(std::vector<ScoreChange>& changes, std::size_t first, SamplerState& state,
           std::span<const std::int32_t> counted, bool repetition) const {
    state.ids.assign(counted.begin(), counted.end());
    std::sort(state.ids.begin(), state.ids.end());
    const std::size_t known = changes.size();
    for (std::size_t i = 0, at = first; i < state.ids.size();) {
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

  TokenDraw draw_{.on_host = true};
  float presence_ = 0, frequency_ = 0;
  std::int64_t last_tokens_ = -1;
};

ZIYA_NAMESPACE_END
