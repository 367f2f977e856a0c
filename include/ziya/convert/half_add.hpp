// SPDX-License-Identifier: Apache-2.0
// Arithmetic of a merge: rounding to half precision, and the sum of two arrays of halves.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/ops/add_halves.hpp"

ZIYA_NAMESPACE_BEGIN

namespace half_lanes {

// Four numbers at a time in the compilers' vector extension: one machine instruction per line on
// any processor, without naming one. Loops over single numbers are not vectorised by GCC, because a
// selected floating-point result might have trapped.
typedef std::int32_t Int __attribute__((vector_size(16)));
typedef std::int16_t Short __attribute__((vector_size(16)));
typedef float Float __attribute__((vector_size(16)));

/// The halves in the lower 16 bits of each number (all other bits 0). Exact.
inline Float widen(Int half) {
  const Int magnitude = half & 0x7fff;
  const Int sign = (half ^ magnitude) << 16;
  const Int special = (magnitude > 0x7bff) & (112 << 23);  // infinity, NaN: the largest exponent
  const Int normal = (magnitude << 13) + (112 << 23) + special;
  const Int subnormal = Int(__builtin_convertvector(magnitude, Float) * 0x1p-24f);
  const Int is_subnormal = magnitude < 0x400;
  return Float((is_subnormal & subnormal) | (~is_subnormal & normal) | sign);
}

/// To nearest, ties to even, in the lower 16 bits of each number. NaN becomes 0x7e00 or 0xfe00.
/// Adding 0.5 to a number below 2^-14 leaves its half-precision fraction in the lowest bits of
/// the sum, rounded by the addition itself.
inline Int narrow(Float value) {
  const Int bits = Int(value), magnitude = bits & 0x7fffffff;
  const Int subnormal = Int(Float(magnitude) + 0.5f) - 0x3f000000;
  const Int normal = (magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Int special = 0x7c00 | ((magnitude > 0x7f800000) & 0x200);
  const Int is_subnormal = magnitude<0x38800000, is_special = magnitude> 0x477fffff;
  const Int finite = (is_subnormal & subnormal) | (~is_subnormal & normal);
  return (is_special & special) | (~is_special & finite) | ((bits >> 16) & 0x8000);
}

/// `sum` with the NaN that everybody gives: quiet, with the sign of a where that is NaN, else of b,
/// else (of infinities) negative. What an addition gives depends on the order of its operands,
/// which compilers change.
inline Short with_one_nan(Short sum, Short a, Short b) {
  const Short largest = (Short{} + 0x7fff), infinity = (Short{} + 0x7c00);
  const Short of_a = (a & largest) > infinity, of_b = (b & largest) > infinity;
  const Short signs = (of_a & a) | (~of_a & ((of_b & b) | ~of_b));
  const Short is_nan = (sum & largest) > infinity;
  return (~is_nan & sum) | (is_nan & ((signs & ~largest) | 0x7e00));
}

/// Eight halves: the even and the odd ones, without moving any between lanes.
inline void add_eight(Half* out, const Half* a, const Half* b) {
  Int x, y;
  std::memcpy(&x, a, sizeof x);
  std::memcpy(&y, b, sizeof y);
  const Int even = narrow(widen(x & 0xffff) + widen(y & 0xffff));
  const Int odd = narrow(widen((x >> 16) & 0xffff) + widen((y >> 16) & 0xffff));
  const Short both = with_one_nan(Short(even | (odd << 16)), Short(x), Short(y));
  std::memcpy(static_cast<void*>(out), &both, sizeof both);
}

}  // namespace half_lanes

/// out[i] = fp16(a[i] + b[i]): the sum in fp32, rounded once to nearest, ties to even, which is
/// the sum in fp16; a sum that is NaN is half_lanes::with_one_nan's. `out` may be `a` or `b`.
inline void add_half(std::span<Half> out, std::span<const Half> a, std::span<const Half> b) {
  std::size_t i = ops::add_halves(out, a, b);
  for (; i + 8 <= out.size(); i += 8) {
    half_lanes::add_eight(out.data() + i, a.data() + i, b.data() + i);
  }
  if (i == out.size()) return;
  Half x[8] = {}, y[8] = {};
  std::copy(a.begin() + static_cast<std::ptrdiff_t>(i), a.end(), x);
  std::copy(b.begin() + static_cast<std::ptrdiff_t>(i), b.end(), y);
  half_lanes::add_eight(x, x, y);
  std::copy_n(x, out.size() - i, out.begin() + static_cast<std::ptrdiff_t>(i));
}

/// How many of `values` are infinite or NaN.
inline std::int64_t count_non_finite(std::span<const Half> values) {
  std::int64_t count = 0;
  std::size_t i = 0;
  while (i + 8 <= values.size()) {
    half_lanes::Short found{};  // per lane; the inner loop ends before a lane overflows
    const std::size_t end = i + std::min<std::size_t>((values.size() - i) / 8, 30000) * 8;
    for (; i < end; i += 8) {
      half_lanes::Short eight;
      std::memcpy(&eight, values.data() + i, sizeof eight);
      found -= (eight & 0x7c00) == 0x7c00;
    }
    for (int lane = 0; lane < 8; ++lane) count += found[lane];
  }
  for (; i < values.size(); ++i) count += (values[i].bits & 0x7c00) == 0x7c00;
  return count;
}

namespace detail {

template <class T>
void round_to_half(std::span<Half> out, const std::byte* data) {
  std::size_t i = 0;
  T four[4];
  for (; i + 4 <= out.size(); i += 4) {
    std::memcpy(four, data + i * sizeof(T), sizeof four);
    half_lanes::Float wide;
    for (int j = 0; j < 4; ++j) {
      if constexpr (sizeof(T) == 8) {
        wide[j] = static_cast<float>(four[j]);  // as PyTorch: through fp32, rounded twice
      } else {
        wide[j] = to_float(four[j]);
      }
    }
    const half_lanes::Int narrow = half_lanes::narrow(wide);
    for (int j = 0; j < 4; ++j) out[i + j] = {static_cast<std::uint16_t>(narrow[j])};
  }
  for (; i < out.size(); ++i) {
    std::memcpy(four, data + i * sizeof(T), sizeof(T));
    if constexpr (sizeof(T) == 8) {
      out[i] = to_half(static_cast<float>(four[0]));
    } else {
      out[i] = to_half(to_float(four[0]));
    }
  }
}

}  // namespace detail

/// out[i] = fp16(data[i]) for floating-point `dtype`; halves are copied as they are.
/// @param data out.size() elements of `dtype`   @throws ArgumentError ZIYA-608 for other types
inline void round_to_half(std::span<Half> out, const std::byte* data, DType dtype) {
  switch (dtype) {
    case DType::f16:
      if (!out.empty()) std::memcpy(static_cast<void*>(out.data()), data, out.size_bytes());
      return;
    case DType::f32:
      return detail::round_to_half<float>(out, data);
    case DType::bf16:
      return detail::round_to_half<BFloat16>(out, data);
    case DType::f64:
      return detail::round_to_half<double>(out, data);
    default:
      throw ArgumentError("ZIYA-608", "merge: " + std::string(name(dtype)) +
                                          " cannot be rounded to half precision");
  }
}

ZIYA_NAMESPACE_END
