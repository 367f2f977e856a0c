// SPDX-License-Identifier: Apache-2.0
// Which files a checkpoint consists of: one file, or the shards that an index or their names tell.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <string_view>
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
  std::vector<std::string> notes;  ///< what was chosen or guessed, for the person
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
  const nlohmann::json* map = json_find(json, "weight_map");
  if (map == nullptr || !map->is_object() || map->empty()) {
    throw FormatError("ZIYA-233", source + ": has no \"weight_map\" from tensors to files");
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : json_members(*map)) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of(std::string("/\\\0", 3)) != std::string::npos) {
      throw FormatError(
          "ZIYA-233", source + ": tensor " + tensor + " does not lie in a file of the same folder");
    }
    names.insert(name);
  }
  std::vector<std::shared_ptr<const TensorFile>> files;
  std::set<std::string> present;  // "file/tensor"
  for (const std::string& name : names) {
    const auto path = index.parent_path() / path_from_utf8(name);
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) {
      throw FormatError("ZIYA-233", source + ": names the shard " + name +
                                        ", which is missing (download not finished?)");
    }
    files.push_back(std::make_shared<const TensorFile>(path));
    for (const TensorEntry& entry : files.back()->tensors())
      present.insert(name + "/" + entry.name);
  }
  for (const auto& [tensor, file] : json_members(*map)) {
    const auto name = file.get<std::string>();
    if (present.erase(name + "/" + tensor) == 0) {
      throw FormatError("ZIYA-233", source + ": places tensor " + tensor + " in " + name +
                                        ", which does not hold it");
    }
  }
  if (!present.empty()) {
    const std::string& left = *present.begin();
    const std::size_t slash = left.find('/');
    const auto path = index.parent_path() / path_from_utf8(left.substr(0, slash));
    throw FormatError("ZIYA-233", utf8_from_path(path) + ": holds tensor " +
                                      left.substr(slash + 1) + ", which " +
                                      utf8_from_path(index.filename()) + " does not place there");
  }
  return files;
}

/// "model-00002-of-00007.safetensors" → 2 and 7; 0 and 0 for other names.
struct ShardName {
  std::int64_t number = 0, count = 0;
};
inline ShardName parse_shard_name(std::string_view name, std::string_view stem,
                                  std::string_view extension) {
  if (!name.starts_with(stem) || !name.ends_with(extension)) return {};
  name.remove_prefix(stem.size());
  name.remove_suffix(std::min(extension.size(), name.size()));
  const std::size_t of = name.find("-of-");
  if (of == std::string_view::npos) return {};
  const auto number = [](std::string_view digits) -> std::int64_t {
    if (digits.empty() || digits.size() > 6) return -1;
    std::int64_t value = 0;
    for (const char c : digits) {
      if (c < '0' || c > '9') return -1;
      value = value * 10 + (c - '0');
    }
    return value;
  };
  const ShardName shard{number(name.substr(0, of)), number(name.substr(of + 4))};
  if (shard.number < 1 || shard.count < shard.number) return {};
  return shard;
}

/// The shards of a folder without an index, by the names that Transformers gives them: every one of
/// the count that the names tell, each tensor once. Empty where there are none.
inline std::vector<std::shared_ptr<const TensorFile>> open_shards_by_name(
    const std::filesystem::path& folder, std::string_view stem, std::string_view extension) {
  std::vector<std::filesystem::path> paths;  // by number; those not found stay empty
  std::int64_t count = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator item(folder, error), end; !error && item != end;
       item.increment(error)) {
    const auto shard = parse_shard_name(utf8_from_path(item->path().filename()), stem, extension);
    if (shard.count == 0) continue;
    if (count != 0 && count != shard.count) {
      throw FormatError("ZIYA-233", utf8_from_path(folder) + ": holds shards of " +
                                        std::to_string(count) + " and of " +
                                        std::to_string(shard.count) + ", and no index");
    }
    count = shard.count;
    paths.resize(static_cast<std::size_t>(count));
    paths[static_cast<std::size_t>(shard.number - 1)] = item->path();
  }
  std::vector<std::shared_ptr<const TensorFile>> files;
  std::set<std::string> names;
  for (const std::filesystem::path& path : paths) {
    if (path.empty()) {
      throw FormatError(
          "ZIYA-233", utf8_from_path(folder) + ": shard " + std::to_string(files.size() + 1) +
                          " of " + std::to_string(count) + " is missing (download not finished?)");
    }
    files.push_back(std::make_shared<const TensorFile>(path));
    for (const TensorEntry& tensor : files.back()->tensors()) {
      if (!names.insert(tensor.name).second) {
        throw FormatError("ZIYA-233", utf8_from_path(path) + ": holds tensor " + tensor.name +
                                          ", which another shard holds too");
      }
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
    if (extension == ".pth" &&
        utf8_from_path(item->path().filename()).starts_with("consolidated.")) {
      instead =
          "; it is a model as Meta publishes LLaMA. To convert it: ziya convert --from meta "
          "--input " +
          utf8_from_path(folder) + " --output DIR";
      break;
    }
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

/// Whether a folder without an index has files with the names of shards. @throws nothing
inline bool has_named_shards(const std::filesystem::path& folder) noexcept {
  std::error_code error;
  for (std::filesystem::directory_iterator item(folder, error), end; !error && item != end;
       item.increment(error)) {
    const std::string name = utf8_from_path(item->path().filename());
    if (detail::parse_shard_name(name, "model-", ".safetensors").count > 0 ||
        detail::parse_shard_name(name, "pytorch_model-", ".bin").count > 0) {
      return true;
    }
  }
  return false;
}

/// Finds and opens the files of a checkpoint. Where safetensors and PyTorch files are both present,
/// the safetensors are read; where there is no index, shards are found by their names. Both are
/// noted.
/// @throws IoError, FormatError ZIYA-232 when a folder has no weights, ZIYA-233 when index and
/// shards do not agree
inline CheckpointFiles checkpoint_files(const std::filesystem::path& path) {
  const auto local = resolve_model_path(path);
  const auto weights = find_weights(local);
  const std::string shown = utf8_from_path(local);
  if (weights.empty()) {
    for (const auto& [stem, extension] :
         {std::pair{"model-", ".safetensors"}, std::pair{"pytorch_model-", ".bin"}}) {
      auto files = detail::open_shards_by_name(local, stem, extension);
      if (files.empty()) continue;
      const std::string note = shown + ": has no index; " + std::to_string(files.size()) +
                               " shards were found by their names";
      return {local, std::move(files), {note}};
    }
    detail::refuse_without_weights(local);
  }
  std::vector<std::string> notes;
  const std::string chosen = utf8_from_path(weights.filename());
  std::error_code none;
  if (weights != local && chosen.find("safetensors") != std::string::npos &&
      (std::filesystem::exists(local / weight_file_names[2], none) ||
       std::filesystem::exists(local / weight_file_names[3], none))) {
    notes.push_back(shown + ": holds safetensors and PyTorch files; the safetensors are read");
  }
  if (chosen.ends_with(".index.json")) {
    return {local, detail::open_shards(weights), std::move(notes)};
  }
  std::error_code ignored;
  if (!std::filesystem::exists(weights, ignored)) {
    throw IoError("ZIYA-201", utf8_from_path(weights) +
                                  ": is a link to a missing file "
                                  "(download not finished?)");
  }
  if (gguf::shard_of(weights)) return {local, gguf::open_shards(weights), {}};
  std::vector<std::shared_ptr<const TensorFile>> files;
  files.push_back(std::make_shared<const TensorFile>(weights));
  return {local, std::move(files), std::move(notes)};
}

ZIYA_NAMESPACE_END
