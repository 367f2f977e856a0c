// SPDX-License-Identifier: Apache-2.0
// What one sequence carries from token to token while tokens are chosen for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/random.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/view.hpp"
#include "ziya/generate/candidates.hpp"
#include "ziya/generate/grammar_progress.hpp"

ZIYA_NAMESPACE_BEGIN

/// A policy that is moved to another thread or run for several sequences keeps nothing itself. A
/// copy goes on independently.
struct SamplerState {
  Random random;
  std::span<const std::int32_t> history;  ///< ids of the prompt and of the answer so far
  std::size_t prompt_size = 0;            ///< ids of `history` that are the prompt
  std::size_t limit = std::numeric_limits<std::size_t>::max();  ///< most ids of both together
  std::optional<double> mirostat_mu;  ///< `Mirostat`'s; none: at the start
  GrammarProgress grammar;            ///< `GrammarConstraint`'s

  // Buffers, so that a token allocates nothing.
  Candidates candidates;
  std::vector<Candidate> amounts;
  std::vector<std::int32_t> ids;
  std::vector<float> row;  ///< logits of another device

  [[nodiscard]] std::span<const std::int32_t> answer() const {
    return history.subspan(prompt_size < history.size() ? prompt_size : history.size());
  }
};

/// The logits where processors can read them; from another device than the CPU, a copy.
template <class Device>
View<const float, Cpu> on_host(View<const float, Device> logits, SamplerState& state) {
  if constexpr (std::is_same_v<Device, Cpu>) {
    return logits;
  } else {
    state.row.resize(static_cast<std::size_t>(logits.elements()));
    copy(Cpu{}, state.row.data(), Device{}, logits.data(), state.row.size() * sizeof(float));
    return {state.row.data(), logits.shape()};
  }
}

ZIYA_NAMESPACE_END
