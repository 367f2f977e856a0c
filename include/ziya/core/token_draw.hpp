// SPDX-License-Identifier: Apache-2.0
// How a backend draws tokens from rows of logits by itself.
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
/// For one row of several.
struct TokenDraw {
  bool on_host = false;  ///< nothing is drawn: the host decides
  bool best = false;     ///< the best token after the penalties; of equals the lowest id
  bool temperature_last = false;
  float repetition_penalty = 1;
  float temperature = 1;
  int top_k = 0;                  ///< 0: all
  float top_p = 1;                ///< 1: all
  std::int32_t first_change = 0;  ///< of the row's own among the changes of all rows
  std::int32_t changes = 0;       ///< how many are its own
  double uniform = 0;             ///< in [0, 1): the quantile that is drawn
};

ZIYA_NAMESPACE_END
