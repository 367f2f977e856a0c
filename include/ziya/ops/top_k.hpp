// SPDX-License-Identifier: Apache-2.0
// The largest elements of a row.
#pragma once

#include <cstdint>
#include <span>

#include "ziya/backend/cpu/top_k.hpp"
#include "ziya/backend/cuda/top_k.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// The k = ids.size() largest elements of `row`, largest first; of equal ones the smaller index.
/// @param ids (k)   @param values (k)   @param row (n), n ≥ k   @throws ShapeError
template <class Device, class T>
void top_k(Context<Device>& ctx, std::span<std::int32_t> ids, std::span<float> values,
           View<T, Device> row) {
  check_extent("top_k", "number of values", static_cast<std::int64_t>(values.size()),
               static_cast<std::int64_t>(ids.size()));
  if (static_cast<std::int64_t>(ids.size()) > row.elements()) {
    check_extent("top_k", "k", static_cast<std::int64_t>(ids.size()), row.elements());
  }
  backend::top_k(ctx, ids, values, View<const float, Device>(row));
}

}  // namespace ops
ZIYA_NAMESPACE_END
