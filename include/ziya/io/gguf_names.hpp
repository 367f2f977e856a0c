// SPDX-License-Identifier: Apache-2.0
// What GGUF and Hugging Face call the tensors of a LLaMA model, both ways.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

namespace gguf {

/// One factor per rotary pair, by which its frequency is divided; has no name in Hugging Face's
/// layout.
inline constexpr std::string_view rope_factors = "rope_freqs.weight";

namespace detail {

struct NamePair {
  std::string_view gguf, hugging_face;
};
inline constexpr NamePair outer_names[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
/// Within a layer, in the order in which a forward pass needs them.
inline constexpr NamePair layer_names[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"}};

/// A name taken apart. `layer` is −1 outside the layers; without a suffix it is no name.
struct TensorName {
  std::int64_t layer = -1;
  std::size_t part = 0;     // place in outer_names or layer_names
  std::string_view suffix;  // "weight" or "bias"
};

/// @param side 0 reads GGUF's names, 1 Hugging Face's
inline TensorName parse_name(std::string_view name, int side) {
  const auto spelling = [&](const NamePair& pair) {
    return side == 0 ? pair.gguf : pair.hugging_face;
  };
  TensorName result;
  const std::size_t last = name.rfind('.');
  if (last == std::string_view::npos) return {};
  result.suffix = name.substr(last + 1);
  if (result.suffix != "weight" && result.suffix != "bias") return {};
  std::string_view stem = name.substr(0, last);
  for (const NamePair& pair : outer_names) {
    if (stem == spelling(pair)) return result;
    ++result.part;
  }
  const std::string_view prefix = side == 0 ? "blk." : "model.layers.";
  if (!stem.starts_with(prefix)) return {};
  stem.remove_prefix(prefix.size());
  const std::size_t digits = stem.find('.');
  if (digits == std::string_view::npos || digits == 0 || digits > 9) return {};
  if (digits > 1 && stem.front() == '0') return {};
  result.layer = 0;
  for (const char c : stem.substr(0, digits)) {
    if (c < '0' || c > '9') return {};
    result.layer = result.layer * 10 + (c - '0');
  }
  stem.remove_prefix(digits + 1);
  result.part = 0;
  for (const NamePair& pair : layer_names) {
    if (stem == spelling(pair)) return result;
    ++result.part;
  }
  return {};
}

inline std::string spell_name(const TensorName& name, int side) {
  const auto spelling = [&](const NamePair& pair) {
    return std::string(side == 0 ? pair.gguf : pair.hugging_face) + "." + std::string(name.suffix);
  };
  if (name.layer < 0) return spelling(outer_names[name.part]);
  return (side == 0 ? "blk." : "model.layers.") + std::to_string(name.layer) + "." +
         spelling(layer_names[name.part]);
}

}  // namespace detail

/// "model.layers.3.mlp.up_proj.weight" for "blk.3.ffn_up.weight"; a name that means nothing there
/// stays as it is.
inline std::string hf_name(std::string_view gguf_name) {
  const auto parsed = detail::parse_name(gguf_name, 0);
  return parsed.suffix.empty() ? std::string(gguf_name) : detail::spell_name(parsed, 1);
}

/// "blk.3.ffn_up.weight" for "model.layers.3.mlp.up_proj.weight"; none where GGUF has no name.
inline std::optional<std::string> gguf_name(std::string_view hf_name) {
  if (hf_name == rope_factors) return std::string(hf_name);
  const auto parsed = detail::parse_name(hf_name, 1);
  if (parsed.suffix.empty()) return std::nullopt;
  return detail::spell_name(parsed, 0);
}

/// Where a tensor stands in a file that is read front to back by a forward pass: the embedding, the
/// layers, the last norm, the head. Smaller is earlier.
inline std::int64_t order_of(std::string_view hf_name) {
  const auto parsed = detail::parse_name(hf_name, 1);
  if (parsed.suffix.empty()) return 1;
  const auto bias = static_cast<std::int64_t>(parsed.suffix == "bias");
  const auto part = static_cast<std::int64_t>(parsed.part);
  constexpr std::int64_t behind_all_layers = std::int64_t{1} << 40;
  if (parsed.layer < 0) return part == 0 ? 0 : behind_all_layers + part;
  return 2 + (parsed.layer * std::ssize(detail::layer_names) + part) * 2 + bias;
}

}  // namespace gguf

ZIYA_NAMESPACE_END
