// SPDX-License-Identifier: Apache-2.0
// The door through which a backend may run a whole decode step by itself.
#pragma once

#include <cstdint>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// One step: `rows` sequences, one new token each, in host memory.
struct DecodeStep {
  const std::int32_t* ids = nullptr;        // (rows)
  const std::int32_t* positions = nullptr;  // (rows)
  const std::int32_t* slots = nullptr;      // (rows) sequence slots of the cache
  std::int64_t rows = 0;
  float* hidden = nullptr;  // (rows, hidden) after the final norm, on the device
};

/// A CUDA graph or one persistent kernel stands behind `run`; it returns false for a step that it
/// does not take (another number of rows, say), and the model then runs it op by op.
struct DecodeHook {
  void* self = nullptr;
  bool (*run)(void* self, const void* model, void* cache, const DecodeStep& step) = nullptr;
};

ZIYA_NAMESPACE_END
