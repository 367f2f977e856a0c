// SPDX-License-Identifier: Apache-2.0
// What one sequence carries from token to token while tokens are chosen for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/random.hpp"
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

  [[nodiscard]] std::span<const std::int32_t> answer() const {
    return history.subspan(prompt_size < history.size() ? prompt_size : history.size());
  }
};

ZIYA_NAMESPACE_END
