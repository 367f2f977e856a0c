// SPDX-License-Identifier: Apache-2.0
// Where one layer's keys and values lie: pages and a block table.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN

/// Heads of a cache in q8_0 are whole blocks, and not larger than what a thread widens on its
/// stack.
inline constexpr std::int64_t largest_head_in_blocks = 4096;
constexpr bool can_cache(DType dtype, std::int64_t head_dim) {
  return is_plain_float(dtype) || (head_dim > 0 && head_dim % info(dtype).block_elements == 0 &&
                                   head_dim <= largest_head_in_blocks);
}

/// Token t of slot s lies in page block_table[s · table_stride + t / page_tokens], which holds
/// (kv_heads, page_tokens, head_dim) elements; keys and values have their own pages. A contiguous
/// cache is the case of consecutive pages. On a GPU the blocks of q8_0 are taken apart: pages hold
/// quants, a byte each, and behind all pages the scales follow in the same order.
template <class Device>
struct CachedKeysValues {
  DType dtype = DType::f32;  ///< f32, f16, bf16 or q8_0
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t page_tokens = 0;
  std::int64_t page_bytes = 0;
  std::byte* keys = nullptr;
  std::byte* values = nullptr;
  const std::int32_t* block_table = nullptr;
  std::int64_t table_stride = 0;
  std::int64_t scales = 0;  ///< bytes from `keys`, and from `values`, to scales that lie apart

  /// Bytes from `keys` or `values` to element 0 of token t of slot s and head h.
  [[nodiscard]] ZIYA_HD std::int64_t offset(std::int64_t slot, std::int64_t head,
                                            std::int64_t token) const {
    const std::int64_t page = block_table[slot * table_stride + token / page_tokens];
    return page * page_bytes +
           (head * page_tokens + token % page_tokens) * (page_bytes / (kv_heads * page_tokens));
  }
};

ZIYA_NAMESPACE_END
