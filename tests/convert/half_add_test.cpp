// SPDX-License-Identifier: Apache-2.0
// The arithmetic of a merge against the definition of binary16, in double.
#include "ziya/convert/half_add.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "support/errors.hpp"
#include "ziya/core/random.hpp"

namespace half_add_test {

using ziya::Half;

double value_of(Half half) {
  const double sign = (half.bits & 0x8000) != 0 ? -1 : 1;
  const int exponent = half.bits >> 10 & 31, fraction = half.bits & 1023;
  if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
  return exponent == 0 ? sign * std::ldexp(fraction, -24)
                       : sign * std::ldexp(1024 + fraction, exponent - 25);
}

/// To nearest, ties to even: a half below 2^e has steps of 2^(e-11), of 2^-24 at least.
Half rounded(double value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  if (std::isnan(value)) return {0x7e00};
  const double magnitude = std::abs(value);
  if (magnitude == 0) return {sign};
  if (magnitude >= 65520) return {static_cast<std::uint16_t>(sign | 0x7c00)};
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  const int step = magnitude == 0 ? -24 : std::max(exponent - 11, -24);
  const auto count = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -step)));
  // One step above 1023 at the lowest exponent, or 2047 above it, carries by itself.
  const int bits = step == -24 ? count : (step + 24) * 1024 + count;
  return {static_cast<std::uint16_t>(sign | bits)};
}

bool same(Half a, Half b) {
  const auto nan = [](Half half) { return (half.bits & 0x7fff) > 0x7c00; };
  return nan(a) ? nan(b) : a.bits == b.bits;
}

TEST_CASE("sums of halves are rounded once, whatever the two are", "[half_add]") {
  ziya::Random random{7};
  std::vector<Half> a, b;
  for (unsigned i = 0; i < 65536; ++i) {
    for (const unsigned other : {i, i ^ 0x8000u, 0u, 0x8000u, 1u, 0x8001u, 0x7bffu, 0x7c00u}) {
      a.push_back({static_cast<std::uint16_t>(i)});
      b.push_back({static_cast<std::uint16_t>(other)});
    }
    const auto bits = random.bits();
    a.push_back({static_cast<std::uint16_t>(bits)});
    b.push_back({static_cast<std::uint16_t>(bits >> 16)});
    a.push_back({static_cast<std::uint16_t>(bits >> 32)});  // of similar size: ties occur
    b.push_back({static_cast<std::uint16_t>((bits >> 32) + (bits >> 62) * 0x400 + (bits & 3))});
  }
  std::vector<Half> sum(a.size()), portable(a.size());
  ziya::add_half(sum, a, b);
  REQUIRE(sum.size() % 8 == 0);
  for (std::size_t i = 0; i < sum.size(); i += 8) {
    ziya::half_lanes::add_eight(portable.data() + i, a.data() + i, b.data() + i);
  }
  for (std::size_t i = 0; i < sum.size(); ++i) {
    if (sum[i].bits != portable[i].bits) {  // those of NaN too, so that files are the same
      CAPTURE(a[i].bits, b[i].bits, sum[i].bits, portable[i].bits);
      REQUIRE(sum[i].bits == portable[i].bits);
    }
    const Half expected = rounded(value_of(a[i]) + value_of(b[i]));
    if (!same(sum[i], expected)) {
      CAPTURE(a[i].bits, b[i].bits, sum[i].bits, expected.bits);
      REQUIRE(same(sum[i], expected));
    }
  }
}

TEST_CASE("lengths that are no multiple of the lanes, in place", "[half_add]") {
  for (std::size_t n = 0; n < 40; ++n) {
    std::vector<Half> a(n), b(n);
    for (std::size_t i = 0; i < n; ++i) {
      a[i] = ziya::to_half(static_cast<float>(i));
      b[i] = ziya::to_half(0.5f);
    }
    ziya::add_half(b, a, b);
    for (std::size_t i = 0; i < n; ++i) REQUIRE(value_of(b[i]) == static_cast<double>(i) + 0.5);
    std::vector<float> wide(n, 3.0f);
    ziya::round_to_half(b, reinterpret_cast<const std::byte*>(wide.data()), ziya::DType::f32);
    for (const Half half : b) REQUIRE(value_of(half) == 3.0);
  }
}

TEST_CASE("every type is rounded to nearest, ties to even", "[half_add]") {
  std::vector<float> values{0.0f,
                            -0.0f,
                            65519.0f,
                            65520.0f,
                            -65520.0f,
                            1e30f,
                            -1e30f,
                            INFINITY,
                            NAN,
                            0x1p-25f,
                            0x1.000002p-25f,
                            0x1p-149f,
                            1.0f + 0x1p-11f,
                            1.0f + 0x3p-11f,
                            0x1p-14f - 0x1p-25f,
                            0x1.ffcp-15f};
  ziya::Random random{3};
  for (int i = 0; i < 100'000; ++i) {
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random.bits())));
    values.push_back(static_cast<float>((random.uniform() - 0.5) * 4));
  }
  std::vector<Half> out(values.size());
  ziya::round_to_half(out, reinterpret_cast<const std::byte*>(values.data()), ziya::DType::f32);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (!same(out[i], rounded(static_cast<double>(values[i])))) {
      CAPTURE(values[i], out[i].bits);
      REQUIRE(same(out[i], rounded(static_cast<double>(values[i]))));
    }
  }
  std::vector<ziya::BFloat16> narrow;
  std::vector<double> wide;
  for (const float value : values) {
    narrow.push_back(ziya::to_bfloat16(value));
    wide.push_back(static_cast<double>(value));
  }
  ziya::round_to_half(out, reinterpret_cast<const std::byte*>(narrow.data()), ziya::DType::bf16);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (!same(out[i], rounded(static_cast<double>(ziya::to_float(narrow[i]))))) REQUIRE(i == 0);
  }
  std::vector<Half> other(values.size());
  ziya::round_to_half(other, reinterpret_cast<const std::byte*>(wide.data()), ziya::DType::f64);
  ziya::round_to_half(out, reinterpret_cast<const std::byte*>(values.data()), ziya::DType::f32);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (!same(out[i], other[i])) REQUIRE(i == 0);
  }
  REQUIRE_ERROR(ziya::round_to_half(out, nullptr, ziya::DType::i32), "ZIYA-608", "i32");
}

TEST_CASE("infinities and NaN are counted", "[half_add]") {
  std::vector<Half> values(1'000'003, Half{0x7c00});
  REQUIRE(ziya::count_non_finite(values) == 1'000'003);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i].bits = static_cast<std::uint16_t>(i % 100 == 0 ? 0xfe00 : 0xfbff);
  }
  REQUIRE(ziya::count_non_finite(values) == 10'001);
  REQUIRE(ziya::count_non_finite(std::span(values).first(5)) == 1);
}

}  // namespace half_add_test
