// SPDX-License-Identifier: Apache-2.0
// Policies: how a row of logits becomes the next token.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/view.hpp"
#include "ziya/generate/candidates.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/generate/sampler_state.hpp"

ZIYA_NAMESPACE_BEGIN

/// A small value that chooses the next token from the logits where they are.
/// @param logits (n) one row; its last column is the last token that may be chosen
template <class P, class Device = Cpu>
concept SamplingPolicy = requires(const P policy, Context<Device>& ctx,
                                  View<const float, Device> logits, SamplerState& state) {
  { policy.sample(ctx, logits, state) } -> std::same_as<std::int32_t>;
};

/// Processors in the order in which they are applied.
template <LogitsProcessor... Processors>
class ProcessorChain {
 public:
  explicit ProcessorChain(Processors... processors) : processors_(std::move(processors)...) {}

  /// The candidates that are left of a row. @throws BackendError for logits that are NaN or
  /// +infinity
  Candidates& run(View<const float, Cpu> logits, SamplerState& state) const {
    Candidates& candidates = state.candidates;
    candidates.assign({logits.data(), static_cast<std::size_t>(logits.elements())});
    std::apply([&](const auto&... each) { (ziya::apply(each, state), ...); }, processors_);
    return candidates;
  }

 private:
  std::tuple<Processors...> processors_;
};

/// The best token; of equals the lowest id, as argmax does.
template <LogitsProcessor... Processors>
class Greedy {
 public:
  explicit Greedy(Processors... processors) : chain_(std::move(processors)...) {}

  template <class Device>
  std::int32_t sample(Context<Device>&, View<const float, Device> logits,
                      SamplerState& state) const {
    return chain_.run(on_host(logits, state), state).best().id;
  }

 private:
  ProcessorChain<Processors...> chain_;
};

/// A draw from softmax(scores), by the inverse of its cumulative distribution, in double.
template <LogitsProcessor... Processors>
class Multinomial {
 public:
  explicit Multinomial(Processors... processors) : chain_(std::move(processors)...) {}

  template <class Device>
  std::int32_t sample(Context<Device>&, View<const float, Device> logits,
                      SamplerState& state) const {
    return chain_.run(on_host(logits, state), state).at_quantile(state.random.uniform());
  }

 private:
  ProcessorChain<Processors...> chain_;
};

static_assert(SamplingPolicy<Greedy<>> && SamplingPolicy<Greedy<RepetitionPenalty>>);
static_assert(SamplingPolicy<Multinomial<Temperature, TopK, TopP>>);

ZIYA_NAMESPACE_END
