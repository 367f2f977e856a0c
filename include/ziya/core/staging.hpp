// SPDX-License-Identifier: Apache-2.0
// How the bytes of a model get from files to a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/tensor.hpp"

ZIYA_NAMESPACE_BEGIN

/// How bytes get into memory from which they are sent on.
struct StagedRead {
  /// Fills `out` with the bytes at `from`; called by several threads. Copied where absent.
  std::function<void(const std::byte* from, std::span<std::byte> out)> fill;
  /// Told of such memory, whole multiples of 2 MiB, before anything is in it.
  std::function<void(std::span<std::byte>)> prepare;
};

/// Copies from the host, and says how much. Each backend may do it in pieces and in the background.
template <class Device>
class Staging {
 public:
  /// @param progress (bytes copied so far)
  explicit Staging(std::function<void(std::int64_t)> progress = {}, StagedRead = {})
      : progress_(std::move(progress)) {}

  /// `from` stays as it is until `finish`, or as long as it has an `owner`.
  void copy(std::byte* to, const std::byte* from, std::size_t bytes,
            const std::shared_ptr<const void>& owner = {}) {
    (void)owner;
    ziya::copy(Device{}, to, Cpu{}, from, bytes);
    done_ += static_cast<std::int64_t>(bytes);
    if (progress_) progress_(done_);
  }
  /// Waits until everything has arrived.
  void finish() {}

 private:
  std::function<void(std::int64_t)> progress_;
  std::int64_t done_ = 0;
};

ZIYA_NAMESPACE_END
