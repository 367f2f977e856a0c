// SPDX-License-Identifier: Apache-2.0
// Comparing what a TensorSource gives with a checkpoint that holds the right answer.
#pragma once

#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "ziya/core/random.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/tensor_source.hpp"

namespace test {

inline std::vector<std::byte> whole(const ziya::TensorSource& source, std::size_t index) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(source.tensors()[index].bytes()));
  source.read(index, 0, bytes);
  return bytes;
}

/// Every tensor is the expected one, bit for bit: whole, and in 60 ranges drawn at random.
inline void require_same(const ziya::TensorSource& source, const ziya::Checkpoint& expected) {
  REQUIRE(source.tensors().size() == expected.tensors().size());
  ziya::Random random{.seed = 7};
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    const ziya::TensorSpec& tensor = source.tensors()[i];
    INFO(tensor.name);
    const auto* found = expected.find(tensor.name);
    REQUIRE(found != nullptr);
    REQUIRE(found->dtype == tensor.dtype);
    REQUIRE(found->shape == tensor.shape);
    std::vector<std::byte> right(static_cast<std::size_t>(tensor.bytes()));
    expected.read(tensor.name, right);
    const bool same = whole(source, i) == right;
    REQUIRE(same);
    const std::int64_t all = tensor.shape.elements(), item = ziya::info(tensor.dtype).block_bytes;
    for (int n = 0; n < 60; ++n) {
      const auto first = static_cast<std::int64_t>(random.uniform() * static_cast<double>(all));
      const auto count =
          static_cast<std::int64_t>(random.uniform() * static_cast<double>(all - first)) + 1;
      std::vector<std::byte> part(static_cast<std::size_t>(count * item));
      source.read(i, first, part);
      const bool equal = std::equal(part.begin(), part.end(), right.begin() + first * item);
      INFO("elements " << first << " + " << count);
      REQUIRE(equal);
    }
  }
}

inline void require_same(const ziya::TensorSource& source, const std::filesystem::path& expected) {
  require_same(source, ziya::Checkpoint::open(expected));
}

}  // namespace test
