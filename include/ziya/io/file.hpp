// SPDX-License-Identifier: Apache-2.0
// Files that are read: mapped for running, by offset for converting, whole when they are small.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/platform.hpp"

ZIYA_NAMESPACE_BEGIN

/// The path that UTF-8 text names, whatever the system's own encoding.
inline std::filesystem::path path_from_utf8(std::string_view text) {
  return std::filesystem::path(std::u8string(text.begin(), text.end()));
}

/// The path as UTF-8 text, for messages and JSON.
inline std::string utf8_from_path(const std::filesystem::path& path) {
  const std::u8string text = path.u8string();
  return std::string(text.begin(), text.end());
}

/// A leading `~` replaced by the home directory; other paths unchanged. `~name` is not expanded.
inline std::filesystem::path expand_home(const std::filesystem::path& path) {
  const char* home = std::getenv("HOME");
  if (path.empty() || *path.begin() != "~" || home == nullptr || *home == '\0') return path;
  std::filesystem::path result = home;
  for (auto part = std::next(path.begin()); part != path.end(); ++part) result /= *part;
  return result;
}

/// A regular file open for reading at any offset. Thread-safe; every failure is an exception.
class InputFile {
 public:
  /// @throws IoError ZIYA-201 when the file is absent, unreadable or not a regular file
  explicit InputFile(const std::filesystem::path& path)
      : path_(path), file_(platform::open_for_reading(path)) {
    if (!file_.valid()) {
      throw IoError("ZIYA-201",
                    utf8_from_path(path) + ": cannot be opened: " + platform::last_error());
    }
    size_ = platform::regular_file_size(file_);
    if (size_ < 0) throw IoError("ZIYA-201", utf8_from_path(path) + ": is not a regular file");
    platform::expect_sequential(file_);
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::string name() const { return utf8_from_path(path_); }
  /// Bytes, as they were when the file was opened.
  [[nodiscard]] std::int64_t size() const { return size_; }
  [[nodiscard]] const platform::Descriptor& descriptor() const { return file_; }

  /// Fills `out` from `offset` on.
  /// @throws IoError ZIYA-202 when the system cannot read, ZIYA-203 when the file ends before
  void read(std::int64_t offset, std::span<std::byte> out) const {
    const std::int64_t got = platform::read_at(file_, out.data(), out.size(), offset);
    if (got < 0) {
      throw IoError("ZIYA-202", name() + ": reading at offset " + std::to_string(offset) +
                                    " failed: " + platform::last_error());
    }
    if (static_cast<std::size_t>(got) != out.size()) {
      throw IoError("ZIYA-203", name() + ": ends at byte " + std::to_string(offset + got) +
                                    ", expected " + std::to_string(out.size()) +
                                    " bytes at offset " + std::to_string(offset) +
                                    " (truncated, or changed while it was read)");
    }
    if (passing_) forget_behind(offset, got);
  }
  /// The file is read front to back and once: what lies behind leaves the page cache, so that a
  /// file larger than memory does not push everything else out of it. Not while others read.
  void expect_one_pass() const { passing_ = true; }

  /// `bytes` bytes from `offset` on, as text. The caller has checked the size.
  [[nodiscard]] std::string read_text(std::int64_t offset, std::int64_t bytes) const {
    std::string text(static_cast<std::size_t>(bytes), '\0');
    read(offset, std::as_writable_bytes(std::span(text)));
    return text;
  }

 private:
  /// Far enough behind that no other thread still reads there; in steps that the page cache keeps
  /// in one piece.
  void forget_behind(std::int64_t offset, std::int64_t bytes) const {
    constexpr std::int64_t distance = std::int64_t{64} << 20, step = std::int64_t{2} << 20;
    const auto behind = [](std::int64_t at) {
      return std::max<std::int64_t>(at - distance, 0) / step * step;
    };
    const std::int64_t begin = behind(offset), end = behind(offset + bytes);
    if (end > begin) platform::forget(file_, begin, end - begin);
  }

  std::filesystem::path path_;
  platform::Descriptor file_;
  std::int64_t size_ = 0;
  mutable bool passing_ = false;
};

/// A whole file as read-only memory, shared with the page cache. Immutable, thread-safe.
/// The system's default read-ahead is kept: weights are read front to back, and again and again.
class MappedFile {
 public:
  /// @throws IoError ZIYA-203 when it is shorter than when `file` was opened, ZIYA-204 when
  /// mapping fails
  explicit MappedFile(const InputFile& file) : bytes_(static_cast<std::size_t>(file.size())) {
    const std::int64_t now = platform::regular_file_size(file.descriptor());
    if (now < file.size()) {
      throw IoError("ZIYA-203", file.name() + ": has " + std::to_string(now) + " bytes, but had " +
                                    std::to_string(file.size()) + " when it was opened");
    }
    if (bytes_ == 0) return;
    data_ = platform::map_pages(file.descriptor(), bytes_);
    if (data_ == nullptr) {
      throw IoError("ZIYA-204", file.name() + ": cannot be mapped: " + platform::last_error());
    }
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (data_ != nullptr) platform::unmap_pages(data_, bytes_);
  }

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, bytes_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// The contents of a small file. @throws IoError, ZIYA-205 when it is larger than `max_bytes`
inline std::string read_text_file(const std::filesystem::path& path,
                                  std::int64_t max_bytes = std::int64_t{64} << 20) {
  const InputFile file(path);
  if (file.size() > max_bytes) {
    throw IoError("ZIYA-205", file.name() + ": has " + std::to_string(file.size()) +
                                  " bytes, expected at most " + std::to_string(max_bytes));
  }
  return file.read_text(0, file.size());
}

/// @param start of the file's contents
/// @throws FormatError ZIYA-234 when a clone without Git-LFS left a pointer in the file's place
inline void refuse_lfs_pointer(std::string_view start, const std::string& name) {
  if (!start.starts_with("version https://git-lfs")) return;
  throw FormatError("ZIYA-234", name +
                                    ": is a Git-LFS pointer, not the file itself; in the folder it "
                                    "lies in, run: git lfs install && git lfs pull");
}

ZIYA_NAMESPACE_END
