// SPDX-License-Identifier: Apache-2.0
// The frequencies of a rotary embedding, and which elements of a head form its pairs.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"

ZIYA_NAMESPACE_BEGIN

/// Where the two elements of pair i stand in a head of d elements.
enum class RopePairing {
  halves,       ///< i and i + d / 2: Hugging Face
  interleaved,  ///< 2 i and 2 i + 1: Meta, GGUF
};

/// One frequency per pair, radians per position, slowest last.
template <class Device>
class RopeTable {
 public:
  explicit RopeTable(std::vector<float> frequencies) : frequencies_(std::move(frequencies)) {}
  [[nodiscard]] std::int64_t pairs() const {
    return static_cast<std::int64_t>(frequencies_.size());
  }
  [[nodiscard]] const float* frequencies() const { return frequencies_.data(); }

 private:
  std::vector<float> frequencies_;
};

ZIYA_NAMESPACE_END
