// SPDX-License-Identifier: Apache-2.0
// Small arrays that ops take from the host, kept on the GPU until they change.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "ziya/backend/cuda/memory.hpp"
#include "ziya/backend/cuda/runtime.hpp"
#include "ziya/core/tensor.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Keys of one sequence that one block of the attention kernel takes.
inline constexpr int split_keys = 64;

/// Blocks that share the keys of a row; a power of two, so that a longer row seldom changes it.
inline std::int64_t key_splits(std::int64_t visible) {
  std::int64_t splits = 1;
  while (splits * split_keys < visible) splits *= 2;
  return splits;
}

/// What an array says; each kind has one place on the GPU.
enum class Upload { ids, positions, slots, places, visible, table, tiles, labels };
inline constexpr std::size_t upload_kinds = 8;

/// Every layer of a step asks for the same positions and places: they cross the bus once. A CUDA
/// graph that was captured with an array finds new contents at the same address.
class Uploads {
 public:
  /// The array on the GPU, valid for the work that is enqueued next.
  template <class T>
  const T* get(cudaStream_t stream, Upload kind, std::span<const T> values) {
    Kept& kept = kept_[static_cast<std::size_t>(kind)];
    const std::size_t bytes = values.size_bytes();
    const bool known = kept.host.size() == bytes &&
                       (bytes == 0 || std::memcmp(kept.host.data(), values.data(), bytes) == 0);
    if (!known) {
      reserve(kept, bytes);
      kept.host.clear();  // a copy that fails leaves nothing that could be mistaken for done
      // From pageable memory: the call returns when the bytes are out of it.
      check(
          cudaMemcpyAsync(kept.device.data(), values.data(), bytes, cudaMemcpyHostToDevice, stream),
          "copy of indices to the GPU");
      const auto* begin = reinterpret_cast<const std::byte*>(values.data());
      kept.host.assign(begin, begin + bytes);
    }
    return reinterpret_cast<const T*>(kept.device.data());
  }
  /// Changes when an address changes.
  [[nodiscard]] std::uint64_t generation() const { return generation_; }

 private:
  struct Kept {
    std::vector<std::byte> host;
    Tensor<std::byte, Cuda> device;
  };
  void reserve(Kept& kept, std::size_t bytes) {
    if (!kept.device.empty() && static_cast<std::size_t>(kept.device.elements()) >= bytes) return;
    const std::size_t room = std::max<std::size_t>(2 * bytes, std::size_t{1} << 16);
    kept.device = Tensor<std::byte, Cuda>(Shape{static_cast<std::int64_t>(room)});
    ++generation_;
  }

  std::array<Kept, upload_kinds> kept_;
  std::uint64_t generation_ = 0;
};

}  // namespace cuda
ZIYA_NAMESPACE_END

#endif
