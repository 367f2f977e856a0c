// SPDX-License-Identifier: Apache-2.0
// A model on its way from one format to another: its tensors, and the small files beside them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/checked_source.hpp"
#include "ziya/convert/model_files.hpp"
#include "ziya/convert/tensor_memory.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/safetensors.hpp"
#include "ziya/io/tensor_source.hpp"

ZIYA_NAMESPACE_BEGIN

/// What every format is read as and written from: tensors with Hugging Face's names, in Hugging
/// Face's order of rows, and the texts of a Hugging Face folder.
struct ModelSource {
  std::shared_ptr<const TensorSource> tensors;
  std::map<std::string, std::string> files;  ///< name → contents; "config.json" is among them
  std::string name;                          ///< of the model, without where it lies
  /// From what the weights were merged, by which rule; written into the metadata of every format.
  safetensors::Metadata provenance{};
  /// Called by writers with the folder or file whose tensors are all there, before it gets its
  /// name; may throw. What it returns replaces texts of `provenance` by others of the same lengths:
  /// what is known only in the end.
  std::function<safetensors::Metadata(const std::filesystem::path&)> seal{};
  /// One text that changes when what is read changes; empty: an interrupted conversion of it cannot
  /// be resumed.
  std::string identity{};
  /// What the sources behind `tensors` learn while they are read.
  std::vector<TensorMemory> memories{};
};

/// Names, sizes and times of files, for ModelSource::identity.
inline nlohmann::json files_identity(const std::vector<std::filesystem::path>& files) {
  nlohmann::json json = json_array();
  for (const auto& file : files) {
    std::error_code ignored;
    const auto time = std::filesystem::last_write_time(file, ignored).time_since_epoch();
    nlohmann::json& entry = json.emplace_back();
    entry.push_back(utf8_from_path(file.filename()));
    entry.push_back(std::filesystem::file_size(file, ignored));
    entry.push_back(static_cast<std::int64_t>(time.count()));
  }
  return json;
}
inline nlohmann::json files_identity(const Checkpoint& checkpoint) {
  std::vector<std::filesystem::path> files;
  for (const auto& file : checkpoint.files()) files.push_back(file->file().path());
  return files_identity(files);
}
/// As one line of ASCII.
inline std::string identity_text(const nlohmann::json& json) {
  return json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

/// Where the provenance of files stands that have no place for it.
inline constexpr const char* provenance_file_name = "ziya.json";

/// Metadata of files of weights, and what stands beside them. @throws FormatError, IoError
inline safetensors::Metadata recorded_metadata(safetensors::Metadata metadata,
                                               const std::filesystem::path& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(folder / provenance_file_name, ignored)) return metadata;
  const auto json = read_json_file(folder / provenance_file_name);
  for (const auto& [key, value] : json.items()) {
    if (value.is_string()) metadata.emplace(key, value.get<std::string>());
  }
  return metadata;
}

/// Of a model's metadata, what is still true when its weights are written in another form.
inline safetensors::Metadata lasting_provenance(const safetensors::Metadata& metadata) {
  safetensors::Metadata lasting;
  for (const auto& [key, text] : metadata) {
    for (const char* part : {"ziya.merge", "ziya.base.", "ziya.delta.", "ziya.adapter"}) {
      if (key.starts_with(part)) lasting.emplace(key, text);
    }
  }
  return lasting;
}

/// A Hugging Face folder, safetensors or PyTorch files. @throws FormatError, IoError; ZIYA-602
/// when the folder has no config.json, ZIYA-260 when its weights are a GGUF file, whose rows are in
/// another order
inline ModelSource open_hf_model(const std::filesystem::path& path) {
  Checkpoint checkpoint = Checkpoint::open(path);
  if (checkpoint.format() == CheckpointFormat::gguf) {
    throw FormatError("ZIYA-260", utf8_from_path(checkpoint.path()) +
                                      ": its weights are a GGUF file, expected safetensors or "
                                      "PyTorch files");
  }
  std::error_code ignored;
  const auto folder = std::filesystem::is_directory(checkpoint.path(), ignored)
                          ? checkpoint.path()
                          : checkpoint.path().parent_path();
  ModelSource model;
  model.name = model_name(checkpoint.path());
  for (const auto& file : model_files(folder)) {
    model.files.emplace(utf8_from_path(file.filename()), read_text_file(file));
  }
  model.provenance = lasting_provenance(recorded_metadata(checkpoint.metadata(), folder));
  model.identity = identity_text(files_identity(checkpoint));
  model.tensors = checked(std::move(checkpoint));
  return model;
}

ZIYA_NAMESPACE_END
