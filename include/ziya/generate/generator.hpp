// SPDX-License-Identifier: Apache-2.0
// Prompts in, answers out: the loop of forward passes, sampling and text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/configured_policy.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/generation_config_file.hpp"
#include "ziya/generate/limits.hpp"
#include "ziya/generate/sampling.hpp"
#include "ziya/generate/scheduler.hpp"
#include "ziya/generate/sequence.hpp"
#include "ziya/generate/speculation.hpp"
#include "ziya/generate/step_rows.hpp"
#include "ziya/generate/stopping.hpp"
#include "ziya/generate/token_draws.hpp"
#include "ziya/model/llama.hpp"
#include "ziya/nn/kv_cache.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

struct GeneratorOptions {
  DType cache_dtype = DType::f32;   ///< f32, f16, bf16 or q8_0
  std::int64_t chunk_tokens = 512;  ///< prompt tokens per forward pass
  std::int64_t page_tokens = 64;    ///< cache tokens per page
  /// Most tokens of an answer that are guessed ahead from what prompt and answer repeat; the text
  /// stays the same. 0: none. Batches do not guess.
  std::int64_t lookup_tokens = 0;
};

/// Answers prompts with one model. Context, model and tokenizer outlive it; it belongs to the
/// context's thread. The cache stays filled between calls: a prompt that begins like the last
/// conversation only computes what is new, with the same result (to the bit, but for what
/// docs/architecture.md says of AMX).
/// Whatever a call throws (also the callback), the generator can be used again.
template <class Model, class Policy = ConfiguredPolicy>
class Generator {
 public:
  using Device = typename Model::Device;
  using BatchCallback = std::function<void(std::size_t prompt, std::string_view text)>;
  static_assert(SamplingPolicy<Policy, Device>);

  /// @throws ConfigError when the tokenizer has more tokens than the model has embeddings
  Generator(Context<Device>& ctx, const Model& model, const Tokenizer& tokenizer,
            const GeneratorOptions& options = {})
      : Generator(ctx, model, tokenizer, Policy{}, options) {}
  /// With a policy of one's own; the sampling settings of a config then count for nothing, unless
  /// the policy has `configure(const GenerationConfig&)`.
  Generator(Context<Device>& ctx, const Model& model, const Tokenizer& tokenizer, Policy policy,
            const GeneratorOptions& options = {})
      : ctx_(&ctx),
        model_(&model),
        tokenizer_(&tokenizer),
        policy_(std::move(policy)),
        options_(options) {
    check_vocabulary(tokenizer, model.shape());
    check_chunk(options.chunk_tokens);
    if (options.lookup_tokens > 0) drafter_ = PromptLookup{options.lookup_tokens};
  }

  /// Most tokens that prompt and answer may have together.
  [[nodiscard]] std::int64_t context_limit() const { return ziya::context_limit(model_->shape()); }

  /// The answer to a prompt that is read in the tokenizer's default mode, with a bos in front.
  /// @throws as below
  GenerationResult generate(std::string_view prompt, const GenerationConfig& config = {},
                            TextCallback callback = {}, const Cancellation& cancellation = {}) {
    return generate(tokenizer_->encode(prompt), config, std::move(callback), cancellation);
  }

  /// The answer to a prompt given as ids. An answer that reaches the context limit ends with
  /// `length`.
  /// @throws ArgumentError for an empty prompt, one longer than the context, ids outside the
  /// vocabulary, or settings outside their domain
  /// @throws BackendError for logits that are no distribution
  GenerationResult generate(std::vector<std::int32_t> prompt, const GenerationConfig& config = {},
                            TextCallback callback = {}, const Cancellation& cancellation = {});

  /// What guesses ahead from now on: `PromptLookup`, a `DraftModel` (by reference: std::ref), or a
  /// function of one's own; an empty one ends it. Answers do not change, only their speed.
  void speculate(Drafter<Device> drafter) { drafter_ = std::move(drafter); }

  /// Answers several prompts at once; each answer is what `generate` gives for it alone, with the
  /// same seed. Memory of their caches is held during the call only.
  /// @param configs one for all, or one each   @throws as above; ArgumentError when counts differ
  std::vector<GenerationResult> generate_batch(
      const std::vector<std::vector<std::int32_t>>& prompts,
      std::span<const GenerationConfig> configs, const BatchCallback& callback = {},
      const Cancellation& cancellation = {});
  std::vector<GenerationResult> generate_batch(
      const std::vector<std::vector<std::int32_t>>& prompts, const GenerationConfig& config = {},
      const BatchCallback& callback = {}, const Cancellation& cancellation = {}) {
    return generate_batch(prompts, std::span(&config, 1), callback, cancellation);
  }
  std::vector<GenerationResult> generate_batch(const std::vector<std::string>& prompts,
                                               const GenerationConfig& config = {},
                                               const BatchCallback& callback = {},
                                               const Cancellation& cancellation = {}) {
    std::vector<std::vector<std::int32_t>> ids;
    for (const std::string& prompt : prompts) ids.push_back(tokenizer_->encode(prompt));
    return generate_batch(ids, std::span(&config, 1), callback, cancellation);
  }

  /// Forgets the last conversation and gives its memory back.
  void reset() {
    cache_.reset();
    cached_ids_.clear();
  }

 private:
  using T = typename Model::T;

  /// Notes what the cache holds when a call ends, however it ends.
  struct Remember {
    Generator& generator;
    const Sequence<Policy>& sequence;
    Remember(Generator& owner, const Sequence<Policy>& of) : generator(owner), sequence(of) {}
    Remember(const Remember&) = delete;
    ~Remember() {
      const auto held = static_cast<std::size_t>(generator.cache_->length(0));
      generator.cached_ids_.assign(sequence.ids().begin(),
                                   sequence.ids().begin() + static_cast<std::ptrdiff_t>(held));
    }
  };

  [[nodiscard]] KvCache<Device> make_cache(std::int64_t tokens, int slots) const {
    return KvCache<Device>(model_->shape().cache_shape(), {.dtype = options_.cache_dtype,
                                                           .slots = slots,
                                                           .max_tokens = tokens,
                                                           .page_tokens = options_.page_tokens});
  }

  /// Makes room for a prompt and its answer; the cache keeps the tokens that they share with what
  /// it holds. @returns how many
  std::int64_t prepare_cache(std::span<const std::int32_t> prompt, const GenerationConfig& config);

  /// How speculation fares.
  struct Progress {
    std::int64_t steps = 0, drafted = 0, accepted = 0;
    std::size_t width = 4;  ///< tokens to guess next time: more after success, fewer after failure
  };

  /// A pass over the tokens that the cache does not hold yet: a chunk of the prompt, or the last
  /// token and what is guessed to follow it.
  void step(Sequence<Policy>& sequence, Progress& progress);
  /// What the cache holds of wrong guesses is forgotten, also when a callback throws.
  struct Cut {
    KvCache<Device>& cache;
    const Sequence<Policy>& sequence;
    bool drafted;
    Cut(KvCache<Device>& of, const Sequence<Policy>& to, bool any)
        : cache(of), sequence(to), drafted(any) {}
    Cut(const Cut&) = delete;
    ~Cut() {
      if (drafted) cache.truncate(0, std::ssize(sequence.ids()) - 1);
    }
  };
  void draft(Sequence<Policy>& sequence, const Progress& progress);

  Context<Device>* ctx_;
  const Model* model_;
  const Tokenizer* tokenizer_;
  Policy policy_;
  GeneratorOptions options_;
  std::optional<KvCache<Device>> cache_;
  std::vector<std::int32_t> cached_ids_;  ///< what slot 0 of the cache holds
  StepRows rows_;
  Drafter<Device> drafter_;
  std::vector<std::int32_t> drafts_;
  std::vector<std::int32_t> history_;  ///< the ids so far and `drafts_`
  TokenDraws<Device> draws_;
};

template <class Config>
Generator(Context<typename Config::Device>&, const LlamaModel<Config>&, const Tokenizer&,
          GeneratorOptions = {}) -> Generator<LlamaModel<Config>, ConfiguredPolicy>;
template <class Config, SamplingPolicy Policy>
Generator(Context<typename Config::Device>&, const LlamaModel<Config>&, const Tokenizer&, Policy,
          GeneratorOptions = {}) -> Generator<LlamaModel<Config>, Policy>;

template <class Model, class Policy>
GenerationResult Generator<Model, Policy>::generate(std::vector<std::int32_t> prompt,
                                                    const GenerationConfig& config,
                                                    TextCallback callback,
                                                    const Cancellation& cancellation) {
  check_request(prompt, config, model_->shape(), context_limit());
  Sequence<Policy> sequence(*tokenizer_, policy_, config, std::move(prompt), context_limit(),
                            std::move(callback));
  Progress progress;
  const std::int64_t reused = prepare_cache(sequence.ids(), config);
  const Remember remember{*this, sequence};
  while (!sequence.finished()) {
    if (cancellation.requested()) {
      sequence.cancel();
    } else {
      step(sequence, progress);
    }
  }
  GenerationResult result = sequence.take_result();
  result.reused_tokens = reused;
  result.steps = progress.steps;
  result.drafted_tokens = progress.drafted;
  result.accepted_tokens = progress.accepted;
  return result;
}

template <class Model, class Policy>
std::vector<GenerationResult> Generator<Model, Policy>::generate_batch(
    const std::vector<std::vector<std::int32_t>>& prompts,
    std::span<const GenerationConfig> configs, const BatchCallback& callback,
    const Cancellation& cancellation) {
  if (configs.size() != 1 && configs.size() != prompts.size()) {
    throw ArgumentError("ZIYA-527", "generate_batch: " + std::to_string(configs.size()) +
                                        " configs for " + std::to_string(prompts.size()) +
                                        " prompts");
  }
  std::int64_t longest = 1;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const GenerationConfig& config = configs[configs.size() == 1 ? 0 : i];
    check_request(prompts[i], config, model_->shape(), context_limit());
    longest = std::max(longest, tokens_needed(prompts[i].size(), config, context_limit()));
  }
  if (prompts.empty()) return {};
  Scheduler<Model, Policy> scheduler(*ctx_, *model_, *tokenizer_,
                                     {.cache_dtype = options_.cache_dtype,
                                      .slots = static_cast<int>(prompts.size()),
                                      .max_tokens = longest,
                                      .page_tokens = options_.page_tokens,
                                      .chunk_tokens = options_.chunk_tokens},
                                     policy_);
  std::vector<GenerationResult> results(prompts.size());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    Request request{prompts[i], configs[configs.size() == 1 ? 0 : i]};
    if (callback) {
      request.on_text = [i, &callback](std::string_view text) { callback(i, text); };
    }
    request.on_end = [i, &results](Outcome outcome) {
      if (outcome.error) std::rethrow_exception(outcome.error);
      results[i] = std::move(outcome.result);
    };
    request.cancellation = cancellation;
    scheduler.submit(std::move(request));
  }
  scheduler.run();
  return results;
}

template <class Model, class Policy>
std::int64_t Generator<Model, Policy>::prepare_cache(std::span<const std::int32_t> prompt,
                                                     const GenerationConfig& config) {
  const std::int64_t needed = tokens_needed(prompt.size(), config, context_limit());
  if (!cache_ || cache_->options().max_tokens < needed) {
    // Room for the turns to come: memory is only taken where a sequence grows into it.
    constexpr std::int64_t least = 4096;
    const std::int64_t before = cache_ ? cache_->options().max_tokens : 0;
    reset();
    cache_.emplace(make_cache(std::min(context_limit(), std::max({needed, 2 * before, least})), 1));
  }
  std::int64_t common = common_beginning(prompt.first(prompt.size() - 1), cached_ids_);
  if (rotation_changes(model_->shape(), prompt.size()) ||
      rotation_changes(model_->shape(), cached_ids_.size())) {
    common = 0;
  }
  cache_->truncate(0, common);
  cached_ids_.reserve(static_cast<std::size_t>(needed));  // so that noting it cannot fail
  cached_ids_.resize(static_cast<std::size_t>(common));
  return common;
}

template <class Model, class Policy>
void Generator<Model, Policy>::step(Sequence<Policy>& sequence, Progress& progress) {
  const auto ids = sequence.ids();
  const auto size = static_cast<std::int64_t>(ids.size());
  const std::int64_t begin = cache_->length(0);
  // Dynamic scaling looks at the whole prompt at once.
  const bool whole = rotation_changes(model_->shape(), ids.size());
  const std::int64_t end = whole ? size : std::min(size, begin + options_.chunk_tokens);
  rows_.clear();
  rows_.push_back(ids, begin, end, 0);
  drafts_.clear();
  if (end == size) {
    rows_.want_last(0);
    draft(sequence, progress);
    ++progress.steps;
  }
  for (std::size_t i = 0; i < drafts_.size(); ++i) {
    rows_.push_back(drafts_[i], size + static_cast<std::int64_t>(i), 0);
    rows_.want_last(i + 1);
  }
  const Cut cut{*cache_, sequence, !drafts_.empty()};
  std::size_t right = 0;  // guesses that came true
  rows_.run_together(*ctx_, *model_, *cache_, tokenizer_->vocabulary_size(),
                     [&](const auto& logits) {
                       history_.assign(ids.begin(), ids.end());
                       history_.insert(history_.end(), drafts_.cbegin(), drafts_.cend());
                       draws_.reset(drafts_.size() + 1);
                       for (std::size_t row = 0; row <= drafts_.size(); ++row) {
                         sequence.ask(draws_, row, std::span(history_).first(ids.size() + row));
                       }
                       draws_.run(*ctx_, logits);
                       for (std::size_t row = 0; row == right && !sequence.finished(); ++row) {
                         sequence.accept(*ctx_, StepRows::row_of(logits, row), draws_, row);
                         right += row < drafts_.size() && sequence.ids().back() == drafts_[row];
                       }
                     });
  progress.drafted += std::ssize(drafts_);
  progress.accepted += static_cast<std::int64_t>(right);
  if (drafts_.empty()) return;
  constexpr std::size_t widest = 64;
  progress.width = right == drafts_.size() ? std::min(2 * right + 2, widest) : right + 1;
}

template <class Model, class Policy>
void Generator<Model, Policy>::draft(Sequence<Policy>& sequence, const Progress& progress) {
  if (!drafter_ || sequence.room() < 2) return;
  const auto ids = sequence.ids();
  const std::size_t count = std::min(progress.width, sequence.room() - 1);
  // With dynamic scaling a row's keys depend on how many rows come with it.
  if (rotation_changes(model_->shape(), ids.size() + count)) return;
  drafter_(
      {ids, count,
       [&](Context<Device>& ctx, View<const float, Device> logits,
           std::span<const std::int32_t> history) { return sequence.guess(ctx, logits, history); }},
      drafts_);
  if (drafts_.size() > count) drafts_.resize(count);
  std::size_t known = 0;
  while (known < drafts_.size() && tokenizer_->contains(drafts_[known])) ++known;
  drafts_.resize(known);
}

#if ZIYA_COMPILED
extern template class Generator<CpuModel>;
#endif

ZIYA_NAMESPACE_END
