// SPDX-License-Identifier: Apache-2.0
// One answer while it grows: ids, text, and whether it has ended.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/view.hpp"
#include "ziya/generate/configured_policy.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/logprobs.hpp"
#include "ziya/generate/sampling.hpp"
#include "ziya/generate/stopping.hpp"
#include "ziya/generate/token_draws.hpp"
#include "ziya/text/detokenizer.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

/// Receives the answer as it grows, in pieces of whole UTF-8 characters.
using TextCallback = std::function<void(std::string_view)>;

struct GenerationResult {
  std::vector<std::int32_t> prompt_ids;
  std::vector<std::int32_t> generated_ids;  ///< with the end id, when the model gave one
  std::string text;                         ///< the answer; the callback's pieces joined
  FinishReason finish_reason = FinishReason::length;
  bool context_exhausted = false;  ///< `length` came before max_new_tokens: the context was full
  std::int64_t reused_tokens = 0;  ///< tokens of the prompt that the cache still knew
  std::vector<TokenLogprobs> logprobs = {};  ///< of generated_ids, when the config asks for them
  double score = 0;                          ///< of a beam: log-probability / length^length_penalty
  std::int64_t steps = 0;                    ///< forward passes that gave the answer's tokens
  std::int64_t drafted_tokens = 0;           ///< with speculation: tokens that were guessed
  std::int64_t accepted_tokens = 0;          ///< and turned out right
};

/// Turns logits into ids and ids into text. Knows nothing of models.
template <class Policy>
class Sequence {
 public:
  /// @param context most tokens of prompt and answer together
  Sequence(const Tokenizer& tokenizer, Policy policy, const GenerationConfig& config,
           std::vector<std::int32_t> prompt, std::int64_t context, TextCallback callback)
      : policy_(std::move(policy)),
        config_(config),
        callback_(std::move(callback)),
        stop_(config.stop),
        detokenizer_(tokenizer,
                     {.skip_special = config.skip_special, .continues = config.continues}),
        ids_(std::move(prompt)),
        prompt_size_(ids_.size()) {
    if (config_.eos_ids.empty() && tokenizer.eos_id() >= 0) {
      config_.eos_ids.push_back(tokenizer.eos_id());
    }
    if constexpr (ConfigurablePolicy<Policy>) policy_.configure(config_);
    state_.random.seed = config_.seed;
    const auto room = static_cast<std::size_t>(context) - prompt_size_;
    const auto wanted = static_cast<std::size_t>(config_.max_new_tokens);
    limit_ = prompt_size_ + std::min(room, wanted);
    state_.prompt_size = prompt_size_;
    state_.limit = limit_;
    result_.context_exhausted = room < wanted;
    ids_.reserve(limit_);
    if (ids_.size() == limit_) finish(FinishReason::length);
  }

  /// The prompt, and the answer so far.
  [[nodiscard]] std::span<const std::int32_t> ids() const { return ids_; }
  [[nodiscard]] bool finished() const { return finished_; }

  /// Asks for the token behind `history`: the ids so far, and guesses that `accept` will take
  /// first.
  template <class Device>
  void ask(TokenDraws<Device>& draws, std::size_t row, std::span<const std::int32_t> history) {
    state_.history = history;
    draws.ask(row, policy_, state_, history.size() - ids_.size());
  }
  /// Takes the next token as row `row` of `draws` has it, or chooses it from its logits. What the
  /// callback throws passes through.
  /// @param logits (tokenizer's vocabulary)
  template <class Device>
  void accept(Context<Device>& ctx, View<const float, Device> logits,
              const TokenDraws<Device>& draws, std::size_t row) {
    state_.history = ids_;
    const auto drawn = draws.take(row, state_);
    const std::int32_t id = drawn ? *drawn : policy_.sample(ctx, logits, state_);
    ids_.push_back(id);
    if (config_.logprobs) note_logprobs(logits, id);
    emit(stop_.push(detokenizer_.push(id)));
    const auto& eos_ids = config_.eos_ids;
    const bool eos = std::find(eos_ids.begin(), eos_ids.end(), id) != eos_ids.end();
    if (stop_.found()) return finish(FinishReason::stop);
    if (eos) return finish(FinishReason::eos);
    if (ids_.size() == limit_) finish(FinishReason::length);
  }
  void cancel() {
    if (!finished_) finish(FinishReason::cancelled);
  }
  /// Ends without a word to the callback.
  void abandon() {
    finished_ = true;
    result_.finish_reason = FinishReason::cancelled;
    result_.context_exhausted = false;
  }

  /// Tokens that may still come.
  [[nodiscard]] std::size_t room() const { return limit_ - ids_.size(); }
  /// Draws as `accept` will, by random numbers of the same positions, and changes nothing of the
  /// answer: a model that agrees with this one guesses right.
  /// @param history the ids so far and those guessed behind them
  template <class Device>
  std::int32_t guess(Context<Device>& ctx, View<const float, Device> logits,
                     std::span<const std::int32_t> history) {
    if (history.size() == ids_.size()) guess_state_.random = state_.random;
    guess_state_.history = history;
    return next_token(ctx, logits, policy_, guess_state_);
  }

  /// What came of it; the sequence is spent.
  [[nodiscard]] GenerationResult take_result() {
    const auto prompt_end = ids_.begin() + static_cast<std::ptrdiff_t>(prompt_size_);
    result_.prompt_ids.assign(ids_.begin(), prompt_end);
    result_.generated_ids.assign(prompt_end, ids_.end());
    return std::move(result_);
  }

 private:
  template <class Device>
  void note_logprobs(View<const float, Device> logits, std::int32_t id) {
    std::vector<float> row(static_cast<std::size_t>(logits.elements()));
    copy(Cpu{}, row.data(), Device{}, logits.data(), row.size() * sizeof(float));
    result_.logprobs.push_back(token_logprobs(row, id, *config_.logprobs));
  }
  void emit(const std::string& text) {
    if (text.empty()) return;
    result_.text += text;
    if (callback_) callback_(text);
  }
  void finish(FinishReason reason) {
    finished_ = true;
    result_.finish_reason = reason;
    if (reason != FinishReason::length) result_.context_exhausted = false;
    if (reason == FinishReason::stop) return;
    emit(stop_.push(detokenizer_.finish()));
    emit(stop_.flush());
  }

  Policy policy_;
  GenerationConfig config_;
  TextCallback callback_;
  StopStrings stop_;
  Detokenizer detokenizer_;
  SamplerState state_, guess_state_;
  std::vector<std::int32_t> ids_;
  std::size_t prompt_size_, limit_ = 0;
  bool finished_ = false;
  GenerationResult result_;
};

ZIYA_NAMESPACE_END
