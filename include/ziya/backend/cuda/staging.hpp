// SPDX-License-Identifier: Apache-2.0
// Weights to the GPU at the rate of the slower of disk and bus.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "ziya/backend/cpu/thread_pool.hpp"
#include "ziya/backend/cuda/memory.hpp"
#include "ziya/backend/cuda/runtime.hpp"
#include "ziya/core/staging.hpp"
#include "ziya/core/tensor.hpp"

ZIYA_NAMESPACE_BEGIN

/// Threads read pieces into pinned memory, which for mapped files is also what reads the disk, and
/// send them on, each at its own pace, while kernels of the default stream reorder what has
/// arrived. Belongs to one thread and to its current GPU.
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
    std::atomic<std::size_t> next{0};
    pool_->run(pool_->size(), [&](std::int64_t first, std::int64_t end) {
      set_current(Cuda{}, device_);
      for (std::int64_t worker = first; worker < end; ++worker) {
        Worker& own = workers_[static_cast<std::size_t>(worker)];
        for (std::size_t begin; (begin = next.fetch_add(1) * piece_bytes) < bytes;) {
          own.send(to + begin, from + begin, std::min(piece_bytes, bytes - begin));
        }
      }
    });
    count_done(bytes);
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
  static constexpr std::size_t piece_bytes = std::size_t{2} << 20;
  static constexpr std::size_t small_bytes = std::size_t{1} << 20;  ///< pinning is not worth it
  static constexpr int most_threads = 16;

  struct Destroy {
    void operator()(cudaEvent_t event) const noexcept { (void)cudaEventDestroy(event); }
  };
  using Event = std::unique_ptr<CUevent_st, Destroy>;

  /// A thread's two pieces of pinned memory: one is filled while the other crosses the bus.
  struct Worker {
    std::byte* pinned = nullptr;
    std::array<Event, 2> sent;
    std::size_t turn = 0;

    void send(std::byte* to, const std::byte* from, std::size_t bytes) {
      std::byte* piece = pinned + turn * piece_bytes;
      check(cudaEventSynchronize(sent[turn].get()));
      std::memcpy(piece, from, bytes);
      check(cudaMemcpyAsync(to, piece, bytes, cudaMemcpyHostToDevice, nullptr));
      check(cudaEventRecord(sent[turn].get(), nullptr));
      turn = 1 - turn;
    }
  };

  void prepare() {
    check(cudaGetDevice(&device_));
    pool_.emplace(std::min(default_threads(), most_threads));
    const auto count = static_cast<std::size_t>(pool_->size());
    void* memory = nullptr;
    check(cudaHostAlloc(&memory, count * 2 * piece_bytes, cudaHostAllocDefault));
    pinned_.reset(static_cast<std::byte*>(memory));
    for (std::size_t i = 0; i < count; ++i) {
      Worker& worker = workers_.emplace_back();
      worker.pinned = pinned_.get() + i * 2 * piece_bytes;
      for (Event& event : worker.sent) {
        cudaEvent_t made = nullptr;
        check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
        event.reset(made);
      }
    }
  }
  void count_done(std::size_t bytes) {
    done_ += static_cast<std::int64_t>(bytes);
    if (progress_) progress_(done_);
  }
  static void check(cudaError_t status) { cuda::check(status, "copy of weights to the GPU"); }
  struct Unpin {
    void operator()(std::byte* memory) const noexcept { (void)cudaFreeHost(memory); }
  };
  std::function<void(std::int64_t)> progress_;
  std::int64_t done_ = 0;
  std::unique_ptr<std::byte, Unpin> pinned_;
  std::vector<Worker> workers_;
  int device_ = 0;
  Tensor<std::byte, Cuda> scratch_;
  std::optional<ThreadPool> pool_;
};

ZIYA_NAMESPACE_END

#endif
