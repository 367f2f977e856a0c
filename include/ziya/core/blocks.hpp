// SPDX-License-Identifier: Apache-2.0
// The blocks of quantised types, byte by byte as they are stored.
#pragma once

#include <cstdint>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN

/// Layouts of the GGUF format (ggml's quantised types). w[i] is element i of a block; d, m, dmin
/// are scales. Of a byte of 4-bit numbers in a block of 32, the low half belongs to element j and
/// the high half to element j + 16. Little-endian; the structs have no padding.
namespace blocks {

/// w = d · (q − 8)
struct Q4_0 {
  Half d;
  std::uint8_t quants[16];
};
/// w = d · q + m
struct Q4_1 {
  Half d, m;
  std::uint8_t quants[16];
};
/// w = d · (q − 16); bit i of `high` (little-endian) is the fifth bit of element i
struct Q5_0 {
  Half d;
  std::uint8_t high[4];
  std::uint8_t quants[16];
};
/// w = d · q + m
struct Q5_1 {
  Half d, m;
  std::uint8_t high[4];
  std::uint8_t quants[16];
};
/// w = d · q
struct Q8_0 {
  Half d;
  std::int8_t quants[32];
};
/// w = d · table[q], a fixed table of 16 unevenly spaced values
struct IQ4_NL {
  Half d;
  std::uint8_t quants[16];
};

/// 16 groups of 16: w = d · scale · q − dmin · min; scale is the low half of a byte of `scales`,
/// min the high half
struct Q2_K {
  std::uint8_t scales[16];
  std::uint8_t quants[64];
  Half d, dmin;
};
/// 16 groups of 16: w = d · (scale − 32) · (q − 4), scales of 6 bits; `high` holds the third bits
struct Q3_K {
  std::uint8_t high[32];
  std::uint8_t quants[64];
  std::uint8_t scales[12];
  Half d;
};
/// 8 groups of 32: w = d · scale · q − dmin · min, scales and minima of 6 bits
struct Q4_K {
  Half d, dmin;
  std::uint8_t scales[12];
  std::uint8_t quants[128];
};
/// As Q4_K with the fifth bits in `high`
struct Q5_K {
  Half d, dmin;
  std::uint8_t scales[12];
  std::uint8_t high[32];
  std::uint8_t quants[128];
};
/// 16 groups of 16: w = d · scale · (q − 32); the upper two bits in `high`
struct Q6_K {
  std::uint8_t quants[128];
  std::uint8_t high[64];
  std::int8_t scales[16];
  Half d;
};

static_assert(sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22);
static_assert(sizeof(Q5_1) == 24 && sizeof(Q8_0) == 34 && sizeof(IQ4_NL) == 18);
static_assert(sizeof(Q2_K) == 84 && sizeof(Q3_K) == 110 && sizeof(Q4_K) == 144);
static_assert(sizeof(Q5_K) == 176 && sizeof(Q6_K) == 210);

}  // namespace blocks

ZIYA_NAMESPACE_END
