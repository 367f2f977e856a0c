// SPDX-License-Identifier: Apache-2.0
// The three differently compiled translation units give the same probabilities on every isa.
#include <cmath>
#include <cstdio>

#include "block.hpp"

int main() {
  int failures = 0;
  for (const ziya::Isa isa : ziya::available_isas()) {
    const auto a = plain(isa), b = native(isa), c = fast(isa);
    float worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      worst = std::max({worst, std::abs(a[i] - b[i]), std::abs(a[i] - c[i])});
    }
    const bool good = worst < 1e-5f && a[0] > 0;
    std::printf("%s: largest difference %g %s\n", std::string(ziya::name(isa)).c_str(),
                static_cast<double>(worst), good ? "ok" : "FAILED");
    failures += good ? 0 : 1;
  }
  return failures;
}
