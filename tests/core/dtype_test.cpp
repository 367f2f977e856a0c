// SPDX-License-Identifier: Apache-2.0
// Conversions of 16-bit floats, exhaustively.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "ziya/core/dtype.hpp"

namespace dtype_test {

using ziya::BFloat16;
using ziya::Half;

double value_of_half(unsigned bits) {  // from the definition of binary16
  const double sign = bits & 0x8000u ? -1.0 : 1.0;
  const int exponent = static_cast<int>(bits >> 10 & 31u);
  const double fraction = static_cast<double>(bits & 1023u);
  if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
  return exponent == 0 ? sign * std::ldexp(fraction, -24)
                       : sign * std::ldexp(1024.0 + fraction, exponent - 25);
}

TEST_CASE("every half is widened exactly and comes back", "[dtype]") {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const Half half{static_cast<std::uint16_t>(bits)};
    const float wide = ziya::to_float(half);
    const double expected = value_of_half(bits);
    if (std::isnan(expected)) {
      REQUIRE(std::isnan(wide));
      REQUIRE(ziya::to_half(wide).bits == (bits | 0x200u));
      continue;
    }
    REQUIRE(static_cast<double>(wide) == expected);
    REQUIRE(std::signbit(wide) == ((bits & 0x8000u) != 0));
    REQUIRE(ziya::to_half(wide).bits == bits);
  }
}

TEST_CASE("narrowing to half rounds to nearest even", "[dtype]") {
  // Between any two neighbours: just below the middle, the middle, just above.
  for (unsigned bits = 0; bits < 0x7bff; ++bits) {
    const auto low = static_cast<float>(value_of_half(bits));
    const auto high = static_cast<float>(value_of_half(bits + 1));
    const float middle = (low + high) / 2;  // exact: half has 13 bits less
    const unsigned even = bits & 1u ? bits + 1 : bits;
    REQUIRE(ziya::to_half(middle).bits == even);
    REQUIRE(ziya::to_half(std::nextafter(middle, 0.0f)).bits == bits);
    REQUIRE(ziya::to_half(std::nextafter(middle, INFINITY)).bits == bits + 1);
    REQUIRE(ziya::to_half(-middle).bits == (even | 0x8000u));
  }
  REQUIRE(ziya::to_half(65519.0f).bits == 0x7bff);
  REQUIRE(ziya::to_half(65520.0f).bits == 0x7c00);
  REQUIRE(ziya::to_half(std::numeric_limits<float>::max()).bits == 0x7c00);
  REQUIRE(ziya::to_half(-INFINITY).bits == 0xfc00);
  REQUIRE(ziya::to_half(-0.0f).bits == 0x8000);
  REQUIRE(ziya::to_half(std::numeric_limits<float>::denorm_min()).bits == 0);
}

TEST_CASE("bfloat16 widens exactly and rounds to nearest even", "[dtype]") {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const BFloat16 b{static_cast<std::uint16_t>(bits)};
    const float wide = ziya::to_float(b);
    if (std::isnan(wide)) {
      REQUIRE(std::isnan(ziya::to_float(ziya::to_bfloat16(wide))));
      continue;
    }
    REQUIRE(ziya::to_bfloat16(wide).bits == bits);
  }
  const float one_ulp = 0x1p-7f;
  REQUIRE(ziya::to_bfloat16(1.0f + one_ulp / 2).bits == 0x3f80);
  REQUIRE(ziya::to_bfloat16(1.0f + one_ulp * 1.5f).bits == 0x3f82);
  REQUIRE(ziya::to_bfloat16(std::nextafter(1.0f + one_ulp / 2, 2.0f)).bits == 0x3f81);
  REQUIRE(ziya::to_bfloat16(std::numeric_limits<float>::max()).bits == 0x7f80);
}

TEST_CASE("types have names and sizes", "[dtype]") {
  for (const char* name : {"f32", "f16", "bf16", "f64", "i64", "i32", "i16", "i8", "u8", "bool",
                           "f8_e4m3"}) {
    const auto dtype = ziya::dtype_from_name(name);
    REQUIRE(dtype.has_value());
    REQUIRE(ziya::name(*dtype) == name);
  }
  REQUIRE_FALSE(ziya::dtype_from_name("f8").has_value());
  REQUIRE(ziya::info(ziya::DType::bf16).block_bytes == 2);
  static_assert(ziya::dtype_of<Half> == ziya::DType::f16);
}

}  // namespace dtype_test
