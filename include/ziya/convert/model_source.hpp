// SPDX-License-Identifier: Apache-2.0
// A model on its way from one format to another: its tensors, and the small files beside them.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/convert/model_files.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/tensor_source.hpp"

ZIYA_NAMESPACE_BEGIN

/// What every format is read as and written from: tensors with Hugging Face's names, in Hugging
/// Face's order of rows, and the texts of a Hugging Face folder.
struct ModelSource {
  std::shared_ptr<const TensorSource> tensors;
  std::map<std::string, std::string> files;  ///< name → contents; "config.json" is among them
  std::string name;                          ///< of the model, without where it lies
};

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
  model.tensors = std::make_shared<const CheckpointSource>(std::move(checkpoint));
  return model;
}

ZIYA_NAMESPACE_END
