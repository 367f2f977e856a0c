// SPDX-License-Identifier: Apache-2.0
// Where kernels of attention find keys and values, and what a thread holds of a row's.
#pragma once

#include <cstdint>
#include <type_traits>

#include "ziya/backend/cuda/attention_blocks.cuh"
#include "ziya/backend/cuda/cached_blocks.cuh"
#include "ziya/backend/cuda/device.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Where keys and values lie: strides in elements, a page in bytes.
struct KeyPlaces {
  const std::byte *keys, *values;
  const std::int32_t* table;  ///< null: tokens follow each other
  std::int64_t table_stride;
  unsigned page_tokens;
  std::int64_t page_bytes, head_stride, key_stride, value_stride;
  std::int64_t scales = 0;  ///< CachedKeysValues::scales

  /// Bytes from `keys` to token 0 of the page that holds `token`, and the token's place in it.
  struct Place {
    std::int64_t page;
    std::int64_t token;
  };
  __device__ Place place(std::int32_t slot, std::int64_t token) const {
    if (table == nullptr) return {0, token};
    const auto index = static_cast<unsigned>(token);
    return {table[slot * table_stride + index / page_tokens] * page_bytes, index % page_tokens};
  }
  /// Where a head lies in `keys` or `values`, whose tokens are `stride` apart.
  template <class C>
  __device__ CachedHead<C> head_at(const std::byte* from, const Place& place, std::int64_t head,
                                   std::int64_t stride) const {
    return cached_head<C>(from, place.page, head * head_stride + place.token * stride, scales);
  }
};

/// How `Lanes` threads share a key, of which they load `N` elements at once, and what a thread
/// holds of its keys: packs as bits, which take no more registers than they have to.
template <class C, int N, int Lanes>
struct RowTile {
  using Bits = std::conditional_t<
      sizeof(C) * N == 16, uint4,
      std::conditional_t<sizeof(C) * N == 8, uint2,
                         std::conditional_t<sizeof(C) * N == 4, std::uint32_t, std::uint16_t>>>;
  static constexpr int passes = N == 8   ? 1
                                : N == 4 ? 2
                                         : 8;  // × Lanes × N elements ≥ the head size
  static constexpr int members = row_threads / Lanes, keys_each = split_keys / members;
  /// Blocks per multiprocessor, by registers: keys and values are on their way together.
  static constexpr int resident =
      keys_each * passes * sizeof(Bits) <= (in_blocks<C> ? 32 : 64) ? 2 : 1;
  Bits bits[keys_each][passes];
  PartScales<in_blocks<C> ? Lanes / 4 : 0> scales;

  /// A thread's n-th key of a part, and the first element that it has of one.
  static __device__ int key(int n) { return n * members + static_cast<int>(threadIdx.x) / Lanes; }
  static __device__ int element(int pass) {
    return (pass * Lanes + static_cast<int>(threadIdx.x) % Lanes) * N;
  }
};

}  // namespace cuda
ZIYA_NAMESPACE_END
