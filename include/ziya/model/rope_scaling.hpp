// SPDX-License-Identifier: Apache-2.0
// Inverse frequencies of the rotary embedding, with the scalings that LLaMA models ask for.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// How positions beyond the trained ones are brought into range.
struct RopeScaling {
  enum class Kind { none, linear, dynamic, llama3 };
  Kind kind = Kind::none;
  double factor = 1.0;
  double low_freq_factor = 1.0;             ///< llama3
  double high_freq_factor = 4.0;            ///< llama3
  std::int64_t original_max_positions = 0;  ///< llama3 and dynamic: positions of the trained model

  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

/// head_dim / 2 inverse frequencies, base^(−2i / head_dim), scaled.
/// - linear: all divided by `factor` (Chen et al., arXiv 2306.15595)
/// - dynamic: the base grows once `length` exceeds the trained positions,
///   base · (factor · length / trained − (factor − 1))^(d / (d − 2)) ("NTK-aware", by parts of a
///   call)
/// - llama3: long wavelengths divided by `factor`, short ones kept, a ramp between (Llama 3.1)
/// @param length tokens of the sequence in this call; only the dynamic kind looks at it
inline std::vector<float> inverse_frequencies(std::int64_t head_dim, double base,
                                              const RopeScaling& scaling, std::int64_t length) {
  if (scaling.kind == RopeScaling::Kind::dynamic && length > scaling.original_max_positions) {
    const double ratio = scaling.factor * static_cast<double>(length) /
                             static_cast<double>(scaling.original_max_positions) -
                         (scaling.factor - 1.0);
    const double d = static_cast<double>(head_dim);
    base *= std::pow(ratio, d / (d - 2.0));
  }
  std::vector<float> result;
  for (std::int64_t i = 0; i < head_dim / 2; ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    double frequency = 1.0 / std::pow(base, exponent);
    if (scaling.kind == RopeScaling::Kind::linear) frequency /= scaling.factor;
    if (scaling.kind == RopeScaling::Kind::llama3) {
      const double wavelength = 2.0 * std::numbers::pi / frequency;
      const auto trained = static_cast<double>(scaling.original_max_positions);
      if (wavelength > trained / scaling.low_freq_factor) {
        frequency /= scaling.factor;
      } else if (wavelength >= trained / scaling.high_freq_factor) {
        const double smooth = (trained / wavelength - scaling.low_freq_factor) /
                              (scaling.high_freq_factor - scaling.low_freq_factor);
        frequency = (1.0 - smooth) * frequency / scaling.factor + smooth * frequency;
      }
    }
    result.push_back(static_cast<float>(frequency));
  }
  return result;
}

ZIYA_NAMESPACE_END
