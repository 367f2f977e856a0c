// SPDX-License-Identifier: Apache-2.0
// How to generate: the settings of Transformers' generate(), by its names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/model/llama_config.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

/// Defaults are those of Ziya's model card; `top_k` is the one that Transformers adds silently.
struct GenerationConfig {
  std::int64_t max_new_tokens = 1024;
  bool do_sample = true;  ///< false: the best token each time; only the penalty still acts
  float temperature = 1.0f;
  int top_k = 50;       ///< 0: all
  float top_p = 0.85f;  ///< 1: all
  float repetition_penalty = 1.0f;
  std::uint64_t seed = 0;                   ///< the same seed gives the same text
  std::vector<std::int32_t> eos_ids = {};   ///< ids that end an answer; empty: the tokenizer's eos
  std::vector<std::string> stop = {};       ///< texts that end an answer and do not appear in it
  std::optional<std::int32_t> bos_id = {};  ///< as the files say; the tokenizer's own is used
  std::optional<std::int32_t> pad_id = {};  ///< as the files say; nothing is ever padded here
  bool skip_special = true;                 ///< leave special tokens (`</s>`, …) out of the text
  /// The text goes on from the prompt's: the space in front of its first word belongs to it.
  bool continues = false;

  /// @throws ArgumentError naming the setting that is outside its domain
  void check() const {
    check_setting(max_new_tokens >= 0, "max_new_tokens", static_cast<double>(max_new_tokens),
                  "0 or more");
    RepetitionPenalty{repetition_penalty};
    if (!do_sample) return;
    Temperature{temperature};
    TopK{top_k};
    TopP{top_p};
  }

  /// The defaults, changed by what generation_config.json of a model folder says; the ids that it
  /// does not name come from config.json. Both files may be absent. Of a GGUF file, what it records
  /// of them. `max_length` is ignored: the context ends an answer anyway.
  /// @throws IoError, FormatError for files that are no JSON or hold values of other kinds
  static GenerationConfig load(const std::filesystem::path& path) {
    const std::filesystem::path directory = resolve_model_path(path);
    GenerationConfig config;
    if (const auto weights = find_weights(directory); gguf::is_gguf(weights)) {
      const Checkpoint checkpoint = Checkpoint::open(weights);
      config.read(gguf::ConfigMaker(checkpoint).make_generation(), weights);
      return config;
    }
    config.read_ids(read_optional(directory / "config.json"), directory / "config.json");
    const auto file = directory / "generation_config.json";
    config.read(read_optional(file), file);
    return config;
  }

 private:
  void read(const nlohmann::json& json, const std::filesystem::path& file) {
    const std::string source = utf8_from_path(file);
    read_ids(json, file);
    const auto set = [&](const char* key, auto& value) {
      value = json_get(json, key, source, value);
    };
    set("max_new_tokens", max_new_tokens);
    set("do_sample", do_sample);
    set("temperature", temperature);
    set("top_k", top_k);
    set("top_p", top_p);
    set("repetition_penalty", repetition_penalty);
    check();
  }
  static nlohmann::json read_optional(const std::filesystem::path& file) {
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) return nlohmann::json::object();
    nlohmann::json json = read_json_file(file);
    if (!json.is_object()) {
      throw FormatError("ZIYA-511", utf8_from_path(file) + ": expected an object");
    }
    return json;
  }
  void read_ids(const nlohmann::json& json, const std::filesystem::path& file) {
    const std::string source = utf8_from_path(file);
    const auto id = [&](const nlohmann::json& value, const char* key) {
      if (!json_is<std::int32_t>(value) || value.get<std::int32_t>() < 0) {
        throw FormatError("ZIYA-511", source + ": " + key + " is " + value.dump(-1, ' ', true) +
                                          ", expected an id or a list of ids");
      }
      return value.get<std::int32_t>();
    };
    const auto find = [&](const char* key) -> const nlohmann::json* {
      const auto found = json.find(key);
      return found == json.end() || found->is_null() ? nullptr : &*found;
    };
    if (const auto* value = find("bos_token_id")) bos_id = id(*value, "bos_token_id");
    if (const auto* value = find("pad_token_id"); value != nullptr && *value != -1) {
      pad_id = id(*value, "pad_token_id");
    }
    if (const auto* value = find("eos_token_id")) {
      eos_ids.clear();
      if (value->is_array()) {
        for (const auto& element : *value) eos_ids.push_back(id(element, "eos_token_id"));
      } else {
        eos_ids.push_back(id(*value, "eos_token_id"));
      }
    }
  }
};

ZIYA_NAMESPACE_END
