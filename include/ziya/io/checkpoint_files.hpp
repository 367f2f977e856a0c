// SPDX-License-Identifier: Apache-2.0
// Which files a checkpoint consists of: one file, or the shards that an index or their names tell.
#pragma once

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/gguf_shards.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/io/tensor_file.hpp"

ZIYA_NAMESPACE_BEGIN

struct CheckpointFiles {
  std::filesystem::path path;
  std::vector<std::shared_ptr<const TensorFile>> files;
};

/// File names of a checkpoint in a folder, in the order of preference.
inline constexpr std::array<const char*, 4> weight_file_names{
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json"};

/// The file of weights or index in a folder, or the path itself when it is a file; empty when
/// there is none. A link whose target is missing counts: opening it says what is wrong. Where
/// nothing else is, the folder's GGUF file, if it holds one model's.
inline std::filesystem::path find_weights(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_directory(path, ignored)) {
    return path;
  }
  for (const char* name : weight_file_names) {
    const auto status = std::filesystem::symlink_status(path / name, ignored);
    if (std::filesystem::exists(status)) return path / name;
  }
  return gguf::find_in_folder(path);
}

namespace detail {

/// The shards an index names, opened and compared with it in both directions.
inline std::vector<std::shared_ptr<const TensorFile>> open_shards(
    const std::filesystem::path& index) {
  const std::string source = utf8_from_path(index);
  const auto json = read_json_file(index);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object() ||
      json["weight_map"].empty()) {
    throw FormatError("ZIYA-233", source + ": has no \"weight_map\" from tensors to files");
  }
  std::map<std::string, std::vector<std::string>> named;  // file → tensors, sorted
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of(std::string("/\\\0", 3)) != std::string::npos) {
      throw FormatError(
          "ZIYA-233", source + ": tensor " + tensor + " does not lie in a file of the same folder");
    }
    named[name].push_back(tensor);
  }
  std::vector<std::shared_ptr<const TensorFile>> files;
  for (const auto& [name, tensors] : named) {
    const auto path = index.parent_path() / path_from_utf8(name);
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) {
      throw FormatError("ZIYA-233", source + ": names the shard " + name +
                                        ", which is missing (download not finished?)");
    }
    files.push_back(std::make_shared<const TensorFile>(path));
    std::vector<std::string> present;
    for (const TensorEntry& entry : files.back()->tensors()) present.push_back(entry.name);
    std::ranges::sort(present);
    std::vector<std::string> differing;
    std::ranges::set_difference(tensors, present, std::back_inserter(differing));
    if (!differing.empty()) {
      throw FormatError("ZIYA-233", source + ": places tensor " + differing.front() + " in " +
                                        name + ", which does not hold it");
    }
    std::ranges::set_difference(present, tensors, std::back_inserter(differing));
    if (!differing.empty()) {
      throw FormatError("ZIYA-233", utf8_from_path(path) + ": holds tensor " + differing.front() +
                                        ", which " + utf8_from_path(index.filename()) +
                                        " does not place there");
    }
  }
  return files;
}

[[noreturn]] inline void refuse_without_weights(const std::filesystem::path& folder) {
  std::string looked_for, instead;
  for (const char* name : weight_file_names) {
    looked_for += (looked_for.empty() ? "" : ", ") + std::string(name);
  }
  std::error_code error;
  for (std::filesystem::directory_iterator item(folder, error), end; !error && item != end;
       item.increment(error)) {
    const auto extension = item->path().extension();
    if (extension == ".gguf") {
      instead = "; it holds several GGUF files: give the path of one";
    } else if (extension == ".safetensors" || extension == ".bin" || extension == ".pth") {
      instead = "; it holds " + utf8_from_path(item->path().filename());
    }
  }
  throw FormatError("ZIYA-232", utf8_from_path(folder) + ": holds no weights: looked for " +
                                    looked_for + instead);
}

}  // namespace detail

/// Finds and opens the files of a checkpoint.
/// @throws IoError, FormatError ZIYA-232 when a folder has no weights, ZIYA-233 when index and
/// shards do not agree
inline CheckpointFiles checkpoint_files(const std::filesystem::path& path) {
  const auto local = resolve_model_path(path);
  const auto weights = find_weights(local);
  if (weights.empty()) detail::refuse_without_weights(local);
  if (utf8_from_path(weights.filename()).ends_with(".index.json")) {
    return {local, detail::open_shards(weights)};
  }
  std::error_code ignored;
  if (!std::filesystem::exists(weights, ignored)) {
    throw IoError("ZIYA-201", utf8_from_path(weights) +
                                  ": is a link to a missing file "
                                  "(download not finished?)");
  }
  if (gguf::shard_of(weights)) return {local, gguf::open_shards(weights)};
  return {local, {std::make_shared<const TensorFile>(weights)}};
}

ZIYA_NAMESPACE_END
