// SPDX-License-Identifier: Apache-2.0
// Files that are written beside their place and renamed, so that a half-written one is never seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/platform.hpp"

ZIYA_NAMESPACE_BEGIN

/// The seam at which tests make writing fail: what is called instead of the system's write and
/// fsync. Both report failure as the system does (-1 and errno); `write` may write less than asked.
struct WriteHooks {
  std::function<std::ptrdiff_t(int fd, const void* data, std::size_t bytes)> write =
      platform::write_some;
  std::function<int(int fd)> sync = platform::sync;
  bool forget = false;  ///< what is on the disk leaves the page cache
};

/// A name beside `path` that nothing uses: `<path>.partial-<process>[-<n>]`.
inline std::filesystem::path partial_path(const std::filesystem::path& path) {
  std::filesystem::path result = path;
  result += ".partial-" + std::to_string(platform::process_id());
  std::error_code ignored;
  for (int n = 2; std::filesystem::exists(std::filesystem::symlink_status(result, ignored)); ++n) {
    result = path;
    result += ".partial-" + std::to_string(platform::process_id()) + "-" + std::to_string(n);
  }
  return result;
}

/// A file that appears under its name, whole and synced, at commit(); without it nothing is left.
/// A file of that name is replaced in the same instant.
class OutputFile {
 public:
  /// @throws IoError ZIYA-206 when the file cannot be created
  explicit OutputFile(const std::filesystem::path& path, WriteHooks hooks = {})
      : path_(path),
        partial_(partial_path(path)),
        hooks_(std::move(hooks)),
        file_(platform::create_for_writing(partial_)) {
    if (!file_.valid()) fail("cannot be created");
  }
  /// Goes on with the first `kept` bytes of what an earlier process has left at `partial`, or
  /// begins there; without commit() the file stays there. @throws IoError ZIYA-206
  OutputFile(const std::filesystem::path& path, std::filesystem::path partial, std::int64_t kept,
             WriteHooks hooks = {})
      : path_(path),
        partial_(std::move(partial)),
        hooks_(std::move(hooks)),
        file_(platform::open_for_appending(partial_)),
        bytes_(kept),
        handed_over_(kept),
        forgotten_(kept),
        stays_(true) {
    if (!file_.valid() || !platform::truncate(file_, kept)) fail("cannot be opened for writing");
  }
  OutputFile(OutputFile&& other) noexcept
      : path_(std::move(other.path_)),
        partial_(std::exchange(other.partial_, {})),
        hooks_(std::move(other.hooks_)),
        file_(std::move(other.file_)),
        bytes_(other.bytes_),
        handed_over_(other.handed_over_),
        forgotten_(other.forgotten_),
        stays_(other.stays_) {}
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile() {
    std::error_code ignored;
    if (!partial_.empty() && !stays_) std::filesystem::remove(partial_, ignored);
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// Where the bytes are until commit().
  [[nodiscard]] const std::filesystem::path& partial() const { return partial_; }
  [[nodiscard]] std::int64_t bytes() const { return bytes_; }

  /// Appends. @throws IoError ZIYA-206 (disk full, quota, …)
  void write(std::span<const std::byte> data) {
    while (!data.empty()) {
      const std::ptrdiff_t n = hooks_.write(file_.get(), data.data(), data.size());
      if (n < 0 && platform::interrupted()) continue;
      if (n == 0) platform::set_disk_full_error();
      if (n <= 0) fail("writing failed after " + std::to_string(bytes_) + " bytes");
      data = data.subspan(static_cast<std::size_t>(n));
      bytes_ += n;
    }
    constexpr std::int64_t stride = std::int64_t{16} << 20;
    if (bytes_ - handed_over_ >= stride) {
      platform::start_writeback(file_, handed_over_, bytes_ - handed_over_);
      handed_over_ = bytes_;
      if (hooks_.forget) forget_behind(bytes_ / stride * stride - 4 * stride);
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// Everything is on the disk and the file is closed, but still beside its place.
  /// @throws IoError ZIYA-206
  void finish() {
    if (!file_.valid()) return;
    if (hooks_.sync(file_.get()) != 0) fail("cannot be brought to the disk");
    if (hooks_.forget) platform::forget(file_, 0, 0);
    if (!file_.close()) fail("cannot be closed");
  }
  /// Finishes, and gives the file its name. @throws IoError ZIYA-206, ZIYA-207
  void commit() {
    finish();
    std::error_code error;
    std::filesystem::rename(partial_, path_, error);
    if (error) {
      throw IoError("ZIYA-207", utf8_from_path(partial_) + ": cannot be renamed to " +
                                    utf8_from_path(path_.filename()) + ": " + error.message());
    }
    partial_.clear();
    platform::sync_directory(path_.has_parent_path() ? path_.parent_path() : ".");
  }

 private:
  /// Everything in front of `end` leaves the page cache once it is on the disk.
  void forget_behind(std::int64_t end) {
    if (end <= forgotten_) return;
    platform::finish_writeback(file_, forgotten_, end - forgotten_);
    platform::forget(file_, forgotten_, end - forgotten_);
    forgotten_ = end;
  }
  [[noreturn]] void fail(const std::string& what) const {
    const std::string reason = platform::last_error();
    throw IoError("ZIYA-206", utf8_from_path(path_) + ": " + what + ": " + reason);
  }

  std::filesystem::path path_, partial_;
  WriteHooks hooks_;
  platform::Descriptor file_;
  std::int64_t bytes_ = 0, handed_over_ = 0, forgotten_ = 0;
  bool stays_ = false;
};

/// Replaces bytes of a file that exists, and brings them to the disk. @throws IoError ZIYA-206
inline void patch_file(const std::filesystem::path& path, std::int64_t offset,
                       std::string_view bytes, const WriteHooks& hooks = {}) {
  const auto fail = [&](const char* what) {
    const std::string reason = platform::last_error();
    throw IoError("ZIYA-206", utf8_from_path(path) + ": " + what + ": " + reason);
  };
  platform::Descriptor file = platform::open_for_patching(path, offset);
  if (!file.valid()) fail("cannot be opened for writing");
  while (!bytes.empty()) {
    const auto n = hooks.write(file.get(), bytes.data(), bytes.size());
    if (n < 0 && platform::interrupted()) continue;
    if (n == 0) platform::set_disk_full_error();
    if (n <= 0) fail("writing failed in the header");
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  if (hooks.sync(file.get()) != 0) fail("cannot be brought to the disk");
  if (!file.close()) fail("cannot be closed");
}

/// A small file at once. @throws IoError
inline void write_text_file(const std::filesystem::path& path, std::string_view text,
                            const WriteHooks& hooks = {}) {
  OutputFile file(path, hooks);
  file.write(text);
  file.commit();
}

ZIYA_NAMESPACE_END
