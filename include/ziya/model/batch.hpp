// SPDX-License-Identifier: Apache-2.0
// The rows of one forward pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/shape.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN

/// Ragged rows of any number of sequences; rows of one sequence stand in the order of its tokens.
template <class T, class Device>
struct Batch {
  std::span<const std::int32_t> ids;        ///< (rows) token ids, or empty with `embeddings`
  View<const T, Device> embeddings{};       ///< (rows, hidden) instead of ids
  std::span<const std::int32_t> positions;  ///< (rows) rotary position of each row
  std::span<const std::int32_t> slots;      ///< (rows) sequence slot of each row
  std::span<const std::int32_t> outputs;    ///< rows whose hidden state is wanted, in any order

  [[nodiscard]] std::int64_t rows() const {
    return embeddings.empty() ? static_cast<std::int64_t>(ids.size()) : embeddings.rows();
  }
};

/// @param hidden what the rows of `batch.outputs` go to   @param width of the model
/// @throws ArgumentError, ShapeError for a batch whose parts do not belong together
template <class T, class Device>
void check_batch(const Batch<T, Device>& batch, View<T, Device> hidden, std::int64_t width) {
  const auto rows = static_cast<std::size_t>(batch.rows());
  if (rows == 0) throw ArgumentError("ZIYA-441", "forward: the batch has no rows");
  if (batch.positions.size() != rows || batch.slots.size() != rows) {
    throw ShapeError("ZIYA-442", "forward: " + std::to_string(rows) + " rows, but " +
                                     std::to_string(batch.positions.size()) + " positions and " +
                                     std::to_string(batch.slots.size()) + " slots");
  }
  if (!batch.embeddings.empty() && batch.embeddings.columns() != width) {
    throw ShapeError("ZIYA-442", "forward: embeddings are " +
                                     std::to_string(batch.embeddings.columns()) +
                                     " wide, expected " + std::to_string(width));
  }
  if (hidden.rows() != static_cast<std::int64_t>(batch.outputs.size()) ||
      hidden.columns() != width) {
    throw ShapeError("ZIYA-442", "forward: hidden is " + hidden.shape().to_string() +
                                     ", expected (" + std::to_string(batch.outputs.size()) + ", " +
                                     std::to_string(width) + ")");
  }
  for (const std::int32_t position : batch.positions) {
    if (position < 0) {
      throw ArgumentError("ZIYA-443", "forward: position " + std::to_string(position));
    }
  }
  for (const std::int32_t row : batch.outputs) {
    if (row < 0 || row >= batch.rows()) {
      throw ArgumentError("ZIYA-444", "forward: output " + std::to_string(row) + " of " +
                                          std::to_string(rows) + " rows");
    }
  }
}

ZIYA_NAMESPACE_END
