// SPDX-License-Identifier: Apache-2.0
// The generator against the known answers that its authors publish.
#include "ziya/core/random.hpp"

#include <catch2/catch.hpp>

namespace random_test {

using Block = std::array<std::uint32_t, 4>;

TEST_CASE("philox gives the known answers", "[random]") {
  REQUIRE(ziya::philox({0, 0, 0, 0}, {0, 0}) ==
          Block{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  REQUIRE(ziya::philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) ==
          Block{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  REQUIRE(ziya::philox({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u},
                       {0xa4093822u, 0x299f31d0u}) ==
          Block{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST_CASE("a stream depends on its seed and can be resumed", "[random]") {
  ziya::Random a{.seed = 1}, b{.seed = 2};
  REQUIRE(a.bits() != b.bits());
  ziya::Random resumed{.seed = 1, .position = 1};
  REQUIRE(a.bits() == resumed.bits());
  double sum = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double u = a.uniform();
    REQUIRE((u >= 0 && u < 1));
    sum += u;
  }
  REQUIRE(sum / 100'000 == Approx(0.5).margin(0.005));
}

}  // namespace random_test
