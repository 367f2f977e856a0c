// SPDX-License-Identifier: Apache-2.0
// Random numbers that are the same on every platform and device for the same seed.
#pragma once

#include <array>
#include <cstdint>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// Philox4x32-10: four 32-bit numbers as a pure function of a counter and a key.
/// Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
ZIYA_HD constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                                      std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {
        static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
        static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

/// A stream of random numbers; its whole state is a seed and a position, so it can be saved.
struct Random {
  std::uint64_t seed = 0;
  std::uint64_t position = 0;

  /// Uniform 64 bits.
  constexpr std::uint64_t bits() {
    const auto block = philox(
        {static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32), 0, 0},
        {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
    ++position;
    return block[0] | static_cast<std::uint64_t>(block[1]) << 32;
  }
  /// Uniform in [0, 1), 53 bits.
  constexpr double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
};

ZIYA_NAMESPACE_END
