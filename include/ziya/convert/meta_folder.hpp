// SPDX-License-Identifier: Apache-2.0
// Which files a model in Meta's original layout consists of.
#pragma once

#include <cstdio>
#include <filesystem>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/model_path.hpp"

ZIYA_NAMESPACE_BEGIN

struct MetaFolder {
  std::filesystem::path leaf;                 ///< where the weights lie
  std::vector<std::filesystem::path> shards;  ///< consolidated.00.pth …, without a gap
  std::filesystem::path params;               ///< params.json
  std::filesystem::path tokenizer;            ///< tokenizer.model of leaf or parent; empty: none
  std::filesystem::path checklist;            ///< checklist.chk; empty: none
};

namespace detail {

inline std::string consolidated_name(std::size_t shard) {
  char name[48];
  std::snprintf(name, sizeof name, "consolidated.%02zu.pth", shard);
  return name;
}

inline bool is_file(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

}  // namespace detail

/// Whether a folder (or its subfolder `model_size`) looks like Meta's layout.
inline bool is_meta_folder(const std::filesystem::path& folder, const std::string& size = "") {
  const auto leaf = size.empty() ? folder : folder / path_from_utf8(size);
  return detail::is_file(leaf / detail::consolidated_name(0)) ||
         detail::is_file(leaf / "params.json");
}

/// Subfolders in Meta's layout, each behind a space: " 13B 7B".
inline std::string meta_sizes(const std::filesystem::path& folder) {
  std::set<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator item(folder, error), end; !error && item != end;
       item.increment(error)) {
    std::error_code ignored;
    if (item->is_directory(ignored) && is_meta_folder(item->path())) {
      names.insert(utf8_from_path(item->path().filename()));
    }
  }
  std::string sizes;
  for (const std::string& name : names) sizes += " " + name;
  return sizes;
}

/// The weights lie in `path` itself, or in `path`/`model_size` as the reference script is called;
/// tokenizer.model lies beside them or one folder up.
/// @param model_size "13B", or empty
/// @throws IoError ZIYA-612 when there are no weights or no params.json, FormatError ZIYA-613 when
/// a shard is missing in between
inline MetaFolder find_meta_folder(const std::filesystem::path& path,
                                   const std::string& model_size = "") {
  const auto root = resolve_model_path(path);
  MetaFolder folder;
  folder.leaf = root;
  if (!model_size.empty() && is_meta_folder(root, model_size)) {
    folder.leaf = root / path_from_utf8(model_size);
  }
  const std::string name = utf8_from_path(folder.leaf);
  std::size_t named = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator item(folder.leaf, error), end; !error && item != end;
       item.increment(error)) {
    const std::string file = utf8_from_path(item->path().filename());
    if (file.starts_with("consolidated.") && file.ends_with(".pth")) ++named;
  }
  if (named == 0) {
    const std::string sizes = meta_sizes(folder.leaf);
    throw IoError("ZIYA-612",
                  name + ": holds no consolidated.00.pth" +
                      (sizes.empty() ? std::string("; expected Meta's original files")
                                     : "; choose a subfolder with --model-size:" + sizes));
  }
  for (std::size_t shard = 0; shard < named; ++shard) {
    folder.shards.push_back(folder.leaf / detail::consolidated_name(shard));
    if (!detail::is_file(folder.shards.back())) {
      throw FormatError("ZIYA-613", name + ": " + detail::consolidated_name(shard) +
                                        " is missing, though there are " + std::to_string(named) +
                                        " files of weights (download not finished?)");
    }
  }
  folder.params = folder.leaf / "params.json";
  if (!detail::is_file(folder.params)) {
    throw IoError("ZIYA-612", name + ": holds no params.json");
  }
  for (const auto& place : {folder.leaf, folder.leaf / ".."}) {
    if (folder.tokenizer.empty() && detail::is_file(place / "tokenizer.model")) {
      folder.tokenizer = place / "tokenizer.model";
    }
  }
  if (detail::is_file(folder.leaf / "checklist.chk")) {
    folder.checklist = folder.leaf / "checklist.chk";
  }
  return folder;
}

ZIYA_NAMESPACE_END
