// SPDX-License-Identifier: Apache-2.0
// Element types: IEEE half and bfloat16 with exact conversions, and the run-time type tag.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// IEEE 754 binary16: 1 sign, 5 exponent, 10 fraction bits.
struct Half {
  std::uint16_t bits = 0;
};

/// The upper half of a binary32: 1 sign, 8 exponent, 7 fraction bits.
struct BFloat16 {
  std::uint16_t bits = 0;
};

constexpr float to_float(float value) { return value; }

constexpr float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

/// Exact; subnormals, infinities and NaN payloads survive.
constexpr float to_float(Half value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const std::uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero or subnormal, exact
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

/// Rounds to nearest, ties to even; overflow becomes infinity; NaN stays NaN (made quiet).
constexpr BFloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

/// Rounds to nearest, ties to even; overflow becomes infinity; NaN stays NaN (made quiet).
constexpr Half to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return {static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu))};
  }
  if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
  if (magnitude >= 0x38800000u) {  // normal half: drop 13 bits, rounding carries into the exponent
    const std::uint32_t rebased = magnitude - (112u << 23);
    return {static_cast<std::uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13))};
  }
  if (magnitude < 0x33000000u) return {sign};  // below half of the smallest subnormal
  const std::uint32_t exponent = magnitude >> 23;
  const std::uint32_t fraction = (magnitude & 0x7fffffu) | 0x800000u;
  const std::uint32_t shift = 126u - exponent;  // 14 … 24
  const std::uint32_t kept = fraction >> shift;
  const std::uint32_t rest = fraction & ((1u << shift) - 1u);
  const std::uint32_t tie = 1u << (shift - 1u);
  const std::uint32_t up = (rest > tie || (rest == tie && (kept & 1u))) ? 1u : 0u;
  return {static_cast<std::uint16_t>(sign | (kept + up))};
}

/// How the elements of a tensor are stored. The quantised types (core/blocks.hpp) are GGUF's;
/// f8_e4m3 has 1 sign, 4 exponent (bias 7) and 3 fraction bits, no infinity, and NaN where all but
/// the sign are set: 448 is the largest number (Micikevicius et al., arXiv 2209.05433).
enum class DType : std::uint8_t {
  f32,
  f16,
  bf16,
  f64,
  i64,
  i32,
  i16,
  i8,
  u8,
  boolean,
  f8_e4m3,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl
};

inline constexpr int dtype_count = static_cast<int>(DType::iq4_nl) + 1;

/// `block_bytes` bytes hold `block_elements` elements; 1 of them but for quantised types.
struct DTypeInfo {
  std::string_view name;
  std::int64_t block_elements;
  std::int64_t block_bytes;
};

inline constexpr std::array<DTypeInfo, dtype_count> dtype_table{
    {{"f32", 1, 4},      {"f16", 1, 2},      {"bf16", 1, 2},     {"f64", 1, 8},
     {"i64", 1, 8},      {"i32", 1, 4},      {"i16", 1, 2},      {"i8", 1, 1},
     {"u8", 1, 1},       {"bool", 1, 1},     {"f8_e4m3", 1, 1},  {"q4_0", 32, 18},
     {"q4_1", 32, 20},   {"q5_0", 32, 22},   {"q5_1", 32, 24},   {"q8_0", 32, 34},
     {"q2_k", 256, 84},  {"q3_k", 256, 110}, {"q4_k", 256, 144}, {"q5_k", 256, 176},
     {"q6_k", 256, 210}, {"iq4_nl", 32, 18}}};

constexpr DTypeInfo info(DType dtype) { return dtype_table.at(static_cast<std::size_t>(dtype)); }

constexpr std::string_view name(DType dtype) { return info(dtype).name; }

/// The type called `name` ("f16", "bf16", …), or nothing.
constexpr std::optional<DType> dtype_from_name(std::string_view name) {
  for (int i = 0; i < dtype_count; ++i) {
    if (info(static_cast<DType>(i)).name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

constexpr bool is_float(DType dtype) { return dtype <= DType::f64; }
/// What arithmetic reads as it is: f32, f16, bf16.
constexpr bool is_plain_float(DType dtype) { return dtype <= DType::bf16; }
constexpr bool is_quantised(DType dtype) { return dtype >= DType::q4_0; }

/// Bytes of `elements` elements, whole blocks of them.
constexpr std::int64_t bytes_of(DType dtype, std::int64_t elements) {
  return elements / info(dtype).block_elements * info(dtype).block_bytes;
}

/// The tag of an element type known at compile time.
template <class T>
inline constexpr DType dtype_of = [] {
  static_assert(sizeof(T) == 0, "not an element type");
  return DType::f32;
}();
template <>
inline constexpr DType dtype_of<float> = DType::f32;
template <>
inline constexpr DType dtype_of<Half> = DType::f16;
template <>
inline constexpr DType dtype_of<BFloat16> = DType::bf16;
template <>
inline constexpr DType dtype_of<double> = DType::f64;

ZIYA_NAMESPACE_END
