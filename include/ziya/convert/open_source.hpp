// SPDX-License-Identifier: Apache-2.0
// The tensors of a model in whatever layout it comes, with Hugging Face's names and order of rows.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/checked_source.hpp"
#include "ziya/convert/fengshen_source.hpp"
#include "ziya/convert/gguf_model.hpp"
#include "ziya/convert/meta_config.hpp"
#include "ziya/convert/meta_folder.hpp"
#include "ziya/convert/meta_source.hpp"
#include "ziya/convert/model_source.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/safetensors.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/lora_adapter.hpp"
#include "ziya/model/model_kind.hpp"

ZIYA_NAMESPACE_BEGIN

/// A model's tensors and where they come from.
struct OpenedSource {
  std::filesystem::path path;  ///< that was opened, resolved
  std::shared_ptr<const TensorSource> source;
  safetensors::Metadata metadata;            ///< of the files, where their format has any
  std::vector<std::filesystem::path> files;  ///< that hold the tensors
  std::vector<std::string> notes;            ///< what was chosen or guessed
  std::filesystem::path checklist{};  ///< that Meta publishes beside the files; empty: none
  std::string config{};    ///< as config.json would say it, where the layout has no such file
  bool fengshen = false;   ///< read from Fengshen's layout, whatever the names are here

  [[nodiscard]] ModelKind kind(const KindLimits& limits = {}) const {
    return fengshen ? ModelKind::fengshen : model_kind(*source, limits);
  }
};

/// Whether open_source would try a path: there are weights, in whatever layout. @throws nothing
inline bool is_source(const std::filesystem::path& path) {
  const auto folder = expand_home(path);
  return Checkpoint::exists(path) || is_meta_folder(folder) || !meta_sizes(folder).empty() ||
         is_fengshen_folder(folder) || !find_adapter_weights(folder).empty();
}

namespace detail {

inline OpenedSource open_meta_source(const std::filesystem::path& folder) {
  const MetaReader reader(find_meta_folder(folder));
  OpenedSource opened{reader.folder().leaf, reader.source(), {}, reader.folder().shards, {}};
  opened.notes.push_back(utf8_from_path(folder) +
                         ": is in Meta's layout; q and k are permuted while they are read");
  opened.checklist = reader.folder().checklist;
  opened.config = hf_config(reader.shape(), reader.stored());
  return opened;
}

inline OpenedSource open_fengshen_source(const std::filesystem::path& folder) {
  const FengshenReader reader(folder);
  OpenedSource opened{
      reader.folder(), reader.source(), recorded_metadata({}, folder), reader.paths(), {}};
  opened.notes.push_back(utf8_from_path(folder) + ": is in Fengshen's layout, in " +
                         std::to_string(reader.parts()) + " parts");
  opened.config = reader.config();
  opened.fengshen = true;
  return opened;
}

}  // namespace detail

/// Opens a Hugging Face folder, a single file of tensors, a GGUF file, a Meta folder, a folder of
/// Fengshen's parts or one of a LoRA adapter, whose tensors keep their names.
/// @throws IoError, FormatError, ConfigError
inline OpenedSource open_source(const std::filesystem::path& path) {
  std::filesystem::path weights = path;
  if (!Checkpoint::exists(path)) {
    const auto folder = expand_home(path);
    if (is_meta_folder(folder) || !meta_sizes(folder).empty()) {
      return detail::open_meta_source(folder);
    }
    if (is_fengshen_folder(folder)) return detail::open_fengshen_source(folder);
    if (const auto adapter = find_adapter_weights(folder); !adapter.empty()) weights = adapter;
  }
  Checkpoint checkpoint = Checkpoint::open(weights);
  OpenedSource opened{checkpoint.path(),
                      nullptr,
                      recorded_metadata(checkpoint.metadata(), checkpoint.path()),
                      {},
                      checkpoint.notes()};
  for (const auto& file : checkpoint.files()) opened.files.push_back(file->file().path());
  if (checkpoint.format() == CheckpointFormat::gguf) {
    opened.source = open_gguf_model(path).tensors;
  } else {
    opened.source = checked(std::move(checkpoint));
  }
  return opened;
}

ZIYA_NAMESPACE_END
