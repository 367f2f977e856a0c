// SPDX-License-Identifier: Apache-2.0
// The tensors of a model in whatever layout it comes, with Hugging Face's names and order of rows.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/gguf_model.hpp"
#include "ziya/convert/meta_folder.hpp"
#include "ziya/convert/meta_source.hpp"
#include "ziya/convert/model_source.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/safetensors.hpp"
#include "ziya/io/tensor_source.hpp"

ZIYA_NAMESPACE_BEGIN

/// A model's tensors and where they come from.
struct OpenedSource {
  std::filesystem::path path;  ///< that was opened, resolved
  std::shared_ptr<const TensorSource> source;
  safetensors::Metadata metadata;            ///< of the files, where their format has any
  std::vector<std::filesystem::path> files;  ///< that hold the tensors
  std::vector<std::string> notes;            ///< what was chosen or guessed
};

/// Opens a Hugging Face folder, a single file of tensors, a Meta folder or a GGUF file.
/// @throws IoError, FormatError, ConfigError
inline OpenedSource open_source(const std::filesystem::path& path) {
  if (!Checkpoint::exists(path) && is_meta_folder(expand_home(path))) {
    const MetaReader reader(find_meta_folder(expand_home(path)));
    return {
        reader.folder().leaf,
        reader.source(),
        {},
        reader.folder().shards,
        {utf8_from_path(path) + ": is in Meta's layout; q and k are permuted while they are read"}};
  }
  Checkpoint checkpoint = Checkpoint::open(path);
  OpenedSource opened{checkpoint.path(),
                      nullptr,
                      recorded_metadata(checkpoint.metadata(), checkpoint.path()),
                      {},
                      checkpoint.notes()};
  for (const auto& file : checkpoint.files()) opened.files.push_back(file->file().path());
  if (checkpoint.format() == CheckpointFormat::gguf) {
    opened.source = open_gguf_model(path).tensors;
  } else {
    opened.source = std::make_shared<const CheckpointSource>(std::move(checkpoint));
  }
  return opened;
}

ZIYA_NAMESPACE_END
