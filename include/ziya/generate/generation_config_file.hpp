// SPDX-License-Identifier: Apache-2.0
// generation_config.json of a model folder, as a GenerationConfig.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/model/llama_config.hpp"
#include "ziya/text/tokenizer.hpp"
#if ZIYA_DEFINITIONS
#include "ziya/model/gguf_config.hpp"
#endif

ZIYA_NAMESPACE_BEGIN

/// One JSON file with generation settings; its members go into a config one by one.
class GenerationConfigFile {
 public:
  /// A file that may be absent. @throws IoError, FormatError
  explicit GenerationConfigFile(const std::filesystem::path& file)
      : source_(utf8_from_path(file)), json_(json_object()) {
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) return;
    json_ = read_json_file(file);
    if (!json_.is_object()) throw FormatError("ZIYA-511", source_ + ": expected an object");
  }

  /// Settings that something else made into JSON.
  GenerationConfigFile(nlohmann::json json, std::string source)
      : source_(std::move(source)), json_(std::move(json)) {}

  /// @throws FormatError for values of another kind
  void read_ids(GenerationConfig& config) const {
    if (const auto* value = find("bos_token_id")) config.bos_id = id(*value, "bos_token_id");
    if (const auto* value = find("pad_token_id");
        value != nullptr && !(value->is_number_integer() && value->get<std::int64_t>() == -1)) {
      config.pad_id = id(*value, "pad_token_id");
    }
    read_list("eos_token_id", config.eos_ids);
  }

  /// @throws FormatError for values of another kind, ConfigError ZIYA-547 for what is not
  /// implemented
  void read_settings(GenerationConfig& config) const {
    read("max_new_tokens", config.max_new_tokens);
    read("do_sample", config.do_sample);
    read("temperature", config.temperature);
    read("top_k", config.top_k);
    read("top_p", config.top_p);
    read("min_p", config.min_p);
    read("typical_p", config.typical_p);
    read("epsilon_cutoff", config.epsilon_cutoff);
    read("eta_cutoff", config.eta_cutoff);
    read("repetition_penalty", config.repetition_penalty);
    read("no_repeat_ngram_size", config.no_repeat_ngram_size);
    read("min_length", config.min_length);
    if (find("min_new_tokens") != nullptr) read("min_new_tokens", config.min_new_tokens);
    read("num_beams", config.num_beams);
    read("num_return_sequences", config.num_return_sequences);
    read("length_penalty", config.length_penalty);
    read("penalty_alpha", config.penalty_alpha);
    if (const auto* value = find("forced_bos_token_id")) {
      config.forced_bos_id = id(*value, "forced_bos_token_id");
    }
    read_list("forced_eos_token_id", config.forced_eos_ids);
    read_list("suppress_tokens", config.suppress_tokens);
    read_list("begin_suppress_tokens", config.begin_suppress_tokens);
    read_early_stopping(config);
    read_stop(config);
    read_sequences(config);
    refuse_others();
  }

 private:
  [[nodiscard]] const nlohmann::json* find(const char* key) const {
    const nlohmann::json* found = json_find(json_, key);
    return found == nullptr || found->is_null() ? nullptr : found;
  }
  template <class T>
  void read(const char* key, T& value) const {
    value = json_get(json_, key, source_, value);
  }
  [[noreturn]] void refuse(const char* key, const nlohmann::json& value,
                           const std::string& expected) const {
    throw FormatError("ZIYA-511", source_ + ": " + key + " is " +
                                      value.dump(-1, ' ', true).substr(0, 80) + ", expected " +
                                      expected);
  }
  std::int32_t id(const nlohmann::json& value, const char* key) const {
    if (!json_is<std::int32_t>(value) || value.get<std::int32_t>() < 0) {
      refuse(key, value, "an id or a list of ids");
    }
    return value.get<std::int32_t>();
  }
  std::vector<std::int32_t> ids(const nlohmann::json& value, const char* key) const {
    std::vector<std::int32_t> result;
    if (!value.is_array()) return {id(value, key)};
    for (const auto& element : value) result.push_back(id(element, key));
    return result;
  }
  void read_list(const char* key, std::vector<std::int32_t>& list) const {
    if (const auto* value = find(key)) list = ids(*value, key);
  }
  void read_early_stopping(GenerationConfig& config) const {
    const auto* value = find("early_stopping");
    if (value == nullptr) return;
    if (value->is_boolean()) {
      config.early_stopping = value->get<bool>() ? EarlyStopping::yes : EarlyStopping::no;
    } else if (value->is_string() && value->get_ref<const std::string&>() == "never") {
      config.early_stopping = EarlyStopping::never;
    } else {
      refuse("early_stopping", *value, "true, false or \"never\"");
    }
  }
  void read_stop(GenerationConfig& config) const {
    const auto* value = find("stop_strings");
    if (value == nullptr) return;
    const char* expected = "a text or a list of texts";
    if (value->is_string()) {
      config.stop = {value->get<std::string>()};
    } else if (value->is_array()) {
      for (const auto& text : *value) {
        if (!text.is_string()) refuse("stop_strings", text, expected);
        config.stop.push_back(text.get<std::string>());
      }
    } else {
      refuse("stop_strings", *value, expected);
    }
  }
  void read_sequences(GenerationConfig& config) const {
    if (const auto* value = find("bad_words_ids")) {
      if (!value->is_array()) refuse("bad_words_ids", *value, "a list of lists of ids");
      for (const auto& word : *value) config.bad_words_ids.push_back(ids(word, "bad_words_ids"));
    }
    if (const auto* value = find("sequence_bias")) {
      const char* expected = "a list of [[ids], bias]";
      // Of the same ids twice the last counts, as in the reference's dictionary.
      std::map<std::vector<std::int32_t>, float> biases;
      if (!value->is_array()) refuse("sequence_bias", *value, expected);
      for (const auto& entry : *value) {
        if (!entry.is_array() || entry.size() != 2 || !entry[1].is_number()) {
          refuse("sequence_bias", entry, expected);
        }
        biases[ids(entry[0], "sequence_bias")] = entry[1].get<float>();
      }
      for (const auto& [sequence, bias] : biases) config.sequence_bias.push_back({sequence, bias});
    }
    if (const auto* value = find("exponential_decay_length_penalty")) {
      if (!value->is_array() || value->size() != 2 || !json_is<std::int64_t>((*value)[0]) ||
          !(*value)[1].is_number()) {
        refuse("exponential_decay_length_penalty", *value, "[start, factor]");
      }
      config.decay_start = (*value)[0].get<std::int64_t>();
      config.decay_factor = (*value)[1].get<double>();
    }
  }
  /// Settings that would change the text and that nothing here implements, unless they are neutral.
  void refuse_others() const {
    const auto refuse_unless = [&](const char* key, const auto& is_neutral) {
      const nlohmann::json* value = find(key);
      if (value == nullptr || is_neutral(*value)) return;
      throw ConfigError("ZIYA-547", source_ + ": " + key + " is " +
                                        value->dump(-1, ' ', true).substr(0, 80) +
                                        ", which is not implemented");
    };
    for (const char* key : {"guidance_scale", "num_beam_groups", "diversity_penalty"}) {
      const double neutral = std::string_view(key) == "diversity_penalty" ? 0 : 1;
      refuse_unless(key, [&](const nlohmann::json& value) {
        return value.is_number() && value.get<double>() == neutral;
      });
    }
    for (const char* key :
         {"watermarking_config", "force_words_ids", "constraints", "dola_layers", "top_h",
          "remove_invalid_values", "renormalize_logits", "token_healing"}) {
      refuse_unless(key, [](const nlohmann::json& value) {
        return value.is_boolean() && !value.get<bool>();
      });
    }
  }

  std::string source_;
  nlohmann::json json_;
};

#if ZIYA_DEFINITIONS
ZIYA_INLINE GenerationConfig GenerationConfig::load(const std::filesystem::path& path) {
  const std::filesystem::path directory = resolve_model_path(path);
  GenerationConfig config;
  const auto read = [&](const GenerationConfigFile& file) {
    file.read_ids(config);
    file.read_settings(config);
    config.check();
    return config;
  };
  if (const auto weights = find_weights(directory); gguf::is_gguf(weights)) {
    const Checkpoint checkpoint = Checkpoint::open(weights);
    return read({gguf::ConfigMaker(checkpoint).make_generation(), utf8_from_path(weights)});
  }
  GenerationConfigFile(directory / "config.json").read_ids(config);
  return read(GenerationConfigFile(directory / "generation_config.json"));
}
#endif

ZIYA_NAMESPACE_END
