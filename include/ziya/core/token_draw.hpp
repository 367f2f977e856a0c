// SPDX-License-Identifier: Apache-2.0
// How a backend draws a token from a row of logits by itself.
#pragma once

#include <cstdint>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// What a token's score goes through first: score / penalty (· penalty where it is negative) when
/// `repeated`, then + amount.
struct ScoreChange {
  std::int32_t id = 0;
  std::int32_t repeated = 0;  ///< 1: the repetition penalty acts on it
  float amount = 0;           ///< −(count · frequency + presence)
};

/// The processors of `generate/processor_list.hpp` that need nothing but the row and what occurred
/// before, in their order: penalties, temperature, top_k, top_p; the temperature last on demand.
struct TokenDraw {
  bool best = false;  ///< the best token after the penalties; of equals the lowest id
  bool temperature_last = false;
  float repetition_penalty = 1;
  float temperature = 1;
  int top_k = 0;       ///< 0: all
  float top_p = 1;     ///< 1: all
  double uniform = 0;  ///< in [0, 1): the quantile that is drawn
};

ZIYA_NAMESPACE_END
