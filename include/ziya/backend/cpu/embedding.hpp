// SPDX-License-Identifier: Apache-2.0
// embedding on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/backend/cpu/quantize/dequantise_row.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/weight.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

inline void embedding(Context<Cpu>& ctx, View<float> y, const Weight<Cpu>& table,
                      std::span<const std::int32_t> ids) {
  ctx.parallel_for(y.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t row = ids[static_cast<std::size_t>(t)];
      quantize::dequantise_row(table.dtype, table.row(row), y.row(t), y.columns(),
                               table.row_scale(row));
    }
  });
}

inline void embedding_backward(Context<Cpu>&, View<float> dtable, View<const float> dy,
                               std::span<const std::int32_t> ids) {
  for (std::int64_t t = 0; t < dy.rows(); ++t) {
    float* row = dtable.row(ids[static_cast<std::size_t>(t)]);
    for (std::int64_t j = 0; j < dy.columns(); ++j) row[j] += dy.row(t)[j];
  }
}

}  // namespace backend
ZIYA_NAMESPACE_END
