// SPDX-License-Identifier: Apache-2.0
// What the Fengshen layout calls its tensors and its settings, beside Hugging Face's words.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "ziya/config.hpp"
#include "ziya/io/json.hpp"

ZIYA_NAMESPACE_BEGIN
namespace fengshen {

/// How a tensor is spread over tensor-parallel parts.
enum class Split { none, rows, columns };

struct Name {
  std::string_view fengshen, hf;
  Split split;
};

inline constexpr std::string_view layers = "llama.layers.";
inline constexpr std::string_view qkv = "attention.query_key_value.weight";
inline constexpr std::string_view inv_freq = "attention.rotary_emb.inv_freq";

/// Outside the layers.
inline constexpr std::array<Name, 3> outer{
    {{"llama.embed_in.word_embeddings.weight", "model.embed_tokens.weight", Split::rows},
     {"llama.final_layer_norm.scale", "model.norm.weight", Split::none},
     {"embed_out.final_linear.weight", "lm_head.weight", Split::rows}}};

/// In each layer, besides query_key_value, whose rows are [head][q, k, v][head_dim].
inline constexpr std::array<Name, 6> inner{
    {{"input_layernorm.scale", "input_layernorm.weight", Split::none},
     {"attention.dense.weight", "self_attn.o_proj.weight", Split::columns},
     {"post_attention_layernorm.scale", "post_attention_layernorm.weight", Split::none},
     {"mlp.w1.weight", "mlp.gate_proj.weight", Split::rows},
     {"mlp.w3.weight", "mlp.up_proj.weight", Split::rows},
     {"mlp.w2.weight", "mlp.down_proj.weight", Split::columns}}};

inline constexpr std::array<std::string_view, 3> projections{
    "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"};

inline std::string of_layer(std::int64_t layer, std::string_view part) {
  return std::string(layers) + std::to_string(layer) + "." + std::string(part);
}

/// Settings of the Fengshen model that a LLaMA config has not, with the values of its own
/// converter.
inline nlohmann::json own_settings() {
  return nlohmann::json::parse(R"({
    "rotary_pct": 1, "use_parallel_residual": false, "llama_mlp_multiple_of": 256,
    "init_method": "small_init", "output_layer_init_method": "wang_init", "hidden_dropout": 0,
    "attention_dropout": 0, "pos_emb": "rotary", "norm": "rmsnorm", "gpt_j_residual": false,
    "gpt_j_tied": false, "apply_query_key_layer_scaling": false,
    "attention_softmax_in_fp32": false, "scaled_masked_softmax_fusion": true,
    "scaled_upper_triang_masked_softmax_fusion": false, "bias_gelu_fusion": false,
    "bias_dropout_fusion": false, "output_layer_parallelism": "column", "eod_mask_loss": false,
    "attention_config": [[["flash"], "all"]], "mlp_type": "llama",
    "use_bias_in_attn_linear": false, "lora": false})");
}

/// config.json of Hugging Face's layout as Fengshen's.
inline std::string config_from_hf(const std::string& text, const std::string& source) {
  nlohmann::json config = parse_json(text, source);
  config.update(own_settings());
  config["rms_norm_epsilon"] = json_get<double>(config, "rms_norm_eps", source, 1e-6);
  config["rotary_emb_base"] = json_get<double>(config, "rope_theta", source, 10000.0);
  config.erase("rms_norm_eps");
  config.erase("rope_theta");
  return config.dump(2) + "\n";
}

/// And back.
inline std::string config_to_hf(const std::string& text, const std::string& source) {
  nlohmann::json config = parse_json(text, source);
  config["rms_norm_eps"] = json_get<double>(config, "rms_norm_epsilon", source,
                                            json_get<double>(config, "rms_norm_eps", source, 1e-6));
  config["rope_theta"] = json_get<double>(config, "rotary_emb_base", source,
                                          json_get<double>(config, "rope_theta", source, 10000.0));
  const nlohmann::json own = own_settings();
  for (const auto& [key, value] : own.items()) config.erase(key);
  config.erase("rms_norm_epsilon");
  config.erase("rotary_emb_base");
  config["architectures"] = {"LlamaForCausalLM"};
  config["model_type"] = "llama";
  return config.dump(2) + "\n";
}

}  // namespace fengshen
ZIYA_NAMESPACE_END
