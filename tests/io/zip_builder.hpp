// SPDX-License-Identifier: Apache-2.0
// Writes zip archives of stored entries, with every field open to being wrong.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ziya/io/zip.hpp"

namespace test {

struct ZipItem {
  std::string name, data;
  std::uint16_t method = 0, flags = 0;
  std::string extra = {};          ///< of the directory's record
  std::uint32_t size_delta = 0;    ///< added to the uncompressed size in the directory
  std::uint32_t offset_delta = 0;  ///< added to the offset in the directory
};

inline std::string little(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(i < 8 ? value >> (8 * i) & 0xff : 0);
  return text;
}

struct ZipOptions {
  bool zip64 = false;        ///< sizes, offsets and directory in their 64-bit forms
  std::string comment = {};  ///< at the end of the archive
  int missing_entries = 0;   ///< that the end record counts, but the directory has not
};

inline std::string make_zip(const std::vector<ZipItem>& items, const ZipOptions& options = {}) {
  std::string zip, directory;
  for (const ZipItem& item : items) {
    const auto crc = ziya::crc32(std::as_bytes(std::span(item.data)));
    const std::uint64_t size = item.data.size(), offset = zip.size() + item.offset_delta;
    zip += "PK\x03\x04" + little(20, 2) + little(item.flags, 2) + little(item.method, 2) +
           little(0, 4) + little(crc, 4) + little(size, 4) + little(size, 4) +
           little(item.name.size(), 2) + little(5, 2) + item.name + "extra" + item.data;
    std::string extra = item.extra;
    if (options.zip64) {
      extra += little(7, 2) + little(2, 2) + "xx" + little(1, 2) + little(24, 2) +
               little(size + item.size_delta, 8) + little(size, 8) + little(offset, 8);
    }
    const auto field = [&](std::uint64_t value) {
      return little(options.zip64 ? 0xffffffff : value, 4);
    };
    directory += "PK\x01\x02" + little(20, 2) + little(20, 2) + little(item.flags, 2) +
                 little(item.method, 2) + little(0, 4) + little(crc, 4) + field(size) +
                 field(size + item.size_delta) + little(item.name.size(), 2) +
                 little(extra.size(), 2) + little(0, 2) + little(0, 8) + field(offset) + item.name +
                 extra;
  }
  const std::uint64_t at = zip.size(),
                      count = items.size() + static_cast<std::size_t>(options.missing_entries);
  zip += directory;
  if (options.zip64) {
    const std::uint64_t record = zip.size();
    zip += "PK\x06\x06" + little(44, 8) + little(0, 12) + little(count, 8) + little(count, 8) +
           little(directory.size(), 8) + little(at, 8);
    zip += "PK\x06\x07" + little(0, 4) + little(record, 8) + little(1, 4);
  }
  const auto last = [&](std::uint64_t value, int bytes) {
    return little(options.zip64 ? ~std::uint64_t{0} : value, bytes);
  };
  return zip + "PK\x05\x06" + little(0, 4) + last(count, 2) + last(count, 2) +
         last(directory.size(), 4) + last(at, 4) + little(options.comment.size(), 2) +
         options.comment;
}

}  // namespace test
