// SPDX-License-Identifier: Apache-2.0
// The small files that travel with a model's weights: config, tokenizer, licence, description.
#pragma once

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// What a model's folder is called, without where it lies: of a hub cache the model and revision.
inline std::string model_name(const std::filesystem::path& folder) {
  std::error_code ignored;
  auto path = std::filesystem::weakly_canonical(folder, ignored);
  if (!path.has_filename()) path = path.parent_path();
  const std::string name = utf8_from_path(path.filename());
  if (path.parent_path().filename() != "snapshots") return name;
  return utf8_from_path(path.parent_path().parent_path().filename()) + "@" + name;
}

/// Files of `folder` that go with the weights, sorted by name, config.json last: a folder without
/// it is no model, so it is written when everything else is.
/// @throws FormatError ZIYA-602 when there is no config.json
inline std::vector<std::filesystem::path> model_files(const std::filesystem::path& folder) {
  constexpr std::array<std::string_view, 5> extensions{".json", ".model", ".txt", ".md", ".jinja"};
  constexpr std::array<std::string_view, 4> texts{"LICENSE", "LICENCE", "NOTICE", "USE_POLICY"};
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator item(folder, error), end; !error && item != end;
       item.increment(error)) {
    std::error_code ignored;
    if (!item->is_regular_file(ignored)) continue;
    const std::string name = utf8_from_path(item->path().filename());
    const std::string extension = utf8_from_path(item->path().extension());
    const bool wanted =
        std::ranges::find(extensions, extension) != extensions.end() ||
        std::ranges::any_of(texts, [&](std::string_view text) { return name.starts_with(text); });
    if (wanted && !name.ends_with(".index.json") && name != "config.json" &&
        name != "ziya.json") {  // the provenance of the weights there
      files.push_back(item->path());
    }
  }
  std::ranges::sort(files);
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(folder / "config.json", ignored)) {
    throw FormatError("ZIYA-602", utf8_from_path(folder) +
                                      ": has no config.json; expected the folder of a delta with "
                                      "its config and tokenizer");
  }
  files.push_back(folder / "config.json");
  return files;
}

/// @throws IoError
inline void copy_model_files(const std::vector<std::filesystem::path>& files,
                             const std::filesystem::path& directory, const WriteHooks& hooks) {
  for (const auto& file : files) {
    write_text_file(directory / file.filename(), read_text_file(file), hooks);
  }
}

ZIYA_NAMESPACE_END
