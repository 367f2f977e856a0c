// SPDX-License-Identifier: Apache-2.0
// Where kernels of attention find keys and values, and what those of single rows are given.
#pragma once

#include <cstdint>

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
    const unsigned page = page_of(index);
    return {table[slot * table_stride + page] * page_bytes, index - page * page_tokens};
  }
  /// index / page_tokens, whose 20 instructions are spared where pages are powers of two.
  __device__ unsigned page_of(unsigned index) const {
    if ((page_tokens & (page_tokens - 1)) == 0) return index >> (31 - __clz(page_tokens));
    return index / page_tokens;
  }
  /// Where a head lies in `keys` or `values`, whose tokens are `stride` apart.
  template <class C>
  __device__ CachedHead<C> head_at(const std::byte* from, const Place& place, std::int64_t head,
                                   std::int64_t stride) const {
    return cached_head<C>(from, place.page, head * head_stride + place.token * stride, scales);
  }
};

inline constexpr int most_head_dim = 256;

/// A token for each row, the last one that it sees: neither turned to its position nor stored yet.
template <class T>
struct NewTokens {
  const T *k, *v;  ///< null: what rows see is stored, and q is turned
  std::int64_t k_stride, v_stride;
  const std::int32_t* positions;
  const std::int64_t* places;
  const float* frequencies;
  bool interleaved;
};

template <class T>
struct RowArguments {
  T* out;
  const T* q;
  std::int64_t out_stride, q_stride;
  int head_dim;
  unsigned group;  ///< query heads that share a key head
  float scale;
  KeyPlaces places;
  const std::int32_t* slots;    ///< (rows), or null: all 0
  const std::int64_t* visible;  ///< (rows) tokens that a row sees; −1: the row is left alone
  const std::int64_t* first;    ///< (rows) token that it sees first, or null
  NewTokens<T> fresh;
  float* parts;  ///< (rows, heads, splits, head_dim + 2), for more than one split
  int splits;
  std::uint32_t* counters;  ///< (rows, heads) zeros
};

}  // namespace cuda
ZIYA_NAMESPACE_END
