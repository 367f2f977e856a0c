// SPDX-License-Identifier: Apache-2.0
// Weights to the GPU at the rate of the slower of disk and bus.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "ziya/backend/cpu/thread_pool.hpp"
#include "ziya/backend/cuda/memory.hpp"
#include "ziya/backend/cuda/runtime.hpp"
#include "ziya/core/staging.hpp"
#include "ziya/core/tensor.hpp"

ZIYA_NAMESPACE_BEGIN

/// Threads read pieces into pinned memory, which is also what reads the disk, and send them on,
/// each at its own pace, while the caller allocates and kernels of the default stream reorder what
/// has arrived. Belongs to one thread and to its current GPU.
template <>
class Staging<Cuda> {
 public:
  /// @param progress (bytes read so far), called by the thread that copies
  /// @param read how the bytes at an address get into memory; called by several threads
  explicit Staging(std::function<void(std::int64_t)> progress = {}, StagedRead read = {})
      : progress_(std::move(progress)), read_(std::move(read)) {}
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      drop_pieces();
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    (void)cudaStreamSynchronize(nullptr);
  }

  /// Enqueues the copy, and waits where too much is enqueued. `from` stays as it is until `flush`;
  /// the bytes arrive before work that the default stream is given after `flush`.
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) {
    if (workers_.empty() && bytes < small_bytes) {
      ziya::copy(Cuda{}, to, Cpu{}, from, bytes);
      done_ += static_cast<std::int64_t>(bytes);
    } else {
      enqueue(to, from, bytes);
      wait_until([&] { return pieces_.size() <= most_ahead; });
    }
    if (progress_) progress_(done_);
  }
  /// Waits until everything has been read and sent.   @throws what reading or sending threw
  void flush() {
    wait_until([&] { return waiting_ == 0; });
    if (progress_) progress_(done_);
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
  void finish() {
    flush();
    check(cudaStreamSynchronize(nullptr));
  }

 private:
  static constexpr std::size_t piece_bytes = std::size_t{4} << 20;
  /// Pieces. A caller that goes on allocating keeps the driver from the threads that send.
  static constexpr std::size_t most_ahead = 64;
  static constexpr std::size_t small_bytes = std::size_t{1} << 20;  ///< not worth pinning

  struct Piece {
    std::byte* to;
    const std::byte* from;
    std::size_t bytes;
  };
  struct Destroy {
    void operator()(cudaEvent_t event) const noexcept { (void)cudaEventDestroy(event); }
  };
  using Event = std::unique_ptr<CUevent_st, Destroy>;

  /// A thread's two pieces of pinned memory: one is filled while the other crosses the bus.
  class Buffers {
   public:
    Buffers() : memory_(static_cast<std::byte*>(::operator new(2 * piece_bytes, alignment))) {
      std::memset(memory_.get(), 0, 2 * piece_bytes);  // every thread makes its own pages
      check(cudaHostRegister(memory_.get(), 2 * piece_bytes, cudaHostRegisterDefault));
      pinned_.reset(memory_.get());
      for (Event& event : sent_) {
        cudaEvent_t made = nullptr;
        check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
        event.reset(made);
      }
    }
    void send(const Piece& piece, const StagedRead& read) {
      std::byte* pinned = memory_.get() + turn_ * piece_bytes;
      check(cudaEventSynchronize(sent_[turn_].get()));
      if (read) {
        read(piece.from, {pinned, piece.bytes});
      } else {
        std::memcpy(pinned, piece.from, piece.bytes);
      }
      check(cudaMemcpyAsync(piece.to, pinned, piece.bytes, cudaMemcpyHostToDevice, nullptr));
      check(cudaEventRecord(sent_[turn_].get(), nullptr));
      turn_ = 1 - turn_;
    }
    /// Until the last copies have left the memory.
    ~Buffers() {
      for (const Event& event : sent_) (void)cudaEventSynchronize(event.get());
    }
    Buffers(const Buffers&) = delete;
    Buffers& operator=(const Buffers&) = delete;

   private:
    static constexpr std::align_val_t alignment{4096};
    struct Free {
      void operator()(std::byte* memory) const noexcept { ::operator delete(memory, alignment); }
    };
    struct Unpin {
      void operator()(std::byte* memory) const noexcept { (void)cudaHostUnregister(memory); }
    };
    std::unique_ptr<std::byte, Free> memory_;
    std::unique_ptr<std::byte, Unpin> pinned_;
    std::array<Event, 2> sent_;
    std::size_t turn_ = 0;
  };

  /// @throws what reading or sending threw
  template <class Condition>
  void wait_until(Condition condition) {
    std::unique_lock lock(mutex_);
    const auto ready = [&] { return error_ != nullptr || condition(); };
    while (!sent_.wait_for(lock, std::chrono::milliseconds(20), ready)) {
      if (progress_) progress_(done_);
    }
    if (error_ != nullptr) std::rethrow_exception(error_);
  }
  void enqueue(std::byte* to, const std::byte* from, std::size_t bytes) {
    if (workers_.empty()) {
      check(cudaGetDevice(&device_));
      // More buffers than this leave the processor's cache before they have crossed the bus.
      most_workers_ = static_cast<std::size_t>(std::clamp(default_threads() * 3 / 4, 1, 12));
    }
    std::size_t pieces;
    {
      const std::lock_guard lock(mutex_);
      for (std::size_t begin = 0; begin < bytes; begin += piece_bytes) {
        pieces_.push_back({to + begin, from + begin, std::min(piece_bytes, bytes - begin)});
        ++waiting_;
      }
      pieces = pieces_.size();
    }
    wake_.notify_all();
    while (workers_.size() < std::min(most_workers_, pieces)) {
      workers_.emplace_back([this] { work(); });
    }
  }
  void work() {
    bool holding = false;  // a piece
    try {
      set_current(Cuda{}, device_);
      Buffers buffers;
      std::unique_lock lock(mutex_);
      for (;;) {
        wake_.wait(lock, [&] { return stopping_ || !pieces_.empty(); });
        if (pieces_.empty()) return;
        const Piece piece = pieces_.front();
        pieces_.pop_front();
        if (pieces_.size() == most_ahead) sent_.notify_all();
        holding = true;
        lock.unlock();
        buffers.send(piece, read_);
        done_ += static_cast<std::int64_t>(piece.bytes);
        lock.lock();
        holding = false;
        if (--waiting_ == 0) sent_.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (error_ == nullptr) error_ = std::current_exception();
      if (holding) --waiting_;
      drop_pieces();
      sent_.notify_all();
    }
  }
  void drop_pieces() {
    waiting_ -= pieces_.size();
    pieces_.clear();
  }
  static void check(cudaError_t status) { cuda::check(status, "copy of weights to the GPU"); }

  std::function<void(std::int64_t)> progress_;
  StagedRead read_;
  std::atomic<std::int64_t> done_{0};
  int device_ = 0;
  std::size_t most_workers_ = 0;
  Tensor<std::byte, Cuda> scratch_;

  std::mutex mutex_;
  std::condition_variable wake_;  ///< there are pieces, or there will be none
  std::condition_variable sent_;  ///< few pieces wait, or none is left
  std::deque<Piece> pieces_;
  std::size_t waiting_ = 0;  ///< pieces that have not been sent
  std::exception_ptr error_;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

ZIYA_NAMESPACE_END

#endif
