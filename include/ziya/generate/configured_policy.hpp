// SPDX-License-Identifier: Apache-2.0
// The policy that a GenerationConfig describes, composed as the reference composes it.
#pragma once

#include <cstdint>
#include <variant>

#include "ziya/config.hpp"
#include "ziya/core/view.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/generate/sampling.hpp"

ZIYA_NAMESPACE_BEGIN

/// Greedy with the repetition penalty, or sampling with penalty → temperature → top-k → top-p.
class ConfiguredPolicy {
 public:
  /// @throws ArgumentError for settings outside their domain
  void configure(const GenerationConfig& config) {
    const RepetitionPenalty penalty(config.repetition_penalty);
    if (!config.do_sample) {
      policy_ = Greedy(penalty);
    } else {
      policy_ = Multinomial(penalty, Temperature(config.temperature), TopK(config.top_k),
                            TopP(config.top_p));
    }
  }
  std::int32_t sample(Context<Cpu>& ctx, View<const float, Cpu> logits, SamplerState& state) const {
    return std::visit([&](const auto& policy) { return policy.sample(ctx, logits, state); },
                      policy_);
  }

 private:
  std::variant<Greedy<RepetitionPenalty>, Multinomial<RepetitionPenalty, Temperature, TopK, TopP>>
      policy_ = Greedy(RepetitionPenalty());
};

/// A policy that takes its settings from the config of each call; others keep their own.
template <class P>
concept ConfigurablePolicy = requires(P policy, const GenerationConfig& config) {
  policy.configure(config);
};

static_assert(SamplingPolicy<ConfiguredPolicy> && ConfigurablePolicy<ConfiguredPolicy>);

ZIYA_NAMESPACE_END
