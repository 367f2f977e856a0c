// SPDX-License-Identifier: Apache-2.0
// What a GPU can do at most, measured in the same run as what is held against it.
#pragma once

#include "ziya/backend/cuda/context.hpp"

namespace gpu {

/// Bytes per second of reading 4 GiB of memory once, or half of what is free, the best of several
/// passes.
double read_bandwidth(ziya::Context<ziya::Cuda>& ctx);

/// Operations per second of an 8192³ product on random operands, the median of ten.
/// @param dtype f32, f16, bf16, or f8_e4m3 with scales of rows and results in bf16
double matrix_rate(ziya::Context<ziya::Cuda>& ctx, ziya::DType dtype = ziya::DType::bf16);

/// Seconds between two points of a stream.
class Timer {
 public:
  explicit Timer(cudaStream_t stream);
  Timer(const Timer&) = delete;
  ~Timer();
  void begin();
  /// Waits for what was enqueued since `begin`.
  double end();

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace gpu
