// SPDX-License-Identifier: Apache-2.0
// Some rows of a batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/rope_table.hpp"
#include "ziya/nn/attention.hpp"

ZIYA_NAMESPACE_BEGIN
namespace nn {

/// How some rows of a batch lie in their sequences, in any order and as often as they are named.
template <class Device>
class SelectedRows {
 public:
  using Rows = typename Attention<Device>::Rows;

  /// @param all rows with a cache   @param selected numbers of rows of `all`
  SelectedRows(const Rows& all, std::span<const std::int32_t> selected) {
    for (const std::int32_t row : selected) {
      const auto at = static_cast<std::size_t>(row);
      const RopeTable<Device>* table = table_of(all, row);
      if (rotary_.empty() || rotary_.back().table != table) {
        rotary_.push_back({static_cast<std::int64_t>(slots_.size()), 0, table});
      }
      ++rotary_.back().count;
      positions_.push_back(all.positions[at]);
      slots_.push_back(all.slots[at]);
      visible_.push_back(all.visible[at]);
    }
  }

  /// As long as this object lives. Without `indices`: the rows are stored with all others.
  [[nodiscard]] Rows rows() const {
    Rows rows;
    rows.positions = positions_;
    rows.rotary = rotary_;
    rows.slots = slots_;
    rows.visible = visible_;
    return rows;
  }

 private:
  /// @pre a run holds the row
  static const RopeTable<Device>* table_of(const Rows& all, std::int64_t row) {
    std::size_t run = 0;
    while (row < all.rotary[run].begin || row >= all.rotary[run].begin + all.rotary[run].count) {
      ++run;
    }
    return all.rotary[run].table;
  }

  std::vector<std::int32_t> positions_, slots_;
  std::vector<std::int64_t> visible_;
  std::vector<RotaryRun<Device>> rotary_;
};

}  // namespace nn
ZIYA_NAMESPACE_END
