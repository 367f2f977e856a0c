// SPDX-License-Identifier: Apache-2.0
// One conversation with a model: what was said, what the cache holds of it, and the random state.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/conversation.hpp"
#include "ziya/generate/generator.hpp"
#include "ziya/generate/session_file.hpp"

ZIYA_NAMESPACE_BEGIN

struct SessionOptions {
  HistoryRule history = HistoryRule::drop_turns;
  /// Tokens of the context that are kept for the answer; at most a quarter of it.
  std::int64_t reserve = 1024;
  std::uint64_t seed = 0;  ///< of the first answer; each answer after it has the next one
  GeneratorOptions generator = {};
};

struct Reply {
  GenerationResult result;
  Conversation::Forgotten forgotten;  ///< what the context had no room for, before this answer
};

/// Asks in the form of a template, keeps the cache between turns and computes only what is new.
/// Belongs to the context's thread; context, model and tokenizer outlive it.
template <class Model, class Policy = ConfiguredPolicy>
class Session {
 public:
  using Device = typename Model::Device;

  /// @throws ConfigError, ArgumentError as `Generator`; ZIYA-315 for a template whose tokens the
  /// tokenizer lacks
  Session(Context<Device>& ctx, const Model& model, const Tokenizer& tokenizer,
          PromptTemplate wrapping, const SessionOptions& options = {})
      : model_(&model),
        options_(options),
        seed_(options.seed),
        conversation_(tokenizer, std::move(wrapping)),
        generator_(ctx, model, tokenizer, options.generator) {
    (void)conversation_.prompt_template().query_ids(tokenizer, "", true);
  }

  /// The answer to `text`. One that is cancelled ends the turn with what was said; after an
  /// exception (a callback's, or for a question that cannot be asked) the session is as it was.
  /// @param config its seed is the session's
  /// @throws ArgumentError, BackendError as `Generator::generate`
  Reply say(std::string_view text, GenerationConfig config = {}, TextCallback callback = {},
            const Cancellation& cancellation = {}) {
    for (const std::string& stop : conversation_.prompt_template().stop) {
      config.stop.push_back(stop);
    }
    config.seed = seed_;
    const Conversation before = conversation_;
    conversation_.ask(text);
    const std::int64_t context = generator_.context_limit();
    Reply reply;
    reply.forgotten = conversation_.shorten(
        options_.history,
        context - std::min({options_.reserve, config.max_new_tokens, context / 4}), context);
    try {
      reply.result =
          generator_.generate(conversation_.ids(), config, std::move(callback), cancellation);
    } catch (...) {
      conversation_ = before;
      throw;
    }
    conversation_.answered(reply.result.generated_ids);
    ++seed_;
    return reply;
  }

  /// Forgets what was said. The system text stays.
  void reset() { conversation_.reset(); }
  [[nodiscard]] Conversation& conversation() { return conversation_; }
  [[nodiscard]] const Conversation& conversation() const { return conversation_; }
  [[nodiscard]] Generator<Model, Policy>& generator() { return generator_; }
  /// Of the next answer.
  [[nodiscard]] std::uint64_t seed() const { return seed_; }

  /// @throws IoError
  void save(const std::filesystem::path& path) const {
    SessionFile{fingerprint(), seed_, conversation_.to_json()}.write(path);
  }
  /// Goes on where `save` was called; on an error nothing changes.
  /// @throws IoError; FormatError for what is no session; ZIYA-584 for another model's
  void load(const std::filesystem::path& path) {
    const SessionFile file = SessionFile::read(path);
    if (file.model != fingerprint()) {
      throw FormatError("ZIYA-584", utf8_from_path(path) + ": belongs to the model " +
                                        file.model.substr(0, 16) + ", this one is " +
                                        fingerprint());
    }
    conversation_.restore(file.conversation, utf8_from_path(path));
    seed_ = file.seed;
  }

 private:
  [[nodiscard]] std::string fingerprint() const {
    if constexpr (requires { model_->fingerprint(); }) {
      return model_->fingerprint();
    } else {
      return sampled_fingerprint(model_->shape(), model_->weights());
    }
  }

  const Model* model_;
  SessionOptions options_;
  std::uint64_t seed_;
  Conversation conversation_;
  Generator<Model, Policy> generator_;
};

template <class Config>
Session(Context<typename Config::Device>&, const LlamaModel<Config>&, const Tokenizer&,
        PromptTemplate, SessionOptions = {}) -> Session<LlamaModel<Config>>;

ZIYA_NAMESPACE_END
