// SPDX-License-Identifier: Apache-2.0
// Any model as a Hugging Face folder of safetensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/convert/audited_source.hpp"
#include "ziya/convert/conversion_journal.hpp"
#include "ziya/convert/conversion_provenance.hpp"
#include "ziya/convert/convert_options.hpp"
#include "ziya/convert/model_source.hpp"
#include "ziya/convert/typed_source.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/output_directory.hpp"
#include "ziya/io/safetensors_metadata.hpp"
#include "ziya/io/safetensors_writer.hpp"

ZIYA_NAMESPACE_BEGIN

namespace detail {

/// config.json with the type that the weights have now.
inline std::string with_dtype(const std::string& config, const std::string& source, DType type) {
  auto json = parse_json(config, source);
  const std::string name = type == DType::f32   ? "float32"
                           : type == DType::f16 ? "float16"
                                                : "bfloat16";
  json[json.contains("dtype") ? "dtype" : "torch_dtype"] = name;
  return json.dump(2) + "\n";
}

}  // namespace detail

/// Writes `target`/ with model.safetensors (or shards and their index) and the model's files.
/// Nothing is under the target's name before everything is.
/// @throws ArgumentError ZIYA-208, ZIYA-608, ZIYA-641, 643, 644; IoError ZIYA-206 … 209; Error
/// ZIYA-606
inline ConvertReport write_hf_model(const ModelSource& source, const std::filesystem::path& target,
                                    const ConvertOptions& options = {}) {
  constexpr std::int64_t header_room = std::int64_t{16} << 20;
  const ModelSource model = with_source(source, conversion_rule(options.type));
  std::shared_ptr<const TensorSource> tensors = model.tensors;
  auto files = model.files;
  if (options.type) {
    const auto wanted = [&](const TensorSpec& tensor) {
      return is_float(tensor.dtype) || is_quantised(tensor.dtype) ? *options.type : tensor.dtype;
    };
    tensors = std::make_shared<const TypedSource>(tensors, wanted);
    std::string& config = files.at("config.json");
    config = detail::with_dtype(config, model.name + ": config.json", *options.type);
  }
  for (const TensorSpec& tensor : tensors->tensors()) {
    if (is_quantised(tensor.dtype)) {
      throw ArgumentError("ZIYA-608", "convert: tensor " + tensor.name + " is " +
                                          std::string(ziya::name(tensor.dtype)) +
                                          ", which safetensors do not hold; choose --type");
    }
  }
  ConvertReport report;
  for (const TensorSpec& tensor : tensors->tensors()) {
    ++report.tensors;
    report.bytes += tensor.bytes();
  }
  safetensors::Metadata metadata = model.provenance;
  metadata["ziya.version"] = ZIYA_VERSION;
  metadata[target_fingerprint_key] = unknown_fingerprint();
  const std::string identity =
      conversion_identity(model,
                          safetensors::make_header(tensors->tensors(), metadata) +
                              std::to_string(options.max_shard_bytes),
                          options.resume);
  const auto written = std::make_shared<const AuditedSource>(tensors);
  OutputDirectory directory(target, options.overwrite, options.resume, options.hooks);
  auto memories = model.memories;
  memories.push_back(memory_of(written));
  ConversionJournal journal(directory, written, std::move(memories), identity);
  directory.keep_only(journal.verify_shards(options.verifying()));
  const ShardEvents events = journal.events(options.keep_unfinished);
  detail::say_needs(options, report.bytes + header_room, journal.kept_bytes());
  directory.check_space(report.bytes + header_room - journal.kept_bytes());
  ShardedSafetensorsWriter writer(directory.path(), tensors->tensors(), options.max_shard_bytes,
                                  metadata, options.hooks, events);
  stream(writer, *written, options.streaming());
  writer.commit();
  safetensors::Metadata known = model.seal(directory.path());
  known[target_fingerprint_key] = written->fingerprint().model();
  for (const std::string& file : writer.files()) {
    safetensors::patch_metadata(directory.path() / file, known, options.hooks);
  }
  for (const auto& [name, text] : files) {
    if (name != "config.json") {
      write_text_file(directory.path() / path_from_utf8(name), text, options.hooks);
    }
  }
  write_text_file(directory.path() / "config.json", files.at("config.json"), options.hooks);
  directory.commit();
  report.files = static_cast<std::int64_t>(writer.shards());
  return report;
}

ZIYA_NAMESPACE_END
