// SPDX-License-Identifier: Apache-2.0
// Instruction sets: their names, and which of them may be used here.
#include "ziya/backend/cpu/isa.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

namespace isa_test {

using ziya::Isa;

TEST_CASE("names of instruction sets read back", "[isa]") {
  for (const Isa isa : ziya::all_isas) {
    CHECK(ziya::isa_from_name(ziya::name(isa)) == isa);
  }
  CHECK(ziya::name(Isa::avx512) == "avx512");
  CHECK(ziya::name(Isa::amx) == "amx");
  CHECK_FALSE(ziya::isa_from_name("sse9").has_value());
  CHECK_FALSE(ziya::isa_from_name("").has_value());
  CHECK_FALSE(ziya::isa_from_name("AVX2").has_value());
}

TEST_CASE("the portable paths are always there, the best comes last", "[isa]") {
  const auto isas = ziya::available_isas();
  REQUIRE(isas.size() >= 2);
  CHECK(isas[0] == Isa::eigen);
  CHECK(isas[1] == Isa::baseline);
  CHECK(std::is_sorted(isas.begin(), isas.end()));
  CHECK(ziya::best_isa() == isas.back());
  for (const Isa isa : isas) CHECK(ziya::is_available(isa));
  if (ziya::is_available(Isa::avx512)) CHECK(ziya::is_available(Isa::avx2));
  if (ziya::is_available(Isa::amx)) CHECK(ziya::is_available(Isa::avx512));
  CHECK_FALSE(ziya::is_available(static_cast<Isa>(99)));
}

}  // namespace isa_test
