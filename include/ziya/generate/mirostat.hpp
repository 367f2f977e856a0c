// SPDX-License-Identifier: Apache-2.0
// Mirostat 2: truncation by surprise, with feedback that holds the surprise where it is wanted.
#pragma once

#include <cmath>
#include <cstdint>

#include "ziya/config.hpp"
#include "ziya/generate/candidates.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/generate/sampler_state.hpp"

ZIYA_NAMESPACE_BEGIN

struct MirostatOptions {
  bool enabled = false;
  float tau = 5.0f;  ///< surprise that is aimed at, in bits
  float eta = 0.1f;  ///< how fast it is approached

  /// @throws ArgumentError unless tau > 0 and eta >= 0
  void check() const {
    check_setting(tau > 0 && tau < 1e6f, "mirostat_tau", tau, "a positive number");
    check_setting(eta >= 0 && eta < 1e6f, "mirostat_eta", eta, "0 or more");
  }
};

/// Starts with μ = 2τ. Each token: keep what has −log2 p ≤ μ, the best in any case; draw X from
/// what is left, renormalised; μ ← μ − η (−log2 p'(X) − τ), p' the renormalised probability.
/// Source: Basu et al., arXiv 2007.14966, algorithm 2 with the truncation of its section 6, as
/// llama.cpp's version 2 computes it
/// @throws BackendError when every token is masked
inline std::int32_t sample_mirostat(const MirostatOptions& options, SamplerState& state) {
  Candidates& candidates = state.candidates;
  const double mu = state.mirostat_mu.value_or(2.0 * options.tau);
  const double log_sum = candidates.log_sum();
  candidates.keep_above(static_cast<float>(log_sum - mu * std::log(2.0)));
  const std::int32_t id = candidates.at_quantile(state.random.uniform());
  float score = 0;
  candidates.for_each([&](const Candidate& candidate) {
    if (candidate.id == id) score = candidate.score;
  });
  const double surprise = (candidates.log_sum() - score) / std::log(2.0);
  state.mirostat_mu = mu - options.eta * (surprise - options.tau);
  return id;
}

ZIYA_NAMESPACE_END
