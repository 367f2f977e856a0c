// SPDX-License-Identifier: Apache-2.0
// top_k on the CPU.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

inline void top_k(Context<Cpu>& ctx, std::span<std::int32_t> ids, std::span<float> values,
                  View<const float> row) {
  Workspace<Cpu>::Scope scope(ctx.workspace());
  const View<std::int32_t> order = ctx.workspace().take<std::int32_t>({row.elements()});
  std::int32_t* first = order.data();
  std::int32_t* last = first + row.elements();
  std::iota(first, last, 0);
  const float* x = row.data();
  // NaN counts as the smallest, because an order needs every pair to compare.
  const auto before = [x](std::int32_t a, std::int32_t b) {
    const bool a_number = x[a] == x[a], b_number = x[b] == x[b];
    if (a_number != b_number) return a_number;
    return x[a] > x[b] || (!(x[a] < x[b]) && a < b);
  };
  const auto k = static_cast<std::ptrdiff_t>(ids.size());
  std::partial_sort(first, first + k, last, before);
  for (std::ptrdiff_t i = 0; i < k; ++i) {
    ids[static_cast<std::size_t>(i)] = first[i];
    values[static_cast<std::size_t>(i)] = x[first[i]];
  }
}

}  // namespace backend
ZIYA_NAMESPACE_END
