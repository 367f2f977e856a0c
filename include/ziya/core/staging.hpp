// SPDX-License-Identifier: Apache-2.0
// How the bytes of a model get from files to a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/tensor.hpp"

ZIYA_NAMESPACE_BEGIN

/// Fills `out` with the bytes at `from`, however they get there.
using StagedRead = std::function<void(const std::byte* from, std::span<std::byte> out)>;

/// Copies from the host, and says how much. Each backend may do it in pieces and in the background.
template <class Device>
class Staging {
 public:
  /// @param progress (bytes copied so far)
  explicit Staging(std::function<void(std::int64_t)> progress = {}, StagedRead = {})
      : progress_(std::move(progress)) {}

  void copy(std::byte* to, const std::byte* from, std::size_t bytes) {
    ziya::copy(Device{}, to, Cpu{}, from, bytes);
    done_ += static_cast<std::int64_t>(bytes);
    if (progress_) progress_(done_);
  }
  /// Waits until everything has been read.
  void flush() {}
  /// Waits until everything has arrived.
  void finish() {}

 private:
  std::function<void(std::int64_t)> progress_;
  std::int64_t done_ = 0;
};

ZIYA_NAMESPACE_END
