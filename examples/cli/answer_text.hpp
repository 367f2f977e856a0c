// SPDX-License-Identifier: Apache-2.0
// Answers as lines of JSON, and what is said of them.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "json_text.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/sequence.hpp"

namespace cli {

inline std::string score_text(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6f", number);
  return text;
}

/// [{"id": …, "logprob": …, "top": [[id, logprob], …]}, …]
inline std::string logprobs_text(const std::vector<ziya::TokenLogprobs>& logprobs) {
  std::string text;
  for (const ziya::TokenLogprobs& each : logprobs) {
    std::string top;
    for (const ziya::Candidate& other : each.top) {
      top += (top.empty() ? "[" : ", [") + std::to_string(other.id) + ", " +
             score_text(other.score) + "]";
    }
    text += (text.empty() ? "{\"id\": " : ", {\"id\": ") + std::to_string(each.id) +
            ", \"logprob\": " + score_text(each.logprob) + ", \"top\": [" + top + "]}";
  }
  return "[" + text + "]";
}

/// One line of --ids.
inline std::string answer_line(const ziya::GenerationResult& result,
                               const ziya::GenerationConfig& config) {
  JsonObject object;
  object.add("prompt_ids", result.prompt_ids)
      .add("generated_ids", result.generated_ids)
      .add("text", result.text)
      .add("finish_reason", name(result.finish_reason));
  if (config.num_beams > 1) object.add_raw("score", score_text(result.score));
  if (config.logprobs) object.add_raw("logprobs", logprobs_text(result.logprobs));
  return object.line();
}

/// "0.52 s, 38.1 per second"
inline std::string speed_text(std::size_t tokens, double seconds) {
  char text[64];
  std::snprintf(text, sizeof text, "%.2f s, %.1f per second", seconds,
                seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0);
  return text;
}

}  // namespace cli
