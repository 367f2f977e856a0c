// SPDX-License-Identifier: Apache-2.0
// A model with an adapter merged into it, as tensors that are computed while they are read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/audited_source.hpp"
#include "ziya/convert/fingerprint.hpp"
#include "ziya/convert/model_files.hpp"
#include "ziya/convert/model_source.hpp"
#include "ziya/convert/typed_source.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/checkpoint_files.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/llama_names.hpp"
#include "ziya/model/lora_adapter.hpp"

ZIYA_NAMESPACE_BEGIN

/// W' = round(W + scale · B A), the sum in 32-bit floats, rounded once to the type that W is stored
/// in (to nearest, ties to even); the products are added up in the order of the ranks. Tensors that
/// the adapter holds whole take the place of the model's, in the adapter's shape and the model's
/// type. Everything else is the model's, bit for bit.
class LoraMergedSource final : public TensorSource {
 public:
  /// @param model not quantised where the adapter changes it
  /// @throws ConfigError ZIYA-622, FormatError ZIYA-623, ArgumentError ZIYA-608
  LoraMergedSource(std::shared_ptr<const TensorSource> model, LoraAdapter adapter,
                   const std::string& name = "the model")
      : model_(std::move(model)), adapter_(std::move(adapter)), tensors_(model_->tensors()) {
    for (std::size_t i = 0; i < tensors_.size(); ++i) changes_.push_back({i, nullptr, {}});
    untie();
    check(name);
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      TensorSpec& tensor = tensors_[i];
      if (const auto found = adapter_.replacements().find(tensor.name);
          found != adapter_.replacements().end()) {
        changes_[i].stored = found->second;
        tensor.shape = adapter_.checkpoint().find(found->second)->shape;
      }
      if (tensor.name.ends_with(".weight")) {
        changes_[i].pair = adapter_.find(tensor.name.substr(0, tensor.name.size() - 7));
      }
      const bool changed = changes_[i].pair != nullptr || !changes_[i].stored.empty();
      if (changed && tensor.dtype > DType::bf16) {
        throw ArgumentError("ZIYA-608", "merge-lora: tensor " + tensor.name + " is stored as " +
                                            std::string(ziya::name(tensor.dtype)) +
                                            "; expected f32, f16 or bf16 (an adapter can stand "
                                            "beside a quantised model instead)");
      }
    }
  }

  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override { return tensors_; }
  [[nodiscard]] const LoraAdapter& adapter() const { return adapter_; }
  /// Whether the head, which was the embedding, now is a tensor of its own.
  [[nodiscard]] bool untied() const { return tensors_.size() != model_->tensors().size(); }

  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    const TensorSpec& tensor = tensors_.at(index);
    const Change& change = changes_[index];
    if (change.pair == nullptr && change.stored.empty()) {
      return model_->read(change.base, first, out);
    }
    const auto count = static_cast<std::int64_t>(out.size()) / info(tensor.dtype).block_bytes;
    std::vector<float> values(static_cast<std::size_t>(count));
    if (change.stored.empty()) {
      std::vector<std::byte> stored(out.size());
      model_->read(change.base, first, stored);
      widen(values, tensor.dtype, stored.data());
    } else {
      const DType dtype = adapter_.checkpoint().find(change.stored)->dtype;
      std::vector<std::byte> stored(static_cast<std::size_t>(bytes_of(dtype, count)));
      adapter_.checkpoint().read_elements(change.stored, first, count, stored);
      widen(values, dtype, stored.data());
    }
    if (change.pair != nullptr) add(*change.pair, values, first, tensor.shape[1]);
    detail::round_elements<float>(tensor.dtype, out,
                                  reinterpret_cast<const std::byte*>(values.data()), values.size());
  }

 private:
  struct Change {
    std::size_t base;      // index in the model
    const LoraPair* pair;  // or null
    std::string stored;    // in the adapter's file, instead of the model's tensor
  };
  /// Of one pair, as floats.
  struct Factors {
    const LoraPair* pair;
    std::vector<float> a, b;
  };

  /// PEFT changes one of a tied pair alone, so the head becomes a tensor of its own.
  void untie() {
    const auto has = [&](std::string_view name) {
      return std::ranges::find(tensors_, name, &TensorSpec::name) != tensors_.end();
    };
    const auto touched = [&](std::string_view name, const std::string& module) {
      return adapter_.replacements().contains(std::string(name)) ||
             adapter_.find(module) != nullptr;
    };
    const auto table = std::ranges::find(tensors_, llama_names::embedding, &TensorSpec::name);
    if (has(llama_names::head) || table == tensors_.end()) return;
    if (!touched(llama_names::embedding, "model.embed_tokens") &&
        !touched(llama_names::head, "lm_head")) {
      return;
    }
    TensorSpec head = *table;
    head.name = llama_names::head;
    changes_.push_back({static_cast<std::size_t>(table - tensors_.begin()), nullptr, {}});
    tensors_.push_back(std::move(head));
  }

  void check(const std::string& name) const {
    std::map<std::string, Shape> shapes;
    std::vector<std::string> modules;
    for (const TensorSpec& tensor : tensors_) {
      shapes.emplace(tensor.name, tensor.shape);
      const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
      if (tensor.shape.rank() == 2 && module.ends_with("_proj")) modules.push_back(module);
    }
    const auto shape_of = [&](const std::string& tensor) -> std::optional<Shape> {
      const auto found = shapes.find(tensor);
      return found == shapes.end() ? std::nullopt : std::optional(found->second);
    };
    adapter_.check_fits(shape_of, modules, name, true);
    const auto rows = [&](std::string_view tensor) {
      const auto found = adapter_.replacements().find(std::string(tensor));
      if (found != adapter_.replacements().end()) {
        return adapter_.checkpoint().find(found->second)->shape[0];
      }
      const auto own = shapes.find(std::string(tensor));
      return own == shapes.end() ? std::int64_t{-1} : own->second[0];
    };
    if (rows(llama_names::embedding) != rows(llama_names::head) && rows(llama_names::head) >= 0 &&
        rows(llama_names::embedding) >= 0) {
      throw ConfigError("ZIYA-622",
                        adapter_.name() + ": the adapter does not fit: with it the embedding has " +
                            std::to_string(rows(llama_names::embedding)) + " rows and the head " +
                            std::to_string(rows(llama_names::head)));
    }
  }

  static void widen(std::span<float> values, DType dtype, const std::byte* data) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (dtype == DType::f32) {
        std::memcpy(&values[i], data + 4 * i, 4);
      } else if (dtype == DType::f64) {
        double value;
        std::memcpy(&value, data + 8 * i, 8);
        values[i] = static_cast<float>(value);
      } else {
        std::uint16_t bits;
        std::memcpy(&bits, data + 2 * i, 2);
        values[i] = dtype == DType::f16 ? to_float(Half{bits}) : to_float(BFloat16{bits});
      }
    }
  }

  /// Kept for the next piece of the same tensor; few megabytes.
  std::shared_ptr<const Factors> factors(const LoraPair& pair) const {
    const std::lock_guard lock(mutex_);
    if (factors_ == nullptr || factors_->pair != &pair) {
      factors_ = std::make_shared<const Factors>(
          Factors{&pair, adapter_.floats(pair.a), adapter_.floats(pair.b)});
    }
    return factors_;
  }

  /// values += scale · (B A)[first, …) of the row-major order of a matrix `width` wide.
  void add(const LoraPair& pair, std::span<float> values, std::int64_t first,
           std::int64_t width) const {
    const auto held = factors(pair);
    const auto rank = static_cast<std::size_t>(pair.rank());
    const auto scale = static_cast<float>(pair.scale);
    const auto a_columns = static_cast<std::size_t>(pair.a_shape[1]);
    std::vector<float> sum;
    while (!values.empty()) {
      const auto row = static_cast<std::size_t>(first / width),
                 begin = static_cast<std::size_t>(first % width);
      const std::size_t count = std::min(values.size(), static_cast<std::size_t>(width) - begin);
      sum.assign(count, 0);
      for (std::size_t k = 0; k < rank; ++k) {
        if (pair.embedding) {  // element (row, j) is (B A)[j, row]
          const float factor = held->a[k * a_columns + row];
          for (std::size_t j = 0; j < count; ++j)
            sum[j] += factor * held->b[(begin + j) * rank + k];
        } else {
          const float factor = held->b[row * rank + k];
          const float* a = held->a.data() + k * a_columns + begin;
          for (std::size_t j = 0; j < count; ++j) sum[j] += factor * a[j];
        }
      }
      for (std::size_t j = 0; j < count; ++j) values[j] += scale * sum[j];
      values = values.subspan(count);
      first += static_cast<std::int64_t>(count);
    }
  }

  std::shared_ptr<const TensorSource> model_;
  LoraAdapter adapter_;
  std::vector<TensorSpec> tensors_;
  std::vector<Change> changes_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Factors> factors_;
};

namespace detail {

/// "ziya.adapter.3" of the third adapter that is merged into a model.
inline std::string adapter_key(std::size_t number) {
  return "ziya.adapter." + std::to_string(number);
}

/// How many adapters are in a model. @throws FormatError ZIYA-625 when this one is among them
inline std::size_t count_adapters(const ModelSource& model, const LoraAdapter& adapter,
                                  const std::string& digits) {
  std::size_t count = 0;
  for (auto found = model.provenance.find(adapter_key(1)); found != model.provenance.end();
       found = model.provenance.find(adapter_key(count + 1))) {
    ++count;
    if (found->second == digits) {
      throw FormatError("ZIYA-625", "merge-lora: " + model.name + " has the adapter " +
                                        adapter.name() + " in it already (fingerprint " + digits +
                                        "); expected the model before that");
    }
  }
  return count;
}

}  // namespace detail

/// The model with the adapter in it; config.json follows where the adapter changes the vocabulary
/// or unties the head, and tokenizer files that lie beside the adapter replace the model's. The
/// provenance names the rule, the adapter's fingerprint and, once written, the model's.
/// @throws as LoraMergedSource; FormatError ZIYA-625 when the model has this adapter in it already
inline ModelSource merge_lora(const ModelSource& model, LoraAdapter adapter) {
  const auto folder = adapter.folder();
  const std::string digits = fingerprint(CheckpointSource(adapter.checkpoint())).model();
  const std::string key = detail::adapter_key(detail::count_adapters(model, adapter, digits) + 1);
  // Parts of columns come one after the other (Fengshen), so that most of a matrix comes too early.
  const auto base =
      std::make_shared<const AuditedSource>(model.tensors, false, std::int64_t{128} << 20);
  const auto merged =
      std::make_shared<const LoraMergedSource>(base, std::move(adapter), model.name);
  ModelSource result{merged, model.files, model.name, model.provenance, {}};
  if (!model.identity.empty()) result.identity = model.identity + " + " + digits;
  result.memories = model.memories;
  result.memories.push_back(memory_of(base));
  result.provenance["ziya.adapter.rule"] = "W + scale * B A, summed in f32, rounded once";
  result.provenance[key] = digits;
  result.provenance[key + ".base"] = std::string(digits.size(), '0');
  result.seal = [base, key](const std::filesystem::path&) {
    base->read_rest();
    return safetensors::Metadata{{key + ".base", base->fingerprint().model()}};
  };
  for (const TensorSpec& tensor : merged->tensors()) {
    if (tensor.name != llama_names::embedding) continue;
    std::string& text = result.files.at("config.json");
    auto config = parse_json(text, model.name + ": config.json");
    const bool same =
        config.is_object() && config.value("vocab_size", nlohmann::json()) == tensor.shape[0];
    if (config.is_object() && (merged->untied() || !same)) {
      config["vocab_size"] = tensor.shape[0];
      if (merged->untied()) config["tie_word_embeddings"] = false;
      text = config.dump(2) + "\n";
    }
  }
  for (const char* name : {"tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                           "added_tokens.json"}) {
    std::error_code ignored;
    if (std::filesystem::is_regular_file(folder / name, ignored)) {
      result.files[name] = read_text_file(folder / name);
    }
  }
  return result;
}

/// By what names an adapter may know a model: that of its folder or file, and what its config says.
/// @param config text of its config.json, or empty
inline std::vector<std::string> base_names(const std::string& name, const std::string& config) {
  std::vector<std::string> names{name};
  if (config.empty()) return names;
  const auto json = parse_json(config, name + ": config.json");
  if (json.is_object() && json.contains("_name_or_path") && json.at("_name_or_path").is_string()) {
    names.push_back(json.at("_name_or_path").get<std::string>());
  }
  return names;
}
/// The same of a model's folder or GGUF file, which says its name itself.
/// @throws FormatError, IoError
inline std::vector<std::string> base_names(const std::filesystem::path& model) {
  const std::string name = model_name(model);
  if (const auto weights = find_weights(model); gguf::is_gguf(weights)) {
    std::vector<std::string> names{name};
    const Checkpoint checkpoint = Checkpoint::open(weights);
    if (const auto own = checkpoint.gguf_metadata()->text("general.name")) names.push_back(*own);
    return names;
  }
  std::error_code ignored;
  const auto config = model / "config.json";
  const bool exists = std::filesystem::is_regular_file(config, ignored);
  return base_names(name, exists ? read_text_file(config) : "");
}

ZIYA_NAMESPACE_END
