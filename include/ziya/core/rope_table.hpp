// SPDX-License-Identifier: Apache-2.0
// The frequencies of a rotary embedding, and which elements of a head form its pairs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/tensor.hpp"

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
  explicit RopeTable(const std::vector<float>& frequencies) {
    Tensor<float> host(Shape{static_cast<std::int64_t>(frequencies.size())});
    std::copy(frequencies.begin(), frequencies.end(), host.data());
    frequencies_ = host.template to<Device>();
  }
  [[nodiscard]] std::int64_t pairs() const { return frequencies_.elements(); }
  [[nodiscard]] const float* frequencies() const { return frequencies_.data(); }

 private:
  Tensor<float, Device> frequencies_;
};

ZIYA_NAMESPACE_END
