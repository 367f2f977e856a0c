// SPDX-License-Identifier: Apache-2.0
// params.json, and what Hugging Face's config files say of the same model.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/model/llama_shape.hpp"

ZIYA_NAMESPACE_BEGIN

/// The fields of params.json; what it leaves out has the value of Meta's own code.
struct MetaParams {
  std::int64_t dim = 0, n_layers = 0, n_heads = 0;
  std::int64_t n_kv_heads = 0;  ///< n_heads where it is not given
  std::int64_t vocab_size = -1;
  std::int64_t multiple_of = 256;
  double ffn_dim_multiplier = 1;
  double norm_eps = 1e-5;
  double rope_theta = 10000;
  /// Only later than LLaMA-1: grouped queries, a factor for the feed-forward width.
  bool later_fields = false;

  /// multiple_of · ceil(⌊ffn_dim_multiplier · ⌊8 dim / 3⌋⌋ / multiple_of).
  /// Source: Meta's llama/model.py, FeedForward
  [[nodiscard]] std::int64_t intermediate() const {
    const auto wanted =
        static_cast<std::int64_t>(ffn_dim_multiplier * static_cast<double>(8 * dim / 3));
    return (wanted + multiple_of - 1) / multiple_of * multiple_of;
  }
};

/// @throws ConfigError ZIYA-614 naming the field that is out of range, contradictory or of a
/// feature that is not supported; FormatError ZIYA-230, ZIYA-231
inline MetaParams parse_meta_params(std::string_view text, const std::string& source) {
  const auto json = parse_json(text, source);
  const auto refuse = [&](const std::string& why) {
    throw ConfigError("ZIYA-614", source + ": " + why);
  };
  const auto integer = [&](const char* key, std::optional<std::int64_t> fallback,
                           std::int64_t most) {
    const auto value = fallback ? json_get<std::int64_t>(json, key, source, *fallback)
                                : json_get<std::int64_t>(json, key, source);
    if (value < 1 || value > most) {
      refuse(std::string(key) + " is " + std::to_string(value) + ", expected 1 to " +
             std::to_string(most));
    }
    return value;
  };
  const auto number = [&](const char* key, double fallback, double most) {
    const auto value = json_get<double>(json, key, source, fallback);
    if (!(value > 0) || value > most) refuse(std::string(key) + " is out of range");
    return value;
  };
  MetaParams params;
  params.dim = integer("dim", {}, std::int64_t{1} << 20);
  params.n_layers = integer("n_layers", {}, 4096);
  params.n_heads = integer("n_heads", {}, 4096);
  params.n_kv_heads = integer("n_kv_heads", params.n_heads, 4096);
  params.multiple_of = integer("multiple_of", params.multiple_of, std::int64_t{1} << 20);
  params.ffn_dim_multiplier = number("ffn_dim_multiplier", 1, 64);
  params.norm_eps = number("norm_eps", params.norm_eps, 1);
  params.rope_theta = number("rope_theta", params.rope_theta, 1e12);
  params.vocab_size = json_get<std::int64_t>(json, "vocab_size", source, -1);
  const auto given = [&](const char* key) { return json.contains(key) && !json[key].is_null(); };
  params.later_fields = given("n_kv_heads") || given("ffn_dim_multiplier");
  if (params.dim % params.n_heads != 0 || params.dim / params.n_heads % 2 != 0) {
    refuse("dim " + std::to_string(params.dim) + " is not " + std::to_string(params.n_heads) +
           " heads (n_heads) of an even size");
  }
  if (params.n_heads % params.n_kv_heads != 0) {
    refuse("n_heads " + std::to_string(params.n_heads) + " is not a multiple of n_kv_heads " +
           std::to_string(params.n_kv_heads));
  }
  for (const char* key : {"moe", "use_scaled_rope", "quantization_args"}) {
    if (given(key) && json[key] != false) refuse(std::string(key) + " is not supported");
  }
  return params;
}

/// params.json does not say the context a model was trained with. Code Llama (rope_theta above
/// 10000): 16384. LLaMA-2 (weights in bf16, or fields that LLaMA-1 has not): 4096. Else 2048.
inline std::int64_t meta_context(const MetaParams& params, DType stored) {
  if (params.rope_theta > 10000) return 16384;
  return params.later_fields || stored == DType::bf16 ? 4096 : 2048;
}

/// config.json as Transformers' conversion writes it for these sizes.
inline std::string hf_config(const LlamaShape& shape, DType stored) {
  nlohmann::json config;
  config["architectures"] = {"LlamaForCausalLM"};
  config["attention_bias"] = shape.attention_bias;
  config["bos_token_id"] = 1;
  config["eos_token_id"] = 2;
  config["hidden_act"] = "silu";
  config["hidden_size"] = shape.hidden;
  config["initializer_range"] = 0.02;
  config["intermediate_size"] = shape.intermediate;
  config["max_position_embeddings"] = shape.max_positions;
  config["model_type"] = "llama";
  config["num_attention_heads"] = shape.query_heads;
  config["num_hidden_layers"] = shape.layers;
  config["num_key_value_heads"] = shape.kv_heads;
  config["pad_token_id"] = 0;
  config["pretraining_tp"] = 1;
  config["rms_norm_eps"] = shape.rms_eps;
  config["rope_scaling"] = nullptr;
  config["rope_theta"] = shape.rope_base;
  config["tie_word_embeddings"] = shape.tied_head;
  config["torch_dtype"] = stored == DType::f32    ? "float32"
                          : stored == DType::bf16 ? "bfloat16"
                                                  : "float16";
  config["use_cache"] = true;
  config["vocab_size"] = shape.vocabulary;
  return config.dump(2) + "\n";
}

/// The files beside config.json: generation_config.json and, as the slow LLaMA tokenizer reads
/// them, tokenizer_config.json and special_tokens_map.json.
inline std::map<std::string, std::string> hf_side_files() {
  const auto token = [](const char* text) {
    return std::string(R"({"__type": "AddedToken", "content": ")") + text +
           R"(", "lstrip": false, "normalized": true, "rstrip": false, "single_word": false})";
  };
  const auto plain = [](const char* text) {
    return std::string(R"({"content": ")") + text +
           R"(", "lstrip": false, "normalized": true, "rstrip": false, "single_word": false})";
  };
  return {{"generation_config.json",
           "{\n  \"_from_model_config\": true,\n  \"bos_token_id\": 1,\n  \"eos_token_id\": 2,\n"
           "  \"pad_token_id\": 0\n}\n"},
          {"special_tokens_map.json", "{\n  \"bos_token\": " + plain("<s>") +
                                          ",\n  \"eos_token\": " + plain("</s>") +
                                          ",\n  \"unk_token\": " + plain("<unk>") + "\n}\n"},
          {"tokenizer_config.json",
           "{\n  \"add_bos_token\": true,\n  \"add_eos_token\": false,\n  \"bos_token\": " +
               token("<s>") +
               ",\n  \"clean_up_tokenization_spaces\": false,\n  \"eos_token\": " + token("</s>") +
               ",\n  \"model_max_length\": 1000000000000000019884624838656,\n  \"pad_token\": "
               "null,\n  \"sp_model_kwargs\": {},\n  \"tokenizer_class\": "
               "\"LlamaTokenizer\",\n  \"unk_token\": " +
               token("<unk>") + "\n}\n"}};
}

ZIYA_NAMESPACE_END
