// SPDX-License-Identifier: Apache-2.0
// The door through which a backend may run a whole decode step by itself.
#pragma once

#include <cstdint>
#include <span>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN

/// One step: `rows` sequences, one new token each, in host memory.
struct DecodeStep {
  const std::int32_t* ids = nullptr;        // (rows)
  const std::int32_t* positions = nullptr;  // (rows)
  const std::int32_t* slots = nullptr;      // (rows) sequence slots of the cache
  std::int64_t rows = 0;
  DType dtype = DType::f32;  // of activations
  void* hidden = nullptr;    // (rows, hidden) after the final norm, on the device
};

/// A CUDA graph or one persistent kernel stands behind `run`; it returns false for a step that it
/// does not take (another number of rows, say), and the model then runs it op by op.
struct DecodeHook {
  void* self = nullptr;
  bool (*run)(void* self, const void* model, void* cache, const DecodeStep& step) = nullptr;
};

/// What changes from one step to the next and a captured step reads where it lies on the device.
struct StepArrays {
  std::span<const std::int32_t> ids, positions, slots;  ///< (rows)
  std::span<const std::int64_t> places;                 ///< (rows) index within the slot
  std::span<const std::int64_t> visible;                ///< (rows) tokens that a row attends to
  const std::int32_t* block_table = nullptr;            ///< (slots, table_stride)
  std::int64_t table_stride = 0;
};

ZIYA_NAMESPACE_END
