// SPDX-License-Identifier: Apache-2.0
// CRC-32 as zip and PNG use it: of bytes, and of what pieces in any order make together.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// Reflected: bit 31 is the coefficient of x^0.
inline constexpr std::uint32_t crc32_polynomial = 0xEDB88320;

/// Table k is the effect of a byte that k others follow. No constant of the compiler, which takes
/// long for it.
inline std::array<std::array<std::uint32_t, 256>, 8> crc32_tables() {
  std::array<std::array<std::uint32_t, 256>, 8> result{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) * crc32_polynomial);
    result[0][i] = value;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t i = 0; i < 256; ++i) {
      const std::uint32_t before = result[k - 1][i];
      result[k][i] = (before >> 8) ^ result[0][before & 0xff];
    }
  }
  return result;
}

/// CRC-32 of `bytes` behind what `crc` covers, eight bytes at once.
inline std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t crc = 0) {
  static const auto tables = crc32_tables();
  crc = ~crc;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    std::uint32_t next = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      next ^= tables[7 - i][((crc >> (8 * i)) ^ std::to_integer<std::uint32_t>(bytes[i])) & 0xff];
      next ^= tables[3 - i][std::to_integer<std::uint32_t>(bytes[4 + i])];
    }
    crc = next;
  }
  for (const std::byte b : bytes) {
    crc = (crc >> 8) ^ tables[0][(crc ^ std::to_integer<std::uint32_t>(b)) & 0xff];
  }
  return ~crc;
}

/// a · b modulo the polynomial, all reflected.
constexpr std::uint32_t crc32_product(std::uint32_t a, std::uint32_t b) {
  std::uint32_t sum = 0;
  for (int power = 0; power < 32; ++power) {
    sum ^= b & (0 - (a >> (31 - power) & 1));
    b = (b >> 1) ^ ((0 - (b & 1)) & crc32_polynomial);
  }
  return sum;
}

/// x^bits modulo the polynomial, reflected.
constexpr std::uint32_t crc32_power(std::uint64_t bits) {
  std::uint32_t result = std::uint32_t{1} << 31, square = std::uint32_t{1} << 30;
  for (; bits != 0; bits >>= 1) {
    if ((bits & 1) != 0) result = crc32_product(result, square);
    square = crc32_product(square, square);
  }
  return result;
}

/// [place][digit]: x^(8 · digit · 256^place). No constant of the compiler, which takes long for it.
inline std::array<std::array<std::uint32_t, 256>, 8> crc32_powers() {
  std::array<std::array<std::uint32_t, 256>, 8> result{};
  std::uint32_t step = crc32_power(8);
  for (auto& place : result) {
    place[0] = std::uint32_t{1} << 31;
    for (std::size_t digit = 1; digit < 256; ++digit) {
      place[digit] = crc32_product(place[digit - 1], step);
    }
    step = crc32_product(place[255], step);
  }
  return result;
}

/// What a piece with this CRC-32 adds (exclusive or) to that of a whole in which `bytes` others
/// follow it: the CRC-32 of a whole is the sum over its pieces, in any order.
inline std::uint32_t crc32_followed(std::uint32_t crc, std::uint64_t bytes) {
  static const auto powers = crc32_powers();
  for (std::size_t place = 0; bytes != 0; ++place, bytes >>= 8) {
    if ((bytes & 255) != 0) crc = crc32_product(crc, powers[place][bytes & 255]);
  }
  return crc;
}

ZIYA_NAMESPACE_END
