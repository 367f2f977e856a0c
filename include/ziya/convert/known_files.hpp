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

/// What is public of the published files. LLaMA's are those that llama.cpp's SHA256SUMS lists and a
/// second project's documentation confirms. Not known here: 25 of the delta's 28 shards, LLaMA-30B
/// and 65B, LLaMA-2, and every conversion to another format. So an unknown hash says nothing.
inline constexpr std::array<KnownFile, 7> known_files{
    {{"700df0d3013b703a806d2ae7f1bfb8e59814e3d06ae78be0c66368a50059f33d",
      "LLaMA-7B, consolidated.00.pth"},
     {"745bf4e29a4dd6f411e72976d92b452da1b49168a4f41c951cfcc8051823cf08",
      "LLaMA-13B, consolidated.00.pth"},
     {"d5ccbcc465c71c0de439a5aeffebe8344c68a519bce70bc7f9f92654ee567085",
      "LLaMA-13B, consolidated.01.pth"},
     {"9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347",
      "LLaMA and LLaMA-2, tokenizer.model"},
     {"23fc9735c66896bc90316f916da4575c1c845e35c2987f961148d13af5f058cd",
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
