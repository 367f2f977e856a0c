// SPDX-License-Identifier: Apache-2.0
// What every op on the CPU needs: threads, the kernels of an instruction set, scratch memory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "ziya/backend/cpu/isa.hpp"
#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/thread_pool.hpp"
#include "ziya/config.hpp"
#include "ziya/core/decode_hook.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/workspace.hpp"
#if ZIYA_DEFINITIONS
#include "ziya/backend/cpu/baseline.hpp"
#include "ziya/backend/cpu/eigen.hpp"
#include "ziya/backend/cpu/x86/avx2.hpp"
#include "ziya/backend/cpu/x86/avx512.hpp"
#endif

ZIYA_NAMESPACE_BEGIN

struct CpuOptions {
  int threads = 0;           ///< 0: what affinity and the control group's quota allow
  std::optional<Isa> isa{};  ///< nothing: the best that the machine has
};

/// Belongs to one thread, which takes part in the work.
template <>
class Context<Cpu> {
 public:
  /// @throws ArgumentError for a negative number of threads or an instruction set not to be had
  /// here
  explicit Context(const CpuOptions& options = {});

  [[nodiscard]] int threads() const { return pool_->size(); }
  [[nodiscard]] Isa isa() const { return isa_; }
  [[nodiscard]] const CpuKernels& kernels() const;
  [[nodiscard]] Workspace<Cpu>& workspace() { return workspace_; }
  /// The CPU runs a step op by op.
  [[nodiscard]] const DecodeHook* decode_hook() const { return nullptr; }

  /// body(begin, end) on every thread: one contiguous part of [0, count) each, in multiples of
  /// `grain`. An exception in any of them is thrown here.
  template <class F>
  void parallel_for(std::int64_t count, F&& body, std::int64_t grain = 1) {
    pool_->run(count, std::forward<F>(body), grain);
  }
  /// body(thread, begin, end) with parts of [0, count) that the threads take in turn, of at least
  /// `least` while there are as many for each of them (ThreadPool::share_out).
  template <class F>
  void share_out(std::int64_t count, std::int64_t least, F&& body) {
    pool_->share_out(count, least, std::forward<F>(body));
  }

 private:
  static Isa checked(Isa isa);
  static int checked_threads(int threads);

  Isa isa_;
  std::unique_ptr<ThreadPool> pool_;
  Workspace<Cpu> workspace_;
};

#if ZIYA_DEFINITIONS
ZIYA_INLINE Context<Cpu>::Context(const CpuOptions& options)
    : isa_(checked(options.isa.value_or(best_isa()))),
      pool_(std::make_unique<ThreadPool>(checked_threads(options.threads))) {}

ZIYA_INLINE Isa Context<Cpu>::checked(Isa isa) {
  if (!is_available(isa)) {
    throw ArgumentError("ZIYA-111", "context: this machine has no " + std::string(name(isa)));
  }
  return isa;
}

ZIYA_INLINE int Context<Cpu>::checked_threads(int threads) {
  if (threads < 0 || threads > 4096) {
    throw ArgumentError("ZIYA-112", "context: " + std::to_string(threads) + " threads");
  }
  return threads == 0 ? default_threads() : threads;
}

ZIYA_INLINE const CpuKernels& Context<Cpu>::kernels() const {
  switch (isa_) {
#if ZIYA_X86
    case Isa::amx:
      return avx512::kernels<true, false>;
    case Isa::avx512:
      return has_fast_bf16() ? avx512::kernels<false, true> : avx512::kernels<false, false>;
    case Isa::avx2:
      return avx2::kernels;
#endif
    case Isa::eigen:
      return eigen::kernels;
    default:
      return baseline::kernels;
  }
}
#endif

ZIYA_NAMESPACE_END
