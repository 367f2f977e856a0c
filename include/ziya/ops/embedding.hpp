// SPDX-License-Identifier: Apache-2.0
// Rows of a table.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "ziya/backend/cpu/embedding.hpp"
#include "ziya/backend/cuda/embedding.hpp"
#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

inline void check_ids(const char* op, std::span<const std::int32_t> ids, std::int64_t rows) {
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= rows) {
      throw ArgumentError("ZIYA-114", std::string(op) + ": id " + std::to_string(id) +
                                          " is outside the table of " + std::to_string(rows) +
                                          " rows");
    }
  }
}

/// y[t, :] = table[ids[t], :]
/// @param y (tokens, hidden)   @param table (vocabulary, hidden), of any type that weights have
/// @throws ShapeError; ArgumentError for an id outside the table
template <class Device, class T>
void embedding(Context<Device>& ctx, View<T, Device> y, const Weight<Device>& table,
               std::span<const std::int32_t> ids) {
  check_weight("embedding", table);
  check_extent("embedding", "width of y", y.columns(), table.columns);
  check_extent("embedding", "rows of y", y.rows(), static_cast<std::int64_t>(ids.size()));
  check_ids("embedding", ids, table.rows);
  backend::embedding(ctx, y, table, ids);
}

/// dtable[ids[t], :] += dy[t, :], tokens in order
/// @param dtable (vocabulary, hidden)   @param dy (tokens, hidden)
/// @throws ShapeError; ArgumentError for an id outside the table
template <class Device, class T>
void embedding_backward(Context<Device>& ctx, View<T, Device> dtable, In<T, Device> dy,
                        std::span<const std::int32_t> ids) {
  check_extent("embedding_backward", "width of dtable", dtable.columns(), dy.columns());
  check_extent("embedding_backward", "rows of dy", dy.rows(),
               static_cast<std::int64_t>(ids.size()));
  check_ids("embedding_backward", ids, dtable.rows());
  backend::embedding_backward(ctx, dtable, dy, ids);
}

}  // namespace ops
ZIYA_NAMESPACE_END
