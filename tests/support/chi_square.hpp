// SPDX-License-Identifier: Apache-2.0
// The chi-square test: how likely draws are under a distribution.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>

namespace test {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

/// Q(a, x), the upper regularised incomplete gamma function: series for small x, continued
/// fraction (Lentz) for large.
inline double upper_gamma(double a, double x) {
  const double front = std::exp(a * std::log(x) - x - std::lgamma(a));
  if (x < a + 1) {
    double term = 1 / a, sum = term;
    for (int n = 1; std::abs(term) > 1e-15 * sum; ++n) sum += term *= x / (a + n);
    return 1 - front * sum;
  }
  double b = x + 1 - a, c = 1e300, d = 1 / b, fraction = d;
  for (int n = 1; n < 10000; ++n) {
    const double numerator = -n * (n - a);
    b += 2;
    d = 1 / (numerator * d + b);
    c = b + numerator / c;
    fraction *= c * d;
    if (std::abs(c * d - 1) < 1e-15) break;
  }
  return front * fraction;
}

/// Probability that draws from `expected` differ by so much. Categories that should occur fewer
/// than 10 times are counted as one.
inline double p_value(const std::map<std::int32_t, double>& expected,
                      const std::map<std::int32_t, std::int64_t>& drawn, double draws) {
  double statistic = 0, rare = 0, rare_drawn = 0;
  int categories = 0;
  const auto add = [&](double should, double is) {
    statistic += (is - should) * (is - should) / should;
    ++categories;
  };
  for (const auto& [id, probability] : expected) {
    const auto found = drawn.find(id);
    const double is = found == drawn.end() ? 0 : static_cast<double>(found->second);
    if (probability * draws >= 10) {
      add(probability * draws, is);
    } else {
      rare += probability * draws;
      rare_drawn += is;
    }
  }
  for (const auto& [id, count] : drawn) {
    if (!expected.contains(id)) return 0;  // impossible
  }
  if (rare > 0) add(rare, rare_drawn);
  return upper_gamma((categories - 1) / 2.0, statistic / 2);
}

}  // namespace test
