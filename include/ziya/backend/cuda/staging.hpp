// SPDX-License-Identifier: Apache-2.0
// Weights to the GPU at the rate of the slower of disk and bus.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "ziya/backend/cpu/thread_pool.hpp"
#include "ziya/backend/cuda/memory.hpp"
#include "ziya/backend/cuda/runtime.hpp"
#include "ziya/core/staging.hpp"
#include "ziya/core/tensor.hpp"

ZIYA_NAMESPACE_BEGIN

/// Threads read pieces into pinned memory, which for mapped files is also what reads the disk,
/// while earlier pieces cross the bus and kernels of the default stream reorder what has arrived.
/// Belongs to one thread and to its current GPU.
template <>
class Staging<Cuda> {
 public:
  /// @param progress (bytes read so far)
  explicit Staging(std::function<void(std::int64_t)> progress = {})
      : progress_(std::move(progress)) {}
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging() { (void)cudaStreamSynchronize(nullptr); }

  /// Returns when `from` has been read; the bytes arrive before later work of the default stream.
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) {
    if (pinned_ == nullptr) {
      if (bytes < small_bytes) {
        ziya::copy(Cuda{}, to, Cpu{}, from, bytes);
        return count_done(bytes);
      }
      prepare();
    }
    for (std::size_t begin = 0; begin < bytes; begin += piece_bytes) {
      const std::size_t count = std::min(piece_bytes, bytes - begin);
      std::byte* piece = pinned_.get() + next_ * piece_bytes;
      check(cudaEventSynchronize(sent_[next_].get()));
      pool_->run(
          static_cast<std::int64_t>(count),
          [&](std::int64_t first, std::int64_t end) {
            std::memcpy(piece + first, from + begin + first, static_cast<std::size_t>(end - first));
          },
          grain);
      check(cudaMemcpyAsync(to + begin, piece, count, cudaMemcpyHostToDevice, nullptr));
      check(cudaEventRecord(sent_[next_].get(), nullptr));
      next_ = (next_ + 1) % pieces;
      count_done(count);
    }
  }
  /// Memory of the GPU that the default stream uses before it is asked for again.
  std::byte* scratch(std::int64_t bytes) {
    if (scratch_.empty() || scratch_.elements() < bytes) {
      scratch_ = {};
      scratch_ = Tensor<std::byte, Cuda>(Shape{bytes});
    }
    return scratch_.data();
  }
  /// Waits until everything has arrived.   @throws BackendError for what failed on the way
  void finish() { check(cudaStreamSynchronize(nullptr)); }

 private:
  static constexpr std::size_t pieces = 4, piece_bytes = std::size_t{16} << 20;
  static constexpr std::size_t small_bytes = std::size_t{1} << 20;  ///< pinning is not worth it
  static constexpr std::int64_t grain = 1 << 18;
  static constexpr int most_threads = 16;

  void prepare() {
    pool_.emplace(std::min(default_threads(), most_threads));
    for (Event& event : sent_) {
      cudaEvent_t made = nullptr;
      check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
      event.reset(made);
    }
    void* memory = nullptr;
    check(cudaHostAlloc(&memory, pieces * piece_bytes, cudaHostAllocDefault));
    pinned_.reset(static_cast<std::byte*>(memory));
  }
  void count_done(std::size_t bytes) {
    done_ += static_cast<std::int64_t>(bytes);
    if (progress_) progress_(done_);
  }
  static void check(cudaError_t status) { cuda::check(status, "copy of weights to the GPU"); }
  struct Unpin {
    void operator()(std::byte* memory) const noexcept { (void)cudaFreeHost(memory); }
  };
  struct Destroy {
    void operator()(cudaEvent_t event) const noexcept { (void)cudaEventDestroy(event); }
  };
  using Event = std::unique_ptr<CUevent_st, Destroy>;

  std::function<void(std::int64_t)> progress_;
  std::int64_t done_ = 0;
  std::unique_ptr<std::byte, Unpin> pinned_;
  std::array<Event, pieces> sent_;
  std::size_t next_ = 0;
  Tensor<std::byte, Cuda> scratch_;
  std::optional<ThreadPool> pool_;
};

ZIYA_NAMESPACE_END

#endif
