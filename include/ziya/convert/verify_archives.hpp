// SPDX-License-Identifier: Apache-2.0
// Whether files that torch.save wrote still hold what it wrote: zip archives have checksums.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/zip.hpp"

ZIYA_NAMESPACE_BEGIN

namespace detail {

inline bool is_archive(const InputFile& file) {
  return file.size() >= 4 && file.read_text(0, 4) == std::string_view("PK\x03\x04");
}
/// PyTorch may be told to write none; then it is 0.
inline bool records_checksum(const zip::Entry& entry) { return entry.bytes > 0 && entry.crc != 0; }

[[noreturn]] inline void refuse_entry(const InputFile& file, const zip::Entry& entry) {
  throw FormatError("ZIYA-221", file.name() + ": entry " + entry.name +
                                    " is not what was written: its checksum differs; download the "
                                    "file again");
}

}  // namespace detail

/// Reads every entry of those files that are zip archives and compares its CRC-32; other files,
/// and entries that record none, are passed over.
/// @param progress (done, all) bytes of the archives   @param cancel true ends it
/// @returns how many archives record checksums and are intact
/// @throws FormatError ZIYA-221 naming file and entry of the first that is not, ZIYA-220; IoError;
/// Error ZIYA-606 when cancelled
inline std::int64_t verify_archives(
    const std::vector<std::filesystem::path>& paths,
    const std::function<void(std::int64_t, std::int64_t)>& progress = {},
    const std::atomic<bool>* cancel = nullptr) {
  std::vector<InputFile> files;
  std::int64_t all = 0, done = 0;
  for (const auto& path : paths) {
    InputFile file(path);
    if (!detail::is_archive(file)) continue;
    all += file.size();
    files.push_back(std::move(file));
  }
  std::int64_t compared = 0;
  for (const InputFile& file : files) {
    const std::int64_t before = done;
    bool records = false;
    for (const zip::Entry& entry : zip::read_directory(file)) {
      if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
        throw Error("ZIYA-606", "checksums: cancelled");
      }
      if (!detail::records_checksum(entry)) continue;
      records = true;
      if (!zip::intact(file, entry)) detail::refuse_entry(file, entry);
      done += entry.bytes;
      if (progress) progress(done, all);
    }
    done = before + file.size();
    compared += records;
  }
  return compared;
}

ZIYA_NAMESPACE_END
