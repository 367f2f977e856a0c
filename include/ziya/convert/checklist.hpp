// SPDX-License-Identifier: Apache-2.0
// checklist.chk: the MD5 sums that Meta published beside its weights, compared with the files.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/digest.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"

ZIYA_NAMESPACE_BEGIN

struct ChecklistEntry {
  std::string md5;   ///< 32 lower-case hexadecimal digits
  std::string file;  ///< in the folder of the list
};

/// Lines of "<md5>  <file>" as md5sum writes them. @throws FormatError ZIYA-615, IoError
inline std::vector<ChecklistEntry> read_checklist(const std::filesystem::path& path) {
  std::istringstream lines(read_text_file(path, std::int64_t{1} << 20));
  std::vector<ChecklistEntry> entries;
  for (std::string line; std::getline(lines, line);) {
    line.erase(line.find_last_not_of(" \r") + 1);
    if (line.empty()) continue;
    const auto space = line.find(' ');
    const auto begin = line.find_first_not_of(" *", space);
    std::string md5 = line.substr(0, space);
    for (char& c : md5) c = static_cast<char>(c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c);
    if (md5.size() != 32 || md5.find_first_not_of("0123456789abcdef") != std::string::npos ||
        begin == std::string::npos || line.find('/', begin) != std::string::npos) {
      throw FormatError("ZIYA-615", utf8_from_path(path) +
                                        ": a line is not an MD5 sum of 32 digits and the name of "
                                        "a file beside it");
    }
    entries.push_back({std::move(md5), line.substr(begin)});
  }
  return entries;
}

/// Reads every file of the list that `wanted` asks for and compares its sum.
/// @param progress (bytes read, bytes of all) every few megabytes   @param cancel true ends it
/// @returns how many files were compared   @throws FormatError ZIYA-615 naming the file that
/// differs or is missing, Error ZIYA-606 when cancelled, IoError
inline std::int64_t verify_checklist(
    const std::filesystem::path& path,
    const std::function<bool(const std::string& file)>& wanted = {},
    const std::function<void(std::int64_t, std::int64_t)>& progress = {},
    const std::atomic<bool>* cancel = nullptr) {
  const auto folder = path.parent_path();
  std::vector<std::pair<ChecklistEntry, InputFile>> files;
  std::int64_t total = 0, done = 0;
  for (ChecklistEntry& entry : read_checklist(path)) {
    if (wanted && !wanted(entry.file)) continue;
    const auto file = folder / path_from_utf8(entry.file);
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) {
      throw FormatError("ZIYA-615", utf8_from_path(path) + ": lists " + entry.file +
                                        ", which is missing (download not finished?)");
    }
    files.emplace_back(std::move(entry), InputFile(file));
    total += files.back().second.size();
  }
  std::vector<std::byte> buffer(std::size_t{4} << 20);
  for (const auto& [entry, file] : files) {
    Md5 md5;
    for (std::int64_t offset = 0; offset < file.size();) {
      if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
        throw Error("ZIYA-606", "checklist: cancelled");
      }
      const auto part = std::span(buffer).first(static_cast<std::size_t>(
          std::min(file.size() - offset, static_cast<std::int64_t>(buffer.size()))));
      file.read(offset, part);
      md5.update(part);
      offset += static_cast<std::int64_t>(part.size());
      done += static_cast<std::int64_t>(part.size());
      if (progress) progress(done, total);
    }
    if (const std::string found = md5.hex_value(); found != entry.md5) {
      throw FormatError("ZIYA-615", file.name() + ": has the MD5 sum " + found + ", " +
                                        utf8_from_path(path.filename()) + " says " + entry.md5 +
                                        " (damaged, or another file): download it again");
    }
  }
  return static_cast<std::int64_t>(files.size());
}

ZIYA_NAMESPACE_END
