// SPDX-License-Identifier: Apache-2.0
// Rows of any stored type as floats, exactly.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/quantize/decode_256.hpp"
#include "ziya/backend/cpu/quantize/decode_32.hpp"
#include "ziya/config.hpp"
#include "ziya/core/blocks.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace quantize {

/// Calls f(Block{}) with the block struct of a quantised type.
template <class F>
void with_block(DType dtype, F&& f) {
  switch (dtype) {
    case DType::q4_0:
      return f(blocks::Q4_0{});
    case DType::q4_1:
      return f(blocks::Q4_1{});
    case DType::q5_0:
      return f(blocks::Q5_0{});
    case DType::q5_1:
      return f(blocks::Q5_1{});
    case DType::q8_0:
      return f(blocks::Q8_0{});
    case DType::q2_k:
      return f(blocks::Q2_K{});
    case DType::q3_k:
      return f(blocks::Q3_K{});
    case DType::q4_k:
      return f(blocks::Q4_K{});
    case DType::q5_k:
      return f(blocks::Q5_K{});
    case DType::q6_k:
      return f(blocks::Q6_K{});
    case DType::iq4_nl:
      return f(blocks::IQ4_NL{});
    default:
      assert(false && "not a quantised type");
  }
}

template <class Stored>
void widen_row(const std::byte* from, float* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    Stored value;
    std::memcpy(&value, from + i * static_cast<std::int64_t>(sizeof value), sizeof value);
    out[i] = to_float(value);
  }
}

/// `count` elements, whole blocks of `dtype` from the address `from` (of any alignment), as floats:
/// f32, f16, bf16, i8 times `scale`, and every quantised type. Nothing is rounded but the one
/// subtraction of the types with minima.
void dequantise_row(DType dtype, const std::byte* from, float* out, std::int64_t count,
                    float scale = 1);
#if ZIYA_DEFINITIONS
ZIYA_INLINE void dequantise_row(DType dtype, const std::byte* from, float* out, std::int64_t count,
                                float scale) {
  assert(count % info(dtype).block_elements == 0);
  if (dtype == DType::f32) {
    std::memcpy(out, from, static_cast<std::size_t>(count) * sizeof(float));
  } else if (dtype == DType::f16) {
    widen_row<Half>(from, out, count);
  } else if (dtype == DType::bf16) {
    widen_row<BFloat16>(from, out, count);
  } else if (dtype == DType::i8) {
    const auto* values = reinterpret_cast<const std::int8_t*>(from);
    for (std::int64_t i = 0; i < count; ++i) out[i] = scale * static_cast<float>(values[i]);
  } else {
    with_block(dtype, [&](auto block) {
      const std::int64_t elements = info(dtype).block_elements;
      for (std::int64_t i = 0; i < count; i += elements, from += sizeof block) {
        std::memcpy(&block, from, sizeof block);
        decode(block, out + i);
      }
    });
  }
}
#endif

/// Elements that for_each_chunk hands out at once: a multiple of every block.
inline constexpr std::int64_t dequantised_chunk = 512;

/// f(first, values, n) for consecutive pieces of one row of any stored type, as floats on the
/// stack.
template <class F>
void for_each_chunk(DType dtype, const std::byte* row, std::int64_t count, float scale, F&& f) {
  float values[dequantised_chunk];
  for (std::int64_t i = 0; i < count; i += dequantised_chunk) {
    const std::int64_t n = std::min(dequantised_chunk, count - i);
    dequantise_row(dtype, row + bytes_of(dtype, i), values, n, scale);
    f(i, static_cast<const float*>(values), n);
  }
}

}  // namespace quantize
ZIYA_NAMESPACE_END
