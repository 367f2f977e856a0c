// SPDX-License-Identifier: Apache-2.0
// Everything that generate and chat do with a model, the same on every device.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pass_timer.hpp"
#include "session.hpp"
#include "ziya/ziya.hpp"

namespace cli {

/// Context, tokenizer, model, draft model and session, in the order in which they refer to each
/// other.
template <class Model>
class ModelParts : public SessionParts {
 public:
  using Device = typename Model::Device;

  /// @param load (folder, whether it is the draft) → Model
  template <class DeviceOptions, class Load>
  ModelParts(const DeviceOptions& device, ziya::Tokenizer text, const SessionSetup& setup,
             ziya::DType cache_dtype, Load&& load)
      : context_(device),
        tokenizer_(std::move(text)),
        model_(load(setup.folder, false)),
        cache_dtype_(cache_dtype),
        session_(context_, model_, tokenizer_, setup.wrapping,
                 with_cache(setup.conversation, cache_dtype)) {
    if (!setup.model.draft.empty()) {
      const auto folder = ziya::resolve_model_path(ziya::path_from_utf8(setup.model.draft));
      check_same_vocabulary(tokenizer_, ziya::Tokenizer::load(folder), setup.model.draft);
      draft_ = std::make_unique<Draft>(load(folder, true), *this);
      speculate(std::ref(draft_->guess));
    } else if (setup.model.prompt_lookup > 0) {
      speculate(ziya::PromptLookup{setup.model.prompt_lookup});
    }
  }

  [[nodiscard]] std::int64_t context_limit() const override {
    return ziya::context_limit(model_.shape());
  }
  ziya::GenerationResult generate(std::vector<std::int32_t> prompt,
                                  const ziya::GenerationConfig& config, ziya::TextCallback callback,
                                  const ziya::Cancellation& cancellation) override {
    timer_.restart();
    return session_.generator().generate(std::move(prompt), config, std::move(callback),
                                         cancellation);
  }
  std::vector<ziya::GenerationResult> search(const std::vector<std::int32_t>& prompt,
                                             const ziya::GenerationConfig& config) override {
    if (config.num_beams > 1) {
      return ziya::beam_search(context_, model_, tokenizer_, prompt, config, {}, cache_dtype_);
    }
    std::vector<ziya::GenerationResult> results;
    results.push_back(
        ziya::contrastive_search(context_, model_, tokenizer_, prompt, config, {}, cache_dtype_));
    return results;
  }
  void check(const ziya::Request& request) const override {
    ziya::check_request(request.prompt, request.config, model_.shape(), context_limit());
  }
  void batch(std::vector<ziya::Request> requests, int parallel) override {
    std::int64_t longest = 1;
    for (const ziya::Request& request : requests) {
      longest = std::max(
          longest, ziya::tokens_needed(request.prompt.size(), request.config, context_limit()));
    }
    const auto slots = std::min(requests.size(), static_cast<std::size_t>(parallel));
    ziya::Scheduler<Model> scheduler(
        context_, model_, tokenizer_,
        {.cache_dtype = cache_dtype_, .slots = static_cast<int>(slots), .max_tokens = longest});
    for (ziya::Request& request : requests) scheduler.submit(std::move(request));
    scheduler.run();
  }
  [[nodiscard]] std::optional<double> speed_up(std::int64_t tokens) const override {
    return timer_.speed_up(tokens);
  }

  ziya::Conversation& conversation() override { return session_.conversation(); }
  ziya::Reply say(const std::string& text, const ziya::GenerationConfig& config,
                  ziya::TextCallback callback, const ziya::Cancellation& cancellation) override {
    timer_.restart();
    return session_.say(text, config, std::move(callback), cancellation);
  }
  void save(const std::filesystem::path& path) const override { session_.save(path); }
  void load(const std::filesystem::path& path) override { session_.load(path); }

 protected:
  ziya::Context<Device> context_;
  ziya::Tokenizer tokenizer_;
  Model model_;

 private:
  struct Draft {
    Model model;
    ziya::DraftModel<Model> guess;
    Draft(Model of, ModelParts& parts)
        : model(std::move(of)),
          guess(parts.context_, model, parts.tokenizer_, 8, parts.cache_dtype_) {}
  };

  static ziya::SessionOptions with_cache(ziya::SessionOptions options, ziya::DType dtype) {
    options.generator.cache_dtype = dtype;
    return options;
  }
  template <class Guess>
  void speculate(Guess guess) {
    session_.generator().speculate(
        [this, guess](const ziya::DraftRequest<Device>& request, std::vector<std::int32_t>& ids) {
          if (timer_.begin_pass()) guess(request, ids);
          timer_.guessed(ids.size());
        });
  }

  ziya::DType cache_dtype_;
  PassTimer timer_;
  std::unique_ptr<Draft> draft_;
  ziya::Session<Model> session_;
};

}  // namespace cli
