// SPDX-License-Identifier: Apache-2.0
// Files that are written beside their place and renamed, so that a half-written one is never seen.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/platform.hpp"

ZIYA_NAMESPACE_BEGIN

/// The seam at which tests make writing fail: what is called instead of the system's write and
/// fsync. Both report failure as the system does (-1 and errno); `write` may write less than asked,
/// and is called from one thread at a time.
struct WriteHooks {
  std::function<std::ptrdiff_t(int fd, const void* data, std::size_t bytes)> write =
      platform::write_some;
  std::function<int(int fd)> sync = platform::sync;
  bool past_cache = false;  ///< straight to the disk, where the file system can
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
/// A file of that name is replaced in the same instant. Past the page cache a thread writes one
/// block of 16 MiB while the next one is filled; what fails is thrown by a later call, and up to
/// 32 MiB of what was written are not in the file before finish().
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
        written_(kept),
        writing_back_(kept),
        stays_(true) {
    if (!file_.valid() || !platform::truncate(file_, kept)) fail("cannot be opened for writing");
  }
  /// Before the first block is full, or after finish().
  OutputFile(OutputFile&& other) noexcept
      : path_(std::move(other.path_)),
        partial_(std::exchange(other.partial_, {})),
        hooks_(std::move(other.hooks_)),
        file_(std::move(other.file_)),
        bytes_(other.bytes_),
        written_(other.written_),
        writing_back_(other.writing_back_),
        stays_(other.stays_),
        filling_(std::move(other.filling_)) {
    assert(!other.thread_.joinable());
  }
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile() {
    if (thread_.joinable()) thread_.join();
    std::error_code ignored;
    if (!partial_.empty() && !stays_) std::filesystem::remove(partial_, ignored);
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// Where the bytes are until commit().
  [[nodiscard]] const std::filesystem::path& partial() const { return partial_; }
  [[nodiscard]] std::int64_t bytes() const { return bytes_; }

  /// Appends. @throws IoError ZIYA-206 (disk full, quota, …)
  void write(std::span<const std::byte> data) {
    if (!hooks_.past_cache) {
      put(data);
      bytes_ = written_;
      constexpr std::int64_t stride = std::int64_t{16} << 20;
      if (bytes_ - writing_back_ < stride) return;
      platform::start_writeback(file_, writing_back_, bytes_ - writing_back_);
      writing_back_ = bytes_;
      return;
    }
    while (!data.empty()) {
      if (filling_ == nullptr) filling_.reset(Block::allocate());
      const auto at = static_cast<std::size_t>(bytes_ % Block::bytes);
      const std::size_t n = std::min(data.size(), Block::bytes - at);
      std::memcpy(filling_.get() + at, data.data(), n);
      data = data.subspan(n);
      bytes_ += static_cast<std::int64_t>(n);
      if (at + n == Block::bytes) hand_over();
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// Everything is on the disk and the file is closed, but still beside its place.
  /// @throws IoError ZIYA-206
  void finish() {
    if (!file_.valid()) return;
    hand_over();
    settle();
    if (hooks_.sync(file_.get()) != 0) fail("cannot be brought to the disk");
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
  /// Part of the file, at a multiple of its size; in memory at a multiple of the disk's blocks.
  struct Block {
    static constexpr std::size_t bytes = std::size_t{16} << 20;
    static constexpr std::align_val_t alignment{platform::disk_block};
    static std::byte* allocate() {
      return static_cast<std::byte*>(::operator new(bytes, alignment));
    }
    void operator()(std::byte* memory) const { ::operator delete(memory, alignment); }
  };

  /// What was filled is written from now on, and the other block can be filled.
  void hand_over() {
    settle();
    if (written_ == bytes_) return;
    std::swap(filling_, leaving_);
    const auto write_out = [this, end = bytes_]() noexcept {
      try {
        while (written_ < end) put_some(next_of_block(end));
      } catch (...) {
        failure_ = std::current_exception();
      }
    };
    try {
      thread_ = std::thread(write_out);
    } catch (const std::system_error&) {  // then there is no other thread
      write_out();
    }
  }
  /// The block that was handed over is written. @throws IoError ZIYA-206
  void settle() {
    if (thread_.joinable()) thread_.join();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }
  /// Past the page cache where place and size are whole blocks of the disk.
  std::span<const std::byte> next_of_block(std::int64_t end) {
    const auto begin = static_cast<std::size_t>(written_ % Block::bytes);
    const auto size = static_cast<std::size_t>(end - written_);
    const std::size_t whole = size / platform::disk_block * platform::disk_block;
    const bool direct = begin % platform::disk_block == 0 && whole > 0;
    platform::bypass_cache(file_, direct);
    return {leaving_.get() + begin, direct ? whole : size};
  }
  void put(std::span<const std::byte> data) {
    while (!data.empty()) data = data.subspan(put_some(data));
  }
  /// How many bytes the system took.
  std::size_t put_some(std::span<const std::byte> data) {
    while (true) {
      const std::ptrdiff_t n = hooks_.write(file_.get(), data.data(), data.size());
      if (n < 0 && platform::interrupted()) continue;
      if (n < 0 && platform::refused() && platform::bypass_cache(file_, false)) continue;
      if (n == 0) platform::set_disk_full_error();
      if (n <= 0) fail("writing failed after " + std::to_string(written_) + " bytes");
      written_ += n;
      return static_cast<std::size_t>(n);
    }
  }
  [[noreturn]] void fail(const std::string& what) const {
    const std::string reason = platform::last_error();
    throw IoError("ZIYA-206", utf8_from_path(path_) + ": " + what + ": " + reason);
  }

  std::filesystem::path path_, partial_;
  WriteHooks hooks_;
  platform::Descriptor file_;
  std::int64_t bytes_ = 0;         // given to write()
  std::int64_t written_ = 0;       // given to the system
  std::int64_t writing_back_ = 0;  // which it was told to write out
  bool stays_ = false;
  std::unique_ptr<std::byte, Block> filling_, leaving_;
  std::thread thread_;  // writes leaving_
  std::exception_ptr failure_;
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
