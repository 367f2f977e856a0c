// SPDX-License-Identifier: Apache-2.0
// How the rows of a batch lie in their sequences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// With a cache: query row t sees the first visible[t] tokens of slot slots[t].
struct AttentionRows {
  std::span<const std::int32_t> slots;
  std::span<const std::int64_t> visible;
};

/// With a cache: row t is stored at index indices[t] of slot slots[t].
struct AppendRows {
  std::span<const std::int32_t> slots;
  std::span<const std::int64_t> indices;
};

/// Both, of rows that are not yet turned to their positions.
struct RotaryRows {
  std::span<const std::int32_t> positions;
  std::span<const std::int32_t> slots;
  std::span<const std::int64_t> indices, visible;
};

/// Whether slots ascend, so that each row is the only one of its sequence.
inline bool one_row_each(std::span<const std::int32_t> slots) {
  for (std::size_t i = 1; i < slots.size(); ++i) {
    if (slots[i] <= slots[i - 1]) return false;
  }
  return true;
}

/// Without a cache: rows of queries and the rows of keys that they may see.
struct Segment {
  std::int64_t query_begin = 0, query_count = 0;
  std::int64_t key_begin = 0, key_count = 0;
};

ZIYA_NAMESPACE_END
