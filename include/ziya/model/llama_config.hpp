// SPDX-License-Identifier: Apache-2.0
// config.json, or the metadata of a GGUF file → LlamaShape; what the library does not support is
// refused by name.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/model/llama_shape.hpp"
#if ZIYA_DEFINITIONS
#include "ziya/model/gguf_config.hpp"
#endif

ZIYA_NAMESPACE_BEGIN

/// `vocab_size` of −1 in old configs: the embedding's rows decide.
inline constexpr std::int64_t unknown_vocabulary = -1;

/// Reads the fields of one config.json. Both spellings of old LLaMA conversions and of
/// Transformers up to 5.x are understood; class names do not matter, `model_type` does.
class LlamaConfigReader {
 public:
  /// @param source what to call the file in messages
  LlamaConfigReader(const nlohmann::json& json, std::string source)
      : json_(json), source_(std::move(source)) {}

  /// @throws ConfigError naming the field that is missing, contradictory or unsupported
  LlamaShape read() const {
    if (!json_.is_object()) fail("ZIYA-411", "expected an object");
    refuse_unsupported();
    LlamaShape shape;
    shape.hidden = integer("hidden_size", most_hidden);
    shape.intermediate = integer("intermediate_size", most_wide);
    shape.layers = integer("num_hidden_layers", most_many);
    shape.query_heads = integer("num_attention_heads", most_many);
    shape.kv_heads = integer("num_key_value_heads", most_many, shape.query_heads);
    shape.vocabulary = vocabulary();
    shape.max_positions = integer("max_position_embeddings", most_positions,
                                  integer("max_sequence_length", most_positions, 2048));
    shape.rms_eps = number(json_, "rms_norm_eps", 1e-6);
    shape.tied_head = boolean("tie_word_embeddings");
    shape.attention_bias = boolean("attention_bias");
    shape.mlp_bias = boolean("mlp_bias");
    if (!present(json_, "head_dim") && shape.hidden % shape.query_heads != 0) {
      fail("ZIYA-414", "hidden_size " + std::to_string(shape.hidden) +
                           " is not divisible by num_attention_heads " +
                           std::to_string(shape.query_heads));
    }
    shape.head_dim =
        integer("head_dim", most_many, std::max<std::int64_t>(shape.hidden / shape.query_heads, 1));
    if (shape.query_heads % shape.kv_heads != 0) {
      fail("ZIYA-414", "num_attention_heads " + std::to_string(shape.query_heads) +
                           " is not divisible by num_key_value_heads " +
                           std::to_string(shape.kv_heads));
    }
    if (shape.head_dim % 2 != 0) {
      fail("ZIYA-414", "head_dim " + std::to_string(shape.head_dim) +
                           " is odd; rotary positions "
                           "turn pairs");
    }
    if (!(shape.rms_eps > 0) || shape.rms_eps > 1) {
      fail("ZIYA-413", "rms_norm_eps " + std::to_string(shape.rms_eps) + " is not in (0, 1]");
    }
    read_rope(shape);
    return shape;
  }

 private:
  static constexpr std::int64_t most_hidden = std::int64_t{1} << 20;
  static constexpr std::int64_t most_wide = std::int64_t{1} << 24;
  static constexpr std::int64_t most_many = std::int64_t{1} << 12;
  static constexpr std::int64_t most_positions = std::int64_t{1} << 30;

  [[noreturn]] void fail(std::string_view id, const std::string& what) const {
    throw ConfigError(id, source_ + ": " + what);
  }
  /// Null where the field is absent or says null.
  static const nlohmann::json* present(const nlohmann::json& object, const char* key) {
    const nlohmann::json* found = json_find(object, key);
    return found != nullptr && !found->is_null() ? found : nullptr;
  }
  /// The limits of sizes keep every product of theirs within an int64.
  std::int64_t integer(const char* key, std::int64_t most,
                       std::optional<std::int64_t> fallback = {}) const {
    const nlohmann::json* value = present(json_, key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      fail("ZIYA-412", std::string("field ") + key + " is missing");
    }
    if (!json_is<std::int64_t>(*value) || value->get<std::int64_t>() < 1 ||
        value->get<std::int64_t>() > most) {
      fail("ZIYA-413", std::string("field ") + key + " is " + shown(*value) +
                           ", expected a whole number from 1 to " + std::to_string(most));
    }
    return value->get<std::int64_t>();
  }
  std::int64_t vocabulary() const {
    if (present(json_, "vocab_size") && number(json_, "vocab_size") == -1)
      return unknown_vocabulary;
    return integer("vocab_size", most_wide);
  }
  double number(const nlohmann::json& object, const char* key,
                std::optional<double> fallback = {}) const {
    const nlohmann::json* value = present(object, key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      fail("ZIYA-412", std::string("field ") + key + " is missing");
    }
    if (!value->is_number() || !std::isfinite(value->get<double>())) {
      fail("ZIYA-413",
           std::string("field ") + key + " is " + shown(*value) + ", expected a number");
    }
    return value->get<double>();
  }
  bool boolean(const char* key) const {
    const nlohmann::json* value = present(json_, key);
    if (value == nullptr) return false;
    if (!value->is_boolean()) {
      fail("ZIYA-413",
           std::string("field ") + key + " is " + shown(*value) + ", expected true or false");
    }
    return value->get<bool>();
  }
  static std::string shown(const nlohmann::json& value) {
    std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    return text;
  }

  void refuse_unsupported() const {
    refuse_unless("model_type", {"llama"});
    refuse_unless("hidden_act", {"silu", "swish"});
    for (const char* key : {"sliding_window", "quantization_config", "logits_soft_cap",
                            "final_logit_softcapping", "num_experts", "num_local_experts"}) {
      const nlohmann::json* value = present(json_, key);
      if (value != nullptr && !(value->is_boolean() && !value->get<bool>())) {
        fail("ZIYA-415", std::string(key) + " is not supported");
      }
    }
    if (const double part = number(json_, "partial_rotary_factor", 1); part != 1) {
      fail("ZIYA-415", "partial_rotary_factor " + std::to_string(part) + " is not supported");
    }
  }
  void refuse_unless(const char* key, std::initializer_list<std::string_view> supported) const {
    const nlohmann::json* value = present(json_, key);
    if (value == nullptr) return;
    for (const std::string_view name : supported) {
      if (value->is_string() && value->get_ref<const std::string&>() == name) return;
    }
    fail("ZIYA-415", std::string(key) + " " + shown(*value) + " is not supported (only " +
                         std::string(*supported.begin()) + ")");
  }

  /// `rope_theta` and `rope_scaling` up to Transformers 4.x; `rope_parameters` holds both in 5.x.
  void read_rope(LlamaShape& shape) const {
    const nlohmann::json none = json_object();
    const bool joined = present(json_, "rope_parameters") != nullptr;
    const char* key = joined ? "rope_parameters" : "rope_scaling";
    const nlohmann::json* given = present(json_, key);
    const nlohmann::json& rope = given != nullptr ? *given : none;
    if (!rope.is_object()) {
      fail("ZIYA-413", std::string("field ") + key + " is " + shown(rope) + ", expected an object");
    }
    shape.rope_base = number(rope, "rope_theta", number(json_, "rope_theta", 10000.0));
    if (!(shape.rope_base > 0)) fail("ZIYA-413", "rope_theta must be positive");
    std::string type = "default";
    for (const char* spelling : {"type", "rope_type"}) {
      const nlohmann::json* named = present(rope, spelling);
      if (named == nullptr) continue;
      if (!named->is_string()) fail("ZIYA-413", std::string(key) + ": type is no string");
      type = named->get<std::string>();
    }
    RopeScaling& scaling = shape.rope_scaling;
    scaling.original_max_positions = shape.max_positions;
    if (type == "default") {
      if (present(rope, "factor")) fail("ZIYA-412", std::string(key) + ": a factor without a type");
      return;
    }
    if (type == "linear") {
      scaling.kind = RopeScaling::Kind::linear;
    } else if (type == "dynamic") {
      scaling.kind = RopeScaling::Kind::dynamic;
    } else if (type == "llama3") {
      scaling.kind = RopeScaling::Kind::llama3;
      scaling.low_freq_factor = number(rope, "low_freq_factor");
      scaling.high_freq_factor = number(rope, "high_freq_factor");
    } else {
      fail("ZIYA-415", std::string(key) + " of type \"" + type.substr(0, 40) +
                           "\" is not supported (only linear, dynamic, llama3)");
    }
    scaling.factor = number(rope, "factor");
    if (!(scaling.factor >= 1)) fail("ZIYA-413", std::string(key) + ": factor is below 1");
    const double trained =
        number(rope, "original_max_position_embeddings",
               scaling.kind == RopeScaling::Kind::llama3
                   ? std::nullopt
                   : std::optional<double>(static_cast<double>(shape.max_positions)));
    if (!(trained >= 1) || trained > 1e9) {
      fail("ZIYA-413", std::string(key) + ": original_max_position_embeddings out of range");
    }
    scaling.original_max_positions = static_cast<std::int64_t>(trained);
    if (scaling.kind == RopeScaling::Kind::llama3 &&
        !(scaling.high_freq_factor > scaling.low_freq_factor && scaling.low_freq_factor > 0)) {
      fail("ZIYA-413", std::string(key) + ": high_freq_factor must exceed low_freq_factor");
    }
  }

  const nlohmann::json& json_;
  std::string source_;
};

/// The shape in the text of a config.json. @throws FormatError for text that is no JSON;
/// ConfigError
inline LlamaShape parse_llama_shape(std::string_view text, const std::string& source) {
  return LlamaConfigReader(parse_json(text, source), source).read();
}

/// The shape in the metadata of a checkpoint of format gguf; rows of q and k are in GGUF's order.
/// @throws FormatError, ConfigError
LlamaShape read_gguf_shape(const Checkpoint& checkpoint);

/// The shape of the model in a folder: of its GGUF file where that is what holds its weights, else
/// in its config.json; or of a GGUF file. @throws IoError, FormatError, ConfigError
LlamaShape read_llama_shape(const std::filesystem::path& path);

#if ZIYA_DEFINITIONS
ZIYA_INLINE LlamaShape read_gguf_shape(const Checkpoint& checkpoint) {
  const std::string& source = checkpoint.gguf_metadata()->source();
  LlamaShape shape = LlamaConfigReader(gguf::ConfigMaker(checkpoint).make(), source).read();
  shape.rope_pairing = RopePairing::interleaved;
  return shape;
}

ZIYA_INLINE LlamaShape read_llama_shape(const std::filesystem::path& path) {
  if (const auto weights = find_weights(path); gguf::is_gguf(weights)) {
    return read_gguf_shape(Checkpoint::open(weights));
  }
  const std::filesystem::path config = path / "config.json";
  return parse_llama_shape(read_text_file(config, std::size_t{1} << 24), config.string());
}
#endif

ZIYA_NAMESPACE_END
