// SPDX-License-Identifier: Apache-2.0
// The policy that a GenerationConfig describes, composed as the reference composes it.
#pragma once

#include <cstdint>

#include "ziya/config.hpp"
#include "ziya/core/view.hpp"
#include "ziya/generate/device_draw.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/mirostat.hpp"
#include "ziya/generate/processor_list.hpp"
#include "ziya/generate/sampling.hpp"
#include "ziya/generate/token_draws.hpp"

ZIYA_NAMESPACE_BEGIN

/// The processors of a config, and then the best token, a draw, or mirostat's draw. Where the
/// logits are on another device, that device draws if it knows the settings (`TokenDraws`), and
/// only the id comes back; what is left to `sample` brings the logits to the host.
class ConfiguredPolicy {
 public:
  /// @throws ArgumentError for settings outside their domain
  void configure(const GenerationConfig& config) {
    processors_ = processors_of(config);
    device_draw_.configure(config);
    choice_ = !config.do_sample         ? Choice::best
              : config.mirostat.enabled ? Choice::mirostat
                                        : Choice::draw;
    mirostat_ = config.mirostat;
  }
  template <class Device>
  std::int32_t sample(Context<Device>&, View<const float, Device> logits,
                      SamplerState& state) const {
    Candidates& candidates = processors_.run(on_host(logits, state), state);
    if (choice_ == Choice::best) return candidates.best().id;
    if (choice_ == Choice::mirostat) return sample_mirostat(mirostat_, state);
    return candidates.at_quantile(state.random.uniform());
  }

  [[nodiscard]] const DeviceDraw& device_draw() const { return device_draw_; }

 private:
  enum class Choice : std::uint8_t { best, draw, mirostat };

  ProcessorList processors_;
  DeviceDraw device_draw_;
  Choice choice_ = Choice::best;
  MirostatOptions mirostat_;
};

/// A policy that takes its settings from the config of each call; others keep their own.
template <class P>
concept ConfigurablePolicy = requires(P policy, const GenerationConfig& config) {
  policy.configure(config);
};

static_assert(SamplingPolicy<ConfiguredPolicy> && ConfigurablePolicy<ConfiguredPolicy> &&
              DeviceDrawnPolicy<ConfiguredPolicy>);

ZIYA_NAMESPACE_END
