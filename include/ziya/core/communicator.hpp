// SPDX-License-Identifier: Apache-2.0
// How tensor-parallel layers talk to each other; a null pointer means there is nobody else.
#pragma once

#include <cstdint>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// A plain table of functions, so that NCCL, MPI or threads of one process can stand behind it.
/// `data` lives on the device of the layer that calls.
struct Communicator {
  void* self = nullptr;
  int rank = 0;
  int size = 1;
  /// data[i] ← Σ over ranks of data[i], i < count, in the order of the ranks.
  void (*all_reduce_sum)(void* self, float* data, std::int64_t count) = nullptr;
  /// out[r · count + i] ← data[i] of rank r.
  void (*all_gather)(void* self, float* out, const float* data, std::int64_t count) = nullptr;
};

ZIYA_NAMESPACE_END
