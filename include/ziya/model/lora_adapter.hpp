// SPDX-License-Identifier: Apache-2.0
// A LoRA adapter as PEFT saves it: its config, its low-rank pairs, and whole tensors it replaces.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/shape.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/model/llama_names.hpp"
#include "ziya/model/lora_config.hpp"

ZIYA_NAMESPACE_BEGIN

/// W' = W + scale · B A, with A (rank, in) and B (out, rank). For an embedding, whose table W is
/// (vocabulary, hidden), A is (rank, vocabulary), B (hidden, rank) and W' = W + scale · (B A)ᵀ.
struct LoraPair {
  std::string module;  ///< "model.layers.0.self_attn.q_proj"
  std::string a, b;    ///< names in the adapter's file
  Shape a_shape, b_shape;
  double scale = 1;
  bool embedding = false;

  [[nodiscard]] std::int64_t rank() const { return a_shape[0]; }
  /// Of the weight that it changes.
  [[nodiscard]] Shape weight_shape() const {
    return embedding ? Shape{a_shape[1], b_shape[0]} : Shape{b_shape[0], a_shape[1]};
  }
};

/// The file of weights in an adapter's folder; empty where there is none.
inline std::filesystem::path find_adapter_weights(const std::filesystem::path& folder) {
  for (const char* name : {"adapter_model.safetensors", "adapter_model.bin"}) {
    std::error_code ignored;
    if (std::filesystem::is_regular_file(folder / name, ignored)) return folder / name;
  }
  return {};
}

/// Opening reads headers and the config. Immutable, thread-safe.
class LoraAdapter {
 public:
  /// @param path folder with adapter_config.json and adapter_model.safetensors (or .bin)
  /// @throws IoError ZIYA-201, FormatError ZIYA-620, ZIYA-623, ConfigError ZIYA-621
  static LoraAdapter open(const std::filesystem::path& path) {
    const auto folder = resolve_model_path(path);
    const auto weights = find_adapter_weights(folder);
    if (!weights.empty()) return LoraAdapter(folder, Checkpoint::open(weights));
    throw IoError("ZIYA-201", utf8_from_path(folder) +
                                  ": holds no adapter_model.safetensors or adapter_model.bin");
  }

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  [[nodiscard]] std::string name() const { return utf8_from_path(folder_); }
  [[nodiscard]] const LoraConfig& config() const { return config_; }
  [[nodiscard]] const std::vector<LoraPair>& pairs() const { return pairs_; }
  /// Tensors of the model that the adapter holds whole (modules_to_save, biases): name in the model
  /// → name in the adapter's file.
  [[nodiscard]] const std::map<std::string, std::string>& replacements() const {
    return replacements_;
  }
  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }
  [[nodiscard]] const LoraPair* find(std::string_view module) const {
    const auto found = std::lower_bound(
        pairs_.begin(), pairs_.end(), module,
        [](const LoraPair& pair, std::string_view name) { return pair.module < name; });
    return found != pairs_.end() && found->module == module ? &*found : nullptr;
  }

  /// A tensor of the adapter's file as floats.
  [[nodiscard]] std::vector<float> floats(const std::string& tensor) const {
    const TensorInfo& info = *checkpoint_.find(tensor);
    std::vector<std::byte> bytes(static_cast<std::size_t>(info.bytes()));
    checkpoint_.read(tensor, bytes);
    std::vector<float> values(static_cast<std::size_t>(info.shape.elements()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = element(info.dtype, bytes.data(), i);
    }
    return values;
  }

  /// Compares every shape with the model's, and the modules that the config targets with those
  /// present. By shape alone: names of models and sizes of vocabularies do not matter.
  /// @param shape_of shape of a tensor of the model, none when there is no such tensor
  /// @param modules of the model that could be adapted ("model.layers.0.mlp.up_proj", …)
  /// @param resize whether embedding and head may be replaced by ones of other numbers of rows
  /// @throws ConfigError ZIYA-622 naming the first tensor that does not fit, ZIYA-623 when a
  /// targeted module has no pair
  void check_fits(const std::function<std::optional<Shape>(const std::string&)>& shape_of,
                  const std::vector<std::string>& modules, const std::string& model,
                  bool resize) const {
    for (const LoraPair& pair : pairs_) {
      const auto shape = shape_of(pair.module + ".weight");
      if (!shape) misfit(pair.module, "which " + model + " does not have");
      if (*shape != pair.weight_shape()) {
        misfit(pair.module, "as a weight of " + pair.weight_shape().to_string() + ", in " + model +
                                " it is " + shape->to_string());
      }
    }
    for (const auto& [target, stored] : replacements_) {
      const auto shape = shape_of(target);
      const Shape own = checkpoint_.find(stored)->shape;
      if (!shape) misfit(target, "which " + model + " does not have");
      const bool table = target == llama_names::embedding || target == llama_names::head;
      if (*shape != own && !(resize && table && own.rank() == 2 && own[1] == (*shape)[1])) {
        misfit(target,
               "of " + own.to_string() + ", in " + model + " it is " + shape->to_string() +
                   (table && !resize ? "; merge the adapter to change the vocabulary" : ""));
      }
    }
    for (const std::string& module : modules) {
      if (config_.targets_module(module) && !config_.saves_module(module) &&
          find(module) == nullptr) {
        throw FormatError("ZIYA-623", name() + ": target_modules covers " + module + " of " +
                                          model + ", but the adapter holds nothing for it");
      }
    }
  }

  /// "" when the recorded name of the base is one of `names`, or unknown; otherwise a sentence.
  [[nodiscard]] std::string base_mismatch(const std::vector<std::string>& names) const {
    const auto last = [](std::string text) {
      while (text.size() > 1 && text.back() == '/') text.pop_back();
      text = text.substr(text.find_last_of("/\\") + 1);
      for (char& c : text) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
      return text;
    };
    if (config_.base.empty()) return "";
    for (const std::string& name : names) {
      if (last(name) == last(config_.base)) return "";
    }
    return "the adapter was trained on \"" + config_.base.substr(0, 200) +
           "\", the model given is " + (names.empty() ? "another" : names.front());
  }

 private:
  LoraAdapter(std::filesystem::path folder, Checkpoint checkpoint)
      : folder_(std::move(folder)), checkpoint_(std::move(checkpoint)) {
    const auto path = folder_ / "adapter_config.json";
    config_ = parse_lora_config(read_text_file(path, 1 << 24), utf8_from_path(path));
    for (const TensorInfo& tensor : checkpoint_.tensors()) sort_in(tensor);
    for (const auto& [module, place] : places_) finish(std::move(open_[place]));
    open_.clear();
    places_.clear();
  }

  [[noreturn]] void malformed(const std::string& why) const {
    throw FormatError("ZIYA-623", name() + ": " + why);
  }
  [[noreturn]] void misfit(const std::string& what, const std::string& why) const {
    throw ConfigError("ZIYA-622",
                      name() + ": the adapter does not fit: it changes " + what + " " + why);
  }

  static float element(DType dtype, const std::byte* data, std::size_t i) {
    const auto value = [&]<class T>(T) {
      T result;
      std::memcpy(&result, data + i * sizeof(T), sizeof(T));
      return result;
    };
    if (dtype == DType::f16) return to_float(value(Half{}));
    if (dtype == DType::bf16) return to_float(value(BFloat16{}));
    return dtype == DType::f64 ? static_cast<float>(value(0.0)) : value(0.0f);
  }

  /// Whether one of these ends `name`; takes it off.
  static bool takes_off(std::string& name, std::string_view ending) {
    if (!name.ends_with(ending)) return false;
    name.resize(name.size() - ending.size());
    return true;
  }

  void sort_in(const TensorInfo& tensor) {
    std::string rest = tensor.name;
    constexpr std::string_view prefix = "base_model.model.";
    if (!rest.starts_with(prefix)) malformed("tensor " + rest + " has no name of PEFT's");
    if (!is_float(tensor.dtype)) {
      malformed("tensor " + rest + " is " + std::string(ziya::name(tensor.dtype)));
    }
    rest.erase(0, prefix.size());
    for (const bool second : {false, true}) {
      const std::string letter = second ? "B" : "A";
      for (const std::string& ending :
           {".lora_" + letter + ".weight", ".lora_" + letter + ".default.weight",
            ".lora_embedding_" + letter, ".lora_embedding_" + letter + ".default"}) {
        if (!takes_off(rest, ending)) continue;
        const auto [place, fresh] = places_.emplace(rest, open_.size());
        if (fresh) open_.push_back({});
        LoraPair& pair = open_[place->second];
        (second ? pair.b : pair.a) = tensor.name;
        (second ? pair.b_shape : pair.a_shape) = tensor.shape;
        pair.module = rest;
        pair.embedding = ending.find("embedding") != std::string::npos;
        return;
      }
    }
    if (rest.find("lora_") != std::string::npos) {
      throw ConfigError("ZIYA-621", name() + ": tensor " + tensor.name +
                                        " is of a kind of adapter that is not supported");
    }
    for (const std::string_view part :
         {"modules_to_save.default.", "modules_to_save.", "base_layer."}) {
      if (const auto at = rest.find(part); at != std::string::npos) rest.erase(at, part.size());
    }
    const bool bias = config_.biases && rest.ends_with(".bias");
    std::string module = rest;
    const bool saved = takes_off(module, ".weight") &&
                       (config_.saves_module(module) || rest == llama_names::embedding ||
                        rest == llama_names::head);
    if (!bias && !saved) {
      malformed("tensor " + tensor.name + " is neither a low-rank matrix nor in modules_to_save");
    }
    std::string& replacement = replacements_[rest];
    if (!replacement.empty()) malformed("two tensors replace " + rest);
    replacement = tensor.name;
  }

  void finish(LoraPair pair) {
    if (pair.a.empty() || pair.b.empty()) {
      malformed("module " + pair.module + " has only one of its two low-rank matrices");
    }
    if (pair.a_shape.rank() != 2 || pair.b_shape.rank() != 2 ||
        pair.a_shape[0] != pair.b_shape[1] || pair.a_shape[0] < 1) {
      malformed("the low-rank matrices of " + pair.module + " are " + pair.a_shape.to_string() +
                " and " + pair.b_shape.to_string() + ", expected (r, in) and (out, r)");
    }
    if (const auto r = config_.rank_of(pair.module); r != pair.rank()) {
      malformed("the low-rank matrices of " + pair.module + " are of rank " +
                std::to_string(pair.rank()) + ", adapter_config.json says " + std::to_string(r));
    }
    pair.scale = config_.scale_of(pair.module);
    pairs_.push_back(std::move(pair));
  }

  std::filesystem::path folder_;
  Checkpoint checkpoint_;
  LoraConfig config_;
  std::vector<LoraPair> open_;                              // while they are collected
  std::map<std::string, std::size_t, std::less<>> places_;  // in open_, by module
  std::vector<LoraPair> pairs_;                             // sorted by module
  std::map<std::string, std::string> replacements_;
};

ZIYA_NAMESPACE_END
