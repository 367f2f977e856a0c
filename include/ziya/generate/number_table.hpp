// SPDX-License-Identifier: Apache-2.0
// Numbers by keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// A hash table in one piece of memory: 16 bytes and no allocation for an entry.
class NumberTable {
 public:
  static constexpr std::int32_t none = -1;

  [[nodiscard]] std::size_t size() const { return size_; }
  /// The number of `key`; `none` when it has none.
  [[nodiscard]] std::int32_t find(std::uint64_t key) const {
    return slots_.empty() ? none : slots_[place(key)].number;
  }
  /// @param number not `none`   @pre `key` has none
  void insert(std::uint64_t key, std::int32_t number) {
    if (2 * ++size_ > slots_.size()) {
      std::vector<Slot> old(slots_.empty() ? 64 : 2 * slots_.size());
      old.swap(slots_);
      for (const Slot& slot : old) {
        if (slot.number != none) slots_[place(slot.key)] = slot;
      }
    }
    slots_[place(key)] = {key, number};
  }

 private:
  struct Slot {
    std::uint64_t key = 0;
    std::int32_t number = none;
  };

  /// Where `key` is, or may be put.
  [[nodiscard]] std::size_t place(std::uint64_t key) const {
    constexpr std::uint64_t factor = 0x9E3779B97F4A7C15;  // 2⁶⁴ divided by the golden ratio
    const std::uint64_t mixed = key * factor;
    auto i = static_cast<std::size_t>((mixed ^ mixed >> 32) * factor >> 32);
    while (true) {
      const Slot& slot = slots_[i &= slots_.size() - 1];
      if (slot.number == none || slot.key == key) return i;
      ++i;
    }
  }

  std::vector<Slot> slots_;  ///< a power of two, half of them used at most
  std::size_t size_ = 0;
};

ZIYA_NAMESPACE_END
