// SPDX-License-Identifier: Apache-2.0
// Any model as a GGUF file, and a GGUF file as any model.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/audited_source.hpp"
#include "ziya/convert/conversion_journal.hpp"
#include "ziya/convert/conversion_provenance.hpp"
#include "ziya/convert/convert_options.hpp"
#include "ziya/convert/gguf_source.hpp"
#include "ziya/convert/model_source.hpp"
#include "ziya/convert/partial_gguf.hpp"
#include "ziya/convert/typed_source.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/gguf_writer.hpp"
#include "ziya/io/work_directory.hpp"
#include "ziya/model/llama_config.hpp"
#include "ziya/text/gguf_vocabulary_writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// A GGUF file, or a folder with one, as the Hugging Face folder that it stands for.
/// @throws FormatError, ConfigError, IoError
inline ModelSource open_gguf_model(const std::filesystem::path& path) {
  Checkpoint checkpoint = Checkpoint::open(path);
  const gguf::Metadata* metadata = checkpoint.gguf_metadata();
  if (metadata == nullptr) {
    throw FormatError("ZIYA-250", utf8_from_path(checkpoint.path()) + ": is not a GGUF file");
  }
  const LlamaShape shape = read_gguf_shape(checkpoint);
  const gguf::ConfigMaker maker(checkpoint);
  ModelSource model;
  model.name = metadata->text("general.name").value_or(model_name(checkpoint.path()));
  if (metadata->find("tokenizer.ggml.model") != nullptr) {
    model.files = gguf::tokenizer_files(*metadata);
  }
  model.provenance = lasting_provenance(checkpoint.metadata());
  model.files["config.json"] = maker.make().dump(2) + "\n";
  model.files["generation_config.json"] = maker.make_generation().dump(2) + "\n";
  model.identity = identity_text(files_identity(checkpoint));
  model.tensors = std::make_shared<const GgufSource>(
      std::make_shared<const CheckpointSource>(std::move(checkpoint)), shape, RopePairing::halves);
  return model;
}

/// The shape that config.json of a model says. @throws ConfigError ZIYA-412 when there is none
inline LlamaShape shape_of(const ModelSource& model) {
  const auto config = model.files.find("config.json");
  if (config == model.files.end()) {
    throw ConfigError("ZIYA-412", model.name + ": has no config.json");
  }
  LlamaShape shape = parse_llama_shape(config->second, model.name + ": config.json");
  for (const TensorSpec& tensor : model.tensors->tensors()) {
    if (tensor.name == llama_names::embedding && tensor.shape.rank() == 2 &&
        shape.vocabulary == unknown_vocabulary) {
      shape.vocabulary = tensor.shape[0];
    }
  }
  return shape;
}

/// Everything but the tensors: the model's name, sizes, rope and vocabulary.
/// @param type of most matrices
/// @throws ConfigError ZIYA-259, ZIYA-525, and what the tokenizer's files are refused for
inline gguf::Metadata gguf_metadata(const ModelSource& model, const LlamaShape& shape, DType type) {
  gguf::Metadata metadata(model.name);
  gguf::set_shape(metadata, shape);
  metadata.set_text("general.type", "model");
  metadata.set_text("general.name", model.name);
  metadata.set_u32("general.file_type", gguf::tensor_type(type)->file_type);
  if (is_quantised(type)) metadata.set_u32("general.quantization_version", 2);
  gguf::set_vocabulary(metadata, model.files, shape.vocabulary);
  // Old configs name a padding token that their tokenizer does not have.
  const auto config = parse_json(model.files.at("config.json"), model.name + ": config.json");
  if (const auto pad = config.find("pad_token_id");
      metadata.find("tokenizer.ggml.padding_token_id") == nullptr && pad != config.end() &&
      json_is<std::int32_t>(*pad) && *pad >= 0 && *pad < shape.vocabulary) {
    metadata.set_u32("tokenizer.ggml.padding_token_id", pad->get<std::int32_t>());
  }
  const auto generation = model.files.find("generation_config.json");
  if (generation != model.files.end()) {
    metadata.set_text("ziya.generation_config.json", generation->second);
  }
  metadata.set_text("ziya.version", ZIYA_VERSION);
  for (const auto& [key, text] : model.provenance) metadata.set_text(key, text);
  return metadata;
}

/// @param model what it is called   @throws ConfigError ZIYA-431 naming a tensor that a model of
/// this shape needs
inline void check_complete(const std::vector<TensorSpec>& tensors, const LlamaShape& shape,
                           const std::string& model) {
  std::vector<std::string> needed{std::string(llama_names::embedding),
                                  std::string(llama_names::final_norm)};
  if (!shape.tied_head) needed.emplace_back(llama_names::head);
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    for (const auto& [gguf, part] : gguf::detail::layer_names) {
      needed.push_back(llama_names::of_layer(layer, std::string(part) + ".weight"));
    }
  }
  for (const std::string& name : needed) {
    const auto found = std::find_if(tensors.begin(), tensors.end(),
                                    [&](const TensorSpec& tensor) { return tensor.name == name; });
    if (found == tensors.end()) {
      throw ConfigError("ZIYA-431", model + ": tensor " + name + " is missing");
    }
  }
}

/// @throws ArgumentError ZIYA-208 when the file is there and may not be replaced, or is a folder
inline void refuse_existing(const std::filesystem::path& file, bool overwrite) {
  std::error_code error;
  const auto path = expand_home(file);
  if (std::filesystem::is_directory(path, error) ||
      (!overwrite && std::filesystem::exists(path, error))) {
    throw ArgumentError("ZIYA-208",
                        utf8_from_path(file) + ": exists already; choose another, or overwrite it");
  }
}

/// Writes one GGUF file: matrices in options.type (or as they are stored), vectors in f32. Nothing
/// is under its name before it is whole; until then it lies in `<target>.partial`.
/// @throws ArgumentError ZIYA-208, ZIYA-255, ZIYA-608, ZIYA-641, 643, 644; ConfigError; IoError;
/// Error ZIYA-606
inline ConvertReport write_gguf_model(const ModelSource& source, const std::filesystem::path& target,
                                      const ConvertOptions& options = {}) {
  refuse_existing(target, options.overwrite);
  ModelSource model = with_source(source, conversion_rule(options.type) + ", vectors to f32");
  const LlamaShape shape = shape_of(model);
  const auto type_of = [&](const TensorSpec& tensor) {
    return tensor.shape.rank() < 2 ? DType::f32 : options.type.value_or(tensor.dtype);
  };
  // As it will be read again, Hugging Face's rows; a merge has hashed that already.
  std::shared_ptr<const AuditedSource> canonical;
  if (!model.provenance.contains(target_fingerprint_key)) {
    canonical = std::make_shared<const AuditedSource>(
        std::make_shared<const TypedSource>(
            std::make_shared<const GgufSource>(model.tensors, shape, shape.rope_pairing), type_of),
        false, provenance_memory);
    model.tensors = canonical;
    model.memories.push_back(memory_of(canonical));
    model.provenance[target_fingerprint_key] = unknown_fingerprint();
  }
  const auto rows =
      std::make_shared<const GgufSource>(model.tensors, shape, RopePairing::interleaved);
  check_complete(rows->tensors(), shape, model.name);
  const auto written =
      std::make_shared<const AuditedSource>(std::make_shared<const TypedSource>(rows, type_of));
  ConvertReport report;
  report.files = 1;
  std::array<std::int64_t, dtype_count> bytes_by_type{};
  for (const TensorSpec& tensor : written->tensors()) {
    ++report.tensors;
    report.bytes += tensor.bytes();
    bytes_by_type[static_cast<std::size_t>(tensor.dtype)] += tensor.bytes();
  }
  const auto most = std::max_element(bytes_by_type.begin(), bytes_by_type.end());
  gguf::Metadata metadata =
      gguf_metadata(model, shape, static_cast<DType>(most - bytes_by_type.begin()));
  std::vector<TensorSpec> order = gguf::file_order(written->tensors());
  const std::string identity =
      conversion_identity(model, gguf::make_header(order, metadata), options.resume);
  WorkDirectory directory(target, options.resume, options.hooks);
  ConversionJournal journal(directory, written, model.memories, identity);
  PartialGguf partial(directory, journal, std::move(order), metadata, options);
  stream(partial, *written, options.streaming());
  partial.file().finish();
  for (const auto& [key, text] : model.seal(partial.file().partial())) {
    metadata.set_text(key, text);
  }
  if (canonical != nullptr) {
    canonical->read_rest(options.verifying());
    metadata.set_text(target_fingerprint_key, canonical->fingerprint().model());
  }
  partial.file().patch(metadata);
  partial.commit();
  return report;
}

ZIYA_NAMESPACE_END
