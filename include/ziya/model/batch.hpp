// SPDX-License-Identifier: Apache-2.0
// The rows of one forward pass.
#pragma once

#include <cstdint>
#include <span>

#include "ziya/config.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN

/// Ragged rows of any number of sequences; rows of one sequence stand in the order of its tokens.
template <class T, class Device>
struct Batch {
  std::span<const std::int32_t> ids;        ///< (rows) token ids, or empty with `embeddings`
  View<const T, Device> embeddings{};       ///< (rows, hidden) instead of ids
  std::span<const std::int32_t> positions;  ///< (rows) rotary position of each row
  std::span<const std::int32_t> slots;      ///< (rows) sequence slot of each row
  std::span<const std::int32_t> outputs;    ///< rows whose hidden state is wanted

  [[nodiscard]] std::int64_t rows() const {
    return embeddings.empty() ? static_cast<std::int64_t>(ids.size()) : embeddings.rows();
  }
};

ZIYA_NAMESPACE_END
