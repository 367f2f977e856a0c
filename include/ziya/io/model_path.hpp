// SPDX-License-Identifier: Apache-2.0
// What a person may write for a model: a folder, a file, a cache folder of the hub, or a hub name.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/gguf.hpp"

ZIYA_NAMESPACE_BEGIN

/// Whether the text has the form `organisation/name` of the Hugging Face hub.
inline bool is_hub_name(std::string_view text) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.' || c == '/';
  };
  const std::size_t slash = text.find('/');
  if (slash == 0 || slash == std::string_view::npos || slash + 1 == text.size()) return false;
  if (text.front() == '.' || slash != text.rfind('/')) return false;
  for (const char c : text) {
    if (!allowed(c)) return false;
  }
  return true;
}

/// The existing file or folder that `path` means: `~` is expanded, and of a hub cache folder
/// (`models--organisation--name`) the snapshot that `refs/main` names is taken, or the only one.
/// @throws IoError ZIYA-235 for a hub name that is no local folder, with the command that
/// downloads it; ZIYA-201 when there is nothing, or no one snapshot
inline std::filesystem::path resolve_model_path(const std::filesystem::path& path) {
  const std::filesystem::path local = expand_home(path);
  const std::string text = utf8_from_path(path);
  std::error_code ignored;
  if (!std::filesystem::exists(local, ignored)) {
    if (is_hub_name(text)) {
      const std::string folder = text.substr(text.find('/') + 1);
      throw IoError("ZIYA-235", text +
                                    ": no such folder here; if the model of that name on the "
                                    "Hugging Face hub is meant, download it first: hf download " +
                                    text + " --local-dir " + folder +
                                    " (older: huggingface-cli download …)");
    }
    throw IoError("ZIYA-201", text + ": no such file or folder");
  }
  const std::filesystem::path snapshots = local / "snapshots", main = local / "refs" / "main";
  if (!std::filesystem::is_directory(snapshots, ignored)) return local;
  if (std::filesystem::is_regular_file(main, ignored)) {
    std::string revision = read_text_file(main, 1024);
    revision.erase(std::min(revision.find_first_of(" \r\n"), revision.size()));
    const std::filesystem::path snapshot = snapshots / path_from_utf8(revision);
    if (!revision.empty() && std::filesystem::is_directory(snapshot, ignored)) return snapshot;
  }
  std::filesystem::path only;
  std::string names;
  for (std::filesystem::directory_iterator item(snapshots, ignored), end; !ignored && item != end;
       item.increment(ignored)) {
    only = item->path();
    names += " " + utf8_from_path(only.filename());
  }
  if (names.find(' ', 1) == std::string::npos && !only.empty()) return only;
  throw IoError("ZIYA-201", text +
                                ": a cache folder of the hub whose refs/main names no snapshot; " +
                                (names.empty() ? "there is none, so download it again"
                                               : "give one of snapshots:" + names));
}

/// As `resolve_model_path`, but for what needs more than the weights: of a file that is no GGUF,
/// the folder that it lies in.
inline std::filesystem::path resolve_model_folder(const std::filesystem::path& path) {
  const std::filesystem::path found = resolve_model_path(path);
  std::error_code ignored;
  const bool inside = std::filesystem::is_regular_file(found, ignored) && !gguf::is_gguf(found);
  return inside ? std::filesystem::absolute(found, ignored).parent_path() : found;
}

ZIYA_NAMESPACE_END
