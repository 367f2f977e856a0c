// SPDX-License-Identifier: Apache-2.0
// CRC-32 with carry-less products: 64 bytes at a time are folded onto the 64 that follow.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "ziya/core/crc32.hpp"

ZIYA_NAMESPACE_BEGIN
namespace clmul {

/// What 128 bits are multiplied by to be x^bits times as much: the first eight bytes, which stand
/// for the higher powers, and the others. A product of reflected numbers is one power too high.
struct Factors {
  std::uint64_t first, second;
};
constexpr Factors factors(std::uint64_t bits) {
  return {std::uint64_t{crc32_power(bits + 63)} << 32, std::uint64_t{crc32_power(bits - 1)} << 32};
}
inline constexpr Factors over_64_bytes = factors(512), over_16_bytes = factors(128);

ZIYA_TARGET_CLMUL inline __m128i load(const Factors& factors) {
  return _mm_set_epi64x(static_cast<long long>(factors.second),
                        static_cast<long long>(factors.first));
}
ZIYA_TARGET_CLMUL inline __m128i folded(__m128i bytes, __m128i factor) {
  return _mm_xor_si128(_mm_clmulepi64_si128(bytes, factor, 0x00),
                       _mm_clmulepi64_si128(bytes, factor, 0x11));
}
ZIYA_TARGET_CLMUL inline __m128i load(const std::byte* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

/// CRC-32 of `bytes`, at least 64 of them, behind what `crc` covers.
/// Source: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction"
ZIYA_TARGET_CLMUL inline std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t crc) {
  const __m128i by_512 = load(over_64_bytes), by_128 = load(over_16_bytes);
  const std::byte* from = bytes.data();
  __m128i a = _mm_xor_si128(load(from), _mm_cvtsi32_si128(static_cast<int>(~crc)));
  __m128i b = load(from + 16), c = load(from + 32), d = load(from + 48);
  std::size_t done = 64;
  for (; done + 64 <= bytes.size(); done += 64) {
    a = _mm_xor_si128(folded(a, by_512), load(from + done));
    b = _mm_xor_si128(folded(b, by_512), load(from + done + 16));
    c = _mm_xor_si128(folded(c, by_512), load(from + done + 32));
    d = _mm_xor_si128(folded(d, by_512), load(from + done + 48));
  }
  b = _mm_xor_si128(folded(a, by_128), b);
  c = _mm_xor_si128(folded(b, by_128), c);
  d = _mm_xor_si128(folded(c, by_128), d);
  std::byte rest[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(rest), d);
  return ziya::crc32(bytes.subspan(done), ziya::crc32(rest, ~std::uint32_t{0}));
}

}  // namespace clmul
ZIYA_NAMESPACE_END
#endif
