// SPDX-License-Identifier: Apache-2.0
// Where the blocks of quantised weights lie on a GPU.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <cstdint>

#include "ziya/core/dtype.hpp"
#include "ziya/core/weight.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr std::int64_t panel_rows = 16;

// A GPU holds quantised weights as panels: 16 rows × 128 columns (256 of the K types), the panels
// of 16 rows one after another. A panel has the bytes of its blocks, in the order in which a warp
// wants them for its tensor cores.
constexpr std::int64_t panel_columns(DType dtype) {
  return info(dtype).block_elements == 256 ? 256 : 128;
}
constexpr std::int64_t panels_in(DType dtype, std::int64_t columns) {
  return (columns + panel_columns(dtype) - 1) / panel_columns(dtype);
}
/// Bytes of `rows` rows; what a matrix lacks to whole panels is zeros.
constexpr std::int64_t bytes_on_gpu(DType dtype, std::int64_t rows, std::int64_t columns) {
  if (!is_quantised(dtype)) return rows * bytes_of(dtype, columns);
  const std::int64_t bands = (rows + panel_rows - 1) / panel_rows;
  return bands * panels_in(dtype, columns) * panel_rows * bytes_of(dtype, panel_columns(dtype));
}
/// Rows [begin, begin + count); of a quantised type, `begin` is a multiple of 16.
inline Weight<Cuda> rows_of(const Weight<Cuda>& w, std::int64_t begin, std::int64_t count) {
  return {w.dtype,
          count,
          w.columns,
          w.data + bytes_on_gpu(w.dtype, begin, w.columns),
          nullptr,
          w.row_scales == nullptr ? nullptr : w.row_scales + begin};
}

}  // namespace cuda
ZIYA_NAMESPACE_END

#endif
