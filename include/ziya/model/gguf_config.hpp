// SPDX-License-Identifier: Apache-2.0
// The metadata of a GGUF model and config.json, each made from the other.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/gguf_metadata.hpp"
#include "ziya/io/gguf_names.hpp"
#include "ziya/io/json.hpp"
#include "ziya/model/llama_names.hpp"
#include "ziya/model/llama_shape.hpp"

ZIYA_NAMESPACE_BEGIN

namespace gguf {

/// Reads `llama.*` and what the tensors say; what the library does not support is refused by name.
class ConfigMaker {
 public:
  /// @param checkpoint of format gguf; outlives this
  explicit ConfigMaker(const Checkpoint& checkpoint)
      : checkpoint_(checkpoint), metadata_(*checkpoint.gguf_metadata()) {}

  /// The config.json that a Hugging Face folder of the model would have.
  /// @throws ConfigError ZIYA-257 for what is not supported, ZIYA-412 for a missing key;
  /// FormatError ZIYA-252
  [[nodiscard]] nlohmann::json make() const {
    refuse_unsupported();
    const std::int64_t hidden = required("embedding_length");
    const std::int64_t heads = required("attention.head_count");
    const std::int64_t fallback_dim = heads > 0 ? hidden / heads : 0;
    const std::int64_t head_dim = integer("attention.key_length").value_or(fallback_dim);
    same("attention.value_length", head_dim, "attention.key_length");
    same("rope.dimension_count", head_dim, "the size of a head");
    nlohmann::json config;
    config["architectures"].push_back(std::string("LlamaForCausalLM"));
    config["model_type"] = std::string("llama");
    config["hidden_act"] = std::string("silu");
    config["hidden_size"] = hidden;
    config["intermediate_size"] = required("feed_forward_length");
    config["num_hidden_layers"] = required("block_count");
    config["num_attention_heads"] = heads;
    config["num_key_value_heads"] = integer("attention.head_count_kv").value_or(heads);
    config["max_position_embeddings"] = required("context_length");
    config["rms_norm_eps"] = real("attention.layer_norm_rms_epsilon", 1e-6);
    config["rope_theta"] = real("rope.freq_base", 10000.0);
    config["vocab_size"] = vocabulary();
    config["tie_word_embeddings"] = !has(llama_names::head);
    config["attention_bias"] = has(llama_names::of_layer(0, "self_attn.q_proj.bias"));
    config["mlp_bias"] = has(llama_names::of_layer(0, "mlp.gate_proj.bias"));
    config["torch_dtype"] = stored_dtype();
    if (head_dim != fallback_dim || fallback_dim * heads != hidden) config["head_dim"] = head_dim;
    if (const nlohmann::json scaling = rope_scaling(); !scaling.is_null()) {
      config["rope_scaling"] = scaling;
    }
    for (const auto& [key, name] : token_keys) {
      if (const auto id = token(name)) config[key] = *id;
    }
    return config;
  }

  /// generation_config.json: the ids of special tokens, and what our own files record of it.
  [[nodiscard]] nlohmann::json make_generation() const {
    nlohmann::json config = json_object();
    for (const auto& [key, name] : token_keys) {
      if (const auto id = token(name)) config[key] = *id;
    }
    if (const auto turn = token("eot"), end = token("eos"); turn && end) {
      config["eos_token_id"] = json_array();
      config["eos_token_id"].push_back(*end);
      config["eos_token_id"].push_back(*turn);
    }
    if (const auto text = metadata_.text("ziya.generation_config.json")) {
      const auto own = parse_json(*text, metadata_.source() + ": generation_config.json");
      if (!own.is_object()) refuse("ziya.generation_config.json holds no object");
      for (const auto& [key, value] : json_members(own)) config[key] = value;
    }
    return config;
  }

 private:
  static constexpr std::array<std::pair<const char*, const char*>, 3> token_keys{
      {{"bos_token_id", "bos"}, {"eos_token_id", "eos"}, {"pad_token_id", "padding"}}};

  [[noreturn]] void refuse(const std::string& what) const {
    throw ConfigError("ZIYA-257", metadata_.source() + ": " + what);
  }
  static std::string key_of(std::string_view part) { return "llama." + std::string(part); }
  [[nodiscard]] std::optional<std::int64_t> integer(std::string_view part) const {
    return metadata_.integer(key_of(part));
  }
  [[nodiscard]] std::int64_t required(std::string_view part) const {
    const auto value = integer(part);
    if (!value) {
      throw ConfigError("ZIYA-412", metadata_.source() + ": key " + key_of(part) + " is missing");
    }
    return *value;
  }
  [[nodiscard]] double real(std::string_view part, double fallback) const {
    return metadata_.real(key_of(part)).value_or(fallback);
  }
  [[nodiscard]] bool has(std::string_view tensor) const {
    return checkpoint_.find(tensor) != nullptr;
  }
  void same(std::string_view part, std::int64_t expected, const std::string& what) const {
    const std::int64_t found = integer(part).value_or(expected);
    if (found != expected) {
      refuse(key_of(part) + " is " + std::to_string(found) + ", only " + what + ", " +
             std::to_string(expected) + ", is supported");
    }
  }
  [[nodiscard]] std::optional<std::int64_t> token(const std::string& name) const {
    const auto id = metadata_.integer("tokenizer.ggml." + name + "_token_id");
    return id && *id >= 0 && *id != 0xffffffff ? id : std::nullopt;
  }

  void refuse_unsupported() const {
    const auto architecture = metadata_.text("general.architecture");
    if (architecture != "llama") {
      refuse("general.architecture is \"" + architecture.value_or("").substr(0, 40) +
             "\", only \"llama\" is supported");
    }
    for (const char* part : {"expert_count", "attention.sliding_window"}) {
      if (integer(part).value_or(0) != 0) refuse(key_of(part) + " is not supported");
    }
    for (const char* part :
         {"logit_scale", "embedding_scale", "residual_scale", "attention.scale",
          "attention.clamp_kqv", "attn_logit_softcapping", "final_logit_softcapping"}) {
      if (const double value = real(part, 0); value != 0 && value != 1) {
        refuse(key_of(part) + " is not supported");
      }
    }
    if (!metadata_.boolean("llama.attention.causal").value_or(true)) {
      refuse("llama.attention.causal false is not supported");
    }
  }

  [[nodiscard]] std::int64_t vocabulary() const {
    const TensorInfo* table = checkpoint_.find(llama_names::embedding);
    if (table != nullptr && table->shape.rank() == 2) return table->shape[0];
    return required("vocab_size");
  }
  [[nodiscard]] std::string stored_dtype() const {
    const TensorInfo* table = checkpoint_.find(llama_names::of_layer(0, "mlp.down_proj.weight"));
    const DType dtype = table != nullptr ? table->dtype : DType::f16;
    return dtype == DType::f32 ? "float32" : dtype == DType::bf16 ? "bfloat16" : "float16";
  }

  [[nodiscard]] nlohmann::json rope_scaling() const {
    if (has(rope_factors)) return llama3_scaling();
    const std::string type = metadata_.text("llama.rope.scaling.type").value_or("none");
    const double old_factor = real("rope.scale_linear", 1);
    const double factor = real("rope.scaling.factor", old_factor);
    if (type == "linear" || (type == "none" && old_factor != 1)) {
      nlohmann::json scaling;
      if (factor != 1) {
        scaling["type"] = std::string("linear");
        scaling["factor"] = factor;
      }
      return scaling;
    }
    if (type != "none") {
      refuse("llama.rope.scaling.type \"" + type.substr(0, 40) +
             "\" is not supported (only none, linear and the factors of llama3)");
    }
    return nullptr;
  }

  /// `rope_freqs.weight` holds what a scaling divides each frequency by; here the scaling is found
  /// that gives those factors.
  [[nodiscard]] nlohmann::json llama3_scaling() const {
    const TensorInfo& tensor = *checkpoint_.find(rope_factors);
    constexpr std::int64_t most = 4096;
    if (tensor.dtype != DType::f32 || tensor.shape.rank() != 1 || tensor.shape[0] < 1 ||
        tensor.shape[0] > most) {
      refuse("rope_freqs.weight is no list of f32 factors, one per rotary pair");
    }
    std::vector<float> factors(static_cast<std::size_t>(tensor.shape[0]));
    checkpoint_.read(rope_factors, std::as_writable_bytes(std::span(factors)));
    RopeScaling scaling{.kind = RopeScaling::Kind::llama3};
    scaling.factor = metadata_.real("ziya.rope.factor")
                         .value_or(*std::max_element(factors.begin(), factors.end()));
    scaling.low_freq_factor = metadata_.real("ziya.rope.low_freq_factor").value_or(1);
    scaling.high_freq_factor = metadata_.real("ziya.rope.high_freq_factor").value_or(4);
    scaling.original_max_positions = integer("rope.scaling.original_context_length").value_or(8192);
    const auto expected =
        rope_divisors(std::ssize(factors) * 2, real("rope.freq_base", 10000.0), scaling);
    for (std::size_t i = 0; i < factors.size(); ++i) {
      if (!(std::abs(factors[i] - expected[i]) <= 1e-4f * expected[i])) {
        refuse(
            "rope_freqs.weight holds other factors than those of the llama3 scaling, which are "
            "not supported");
      }
    }
    nlohmann::json result;
    result["rope_type"] = std::string("llama3");
    result["factor"] = scaling.factor;
    result["low_freq_factor"] = scaling.low_freq_factor;
    result["high_freq_factor"] = scaling.high_freq_factor;
    result["original_max_position_embeddings"] = scaling.original_max_positions;
    return result;
  }

 public:
  /// What `scaling` divides the frequency of each rotary pair by.
  static std::vector<float> rope_divisors(std::int64_t head_dim, double base,
                                          const RopeScaling& scaling) {
    const auto plain = inverse_frequencies(head_dim, base, {}, 1);
    std::vector<float> result = inverse_frequencies(head_dim, base, scaling, 1);
    for (std::size_t i = 0; i < result.size(); ++i) result[i] = plain[i] / result[i];
    return result;
  }

 private:
  const Checkpoint& checkpoint_;
  const Metadata& metadata_;
};

/// Sets `general.architecture` and `llama.*`.
/// @throws ConfigError ZIYA-259 for what the format cannot say
inline void set_shape(Metadata& metadata, const LlamaShape& shape) {
  metadata.set_text("general.architecture", "llama");
  const auto set = [&](const char* key, std::int64_t value) {
    metadata.set_u32(std::string("llama.") + key, value);
  };
  set("vocab_size", shape.vocabulary);
  set("context_length", shape.max_positions);
  set("embedding_length", shape.hidden);
  set("block_count", shape.layers);
  set("feed_forward_length", shape.intermediate);
  set("attention.head_count", shape.query_heads);
  set("attention.head_count_kv", shape.kv_heads);
  set("attention.key_length", shape.head_dim);
  set("attention.value_length", shape.head_dim);
  set("rope.dimension_count", shape.head_dim);
  metadata.set_f32("llama.attention.layer_norm_rms_epsilon", shape.rms_eps);
  metadata.set_f32("llama.rope.freq_base", shape.rope_base);
  const RopeScaling& scaling = shape.rope_scaling;
  switch (scaling.kind) {
    case RopeScaling::Kind::none:
      break;
    case RopeScaling::Kind::linear:
      metadata.set_text("llama.rope.scaling.type", "linear");
      metadata.set_f32("llama.rope.scaling.factor", scaling.factor);
      break;
    case RopeScaling::Kind::llama3:  // the tensor rope_freqs.weight says the rest
      set("rope.scaling.original_context_length", scaling.original_max_positions);
      metadata.set_f32("ziya.rope.factor", scaling.factor);
      metadata.set_f32("ziya.rope.low_freq_factor", scaling.low_freq_factor);
      metadata.set_f32("ziya.rope.high_freq_factor", scaling.high_freq_factor);
      break;
    case RopeScaling::Kind::dynamic:
      throw ConfigError("ZIYA-259", metadata.source() +
                                        ": the dynamic rope scaling has no place in GGUF; remove "
                                        "rope_scaling from config.json to go without it");
  }
}

}  // namespace gguf

ZIYA_NAMESPACE_END
