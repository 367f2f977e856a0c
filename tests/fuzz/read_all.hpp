// SPDX-License-Identifier: Apache-2.0
// Opens bytes as a checkpoint and reads every tensor; only ziya::Error may come out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fuzz/memory_file.hpp"
#include "ziya/io/checkpoint.hpp"

namespace fuzz {

inline void read_all(const std::uint8_t* data, std::size_t size) {
  const MemoryFile file(data, size);
  try {
    const auto checkpoint = ziya::Checkpoint::open(file.path());
    std::vector<std::byte> whole;
    std::int64_t budget = 1 << 22;  // many tensors may claim the same bytes
    for (const auto& tensor : checkpoint.tensors()) {
      budget -= tensor.bytes();
      if (budget < 0) break;
      whole.resize(static_cast<std::size_t>(tensor.bytes()));
      checkpoint.read(tensor.name, whole);
      const auto mapped = checkpoint.map(tensor.name);
      for (std::size_t i = 0; i < whole.size(); ++i) {
        if (mapped.data[i] != whole[i]) __builtin_trap();
      }
      const std::int64_t block = ziya::info(tensor.dtype).block_elements;
      const std::int64_t half = tensor.shape.elements() / 2 / block * block;
      whole.resize(static_cast<std::size_t>(ziya::bytes_of(tensor.dtype, half)));
      checkpoint.read_elements(tensor.name, tensor.shape.elements() - half, half, whole);
    }
  } catch (const ziya::Error&) {
  }
}

}  // namespace fuzz
