// SPDX-License-Identifier: Apache-2.0
// Makes writing fail at a chosen place, through the one seam that all writers have.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "ziya/io/writer.hpp"

namespace test {

/// What happens once `after_bytes` bytes are written in all files together.
enum class Fault {
  none,
  disk_full,    ///< the call that would go beyond writes what fits, the next one fails (ENOSPC)
  zero_write,   ///< write accepts nothing and reports no error
  io_error,     ///< EIO
  interrupted,  ///< every second call is interrupted (EINTR) from the start; nothing fails
  short_write,  ///< no call writes more than 7 bytes; nothing fails
  sync_fails    ///< fsync reports EIO
};

/// How often the hooks were called, shared with them.
struct FaultCount {
  std::int64_t bytes = 0, writes = 0, syncs = 0;
};

inline ziya::WriteHooks faulty(Fault fault, std::int64_t after_bytes = 0,
                               std::shared_ptr<FaultCount> count = std::make_shared<FaultCount>()) {
  ziya::WriteHooks hooks;
  hooks.write = [=](int fd, const void* data, std::size_t bytes) -> std::ptrdiff_t {
    ++count->writes;
    const auto room =
        static_cast<std::size_t>(std::max<std::int64_t>(0, after_bytes - count->bytes));
    if (fault == Fault::interrupted && count->writes % 2 == 1) return errno = EINTR, -1;
    if (fault == Fault::short_write) bytes = std::min<std::size_t>(bytes, 7);
    if (fault == Fault::disk_full || fault == Fault::io_error || fault == Fault::zero_write) {
      if (room == 0) {
        if (fault == Fault::zero_write) return 0;
        return errno = fault == Fault::io_error ? EIO : ENOSPC, -1;
      }
      bytes = std::min(bytes, room);
    }
    const std::ptrdiff_t written = ::write(fd, data, bytes);
    if (written > 0) count->bytes += written;
    return written;
  };
  hooks.sync = [=](int) {
    ++count->syncs;
    if (fault == Fault::sync_fails) return errno = EIO, -1;
    return 0;  // tests do not wait for the disk
  };
  return hooks;
}

}  // namespace test
