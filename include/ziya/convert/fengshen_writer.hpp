// SPDX-License-Identifier: Apache-2.0
// Any model in the Fengshen layout, split into tensor-parallel parts.
#pragma once

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/audited_source.hpp"
#include "ziya/convert/conversion_journal.hpp"
#include "ziya/convert/conversion_provenance.hpp"
#include "ziya/convert/convert_options.hpp"
#include "ziya/convert/fengshen_names.hpp"
#include "ziya/convert/gathered_source.hpp"
#include "ziya/convert/hf_writer.hpp"
#include "ziya/convert/model_source.hpp"
#include "ziya/convert/stream.hpp"
#include "ziya/convert/typed_source.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/output_directory.hpp"
#include "ziya/io/pytorch_writer.hpp"
#include "ziya/model/llama_config.hpp"
#include "ziya/model/llama_names.hpp"

ZIYA_NAMESPACE_BEGIN

namespace fengshen {

/// inv_freq[i] = base^(−2i / head_dim), which the layout stores in every layer.
class InverseFrequencies final : public TensorSource {
 public:
  InverseFrequencies(double base, std::int64_t head_dim)
      : tensors_{{"inv_freq", DType::f32, Shape{head_dim / 2}}} {
    for (std::int64_t i = 0; i < head_dim / 2; ++i) {
      const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
      values_.push_back(static_cast<float>(std::pow(base, exponent)));
    }
  }
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override { return tensors_; }
  void read(std::size_t, std::int64_t first, std::span<std::byte> out) const override {
    std::memcpy(out.data(), values_.data() + first, out.size());
  }

 private:
  std::vector<TensorSpec> tensors_;
  std::vector<float> values_;
};

/// Part `part` of `parts` of a model with Hugging Face's names.
class Splitter {
 public:
  /// @throws ArgumentError ZIYA-618 when the model cannot be divided so, or has something that the
  /// layout has no place for
  Splitter(std::shared_ptr<const TensorSource> model, const LlamaShape& shape, std::int64_t parts)
      : model_(std::move(model)),
        shape_(shape),
        parts_(parts),
        rotary_(std::make_shared<const InverseFrequencies>(shape.rope_base, shape.head_dim)) {
    for (std::size_t i = 0; i < model_->tensors().size(); ++i) {
      indices_.emplace(model_->tensors()[i].name, i);
    }
    const auto divisible = [&](std::int64_t size, const std::string& what) {
      if (size % parts_ != 0) {
        refuse(what + " " + std::to_string(size) + " does not divide into " +
               std::to_string(parts_) + " parts");
      }
    };
    if (parts_ < 1) refuse("the number of parts is " + std::to_string(parts_));
    if (shape_.kv_heads != shape_.query_heads) {
      refuse("num_key_value_heads " + std::to_string(shape_.kv_heads) +
             " differs from num_attention_heads " + std::to_string(shape_.query_heads) +
             ", which the Fengshen layout cannot hold");
    }
    if (shape_.attention_bias || shape_.mlp_bias) refuse("biases have no place in the layout");
    if (!indices_.contains(llama_names::head)) refuse("there is no lm_head.weight to split");
    divisible(shape_.query_heads, "num_attention_heads");
    divisible(shape_.intermediate, "intermediate_size");
    divisible(at(llama_names::embedding).shape[0], "vocab_size");
  }

  [[nodiscard]] std::shared_ptr<const TensorSource> part(std::int64_t part) const {
    std::vector<GatheredTensor> tensors;
    tensors.push_back(slice(outer[0], "", "", part));
    for (std::int64_t layer = 0; layer < shape_.layers; ++layer) {
      const std::string prefix = of_layer(layer, ""), hf = llama_names::of_layer(layer, "");
      tensors.push_back(joined_qkv(prefix, hf, part));
      const std::int64_t half = shape_.head_dim / 2;
      tensors.push_back({{prefix + std::string(inv_freq), DType::f32, Shape{half}},
                         [half](std::int64_t, std::int64_t column) {
                           return GatheredPiece{1, 0, 0, column, 1, half - column};
                         }});
      for (const Name& names : inner) tensors.push_back(slice(names, prefix, hf, part));
    }
    tensors.push_back(slice(outer[1], "", "", part));
    tensors.push_back(slice(outer[2], "", "", part));
    return std::make_shared<const GatheredSource>(
        std::vector<std::shared_ptr<const TensorSource>>{model_, rotary_}, std::move(tensors));
  }

 private:
  [[noreturn]] static void refuse(const std::string& why) {
    throw ArgumentError("ZIYA-618", "fengshen: " + why);
  }
  [[nodiscard]] std::size_t index(std::string_view name) const {
    const auto found = indices_.find(name);
    if (found == indices_.end()) refuse("the model has no tensor " + std::string(name));
    return found->second;
  }
  [[nodiscard]] const TensorSpec& at(std::string_view name) const {
    return model_->tensors()[index(name)];
  }

  [[nodiscard]] GatheredTensor slice(const Name& names, const std::string& prefix,
                                     const std::string& hf, std::int64_t part) const {
    const std::size_t tensor = index(hf + std::string(names.hf));
    const TensorSpec& whole = model_->tensors()[tensor];
    TensorSpec spec{prefix + std::string(names.fengshen), whole.dtype, whole.shape};
    if (names.split == Split::none) {
      const std::int64_t size = whole.shape[0];
      return {std::move(spec), [=](std::int64_t, std::int64_t column) {
                return GatheredPiece{0, tensor, 0, column, 1, size - column};
              }};
    }
    const bool by_rows = names.split == Split::rows;
    const std::int64_t rows = whole.shape[0] / (by_rows ? parts_ : 1),
                       columns = whole.shape[1] / (by_rows ? 1 : parts_);
    spec.shape = Shape{rows, columns};
    return {std::move(spec), [=](std::int64_t row, std::int64_t column) {
              return GatheredPiece{0,
                                   tensor,
                                   row + (by_rows ? part * rows : 0),
                                   column + (by_rows ? 0 : part * columns),
                                   rows - row,
                                   columns - column};
            }};
  }

  [[nodiscard]] GatheredTensor joined_qkv(const std::string& prefix, const std::string& hf,
                                          std::int64_t part) const {
    std::array<std::size_t, 3> from{};
    for (std::size_t i = 0; i < 3; ++i) from[i] = index(hf + std::string(projections[i]));
    const TensorSpec& q = model_->tensors()[from[0]];
    for (const std::size_t other : from) {
      if (model_->tensors()[other].shape != q.shape || model_->tensors()[other].dtype != q.dtype) {
        refuse("q, k and v of " + hf + " differ in shape or type, so they cannot be one tensor");
      }
    }
    const std::int64_t size = shape_.head_dim, columns = q.shape[1],
                       rows = 3 * size * shape_.query_heads / parts_;
    return {{prefix + std::string(qkv), q.dtype, Shape{rows, columns}},
            [=](std::int64_t row, std::int64_t column) {
              const std::int64_t at = part * rows + row, within = at % size;
              return GatheredPiece{0,
                                   from[static_cast<std::size_t>(at / size % 3)],
                                   at / (3 * size) * size + within,
                                   column,
                                   size - within,
                                   columns - column};
            }};
  }

  std::shared_ptr<const TensorSource> model_;
  LlamaShape shape_;
  std::int64_t parts_;
  std::shared_ptr<const TensorSource> rotary_;
  std::map<std::string, std::size_t, std::less<>> indices_;
};

}  // namespace fengshen

/// Writes `target`/part_0 … part_(parts−1), each with its weights as PyTorch files and config.json;
/// tokenizer and texts lie in `target` itself. Nothing is under the target's name before everything
/// is; the provenance stands in provenance_file_name there.
/// @throws ArgumentError ZIYA-618, ZIYA-208, ZIYA-608, ZIYA-611; IoError; Error ZIYA-606
inline ConvertReport write_fengshen_model(const ModelSource& given,
                                          const std::filesystem::path& target, std::int64_t parts,
                                          const ConvertOptions& options = {}) {
  const ModelSource model = with_source(given, conversion_rule(options.type));
  std::shared_ptr<const TensorSource> tensors = model.tensors;
  std::string hf_config = model.files.at("config.json");
  const std::string source = model.name + ": config.json";
  if (options.type) {
    tensors = std::make_shared<const TypedSource>(tensors, [&](const TensorSpec& tensor) {
      return is_float(tensor.dtype) ? *options.type : tensor.dtype;
    });
    hf_config = detail::with_dtype(hf_config, source, *options.type);
  }
  // Parts of columns come one after the other: much of them too early for the hash.
  const auto canonical =
      std::make_shared<const AuditedSource>(tensors, false, provenance_memory);
  auto memories = model.memories;
  memories.push_back(memory_of(canonical));
  const fengshen::Splitter splitter(canonical, parse_llama_shape(hf_config, source), parts);
  const std::string config = fengshen::config_from_hf(hf_config, source);

  std::vector<std::shared_ptr<const AuditedSource>> sources;
  ConvertReport report;
  for (std::int64_t part = 0; part < parts; ++part) {
    sources.push_back(std::make_shared<const AuditedSource>(splitter.part(part)));
    for (const TensorSpec& tensor : sources.back()->tensors()) {
      ++report.tensors;
      report.bytes += tensor.bytes();
    }
  }
  const std::string identity = conversion_identity(
      model,
      config + std::to_string(parts) + " " + std::to_string(options.max_shard_bytes) + " " +
          std::string(options.type ? ziya::name(*options.type) : ""),
      options.resume);
  OutputDirectory directory(target, options.overwrite, options.resume, options.hooks);
  std::deque<ConversionJournal> journals;
  std::vector<std::string> kept;
  std::int64_t kept_bytes = 0;
  for (std::size_t part = 0; part < sources.size(); ++part) {
    journals.emplace_back(directory, sources[part], memories, identity,
                          "part_" + std::to_string(part) + "/");
    const auto& files = journals.back().verify_shards(options.verifying());
    kept.insert(kept.end(), files.begin(), files.end());
    kept_bytes += journals.back().kept_bytes();
  }
  directory.keep_only(kept);
  detail::say_needs(options, report.bytes, kept_bytes);
  directory.check_space(report.bytes - kept_bytes);
  std::int64_t before = 0;
  double seconds = 0;
  for (std::int64_t part = 0; part < parts; ++part) {
    const auto folder = directory.path() / ("part_" + std::to_string(part));
    std::filesystem::create_directory(folder);
    const AuditedSource& part_source = *sources[static_cast<std::size_t>(part)];
    ShardedPytorchWriter writer(
        folder, part_source.tensors(), options.max_shard_bytes, options.hooks,
        journals[static_cast<std::size_t>(part)].events(options.keep_unfinished));
    StreamOptions streaming = options.streaming();
    if (options.progress) {
      streaming.progress = [&](ProgressEvent event) {
        event.bytes += before;
        event.total = report.bytes;
        event.seconds += seconds;
        options.progress(event);
      };
    }
    const auto begin = std::chrono::steady_clock::now();
    stream(writer, part_source, streaming);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    writer.commit();
    write_text_file(folder / "config.json", config, options.hooks);
    before += writer.total_bytes();
    report.files += static_cast<std::int64_t>(writer.shards());
  }
  for (const auto& [name, text] : model.files) {
    if (name != "config.json") {
      write_text_file(directory.path() / path_from_utf8(name), text, options.hooks);
    }
  }
  safetensors::Metadata provenance = model.provenance;
  for (const auto& [key, text] : model.seal(directory.path())) provenance[key] = text;
  canonical->read_rest(options.verifying());
  provenance[target_fingerprint_key] = canonical->fingerprint().model();
  provenance["ziya.version"] = ZIYA_VERSION;
  write_text_file(directory.path() / provenance_file_name,
                  nlohmann::json(provenance).dump(2) + "\n", options.hooks);
  write_text_file(directory.path() / "config.json", config, options.hooks);
  directory.commit();
  return report;
}

ZIYA_NAMESPACE_END
