// SPDX-License-Identifier: Apache-2.0
// Writes zip archives of stored entries front to back, each entry's data aligned.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/io/writer.hpp"
#include "ziya/io/zip.hpp"

ZIYA_NAMESPACE_BEGIN

namespace zip {

/// Entries come one after the other, their data in pieces; nothing is gone back to, so checksums
/// stand behind the data (general purpose bit 3) and in the directory. Sizes and offsets from 4 GB
/// on take their zip64 form. The same entries give the same bytes: the archive bears no time.
/// Source: PKWARE, ".ZIP File Format Specification" 6.3, sections 4.3 to 4.5.
class ZipWriter {
 public:
  /// @param file outlives the writer
  explicit ZipWriter(OutputFile& file) : file_(file) {}

  /// Begins an entry of `bytes` bytes whose data starts at a multiple of 64, where PyTorch maps it.
  void begin(const std::string& name, std::int64_t bytes) {
    entries_.push_back({name, file_.bytes(), bytes, 0});
    const bool large = is_large(bytes);
    std::string header = "PK\x03\x04" + little(large ? 45 : 20, 2) + little(sizes_follow, 2) +
                         little(0, 2) + little(no_time, 4) + little(0, 4) +
                         little(large ? all_ones : 0, 4) + little(large ? all_ones : 0, 4) +
                         little(name.size(), 2);
    std::string extra;
    if (large) extra = little(1, 2) + little(16, 2) + little(0, 16);
    const auto data =
        static_cast<std::uint64_t>(file_.bytes()) + header.size() + 2 + name.size() + extra.size();
    const std::uint64_t padding = (alignment - (data + 4) % alignment) % alignment;
    extra += "FB" + little(padding, 2) + std::string(padding, 'Z');
    file_.write(header + little(extra.size(), 2) + name + extra);
  }
  /// The next bytes of the entry begun last; the caller keeps to its size.
  void write(std::span<const std::byte> data) {
    entries_.back().crc = crc32(data, entries_.back().crc);
    file_.write(data);
  }
  void end() {
    const Entry& entry = entries_.back();
    const int width = is_large(entry.bytes) ? 8 : 4;
    const auto bytes = static_cast<std::uint64_t>(entry.bytes);
    file_.write("PK\x07\x08" + little(entry.crc, 4) + little(bytes, width) + little(bytes, width));
  }
  void add(const std::string& name, std::string_view text) {
    begin(name, static_cast<std::int64_t>(text.size()));
    write(std::as_bytes(std::span(text)));
    end();
  }

  /// What ends the archive.
  void write_directory() {
    const auto at = static_cast<std::uint64_t>(file_.bytes());
    for (const Entry& entry : entries_) file_.write(record(entry));
    const std::uint64_t end = static_cast<std::uint64_t>(file_.bytes()), bytes = end - at;
    const std::uint64_t count = entries_.size();
    const bool large = at >= all_ones || bytes >= all_ones || count >= 0xffff;
    if (large) {
      file_.write("PK\x06\x06" + little(44, 8) + little(45, 2) + little(45, 2) + little(0, 8) +
                  little(count, 8) + little(count, 8) + little(bytes, 8) + little(at, 8));
      file_.write("PK\x06\x07" + little(0, 4) + little(end, 8) + little(1, 4));
    }
    file_.write("PK\x05\x06" + little(0, 4) + little(large ? 0xffff : count, 2) +
                little(large ? 0xffff : count, 2) + little(large ? all_ones : bytes, 4) +
                little(large ? all_ones : at, 4) + little(0, 2));
  }

 private:
  static constexpr std::uint64_t all_ones = 0xffffffff, alignment = 64;
  static constexpr std::uint64_t sizes_follow = 1 << 3, no_time = 0x21u << 16;  // 1 January 1980

  static bool is_large(std::int64_t bytes) { return static_cast<std::uint64_t>(bytes) >= all_ones; }
  static std::string little(std::uint64_t value, int bytes) {
    std::string text;
    for (int i = 0; i < bytes; ++i) {
      text += i < 8 ? static_cast<char>(value >> (8 * i) & 0xff) : '\0';
    }
    return text;
  }
  /// An entry's record of the directory; `offset` is that of the entry's own header here.
  static std::string record(const Entry& entry) {
    const auto bytes = static_cast<std::uint64_t>(entry.bytes),
               offset = static_cast<std::uint64_t>(entry.offset);
    std::string large;
    if (is_large(entry.bytes)) large += little(bytes, 8) + little(bytes, 8);
    if (is_large(entry.offset)) large += little(offset, 8);
    const std::uint64_t version = large.empty() ? 20 : 45;
    const auto field = [](std::uint64_t value) { return little(std::min(value, all_ones), 4); };
    if (!large.empty()) large = little(1, 2) + little(large.size(), 2) + large;
    return "PK\x01\x02" + little(version, 2) + little(version, 2) + little(sizes_follow, 2) +
           little(0, 2) + little(no_time, 4) + little(entry.crc, 4) + field(bytes) + field(bytes) +
           little(entry.name.size(), 2) + little(large.size(), 2) + little(0, 10) + field(offset) +
           entry.name + large;
  }

  OutputFile& file_;
  std::vector<Entry> entries_;
};

}  // namespace zip

ZIYA_NAMESPACE_END
