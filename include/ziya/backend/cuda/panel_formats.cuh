// SPDX-License-Identifier: Apache-2.0
// Which quantised types lie in panels, and what their numbers are made of.
#pragma once

#include <type_traits>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/panel_scales.cuh"
#include "ziya/core/blocks.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// w = scale · (q − offset) − min, q of 2, 4 or 8 low bits and some high ones, or a byte with a
/// sign that q names in a table; `run`: adjacent columns that one lane has, 4 where scales and
/// minima belong to 16 columns.
template <int LowBits, int HighBits, int Offset, bool Minimum, int Run, class ScalesType,
          bool Table = false>
struct PanelFormat {
  static constexpr int low_bits = LowBits, high_bits = HighBits, offset = Offset, run = Run;
  static constexpr bool minimum = Minimum, table = Table;
  /// Whether q times the integer of its scale fits into 8 bits.
  static constexpr bool scaled_bytes = std::is_same_v<ScalesType, FourBitScales> && LowBits == 2;
  /// Whether the product is a whole number of 11 bits.
  static constexpr bool exact_products = ScalesType::small;
  using Scales = ScalesType;
};
template <class Block>
struct FormatOf;
template <>
struct FormatOf<blocks::Q4_0> : PanelFormat<4, 0, 8, false, 8, HalfScales> {};
template <>
struct FormatOf<blocks::Q4_1> : PanelFormat<4, 0, 0, true, 8, HalfPairScales> {};
template <>
struct FormatOf<blocks::Q5_0> : PanelFormat<4, 1, 16, false, 8, HalfScales> {};
template <>
struct FormatOf<blocks::Q5_1> : PanelFormat<4, 1, 0, true, 8, HalfPairScales> {};
template <>
struct FormatOf<blocks::Q8_0> : PanelFormat<8, 0, 128, false, 8, HalfScales> {};
template <>
struct FormatOf<blocks::IQ4_NL> : PanelFormat<4, 0, 128, false, 8, HalfScales, true> {};
template <>
struct FormatOf<blocks::Q2_K> : PanelFormat<2, 0, 0, true, 4, FourBitScales> {};
template <>
struct FormatOf<blocks::Q3_K> : PanelFormat<2, 1, 4, false, 4, SixBitScales> {};
template <>
struct FormatOf<blocks::Q4_K> : PanelFormat<4, 0, 0, true, 8, SixBitPairScales> {};
template <>
struct FormatOf<blocks::Q5_K> : PanelFormat<4, 1, 0, true, 8, SixBitPairScales> {};
template <>
struct FormatOf<blocks::Q6_K> : PanelFormat<4, 2, 32, false, 4, ByteScales> {};

/// f(Block{}) of a quantised type.
template <class F>
ZIYA_HIDDEN void with_panels(DType dtype, F&& f) {
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
    case DType::iq4_nl:
      return f(blocks::IQ4_NL{});
    case DType::q2_k:
      return f(blocks::Q2_K{});
    case DType::q3_k:
      return f(blocks::Q3_K{});
    case DType::q4_k:
      return f(blocks::Q4_K{});
    case DType::q5_k:
      return f(blocks::Q5_K{});
    default:
      return f(blocks::Q6_K{});
  }
}

}  // namespace cuda
ZIYA_NAMESPACE_END
