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
inline constexpr int split_keys = 128;

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
  /// The array on the GPU, valid for the work that is enqueued next. Where it lies depends on its
  /// kind and size alone, until `generation` changes.
  template <class T>
  const T* get(cudaStream_t stream, Upload kind, std::span<const T> values) {
    return reinterpret_cast<const T*>(get_bytes(stream, kind, std::as_bytes(values)));
  }

  /// Several arrays before they are asked for: the small ones cross the bus together.
  struct Announced {
    Upload kind;
    std::span<const std::byte> bytes;
  };
  void announce(cudaStream_t stream, std::span<const Announced> arrays) {
    reserve_small();
    bool changed = false;
    for (const auto& [kind, bytes] : arrays) {
      if (bytes.size() > small_bytes || known(kind, bytes)) continue;
      changed = true;
      keep(kind, bytes);
    }
    if (changed) send(stream, small_.data(), small_host_);
    for (const auto& [kind, bytes] : arrays) (void)get_bytes(stream, kind, bytes);
  }
  /// Changes when an address changes.
  [[nodiscard]] std::uint64_t generation() const { return generation_; }

 private:
  static constexpr std::size_t small_bytes = 512;

  struct Kept {
    std::vector<std::byte> host;     ///< what the GPU holds
    Tensor<std::byte, Cuda> device;  ///< for what is not small
  };
  static std::size_t index(Upload kind) { return static_cast<std::size_t>(kind); }

  const std::byte* get_bytes(cudaStream_t stream, Upload kind, std::span<const std::byte> bytes) {
    reserve_small();
    const bool small = bytes.size() <= small_bytes;
    Kept& kept = kept_[index(kind)];
    if (!small && static_cast<std::size_t>(kept.device.elements()) < bytes.size()) {
      kept.host.clear();
      const std::size_t room = std::max<std::size_t>(2 * bytes.size(), std::size_t{1} << 16);
      kept.device = Tensor<std::byte, Cuda>(Shape{static_cast<std::int64_t>(room)});
      ++generation_;
    }
    std::byte* place = small ? small_.data() + small_bytes * index(kind) : kept.device.data();
    if (!known(kind, bytes)) {
      kept.host.clear();  // a copy that fails leaves nothing that could be mistaken for done
      send(stream, place, bytes);
      keep(kind, bytes);
    }
    return place;
  }
  [[nodiscard]] bool known(Upload kind, std::span<const std::byte> bytes) const {
    const std::vector<std::byte>& host = kept_[index(kind)].host;
    return !host.empty() && host.size() == bytes.size() &&
           std::memcmp(host.data(), bytes.data(), bytes.size()) == 0;
  }
  void keep(Upload kind, std::span<const std::byte> bytes) {
    kept_[index(kind)].host.assign(bytes.begin(), bytes.end());
    if (bytes.empty() || bytes.size() > small_bytes) return;
    std::memcpy(small_host_.data() + small_bytes * index(kind), bytes.data(), bytes.size());
  }
  /// From pageable memory: the call returns when the bytes are out of it.
  static void send(cudaStream_t stream, std::byte* to, std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    check(cudaMemcpyAsync(to, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream),
          "copy of indices to the GPU");
  }
  void reserve_small() {
    if (!small_.empty()) return;
    small_ = Tensor<std::byte, Cuda>(Shape{static_cast<std::int64_t>(small_host_.size())});
  }

  std::array<Kept, upload_kinds> kept_;
  std::array<std::byte, small_bytes * upload_kinds> small_host_{};
  Tensor<std::byte, Cuda> small_;
  std::uint64_t generation_ = 0;
};

}  // namespace cuda
ZIYA_NAMESPACE_END

#endif
