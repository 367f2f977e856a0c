// SPDX-License-Identifier: Apache-2.0
// Keys and values of past tokens: pages, and a table that says which page holds what.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/paged_cache.hpp"
#include "ziya/core/tensor.hpp"

ZIYA_NAMESPACE_BEGIN

/// What the cache of a model holds per token: `layers` × 2 × `kv_heads` × `head_dim` elements.
struct CacheShape {
  std::int64_t layers = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
};

struct CacheOptions {
  DType dtype = DType::f32;       ///< f32, f16, bf16 or q8_0
  int slots = 1;                  ///< sequences at a time
  std::int64_t max_tokens = 0;    ///< longest sequence
  std::int64_t page_tokens = 64;  ///< tokens per page
  std::int64_t pages = 0;         ///< shared by all slots; 0: enough for every slot at its longest
};

/// The pool is one allocation whose pages are touched, and so become resident, only when a
/// sequence grows into them. Slots may share the pages of a common beginning; a shared page that
/// one of them grows into is copied first. Belongs to one thread.
template <class Device>
class KvCache {
 public:
  /// @throws ArgumentError for a type or size that no cache can have
  KvCache(const CacheShape& shape, const CacheOptions& options) : shape_(shape), options_(options) {
    const std::string type(name(options.dtype));
    if (!is_plain_float(options.dtype) && options.dtype != DType::q8_0) {
      throw ArgumentError("ZIYA-401",
                          "cache: type " + type + " is not one of f32, f16, bf16, q8_0");
    }
    if (shape.layers < 1 || shape.kv_heads < 1 || shape.head_dim < 1 || options.slots < 1 ||
        options.max_tokens < 1 || options.page_tokens < 1) {
      throw ArgumentError("ZIYA-402",
                          "cache: layers, heads, head size, slots, longest sequence "
                          "and page size must all be at least 1");
    }
    if (!can_cache(options.dtype, shape.head_dim)) {
      throw ArgumentError("ZIYA-407", "cache: head size " + std::to_string(shape.head_dim) +
                                          ", expected for " + type + " a multiple of 32, at most " +
                                          std::to_string(largest_head_in_blocks));
    }
    table_stride_ = (options.max_tokens + options.page_tokens - 1) / options.page_tokens;
    if (options_.pages == 0) options_.pages = table_stride_ * options.slots;
    const std::int64_t elements = shape.kv_heads * options.page_tokens * shape.head_dim;
    page_bytes_ = bytes_of(options.dtype, elements);
    if (is_quantised(options.dtype) && !std::is_same_v<Device, Cpu>) {
      scale_bytes_ = page_bytes_ - elements;  // the quants are a byte each
      page_bytes_ = elements;
    }
    plane_bytes_ = (options_.pages * (page_bytes_ + scale_bytes_) + 15) / 16 * 16;
    pool_ = Tensor<std::byte, Device>(Shape{shape.layers, 2, plane_bytes_});
    table_.assign(static_cast<std::size_t>(table_stride_ * options.slots), -1);
    lengths_.assign(static_cast<std::size_t>(options.slots), 0);
    users_.assign(static_cast<std::size_t>(options_.pages), 0);
    for (std::int64_t page = options_.pages; page-- > 0;) free_.push_back(static_cast<int>(page));
  }

  [[nodiscard]] const CacheShape& shape() const { return shape_; }
  [[nodiscard]] const CacheOptions& options() const { return options_; }
  /// Tokens held for a slot.
  [[nodiscard]] std::int64_t length(std::int32_t slot) const {
    return lengths_[static_cast<std::size_t>(checked(slot))];
  }
  [[nodiscard]] std::int64_t free_pages() const { return static_cast<std::int64_t>(free_.size()); }
  /// Pages that slots hold; a shared one counts once.
  [[nodiscard]] std::int64_t used_pages() const { return options_.pages - free_pages(); }
  /// Bytes of one page in all layers.
  [[nodiscard]] std::int64_t bytes_per_page() const {
    return shape_.layers * 2 * (page_bytes_ + scale_bytes_);
  }
  /// Bytes of one token in all layers.
  [[nodiscard]] std::int64_t bytes_per_token() const {
    return bytes_per_page() / options_.page_tokens;
  }

  /// Where layer `layer` finds its keys and values.
  [[nodiscard]] CachedKeysValues<Device> layer(std::int64_t layer) const {
    std::byte* base = const_cast<std::byte*>(pool_.data()) + layer * 2 * plane_bytes_;
    CachedKeysValues<Device> result;
    result.dtype = options_.dtype;
    result.kv_heads = shape_.kv_heads;
    result.head_dim = shape_.head_dim;
    result.page_tokens = options_.page_tokens;
    result.keys = base;
    result.values = base + plane_bytes_;
    result.page_bytes = page_bytes_;
    result.block_table = table_.data();
    result.table_stride = table_stride_;
    if (scale_bytes_ > 0) result.scales = options_.pages * page_bytes_;
    return result;
  }

  /// The places of new rows: each goes behind what its slot already holds, in the order of rows.
  struct Step {
    std::span<const std::int64_t> indices;  ///< (rows) index within the slot
    std::span<const std::int64_t> visible;  ///< (rows) index + 1: what the row may attend to
  };

  /// Takes pages for one more token per entry of `slots`. Lengths change only with `commit`.
  /// @throws ArgumentError for an unknown slot or a sequence longer than max_tokens
  /// @throws BackendError when no page is free
  Step prepare(std::span<const std::int32_t> slots) {
    pending_.assign(lengths_.begin(), lengths_.end());
    indices_.clear();
    visible_.clear();
    for (const std::int32_t slot : slots) {
      const std::int64_t index = pending_[static_cast<std::size_t>(checked(slot))]++;
      if (index >= options_.max_tokens) {
        throw ArgumentError("ZIYA-404", "cache: sequence in slot " + std::to_string(slot) +
                                            " would exceed " + std::to_string(options_.max_tokens) +
                                            " tokens");
      }
      std::int32_t& page = entry(slot, index / options_.page_tokens);
      if (page < 0) {
        page = take_page();
      } else if (users_[static_cast<std::size_t>(page)] > 1) {
        const std::int32_t own = take_page();
        copy_page(own, page);
        --users_[static_cast<std::size_t>(page)];
        page = own;
      }
      indices_.push_back(index);
      visible_.push_back(index + 1);
    }
    return {indices_, visible_};
  }
  /// The rows of the last `prepare` are stored.
  void commit() { lengths_.assign(pending_.begin(), pending_.end()); }

  /// Free pages that `tokens` more tokens in a slot take at most.
  [[nodiscard]] std::int64_t pages_needed(std::int32_t slot, std::int64_t tokens) const {
    const std::int64_t begin = length(slot), end = begin + tokens;
    std::int64_t needed = 0;
    for (std::int64_t i = begin / options_.page_tokens; i * options_.page_tokens < end; ++i) {
      if (i >= table_stride_) break;
      const std::int32_t page = table_[static_cast<std::size_t>(slot * table_stride_ + i)];
      needed += page < 0 || users_[static_cast<std::size_t>(page)] > 1;
    }
    return needed;
  }

  /// Slot `to` forgets what it held and shares the first `tokens` tokens of slot `from`.
  /// @throws ArgumentError for an unknown slot, a slot that is to share with itself, and for more
  /// tokens than `from` holds
  void share(std::int32_t from, std::int32_t to, std::int64_t tokens) {
    if (checked(from) == checked(to) || tokens < 0 || tokens > length(from)) {
      throw ArgumentError("ZIYA-406", "cache: slot " + std::to_string(to) + " is to share " +
                                          std::to_string(tokens) + " tokens of slot " +
                                          std::to_string(from) + ", which holds " +
                                          std::to_string(length(from)));
    }
    release(to);
    for (std::int64_t i = 0; i * options_.page_tokens < tokens; ++i) {
      entry(to, i) = entry(from, i);
      ++users_[static_cast<std::size_t>(entry(to, i))];
    }
    lengths_[static_cast<std::size_t>(to)] = tokens;
  }

  /// Forgets the tokens of a slot from `length` on and gives their pages back.
  void truncate(std::int32_t slot, std::int64_t length) {
    std::int64_t& current = lengths_[static_cast<std::size_t>(checked(slot))];
    current = std::clamp<std::int64_t>(length, 0, current);
    const std::int64_t kept = (current + options_.page_tokens - 1) / options_.page_tokens;
    for (std::int64_t i = kept; i < table_stride_; ++i) {
      std::int32_t& page = entry(slot, i);
      if (page >= 0 && --users_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
      page = -1;
    }
  }
  void release(std::int32_t slot) { truncate(slot, 0); }

 private:
  [[nodiscard]] std::int32_t checked(std::int32_t slot) const {
    if (slot < 0 || slot >= options_.slots) {
      throw ArgumentError("ZIYA-403", "cache: slot " + std::to_string(slot) + " of " +
                                          std::to_string(options_.slots));
    }
    return slot;
  }
  [[nodiscard]] std::int32_t& entry(std::int32_t slot, std::int64_t page) {
    return table_[static_cast<std::size_t>(slot * table_stride_ + page)];
  }
  std::int32_t take_page() {
    if (free_.empty()) {
      throw BackendError("ZIYA-405",
                         "cache: all " + std::to_string(options_.pages) + " pages are taken");
    }
    const std::int32_t page = free_.back();
    free_.pop_back();
    users_[static_cast<std::size_t>(page)] = 1;
    return page;
  }
  void copy_page(std::int32_t to, std::int32_t from) {
    for (std::int64_t plane = 0; plane < shape_.layers * 2; ++plane) {
      std::byte* base = pool_.data() + plane * plane_bytes_;
      copy(Device{}, base + to * page_bytes_, Device{}, base + from * page_bytes_,
           static_cast<std::size_t>(page_bytes_));
      if (scale_bytes_ == 0) continue;
      base += options_.pages * page_bytes_;
      copy(Device{}, base + to * scale_bytes_, Device{}, base + from * scale_bytes_,
           static_cast<std::size_t>(scale_bytes_));
    }
  }

  CacheShape shape_;
  CacheOptions options_;
  /// Of a page; of its scales, where they lie behind all pages; of all keys, or values, of a layer.
  std::int64_t page_bytes_ = 0, scale_bytes_ = 0, plane_bytes_ = 0;
  std::int64_t table_stride_ = 0;
  Tensor<std::byte, Device> pool_;
  std::vector<std::int32_t> table_, free_, users_;  ///< users_: slots that hold a page
  std::vector<std::int64_t> lengths_, pending_, indices_, visible_;
};

ZIYA_NAMESPACE_END
