// SPDX-License-Identifier: Apache-2.0
// Settings by name: those of the model cards, and llama.cpp's defaults.
#pragma once

#include <string>
#include <string_view>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/generation_config.hpp"

ZIYA_NAMESPACE_BEGIN

/// `ziya`: the card of Ziya-LLaMA-13B. `visual`: the card of Ziya-BLIP2-14B-Visual. `llama.cpp`:
/// that program's order and defaults (top_k 40, top_p 0.95, min_p 0.05, temperature 0.8).
/// @throws ArgumentError ZIYA-548 for another name
inline GenerationConfig generation_preset(std::string_view name) {
  GenerationConfig config;
  if (name == "ziya") return config;
  if (name == "visual") {
    config.max_new_tokens = 128;
    config.top_p = 0.1f;
    config.temperature = 0.7f;
    config.repetition_penalty = 1.18f;
    return config;
  }
  if (name == "llama.cpp") {
    config.order = SamplerOrder::llama_cpp;
    config.temperature = 0.8f;
    config.top_k = 40;
    config.top_p = 0.95f;
    config.min_p = 0.05f;
    return config;
  }
  throw ArgumentError("ZIYA-548", "preset: there is no " + std::string(name) +
                                      ", expected ziya, visual or llama.cpp");
}

ZIYA_NAMESPACE_END
