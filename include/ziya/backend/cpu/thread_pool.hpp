// SPDX-License-Identifier: Apache-2.0
// Threads that wait for work: they spin briefly, then sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "ziya/config.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

ZIYA_NAMESPACE_BEGIN

/// Processors this process may use: its affinity mask, cut by the quota of its control groups.
int default_threads();

/// A fixed number of threads, the calling one among them. `run` cuts a range into one contiguous
/// part for each, `share_out` into parts that they take in turn. A part that its thread has not
/// begun when the caller is done with its own is the caller's too, so a busy machine, which lets
/// threads wait, costs little. Belongs to one thread.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() { stop(); }

  [[nodiscard]] int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// body(begin, end) on every thread, parts of [0, count) that are multiples of `grain` but for
  /// the last. Returns when all are done; the first exception is thrown again here.
  template <class F>
  void run(std::int64_t count, F&& body, std::int64_t grain = 1) {
    const std::int64_t blocks = (count + grain - 1) / grain;
    if (workers_.empty() || blocks <= 1) {
      if (count > 0) body(std::int64_t{0}, count);
      return;
    }
    count_ = count, grain_ = grain;
    body_ = const_cast<void*>(static_cast<const void*>(&body));
    call_ = [](void* function, std::int64_t begin, std::int64_t end) {
      (*static_cast<std::remove_reference_t<F>*>(function))(begin, end);
    };
    pending_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    std::uint64_t generation = 0;
    {
      const std::lock_guard lock(mutex_);
      generation = generation_.fetch_add(1, std::memory_order_release) + 1;
    }
    if (sleepers_.load(std::memory_order_seq_cst) > 0) wake_.notify_all();
    part(0);
    for (int i = 1; i < size(); ++i) claim(i, generation);
    for (int spins = 0; pending_.load(std::memory_order_acquire) != 0; ++spins) pause(spins);
    if (error_) {
      std::exception_ptr error;
      std::swap(error, error_);
      std::rethrow_exception(error);
    }
  }

  /// body(thread, begin, end) on every thread, again and again until all of [0, count) is done: a
  /// part is the thread's share of half of what is left, so that all end together although one may
  /// be slower. `least` is the shortest part, while there are as many for every thread. Which
  /// thread gets which part changes from run to run.
  template <class F>
  void share_out(std::int64_t count, std::int64_t least, F&& body) {
    const std::int64_t threads = size();
    if (threads == 1) {
      if (count > 0) body(std::int64_t{0}, std::int64_t{0}, count);
      return;
    }
    next_.store(0, std::memory_order_relaxed);
    run(threads, [&](std::int64_t thread, std::int64_t) {
      for (std::int64_t begin = next_.load(std::memory_order_relaxed); begin < count;) {
        const std::int64_t left = count - begin;
        const std::int64_t end =
            begin + std::max(left / (2 * threads), std::min(least, (left + threads - 1) / threads));
        if (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
        body(thread, begin, end);
        begin = next_.load(std::memory_order_relaxed);
      }
    });
  }

 private:
  static constexpr int spin_limit = 20000;

  static void pause(int spins) {
#if ZIYA_X86
    __builtin_ia32_pause();
#endif
    if (spins % 256 == 255) std::this_thread::yield();
  }

  /// Runs a part unless another thread has begun it: of all who try, one moves the part's claim on
  /// to `generation`, and until pending_ is 0 no later one begins.
  void claim(int index, std::uint64_t generation) {
    std::uint64_t previous = generation - 1;
    if (!claims_[static_cast<std::size_t>(index)].compare_exchange_strong(
            previous, generation, std::memory_order_acq_rel)) {
      return;
    }
    part(index);
    pending_.fetch_sub(1, std::memory_order_release);
  }

  void part(int index) {
    const std::int64_t blocks = (count_ + grain_ - 1) / grain_;
    const std::int64_t threads = size();
    const std::int64_t begin = blocks * index / threads * grain_;
    const std::int64_t end = std::min(count_, blocks * (index + 1) / threads * grain_);
    if (begin >= end) return;
    try {
      call_(body_, begin, end);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void work(int index);
  void stop() noexcept;

  std::vector<std::thread> workers_;
  std::vector<std::atomic<std::uint64_t>> claims_;  // of each part: the last generation begun
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<std::int64_t> next_{0};  // begins what share_out has left
  std::atomic<int> pending_{0}, sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::int64_t count_ = 0, grain_ = 1;
  void* body_ = nullptr;
  void (*call_)(void*, std::int64_t, std::int64_t) = nullptr;
  std::exception_ptr error_;
};

#if ZIYA_DEFINITIONS
#if defined(__linux__)
/// Processors that the files of one control group allow (versions 2 and 1); 0 when unlimited.
inline double group_quota(const std::string& directory) {
  double quota = 0, period = 0;
  if (std::ifstream v2(directory + "/cpu.max"); v2 >> quota >> period && period > 0) {
    return quota / period;
  }
  std::ifstream(directory + "/cpu.cfs_quota_us") >> quota;
  std::ifstream(directory + "/cpu.cfs_period_us") >> period;
  return quota > 0 && period > 0 ? quota / period : 0;
}

/// The tightest quota from this process's groups up to their roots; 0 when there is none.
inline double process_quota() {
  double least = 0;
  std::string line;
  for (std::ifstream groups("/proc/self/cgroup"); std::getline(groups, line);) {
    // "0::/path" in version 2, "4:cpu,cpuacct:/path" in version 1
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = ',' + line.substr(first + 1, second - first - 1) + ',';
    if (controllers != ",," && controllers.find(",cpu,") == std::string::npos) continue;
    const std::string root = controllers == ",," ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      const double quota = group_quota(root + path);
      if (quota > 0 && (least == 0 || quota < least)) least = quota;
      if (path.find('/') == std::string::npos) break;
    }
  }
  return least;
}
#endif

ZIYA_INLINE int default_threads() {
  int count = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) count = std::max(1, CPU_COUNT(&mask));
  const double quota = process_quota();
  if (quota > 0) count = std::min(count, std::max(1, static_cast<int>(quota + 0.5)));
#endif
  return count;
}

ZIYA_INLINE ThreadPool::ThreadPool(int threads)
    : claims_(static_cast<std::size_t>(std::max(threads, 1))) {
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (...) {
    stop();
    throw;
  }
}

ZIYA_INLINE void ThreadPool::work(int index) {
  std::uint64_t seen = 0;
  while (true) {
    for (int spins = 0; spins < spin_limit; ++spins) {
      if (generation_.load(std::memory_order_acquire) != seen) break;
      pause(spins);
    }
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      sleepers_.fetch_sub(1);
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_acquire)) return;
    claim(index, seen);
  }
}

ZIYA_INLINE void ThreadPool::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_.store(true, std::memory_order_release);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}
#endif

ZIYA_NAMESPACE_END
