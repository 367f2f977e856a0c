// SPDX-License-Identifier: Apache-2.0
// Files of published models that are recognised by their hash, and the hash of any file.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/digest.hpp"
#include "ziya/convert/stream.hpp"
#include "ziya/io/file.hpp"

ZIYA_NAMESPACE_BEGIN

/// SHA-256 of a file as sha256sum prints it. @throws IoError, Error ZIYA-606 when cancelled
inline std::string file_sha256(const std::filesystem::path& path,
                               const StreamOptions& options = {}) {
  const InputFile file(path);
  Sha256 hash;
  std::vector<std::byte> buffer(static_cast<std::size_t>(detail::stream_chunk_bytes));
  ProgressEvent event;
  const std::string shown = utf8_from_path(path.filename());
  event.tensor = shown;
  event.count = 1;
  event.total = file.size();
  for (std::int64_t at = 0; at < file.size();) {
    if (options.cancel != nullptr && options.cancel->load(std::memory_order_relaxed)) {
      throw Error("ZIYA-606", "conversion: cancelled");
    }
    const auto count = std::min(detail::stream_chunk_bytes, file.size() - at);
    const auto part = std::span(buffer).first(static_cast<std::size_t>(count));
    file.read(at, part);
    hash.update(part);
    at += count;
    event.bytes = at;
    if (options.progress) options.progress(event);
  }
  return hash.hex_value();
}

struct KnownFile {
  std::string_view sha256, what;
};

/// What is public of the published files. The delta has 28 shards; the hashes of the other 25 are
/// not known here, so an unknown hash says nothing.
inline constexpr std::array<KnownFile, 3> known_files{
    {{"23fc9735c66896bc90316f916da4575c1c845e35c2987f961148d13af5f058cd",
      "shard 1 of 28 of Ziya-LLaMA-13B's delta"},
     {"81eb8e86db149746e75a283774dc39e95c6d21deae25c75de8b2dc454048d3b5",
      "shard 2 of 28 of Ziya-LLaMA-13B's delta"},
     {"e23f4df4d8d1a443e9439d8c341f86bc5338ad2b3def759bf80256d7fed0d4dd",
      "shard 3 of 28 of Ziya-LLaMA-13B's delta"}}};

/// What a published file of that hash is; nothing when it is not in the list.
inline std::optional<std::string_view> known_file(std::string_view sha256) {
  for (const KnownFile& file : known_files) {
    if (file.sha256 == sha256) return file.what;
  }
  return std::nullopt;
}

ZIYA_NAMESPACE_END
