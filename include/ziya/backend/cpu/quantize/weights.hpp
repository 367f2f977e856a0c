// SPDX-License-Identifier: Apache-2.0
// Whole matrices from and to floats on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/backend/cpu/quantize/dequantise_row.hpp"
#include "ziya/backend/cpu/quantize/quantise_row.hpp"
#include "ziya/config.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/weight.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

inline void dequantise(Context<Cpu>& ctx, View<float> y, const Weight<Cpu>& w) {
  ctx.parallel_for(w.rows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      quantize::dequantise_row(w.dtype, w.row(r), y.row(r), w.columns, w.row_scale(r));
    }
  });
}

/// What a Weight that owns its bytes holds on to.
struct OwnedRows {
  Tensor<std::byte> bytes;
  Tensor<float> scales;
};

/// Calls row(r, buffer) → floats of row r, from several threads; `buffer` has room for one row.
template <class Row>
Weight<Cpu> quantise(Context<Cpu>& ctx, DType dtype, std::int64_t rows, std::int64_t columns,
                     const float* importance, Row&& row) {
  Weight<Cpu> result{dtype, rows, columns, nullptr, nullptr};
  auto memory = std::make_shared<OwnedRows>();
  memory->bytes = Tensor<std::byte>(Shape{result.bytes()});
  if (dtype == DType::i8) memory->scales = Tensor<float>(Shape{rows});
  ctx.parallel_for(rows, [&](std::int64_t begin, std::int64_t end) {
    Tensor<float> buffer(Shape{columns});
    for (std::int64_t r = begin; r < end; ++r) {
      const float* values = row(r, buffer.data());
      std::byte* to = memory->bytes.data() + r * result.row_bytes();
      if (dtype == DType::i8) {
        memory->scales.data()[r] =
            quantize::quantise_i8_row(values, reinterpret_cast<std::int8_t*>(to), columns);
      } else {
        quantize::quantise_row(dtype, values, to, columns, importance);
      }
    }
  });
  result.data = memory->bytes.data();
  result.row_scales = memory->scales.data();
  result.owner = std::move(memory);
  return result;
}

inline Weight<Cpu> quantise(Context<Cpu>& ctx, DType dtype, View<const float> x,
                            const float* importance) {
  return quantise(ctx, dtype, x.rows(), x.columns(), importance,
                  [&](std::int64_t r, float*) { return x.row(r); });
}

/// The same matrix in another type, without all of it as floats.
inline Weight<Cpu> converted(Context<Cpu>& ctx, DType dtype, const Weight<Cpu>& w) {
  return quantise(ctx, dtype, w.rows, w.columns, nullptr, [&](std::int64_t r, float* buffer) {
    quantize::dequantise_row(w.dtype, w.row(r), buffer, w.columns, w.row_scale(r));
    return static_cast<const float*>(buffer);
  });
}

}  // namespace backend
ZIYA_NAMESPACE_END
