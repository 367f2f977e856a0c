// SPDX-License-Identifier: Apache-2.0
// What Hugging Face calls the tensors of a LLaMA model.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN
namespace llama_names {

inline constexpr std::string_view embedding = "model.embed_tokens.weight";
inline constexpr std::string_view final_norm = "model.norm.weight";
inline constexpr std::string_view head = "lm_head.weight";
inline constexpr std::string_view layers = "model.layers.";

/// "model.layers.3.self_attn.q_proj.weight" for layer 3 and part "self_attn.q_proj.weight"
inline std::string of_layer(std::int64_t layer, std::string_view part) {
  return std::string(layers) + std::to_string(layer) + "." + std::string(part);
}

/// Whether a name is that of a layer's matrix, not of a norm, a bias or an adapter.
inline bool is_layer_matrix(std::string_view name) {
  return name.starts_with(layers) && name.ends_with("_proj.weight");
}

/// Stored by old conversions; recomputed here, so a stored copy is never read.
inline bool is_rotary_cache(std::string_view name) {
  return name.find("rotary_emb.inv_freq") != std::string_view::npos;
}

}  // namespace llama_names
ZIYA_NAMESPACE_END
