// SPDX-License-Identifier: Apache-2.0
// Prompts in, answers out: the loop of forward passes, sampling and text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/workspace.hpp"
#include "ziya/generate/configured_policy.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/generation_config_file.hpp"
#include "ziya/generate/sampling.hpp"
#include "ziya/generate/sequence.hpp"
#include "ziya/generate/stopping.hpp"
#include "ziya/model/batch.hpp"
#include "ziya/model/llama.hpp"
#include "ziya/nn/kv_cache.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

struct GeneratorOptions {
  DType cache_dtype = DType::f32;   ///< f32, f16 or bf16
  std::int64_t chunk_tokens = 512;  ///< prompt tokens per forward pass
  std::int64_t page_tokens = 64;    ///< cache tokens per page
};

/// Most tokens that prompt and answer may have together: the positions of the model, which linear
/// and dynamic RoPE scaling extend.
inline std::int64_t context_limit(const LlamaShape& shape) {
  const RopeScaling& scaling = shape.rope_scaling;
  if (scaling.kind != RopeScaling::Kind::linear && scaling.kind != RopeScaling::Kind::dynamic) {
    return shape.max_positions;
  }
  const double extended = scaling.factor * static_cast<double>(scaling.original_max_positions);
  constexpr double most = 1 << 30;
  return std::max(shape.max_positions, static_cast<std::int64_t>(std::min(extended, most)));
}

/// Answers prompts with one model. Context, model and tokenizer outlive it; it belongs to the
/// context's thread. The cache stays filled between calls: a prompt that begins like the last
/// conversation only computes what is new, with the same result to the bit.
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
    if (tokenizer.vocabulary_size() > model.shape().vocabulary) {
      throw ConfigError("ZIYA-525", "generator: the tokenizer has " +
                                        std::to_string(tokenizer.vocabulary_size()) +
                                        " tokens, but the model only " +
                                        std::to_string(model.shape().vocabulary) + " embeddings");
    }
    if (options.chunk_tokens < 1) {
      throw ArgumentError("ZIYA-526", "generator: chunk_tokens is " +
                                          std::to_string(options.chunk_tokens) +
                                          ", expected at least 1");
    }
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
                            TextCallback callback = {}, const Cancellation& cancellation = {}) {
    check(prompt, config);
    std::vector<Sequence<Policy>> sequence;
    sequence.emplace_back(*tokenizer_, policy_, config, std::move(prompt), context_limit(),
                          std::move(callback));
    const std::int64_t reused = prepare_cache(sequence.front().ids(), config);
    const Remember remember{*this, sequence.front()};
    run(sequence, *cache_, cancellation);
    GenerationResult result = sequence.front().take_result();
    result.reused_tokens = reused;
    return result;
  }

  /// Answers several prompts at once; each answer is what `generate` gives for it alone, with the
  /// same seed. Memory of their caches is held during the call only.
  /// @param configs one for all, or one each   @throws as above; ArgumentError when counts differ
  std::vector<GenerationResult> generate_batch(
      const std::vector<std::vector<std::int32_t>>& prompts,
      std::span<const GenerationConfig> configs, const BatchCallback& callback = {},
      const Cancellation& cancellation = {}) {
    if (configs.size() != 1 && configs.size() != prompts.size()) {
      throw ArgumentError("ZIYA-527", "generate_batch: " + std::to_string(configs.size()) +
                                          " configs for " + std::to_string(prompts.size()) +
                                          " prompts");
    }
    std::vector<Sequence<Policy>> sequences;
    std::int64_t longest = 1;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const GenerationConfig& config = configs[configs.size() == 1 ? 0 : i];
      check(prompts[i], config);
      TextCallback own;
      if (callback) own = [i, &callback](std::string_view text) { callback(i, text); };
      sequences.emplace_back(*tokenizer_, policy_, config, prompts[i], context_limit(),
                             std::move(own));
      longest = std::max(longest, tokens_needed(prompts[i].size(), config));
    }
    if (prompts.empty()) return {};
    KvCache<Device> cache = make_cache(longest, static_cast<int>(prompts.size()));
    run(sequences, cache, cancellation);
    std::vector<GenerationResult> results;
    for (Sequence<Policy>& sequence : sequences) results.push_back(sequence.take_result());
    return results;
  }
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

  void check(std::span<const std::int32_t> prompt, const GenerationConfig& config) const {
    config.check();
    if (prompt.empty()) throw ArgumentError("ZIYA-521", "generate: the prompt is empty");
    const auto size = static_cast<std::int64_t>(prompt.size());
    if (size > context_limit()) {
      throw ArgumentError("ZIYA-522", "generate: the prompt has " + std::to_string(size) +
                                          " tokens, the model's context " +
                                          std::to_string(context_limit()));
    }
    const auto check_id = [&](std::int32_t id, const char* what) {
      if (id < 0 || id >= model_->shape().vocabulary) {
        throw ArgumentError("ZIYA-523", std::string("generate: ") + what + " id " +
                                            std::to_string(id) + " is outside the vocabulary of " +
                                            std::to_string(model_->shape().vocabulary));
      }
    };
    for (const std::int32_t id : prompt) check_id(id, "prompt");
    for (const std::int32_t id : config.eos_ids) check_id(id, "eos");
  }

  [[nodiscard]] std::int64_t tokens_needed(std::size_t prompt,
                                           const GenerationConfig& config) const {
    const auto size = static_cast<std::int64_t>(prompt);
    return size + std::min(config.max_new_tokens, context_limit() - size);
  }
  [[nodiscard]] KvCache<Device> make_cache(std::int64_t tokens, int slots) const {
    return KvCache<Device>(model_->shape().cache_shape(), {.dtype = options_.cache_dtype,
                                                           .slots = slots,
                                                           .max_tokens = tokens,
                                                           .page_tokens = options_.page_tokens});
  }

  /// Whether keys depend on the length of the sequence they were computed in.
  [[nodiscard]] bool rotation_changes(std::size_t tokens) const {
    const RopeScaling& scaling = model_->shape().rope_scaling;
    return scaling.kind == RopeScaling::Kind::dynamic &&
           static_cast<std::int64_t>(tokens) > scaling.original_max_positions;
  }

  /// Makes room for a prompt and its answer; the cache keeps the tokens that they share with what
  /// it holds. @returns how many
  std::int64_t prepare_cache(std::span<const std::int32_t> prompt, const GenerationConfig& config) {
    const std::int64_t needed = tokens_needed(prompt.size(), config);
    if (!cache_ || cache_->options().max_tokens < needed) {
      // Room for the turns to come: memory is only taken where a sequence grows into it.
      constexpr std::int64_t least = 4096;
      const std::int64_t before = cache_ ? cache_->options().max_tokens : 0;
      reset();
      cache_.emplace(
          make_cache(std::min(context_limit(), std::max({needed, 2 * before, least})), 1));
    }
    const auto [end, unused] = std::ranges::mismatch(prompt.first(prompt.size() - 1), cached_ids_);
    auto common = static_cast<std::int64_t>(end - prompt.begin());
    if (rotation_changes(prompt.size()) || rotation_changes(cached_ids_.size())) common = 0;
    cache_->truncate(0, common);
    cached_ids_.reserve(static_cast<std::size_t>(needed));  // so that noting it cannot fail
    cached_ids_.resize(static_cast<std::size_t>(common));
    return common;
  }

  /// Every pass takes the tokens that the cache does not hold yet, of all sequences: chunks of
  /// prompts, then one token each. Sequence i has slot i.
  void run(std::vector<Sequence<Policy>>& sequences, KvCache<Device>& cache,
           const Cancellation& cancellation) {
    while (std::ranges::any_of(sequences, [](const auto& each) { return !each.finished(); })) {
      if (cancellation.requested()) {
        for (Sequence<Policy>& sequence : sequences) sequence.cancel();
        return;
      }
      step(sequences, cache);
    }
  }

  void step(std::vector<Sequence<Policy>>& sequences, KvCache<Device>& cache) {
    rows_.clear();
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      if (sequences[i].finished()) continue;
      const auto slot = static_cast<std::int32_t>(i);
      const auto ids = sequences[i].ids();
      const auto begin = static_cast<std::size_t>(cache.length(slot));
      const auto room = static_cast<std::size_t>(options_.chunk_tokens) - rows_.ids.size();
      // Dynamic scaling looks at the whole prompt at once.
      const bool whole = rotation_changes(ids.size());
      const std::size_t end = whole ? ids.size() : std::min(ids.size(), begin + room);
      for (std::size_t at = begin; at < end; ++at) rows_.push_back(ids[at], at, slot);
      if (begin < end && end == ids.size()) rows_.want_last(i);
      if (rows_.ids.size() >= static_cast<std::size_t>(options_.chunk_tokens)) break;
    }
    typename Workspace<Device>::Scope scope(ctx_->workspace());
    const auto outputs = static_cast<std::int64_t>(rows_.outputs.size());
    const auto hidden = ctx_->workspace().template take<T>(Shape{outputs, model_->shape().hidden});
    Batch<T, Device> batch;
    batch.ids = rows_.ids;
    batch.positions = rows_.positions;
    batch.slots = rows_.slots;
    batch.outputs = rows_.outputs;
    model_->forward(*ctx_, hidden, batch, cache);
    if (outputs == 0) return;
    const auto logits =
        ctx_->workspace().template take<float>(Shape{outputs, model_->shape().vocabulary});
    model_->logits(*ctx_, logits, hidden);
    // Rows of the embedding past the tokenizer's last id are padding and mean nothing.
    const Shape vocabulary{tokenizer_->vocabulary_size()};
    for (std::int64_t row = 0; row < outputs; ++row) {
      Sequence<Policy>& sequence = sequences[rows_.owners[static_cast<std::size_t>(row)]];
      sequence.accept(*ctx_, View<const float, Device>(logits.row(row), vocabulary));
    }
  }

  /// The rows of one pass; kept, so that a token allocates nothing.
  struct Rows {
    std::vector<std::int32_t> ids, positions, slots, outputs;
    std::vector<std::size_t> owners;  ///< sequence of each output

    void clear() {
      for (auto* column : {&ids, &positions, &slots, &outputs}) column->clear();
      owners.clear();
    }
    void push_back(std::int32_t id, std::size_t position, std::int32_t slot) {
      ids.push_back(id);
      positions.push_back(static_cast<std::int32_t>(position));
      slots.push_back(slot);
    }
    void want_last(std::size_t owner) {
      outputs.push_back(static_cast<std::int32_t>(ids.size()) - 1);
      owners.push_back(owner);
    }
  };

  Context<Device>* ctx_;
  const Model* model_;
  const Tokenizer* tokenizer_;
  Policy policy_;
  GeneratorOptions options_;
  std::optional<KvCache<Device>> cache_;
  std::vector<std::int32_t> cached_ids_;  ///< what slot 0 of the cache holds
  Rows rows_;
};

template <class Config>
Generator(Context<typename Config::Device>&, const LlamaModel<Config>&, const Tokenizer&,
          GeneratorOptions = {}) -> Generator<LlamaModel<Config>, ConfiguredPolicy>;
template <class Config, SamplingPolicy Policy>
Generator(Context<typename Config::Device>&, const LlamaModel<Config>&, const Tokenizer&, Policy,
          GeneratorOptions = {}) -> Generator<LlamaModel<Config>, Policy>;

ZIYA_NAMESPACE_END
