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
/// each at its own pace, while the caller allocates and kernels reorder what has arrived. Belongs
/// to one thread and to its current GPU.
template <>
class Staging<Cuda> {
 public:
  /// Enqueues what reads `stored`, bytes [begin, begin + bytes) of a source.
  using Order = std::function<void(const std::byte* stored, std::size_t begin, std::size_t bytes,
                                   cudaStream_t)>;

  /// @param progress (bytes read so far), called by the thread that copies
  /// @param read how the bytes at an address get into memory
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

  /// Enqueues the copy, and waits where too much is enqueued. `from` stays as it is until `finish`,
  /// or as long as it has an `owner`.
  void copy(std::byte* to, const std::byte* from, std::size_t bytes,
            std::shared_ptr<const void> owner = {}) {
    if (workers_.empty() && bytes < small_bytes) {
      ziya::copy(Cuda{}, to, Cpu{}, from, bytes);
      done_ += static_cast<std::int64_t>(bytes);
    } else {
      enqueue({to, from, bytes, 0, std::move(owner), nullptr}, piece_bytes);
    }
    if (progress_) progress_(done_);
  }
  /// The same for what is kept in another order: `order`, called by the threads, is given one or
  /// more `unit`s (bytes) at a time, in memory that is theirs.
  void copy_in_order(const std::byte* from, std::size_t bytes, std::size_t unit, Order order,
                     std::shared_ptr<const void> owner = {}) {
    if ((workers_.empty() && bytes < small_bytes) || unit > piece_bytes) {
      Tensor<std::byte, Cuda> stored(Shape{static_cast<std::int64_t>(bytes)});
      ziya::copy(Cuda{}, stored.data(), Cpu{}, from, bytes);
      order(stored.data(), 0, bytes, nullptr);
      check(cudaStreamSynchronize(nullptr));
      done_ += static_cast<std::int64_t>(bytes);
    } else {
      if (orders_ == nullptr) {
        cudaStream_t stream = nullptr;
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        orders_.reset(stream);
      }
      enqueue({nullptr, from, bytes, 0, std::move(owner),
               std::make_shared<const Order>(std::move(order))},
              piece_bytes / unit * unit);
    }
    if (progress_) progress_(done_);
  }
  /// Waits until everything has arrived and is in order.
  /// @throws what reading threw   @throws BackendError for what failed on the way
  void finish() {
    wait_until([&] { return waiting_ == 0; });
    if (progress_) progress_(done_);
    check(cudaStreamSynchronize(nullptr));
    if (orders_ != nullptr) check(cudaStreamSynchronize(orders_.get()));
  }

 private:
  static constexpr std::size_t piece_bytes = std::size_t{4} << 20;
  /// Pieces. A caller that goes on allocating keeps the driver from the threads that send.
  static constexpr std::size_t most_ahead = 64;
  static constexpr std::size_t small_bytes = std::size_t{1} << 20;  ///< not worth pinning

  struct Piece {
    std::byte* to;
    const std::byte* from;
    std::size_t bytes, begin;            ///< where in its source
    std::shared_ptr<const void> owner;   ///< of the source
    std::shared_ptr<const Order> order;  ///< in place of `to`
  };
  struct Destroy {
    void operator()(cudaEvent_t event) const noexcept { (void)cudaEventDestroy(event); }
    void operator()(cudaStream_t stream) const noexcept { (void)cudaStreamDestroy(stream); }
  };
  using Event = std::unique_ptr<CUevent_st, Destroy>;
  using Stream = std::unique_ptr<CUstream_st, Destroy>;

  /// A thread's two pieces of pinned memory: one is filled while the other crosses the bus.
  class Buffers {
   public:
    explicit Buffers(const StagedRead& read)
        : read_(read),
          memory_(static_cast<std::byte*>(::operator new(2 * piece_bytes, alignment))) {
      if (read_.prepare) read_.prepare({memory_.get(), 2 * piece_bytes});
      std::memset(memory_.get(), 0, 2 * piece_bytes);  // every thread makes its own pages
      check(cudaHostRegister(memory_.get(), 2 * piece_bytes, cudaHostRegisterDefault));
      pinned_.reset(memory_.get());
      for (Event& event : arrived_) event = make_event();
      for (Event& event : free_) event = make_event();
    }
    /// @param orders the stream of what puts pieces in order
    void send(const Piece& piece, cudaStream_t orders) {
      std::byte* pinned = memory_.get() + turn_ * piece_bytes;
      check(cudaEventSynchronize(free_[turn_].get()));
      if (read_.fill) {
        read_.fill(piece.from, {pinned, piece.bytes});
      } else {
        std::memcpy(pinned, piece.from, piece.bytes);
      }
      if (piece.order == nullptr) {
        send(piece.to, pinned, piece.bytes);
        check(cudaEventRecord(free_[turn_].get(), nullptr));
      } else {
        if (stored_.empty()) stored_ = Tensor<std::byte, Cuda>(Shape{2 * piece_bytes});
        std::byte* stored = stored_.data() + turn_ * piece_bytes;
        send(stored, pinned, piece.bytes);
        check(cudaEventRecord(arrived_[turn_].get(), nullptr));
        check(cudaStreamWaitEvent(orders, arrived_[turn_].get()));
        (*piece.order)(stored, piece.begin, piece.bytes, orders);
        check(cudaEventRecord(free_[turn_].get(), orders));
      }
      turn_ = 1 - turn_;
    }
    /// Until the last copies have left the memory.
    ~Buffers() {
      for (const Event& event : free_) (void)cudaEventSynchronize(event.get());
    }
    Buffers(const Buffers&) = delete;
    Buffers& operator=(const Buffers&) = delete;

   private:
    static constexpr std::align_val_t alignment{std::size_t{2} << 20};
    static void send(std::byte* to, const std::byte* pinned, std::size_t bytes) {
      check(cudaMemcpyAsync(to, pinned, bytes, cudaMemcpyHostToDevice, nullptr));
    }
    static Event make_event() {
      cudaEvent_t event = nullptr;
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
      return Event(event);
    }
    struct Free {
      void operator()(std::byte* memory) const noexcept { ::operator delete(memory, alignment); }
    };
    struct Unpin {
      void operator()(std::byte* memory) const noexcept { (void)cudaHostUnregister(memory); }
    };
    const StagedRead& read_;
    std::unique_ptr<std::byte, Free> memory_;
    std::unique_ptr<std::byte, Unpin> pinned_;
    Tensor<std::byte, Cuda> stored_;  ///< what is put in order from here
    std::array<Event, 2> arrived_, free_;
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
  /// @param whole of a source   @param most bytes of a piece
  void enqueue(const Piece& whole, std::size_t most) {
    if (workers_.empty()) {
      check(cudaGetDevice(&device_));
      // More buffers than this leave the processor's cache before they have crossed the bus.
      most_workers_ = static_cast<std::size_t>(std::clamp(default_threads() * 3 / 4, 1, 12));
    }
    std::size_t pieces;
    {
      const std::lock_guard lock(mutex_);
      for (std::size_t begin = 0; begin < whole.bytes; begin += most) {
        Piece& piece = pieces_.emplace_back(whole);
        if (piece.to != nullptr) piece.to += begin;
        piece.from += begin;
        piece.begin = begin;
        piece.bytes = std::min(most, whole.bytes - begin);
        ++waiting_;
      }
      pieces = pieces_.size();
    }
    wake_.notify_all();
    while (workers_.size() < std::min(most_workers_, pieces)) {
      workers_.emplace_back([this] { work(); });
    }
    wait_until([&] { return pieces_.size() <= most_ahead; });
  }
  void work() {
    bool holding = false;  // a piece
    try {
      set_current(Cuda{}, device_);
      Buffers buffers(read_);
      std::unique_lock lock(mutex_);
      for (;;) {
        wake_.wait(lock, [&] { return stopping_ || !pieces_.empty(); });
        if (pieces_.empty()) return;
        {
          const Piece piece = std::move(pieces_.front());
          pieces_.pop_front();
          if (pieces_.size() == most_ahead) sent_.notify_all();
          holding = true;
          lock.unlock();
          buffers.send(piece, piece.order == nullptr ? nullptr : orders_.get());
          done_ += static_cast<std::int64_t>(piece.bytes);
        }  // what it owned is given back while others go on
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
  Stream orders_;  ///< beside the default stream, in which copies would wait for its kernels

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
