// SPDX-License-Identifier: Apache-2.0
// The directory of a zip archive whose entries are stored as they are, as PyTorch writes them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/crc32.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"

ZIYA_NAMESPACE_BEGIN

namespace zip {

struct Entry {
  std::string name;
  std::int64_t offset = 0;  ///< of the data, from the start of the file
  std::int64_t bytes = 0;
  std::uint32_t crc = 0;  ///< 0 where none was recorded (torch.serialization.set_crc32_options)
};

namespace detail {

/// Little-endian numbers from bytes; running past the end is an error of the archive.
class Cursor {
 public:
  Cursor(const std::vector<std::byte>& bytes, const std::string& file)
      : bytes_(bytes), file_(file) {}

  std::uint64_t take(std::size_t count) {
    std::uint64_t value = 0;
    const auto part = bytes(count);
    for (std::size_t i = 0; i < count; ++i) {
      value |= std::to_integer<std::uint64_t>(part[i]) << (8 * i);
    }
    return value;
  }
  std::span<const std::byte> bytes(std::size_t count) {
    if (count > bytes_.size() - position_) {
      throw FormatError("ZIYA-220", file_ + ": the directory of the zip archive is damaged");
    }
    position_ += count;
    return {bytes_.data() + position_ - count, count};
  }
  [[nodiscard]] bool at_end() const { return position_ == bytes_.size(); }

 private:
  const std::vector<std::byte>& bytes_;
  const std::string& file_;
  std::size_t position_ = 0;
};

inline std::vector<std::byte> read_bytes(const InputFile& file, std::uint64_t offset,
                                         std::uint64_t count) {
  const auto size = static_cast<std::uint64_t>(file.size());
  if (offset > size || count > size - offset) {
    throw FormatError("ZIYA-220", file.name() + ": the zip archive is truncated");
  }
  std::vector<std::byte> bytes(count);
  file.read(static_cast<std::int64_t>(offset), bytes);
  return bytes;
}

struct Directory {
  std::uint64_t offset, bytes, entries;
};

/// Finds the record at the end of the archive that says where the directory lies.
inline Directory find_directory(const InputFile& file) {
  constexpr std::uint64_t record_bytes = 22, locator_bytes = 20, longest_comment = 65535;
  const auto size = static_cast<std::uint64_t>(file.size());
  const std::uint64_t tail_bytes = std::min(size, record_bytes + longest_comment);
  const auto tail = read_bytes(file, size - tail_bytes, tail_bytes);
  const std::string name = file.name();
  for (std::uint64_t back = record_bytes; back <= tail_bytes; ++back) {
    Cursor record(tail, name);
    record.bytes(tail_bytes - back);
    if (record.take(4) != 0x06054b50) continue;
    const auto disks = record.take(4);
    record.take(2);
    Directory found{};
    found.entries = record.take(2);
    found.bytes = record.take(4);
    found.offset = record.take(4);
    if (record.take(2) != back - record_bytes) continue;
    if (disks != 0 && disks != 0xffffffff) {
      throw FormatError("ZIYA-220", name + ": zip archives in several parts are not supported");
    }
    const std::uint64_t end = size - back;
    if (end < locator_bytes) return found;
    const auto locator_data = read_bytes(file, end - locator_bytes, locator_bytes);
    Cursor locator(locator_data, name);
    if (locator.take(4) != 0x07064b50) return found;
    locator.take(4);
    const auto large_data = read_bytes(file, locator.take(8), 56);
    Cursor large(large_data, name);
    if (large.take(4) != 0x06064b50) break;
    large.bytes(28);
    found.entries = large.take(8);
    found.bytes = large.take(8);
    found.offset = large.take(8);
    return found;
  }
  throw FormatError("ZIYA-220", name + ": the zip archive has no directory (truncated?)");
}

/// One record of the directory; `offset` is still that of the entry's own header.
inline Entry read_record(Cursor& directory, const std::string& file) {
  if (directory.take(4) != 0x02014b50) {
    throw FormatError("ZIYA-220", file + ": the directory of the zip archive is damaged");
  }
  directory.take(4);
  const auto flags = directory.take(2), method = directory.take(2);
  directory.take(4);
  Entry entry;
  entry.crc = static_cast<std::uint32_t>(directory.take(4));
  std::array<std::uint64_t, 3> sizes{};  // uncompressed, compressed, offset: the order of zip64
  sizes[1] = directory.take(4);
  sizes[0] = directory.take(4);
  const auto name_bytes = directory.take(2), extra_bytes = directory.take(2),
             comment_bytes = directory.take(2);
  directory.take(8);
  sizes[2] = directory.take(4);
  for (const std::byte c : directory.bytes(name_bytes)) entry.name += static_cast<char>(c);
  const auto extra = directory.bytes(extra_bytes);
  directory.bytes(comment_bytes);

  const std::vector<std::byte> fields(extra.begin(), extra.end());
  for (Cursor field(fields, file); !field.at_end();) {
    const auto tag = field.take(2), bytes = field.take(2);
    const auto body = field.bytes(bytes);
    if (tag != 1) continue;
    const std::vector<std::byte> large(body.begin(), body.end());
    Cursor values(large, file);
    for (auto& value : sizes) {
      if (value == 0xffffffff) value = values.take(8);
    }
  }
  if (method != 0 || (flags & 1) != 0 || sizes[0] != sizes[1]) {
    throw FormatError("ZIYA-221", file + ": entry " + entry.name +
                                      " of the zip archive is compressed or encrypted, expected "
                                      "it stored as torch.save does");
  }
  constexpr std::uint64_t limit = std::uint64_t{1} << 62;
  if (sizes[0] > limit || sizes[2] > limit) {
    throw FormatError("ZIYA-220", file + ": the directory of the zip archive is damaged");
  }
  entry.bytes = static_cast<std::int64_t>(sizes[0]);
  entry.offset = static_cast<std::int64_t>(sizes[2]);
  return entry;
}

/// Moves `offset` from the entry's own header to its data, and checks that the data is there.
inline void locate_data(const InputFile& file, const std::string& name, Entry& entry) {
  constexpr std::uint64_t header_bytes = 30;
  const auto data = read_bytes(file, static_cast<std::uint64_t>(entry.offset), header_bytes);
  Cursor header(data, name);
  const bool signed_header = header.take(4) == 0x04034b50;
  header.bytes(22);
  const auto skipped = header_bytes + header.take(2) + header.take(2);
  entry.offset += static_cast<std::int64_t>(skipped);
  if (!signed_header || entry.offset > file.size() || entry.bytes > file.size() - entry.offset) {
    throw FormatError("ZIYA-220", name + ": entry " + entry.name +
                                      " of the zip archive does not lie within the file "
                                      "(truncated?)");
  }
}

}  // namespace detail

/// All entries, sorted by name, each checked to lie within the file.
/// Source: PKWARE, ".ZIP File Format Specification" 6.3, sections 4.3 and 4.5.3.
/// @throws FormatError ZIYA-220 when damaged, ZIYA-221 when compressed or encrypted, IoError
inline std::vector<Entry> read_directory(const InputFile& file) {
  constexpr std::uint64_t max_directory_bytes = std::uint64_t{64} << 20;
  const std::string name = file.name();
  const auto found = detail::find_directory(file);
  if (found.bytes > max_directory_bytes) {
    throw FormatError("ZIYA-220", name + ": the directory of the zip archive is too large");
  }
  const auto data = detail::read_bytes(file, found.offset, found.bytes);
  detail::Cursor directory(data, name);
  std::vector<Entry> entries;
  std::map<std::string, std::size_t, std::less<>> places;
  while (!directory.at_end()) {
    Entry entry = detail::read_record(directory, name);
    detail::locate_data(file, name, entry);
    places[entry.name] = entries.size();
    entries.push_back(std::move(entry));
  }
  if (found.entries != entries.size() || places.size() != entries.size()) {
    throw FormatError("ZIYA-220", name + ": the directory of the zip archive is damaged");
  }
  std::vector<Entry> sorted;
  for (const auto& [entry_name, place] : places) sorted.push_back(std::move(entries[place]));
  return sorted;
}

/// Nullptr when there is no entry of that name.
inline const Entry* find(const std::vector<Entry>& sorted, std::string_view name) {
  const auto found = std::lower_bound(
      sorted.begin(), sorted.end(), name,
      [](const Entry& entry, std::string_view wanted) { return entry.name < wanted; });
  return found != sorted.end() && found->name == name ? &*found : nullptr;
}

/// Whether the data of an entry is what was written. @throws IoError
inline bool intact(const InputFile& file, const Entry& entry) {
  std::vector<std::byte> chunk(
      static_cast<std::size_t>(std::min<std::int64_t>(entry.bytes, 1 << 20)));
  std::uint32_t crc = 0;
  for (std::int64_t done = 0; done < entry.bytes;) {
    const auto part = std::span(chunk).first(static_cast<std::size_t>(
        std::min(entry.bytes - done, static_cast<std::int64_t>(chunk.size()))));
    file.read(entry.offset + done, part);
    crc = crc32(part, crc);
    done += static_cast<std::int64_t>(part.size());
  }
  return crc == entry.crc;
}

}  // namespace zip

ZIYA_NAMESPACE_END
