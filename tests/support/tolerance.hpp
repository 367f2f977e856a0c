// SPDX-License-Identifier: Apache-2.0
// How far a result may be from its reference, in one place.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace test {

/// Of an op in 32 bits against a loop in double, as row_error measures it.
inline constexpr double op_tolerance = 1e-5;
/// Of an op whose results are rounded to 16 bits, or whose operands are.
inline constexpr double half_tolerance = 2e-3;
inline constexpr double bfloat16_tolerance = 1.5e-2;
/// Of a model's logits against those of the CPU in 32 bits, by the type of activations.
inline constexpr double model_tolerance = 1e-4;
inline constexpr double half_model_tolerance = 2e-2;
inline constexpr double bfloat16_model_tolerance = 8e-2;
/// Of a backward op against central differences in double.
inline constexpr double gradient_tolerance = 1e-4;

/// max over rows of max|a − b| / max|b|; rows of zeros count absolutely. NaN is infinitely far.
inline double row_error(const std::vector<float>& a, const std::vector<double>& b,
                        std::int64_t width) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (std::size_t row = 0; row < b.size(); row += static_cast<std::size_t>(width)) {
    double largest = 0, difference = 0;
    for (std::size_t i = row; i < row + static_cast<std::size_t>(width); ++i) {
      const double d = std::abs(static_cast<double>(a[i]) - b[i]);
      if (std::isnan(d)) return std::numeric_limits<double>::infinity();
      largest = std::max(largest, std::abs(b[i]));
      difference = std::max(difference, d);
    }
    worst = std::max(worst, largest > 0 ? difference / largest : difference);
  }
  return worst;
}

/// Central differences of a function of doubles at x: (f(x + h e_i) − f(x − h e_i)) / 2h.
inline std::vector<double> gradient(const std::vector<float>& x,
                                    const std::function<double(const std::vector<double>&)>& f) {
  constexpr double h = 1e-4;
  std::vector<double> at(x.begin(), x.end()), result;
  for (double& value : at) {
    const double kept = value;
    value = kept + h;
    const double above = f(at);
    value = kept - h;
    result.push_back((above - f(at)) / (2 * h));
    value = kept;
  }
  return result;
}

}  // namespace test
