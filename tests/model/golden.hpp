// SPDX-License-Identifier: Apache-2.0
// Golden numbers that tests/reference made: reading them, and how far something is from them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include "ziya/core/view.hpp"
#include "ziya/io/checkpoint.hpp"

namespace golden {

inline std::filesystem::path folder(const std::string& name) {
  return std::filesystem::path(ZIYA_TEST_DATA) / "golden" / name;
}

/// All elements of a tensor that is stored as `T`.
template <class T>
std::vector<T> values(const ziya::Checkpoint& file, const std::string& name) {
  const ziya::TensorInfo* tensor = file.find(name);
  if (tensor == nullptr) throw std::runtime_error("no golden tensor " + name);
  std::vector<T> result(static_cast<std::size_t>(tensor->shape.elements()));
  file.read(name, std::as_writable_bytes(std::span(result)));
  return result;
}

/// The metric of docs/architecture.md: max over rows of max|a − b| / max|b|; infinite for NaN.
inline double error(std::span<const float> a, std::span<const float> b, std::size_t columns) {
  if (a.size() != b.size() || b.empty() || b.size() % columns != 0) return INFINITY;
  double worst = 0;
  for (std::size_t row = 0; row < b.size(); row += columns) {
    double difference = 0, scale = 0;
    for (std::size_t i = row; i < row + columns; ++i) {
      if (!std::isfinite(a[i])) return INFINITY;
      difference = std::max(difference, std::abs(double{a[i]} - double{b[i]}));
      scale = std::max(scale, std::abs(double{b[i]}));
    }
    worst = std::max(worst, difference / scale);
  }
  return worst;
}

/// A contiguous view as a span.
inline std::span<const float> span(ziya::View<const float, ziya::Cpu> view) {
  return {view.data(), static_cast<std::size_t>(view.elements())};
}

/// A folder outside the project; null, with a message that ctest counts as skipped, where absent.
inline std::filesystem::path shared(const std::string& name) {
  std::filesystem::path path = std::filesystem::path(ZIYA_SHARED_DATA) / name;
  if (std::filesystem::exists(path)) return path;
  std::cout << "SKIPPED: " << name << " is not in the shared data folder\n";
  return {};
}

}  // namespace golden
