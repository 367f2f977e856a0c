// SPDX-License-Identifier: Apache-2.0
// GGUF models in several files: name-00001-of-00003.gguf and so on.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/tensor_file.hpp"

ZIYA_NAMESPACE_BEGIN

namespace gguf {

/// A file's place among the shards of one model.
struct Shard {
  std::string stem;  ///< the name in front of "-00001-of-00003.gguf"
  std::int64_t number = 0, count = 0;
};

/// What the name says; none when it is no shard's.
inline std::optional<Shard> shard_of(const std::filesystem::path& path) {
  constexpr std::string_view pattern = "-00000-of-00000.gguf";  // 0 stands for any digit
  const std::string name = utf8_from_path(path.filename());
  if (name.size() <= pattern.size()) return std::nullopt;
  Shard shard{name.substr(0, name.size() - pattern.size()), 0, 0};
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = name[shard.stem.size() + i];
    if (pattern[i] != '0') {
      if (c != pattern[i]) return std::nullopt;
      continue;
    }
    if (c < '0' || c > '9') return std::nullopt;
    std::int64_t& number = i < 6 ? shard.number : shard.count;
    number = number * 10 + (c - '0');
  }
  if (shard.number < 1 || shard.number > shard.count) return std::nullopt;
  return shard;
}

inline std::filesystem::path shard_path(const std::filesystem::path& folder, const Shard& shard,
                                        std::int64_t number) {
  std::array<char, 48> text{};
  std::snprintf(text.data(), text.size(), "-%05lld-of-%05lld.gguf", static_cast<long long>(number),
                static_cast<long long>(shard.count));
  return folder / path_from_utf8(shard.stem + text.data());
}

/// The GGUF file of a folder, the first shard where there are several; empty when there is none,
/// or more than one model.
inline std::filesystem::path find_in_folder(const std::filesystem::path& folder) {
  std::filesystem::path found;
  std::error_code error;
  for (std::filesystem::directory_iterator item(folder, error), end; !error && item != end;
       item.increment(error)) {
    if (item->path().extension() != ".gguf") continue;
    const auto shard = shard_of(item->path());
    const auto first = shard ? shard_path(folder, *shard, 1) : item->path();
    if (!found.empty() && found != first) return {};
    found = first;
  }
  return found;
}

/// All shards of the model that `path` is one of, the first one first: it holds the metadata.
/// @throws FormatError ZIYA-256 when one is missing, belongs to another model or repeats a tensor
inline std::vector<std::shared_ptr<const TensorFile>> open_shards(
    const std::filesystem::path& path) {
  const Shard shard = *shard_of(path);
  const auto refuse = [](const std::filesystem::path& file, const std::string& why) {
    throw FormatError("ZIYA-256", utf8_from_path(file) + ": " + why);
  };
  std::vector<std::shared_ptr<const TensorFile>> files;
  std::set<std::string> names;
  for (std::int64_t number = 1; number <= shard.count; ++number) {
    const auto file = shard_path(path.parent_path(), shard, number);
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) {
      refuse(file, "is missing; the model has " + std::to_string(shard.count) +
                       " files (download not finished?)");
    }
    files.push_back(std::make_shared<const TensorFile>(file));
    const Metadata* metadata = files.back()->gguf_metadata();
    if (metadata == nullptr) refuse(file, "is not a GGUF file");
    const std::int64_t says_number = metadata->integer("split.no").value_or(number - 1) + 1;
    const std::int64_t says_count = metadata->integer("split.count").value_or(shard.count);
    if (says_number != number || says_count != shard.count) {
      refuse(file, "is file " + std::to_string(says_number) + " of " + std::to_string(says_count) +
                       " by its metadata, which is not what its name says");
    }
    for (const TensorEntry& entry : files.back()->tensors()) {
      if (!names.insert(entry.name).second) {
        refuse(file, "holds tensor " + entry.name + ", as another file of the model does");
      }
    }
  }
  return files;
}

}  // namespace gguf

ZIYA_NAMESPACE_END
