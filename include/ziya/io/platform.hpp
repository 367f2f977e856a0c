// SPDX-License-Identifier: Apache-2.0
// What the operating system is asked for about files; the only header of the library that knows it.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"

// A port to another system (Windows) replaces the bodies below and nothing else.

ZIYA_NAMESPACE_BEGIN

namespace platform {

/// An open file; closes itself.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() { close(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  /// Whether closing succeeded; network file systems report a failed write only here.
  bool close() noexcept {
    const int fd = std::exchange(fd_, -1);
    return fd < 0 || ::close(fd) == 0;
  }

 private:
  int fd_ = -1;
};

/// The reason of the call that just failed, e.g. "No such file or directory".
inline std::string last_error() { return std::strerror(errno); }

/// O_NONBLOCK: opening a pipe must not wait for its other end; regular files do not care.
inline Descriptor open_for_reading(const std::filesystem::path& path) {
  return Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
}
/// Fails when the file exists.
inline Descriptor create_for_writing(const std::filesystem::path& path) {
  return Descriptor(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
}

/// For changing bytes of a file that exists, from `offset` on.
inline Descriptor open_for_patching(const std::filesystem::path& path, std::int64_t offset) {
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (file.valid() && ::lseek(file.get(), static_cast<off_t>(offset), SEEK_SET) < 0) file.close();
  return file;
}
/// For reading and for appending; made where it is absent.
inline Descriptor open_for_appending(const std::filesystem::path& path) {
  return Descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
}
/// Whether the file is now ours alone, until it is closed or the process ends, however it ends.
inline bool try_lock(const Descriptor& file) { return ::flock(file.get(), LOCK_EX | LOCK_NB) == 0; }
inline bool truncate(const Descriptor& file, std::int64_t bytes) {
  return ::ftruncate(file.get(), static_cast<off_t>(bytes)) == 0;
}

/// Size of a regular file; -1 with errno 0 when it is something else (directory, pipe).
inline std::int64_t regular_file_size(const Descriptor& file) {
  struct stat status {};
  errno = 0;
  if (::fstat(file.get(), &status) != 0) return -1;
  return S_ISREG(status.st_mode) ? static_cast<std::int64_t>(status.st_size) : -1;
}

/// Bytes read, fewer than asked only at the end of the file; -1 on failure.
inline std::int64_t read_at(const Descriptor& file, void* out, std::size_t bytes,
                            std::int64_t offset) {
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t n = ::pread(file.get(), static_cast<char*>(out) + done, bytes - done,
                              static_cast<off_t>(offset + static_cast<std::int64_t>(done)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return static_cast<std::int64_t>(done);
}

/// The file will be read front to back: let the system read further ahead.
inline void expect_sequential(const Descriptor& file) {
  (void)::posix_fadvise(file.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
}

/// One attempt; may write less than asked, and fail with EINTR.
inline std::ptrdiff_t write_some(int fd, const void* data, std::size_t bytes) {
  return ::write(fd, data, bytes);
}
inline int sync(int fd) { return ::fsync(fd); }
/// Lets the system begin to write out what was just written, so that sync has little left to do.
inline void start_writeback(const Descriptor& file, std::int64_t offset, std::int64_t bytes) {
#if defined(SYNC_FILE_RANGE_WRITE)
  (void)::sync_file_range(file.get(), offset, bytes, SYNC_FILE_RANGE_WRITE);
#else
  (void)file, (void)offset, (void)bytes;
#endif
}
/// Of memory, of places in a file and of sizes, where the page cache is bypassed.
inline constexpr std::size_t disk_block = 4096;
/// Whether writes go straight to the disk from now on. Returns whether that is a change; where the
/// file system cannot, there is none.
inline bool bypass_cache(const Descriptor& file, bool on) {
#if defined(O_DIRECT)
  const int flags = ::fcntl(file.get(), F_GETFL);
  return flags >= 0 && ((flags & O_DIRECT) != 0) != on &&
         ::fcntl(file.get(), F_SETFL, flags ^ O_DIRECT) == 0;
#else
  (void)file, (void)on;
  return false;
#endif
}
/// The page cache need not keep this part of the file. @param bytes 0: up to the end
inline void forget(const Descriptor& file, std::int64_t offset, std::int64_t bytes) {
  (void)::posix_fadvise(file.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes),
                        POSIX_FADV_DONTNEED);
}
/// Bytes of the machine's memory; 0 where the system does not say.
inline std::int64_t physical_memory() {
  const auto pages = static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES));
  return pages > 0 ? pages * static_cast<std::int64_t>(::sysconf(_SC_PAGESIZE)) : 0;
}
inline bool interrupted() { return errno == EINTR; }
/// The last call had an argument that the file system does not take, as a size that is no block's.
inline bool refused() { return errno == EINVAL; }
inline void set_disk_full_error() { errno = ENOSPC; }

/// Makes a rename inside `directory` survive a crash. Some file systems refuse; nothing is lost.
inline void sync_directory(const std::filesystem::path& directory) {
  const Descriptor opened(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (opened.valid()) (void)::fsync(opened.get());
}

/// Whether another file system begins there.
inline bool is_mount_point(const std::filesystem::path& directory) {
  struct stat here, above;
  return ::stat(directory.c_str(), &here) == 0 && ::stat((directory / "..").c_str(), &above) == 0 &&
         here.st_dev != above.st_dev;
}

/// Swaps two names in one step; false where the file system cannot.
inline bool exchange(const std::filesystem::path& a, const std::filesystem::path& b) {
#if defined(RENAME_EXCHANGE)
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
#else
  (void)a, (void)b;
  return false;
#endif
}

inline std::int64_t process_id() { return ::getpid(); }

/// Shared read-only pages of the file; nullptr on failure. `bytes` > 0.
inline const std::byte* map_pages(const Descriptor& file, std::size_t bytes) {
  void* pages = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.get(), 0);
  return pages == MAP_FAILED ? nullptr : static_cast<const std::byte*>(pages);
}
inline void unmap_pages(const std::byte* pages, std::size_t bytes) noexcept {
  ::munmap(const_cast<std::byte*>(pages), bytes);
}
/// Memory that nothing has been written to yet should come in large pages.
inline void prefer_large_pages(std::span<std::byte> memory) {
#if defined(MADV_HUGEPAGE)
  (void)::madvise(memory.data(), memory.size(), MADV_HUGEPAGE);
#else
  (void)memory;
#endif
}

}  // namespace platform

ZIYA_NAMESPACE_END
