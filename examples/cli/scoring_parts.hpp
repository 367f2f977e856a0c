// SPDX-License-Identifier: Apache-2.0
// Everything that eval, embed and perplexity do with a model, the same on every device.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "session.hpp"
#include "ziya/ziya.hpp"

namespace cli {

/// Context and models; the scorer, and with it the cache, comes when it is needed.
template <class Model>
class ModelScoring : public ScoringParts {
 public:
  /// @param load, load_other () → Model
  template <class DeviceOptions, class Load, class LoadOther>
  ModelScoring(const DeviceOptions& device, ziya::DType cache_dtype, const ScoringSetup& setup,
               Load&& load, LoadOther&& load_other)
      : context_(device), model_(load()), cache_dtype_(cache_dtype) {
    if (!setup.against.empty()) other_.emplace(load_other());
  }

  [[nodiscard]] std::int64_t context_limit() const override {
    return ziya::context_limit(model_.shape());
  }
  ziya::Likelihood log_likelihood(std::span<const std::int32_t> prompt,
                                  std::span<const std::int32_t> continuation) override {
    return scorer().log_likelihood(prompt, continuation);
  }
  std::vector<float> embed(std::span<const std::int32_t> ids) override {
    return scorer().embed(ids);
  }
  ziya::PerplexityResult perplexity(std::span<const std::int32_t> ids,
                                    const ziya::PerplexityOptions& options) override {
    return ziya::perplexity(context_, model_, ids, options, other_ ? &*other_ : nullptr);
  }

 private:
  ziya::Scorer<Model>& scorer() {
    if (!scorer_) scorer_.emplace(context_, model_, 256, cache_dtype_);
    return *scorer_;
  }

  ziya::Context<typename Model::Device> context_;
  Model model_;
  std::optional<Model> other_;
  ziya::DType cache_dtype_;
  std::optional<ziya::Scorer<Model>> scorer_;
};

}  // namespace cli
