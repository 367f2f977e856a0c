// SPDX-License-Identifier: Apache-2.0
// adapter_config.json as PEFT writes it; what the library does not support is refused by name.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/json.hpp"
#include "ziya/model/name_pattern.hpp"

ZIYA_NAMESPACE_BEGIN

/// A number that holds for modules whose name matches.
struct LoraPattern {
  NamePattern name;
  double value;
};

struct LoraConfig {
  std::string base;  ///< base_model_name_or_path; empty: not recorded
  std::int64_t rank = 8;
  double alpha = 8;
  bool rank_stabilised = false;  ///< use_rslora
  std::vector<LoraPattern> rank_pattern, alpha_pattern;
  std::vector<std::string> targets;           ///< names or their ends
  std::optional<NamePattern> target_pattern;  ///< instead of names
  bool all_linear = false;                    ///< instead of names: all but the head
  std::vector<std::string> modules_to_save;
  std::vector<std::int64_t> layers;  ///< layers_to_transform; empty: all
  std::vector<std::string> excluded;
  bool biases = false;  ///< bias is "all" or "lora_only"

  [[nodiscard]] std::int64_t rank_of(std::string_view module) const {
    return static_cast<std::int64_t>(first(rank_pattern, module, static_cast<double>(rank)));
  }
  /// alpha / r, or alpha / √r when rank-stabilised (Kalajdzievski, arXiv 2312.03732).
  [[nodiscard]] double scale_of(std::string_view module) const {
    const auto r = static_cast<double>(rank_of(module));
    return first(alpha_pattern, module, alpha) / (rank_stabilised ? std::sqrt(r) : r);
  }
  /// Whether the config says that `module` ("model.layers.3.mlp.up_proj") is adapted.
  [[nodiscard]] bool targets_module(std::string_view module) const {
    for (const std::string& name : excluded) {
      if (ends_in(module, name)) return false;
    }
    if (target_pattern) return target_pattern->matches(module);
    if (!layers.empty() && !in_layers(module)) return false;
    if (all_linear) return module.find("_proj") != std::string_view::npos;
    for (const std::string& name : targets) {
      if (ends_in(module, name)) return true;
    }
    return false;
  }
  [[nodiscard]] bool saves_module(std::string_view module) const {
    for (const std::string& name : modules_to_save) {
      if (ends_in(module, name)) return true;
    }
    return false;
  }

 private:
  /// @throws ConfigError ZIYA-621 when two patterns that match say different things
  static double first(const std::vector<LoraPattern>& patterns, std::string_view module,
                      double fallback) {
    const LoraPattern* found = nullptr;
    for (const LoraPattern& pattern : patterns) {
      if (!pattern.name.matches(module)) continue;
      if (found != nullptr && found->value != pattern.value) {
        throw ConfigError("ZIYA-621", "lora: two patterns that match " + std::string(module) +
                                          " and give it different numbers are not supported");
      }
      found = &pattern;
    }
    return found == nullptr ? fallback : found->value;
  }
  static bool ends_in(std::string_view module, std::string_view name) {
    return module == name || (module.size() > name.size() && module.ends_with(name) &&
                              module[module.size() - name.size() - 1] == '.');
  }
  [[nodiscard]] bool in_layers(std::string_view module) const {
    for (const std::int64_t layer : layers) {
      if (module.find(".layers." + std::to_string(layer) + ".") != std::string_view::npos) {
        return true;
      }
    }
    return false;
  }
};

/// Reads one adapter_config.json.
class LoraConfigReader {
 public:
  LoraConfigReader(const nlohmann::json& json, std::string source)
      : json_(json), source_(std::move(source)) {}

  /// @throws FormatError ZIYA-620 for what is malformed, ConfigError ZIYA-621 naming what is not
  /// supported
  LoraConfig read() const {
    if (!json_.is_object()) malformed("is no object");
    refuse_unsupported();
    LoraConfig config;
    config.base = json_get<std::string>(json_, "base_model_name_or_path", source_, "");
    config.rank = json_get<std::int64_t>(json_, "r", source_, 8);
    config.alpha = json_get<double>(json_, "lora_alpha", source_, 8.0);
    check_number("r", static_cast<double>(config.rank));
    check_number("lora_alpha", config.alpha);
    config.rank_stabilised = json_get<bool>(json_, "use_rslora", source_, false);
    config.rank_pattern = patterns("rank_pattern");
    config.alpha_pattern = patterns("alpha_pattern");
    config.modules_to_save = words("modules_to_save");
    config.excluded = words("exclude_modules");
    read_targets(config);
    read_layers(config);
    const auto bias = json_get<std::string>(json_, "bias", source_, "none");
    if (bias != "none" && bias != "all" && bias != "lora_only") {
      malformed("bias is \"" + bias.substr(0, 40) + "\", expected none, all or lora_only");
    }
    config.biases = bias != "none";
    return config;
  }

 private:
  static constexpr std::int64_t most_words = 4096;

  [[noreturn]] void malformed(const std::string& why) const {
    throw FormatError("ZIYA-620", source_ + ": " + why);
  }
  [[noreturn]] void unsupported(const std::string& what) const {
    throw ConfigError("ZIYA-621", source_ + ": " + what + " is not supported");
  }
  [[nodiscard]] bool given(const char* key) const {
    const nlohmann::json* found = json_find(json_, key);
    if (found == nullptr || found->is_null()) return false;
    if (found->is_boolean()) return found->get<bool>();
    if (found->is_number()) return found->get<double>() != 0;
    return !((found->is_object() || found->is_array()) && found->empty());
  }
  void check_number(const std::string& what, double value) const {
    if (!(value > 0) || value > 1e6) {
      malformed(what + " is " + std::to_string(value) + ", expected above 0");
    }
  }

  void refuse_unsupported() const {
    const auto type = json_get<std::string>(json_, "peft_type", source_, "LORA");
    if (type != "LORA") unsupported("peft_type " + type.substr(0, 40));
    constexpr std::array keys{"use_dora",          "use_qalora",
                              "fan_in_fan_out",    "lora_bias",
                              "layer_replication", "trainable_token_indices",
                              "target_parameters", "alora_invocation_tokens",
                              "arrow_config",      "use_bdlora",
                              "megatron_config",   "kasa_config",
                              "monteclora_config", "velora_config"};
    for (const char* key : keys) {
      if (given(key)) unsupported(key);
    }
    // These begin from a base that they change, which the adapter's file does not hold.
    if (const auto* init = json_find(json_, "init_lora_weights");
        init != nullptr && init->is_string()) {
      const auto name = init->get<std::string>();
      for (const char* changes_base : {"pissa", "olora", "corda", "loftq", "lora_ga"}) {
        if (name.starts_with(changes_base)) {
          unsupported("init_lora_weights \"" + name.substr(0, 40) + "\", which changes the base,");
        }
      }
    }
  }

  /// PEFT matches a key that ends the name of a module, as a regular expression.
  std::vector<LoraPattern> patterns(const char* key) const {
    std::vector<LoraPattern> result;
    const nlohmann::json* found = json_find(json_, key);
    if (found == nullptr || found->is_null()) return result;
    if (!found->is_object() || found->size() > most_words) {
      malformed(std::string(key) + " is no object of patterns and numbers");
    }
    for (const auto& [pattern, value] : json_members(*found)) {
      if (!value.is_number()) malformed(std::string(key) + " has a value that is no number");
      check_number(key, value.get<double>());
      if (std::string_view(key) == "rank_pattern" && !json_is<std::int64_t>(value)) {
        malformed("rank_pattern has a rank that is no whole number");
      }
      const bool anchored = pattern.starts_with("^");
      result.push_back({NamePattern(anchored ? pattern : "(.*\\.)?(" + pattern + ")", source_),
                        value.get<double>()});
    }
    return result;
  }
  std::vector<std::string> words(const char* key) const {
    std::vector<std::string> result;
    const nlohmann::json* found = json_find(json_, key);
    if (found == nullptr || found->is_null()) return result;
    if (!found->is_array() || found->size() > most_words) {
      malformed(std::string(key) + " is no list of names");
    }
    for (const auto& word : *found) {
      if (!word.is_string() || word.get<std::string>().empty()) {
        malformed(std::string(key) + " holds something else than names");
      }
      result.push_back(word.get<std::string>());
    }
    return result;
  }
  void read_targets(LoraConfig& config) const {
    const nlohmann::json* found = json_find(json_, "target_modules");
    if (found != nullptr && found->is_string()) {
      const auto text = found->get<std::string>();
      if (text == "all-linear") {
        config.all_linear = true;
      } else {
        config.target_pattern.emplace(text, source_);
      }
      return;
    }
    config.targets = words("target_modules");
    if (config.targets.empty()) malformed("target_modules names nothing");
  }
  void read_layers(LoraConfig& config) const {
    const nlohmann::json* found = json_find(json_, "layers_to_transform");
    if (found == nullptr || found->is_null()) return;
    nlohmann::json list = *found;
    if (!list.is_array()) {
      list = json_array();
      list.push_back(*found);
    }
    for (const auto& layer : list) {
      if (!json_is<std::int64_t>(layer) || list.size() > most_words) {
        malformed("layers_to_transform is no list of layers");
      }
      config.layers.push_back(layer.get<std::int64_t>());
    }
  }

  const nlohmann::json& json_;
  std::string source_;
};

/// @throws FormatError ZIYA-230, ZIYA-231, ZIYA-620; ConfigError ZIYA-621
inline LoraConfig parse_lora_config(std::string_view text, const std::string& source) {
  const auto json = parse_json(text, source);
  return LoraConfigReader(json, source).read();
}

ZIYA_NAMESPACE_END
