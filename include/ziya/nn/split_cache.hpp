// SPDX-License-Identifier: Apache-2.0
// The cache of a model whose layers lie on several devices: one cache on each, kept in step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/split.hpp"
#include "ziya/nn/kv_cache.hpp"

ZIYA_NAMESPACE_BEGIN

/// Layers of a model on one far device.
struct SplitPart {
  int device = 0;
  std::int64_t layers = 0;

  friend bool operator==(const SplitPart&, const SplitPart&) = default;
};

/// The host's layers come first, then those of each part.
struct SplitCacheShape : CacheShape {
  std::int64_t near_layers = 0;
  std::vector<SplitPart> parts;
};

/// The same interface as a cache on one device.
template <class Far>
class KvCache<Split<Far>> {
 public:
  /// @throws as a cache on one device does
  KvCache(const SplitCacheShape& shape, const CacheOptions& options) : shape_(shape) {
    const auto part = [&](std::int64_t layers) {
      return CacheShape{layers, shape.kv_heads, shape.head_dim};
    };
    if (shape.near_layers > 0) near_.emplace(part(shape.near_layers), options);
    far_.reserve(shape.parts.size());
    for (const SplitPart& far : shape.parts) {
      set_current(Far{}, far.device);
      far_.emplace_back(part(far.layers), options);
    }
  }

  struct Step {
    std::span<const std::int64_t> indices;  ///< (rows) index within the slot
    std::span<const std::int64_t> visible;  ///< (rows) index + 1: what the row may attend to
  };

  [[nodiscard]] const KvCache<Cpu>& near() const { return *near_; }
  [[nodiscard]] const KvCache<Far>& far(std::size_t part) const { return far_[part]; }

  [[nodiscard]] const CacheShape& shape() const { return shape_; }
  [[nodiscard]] const CacheOptions& options() const {
    return any([](const auto& cache) -> decltype(auto) { return (cache.options()); });
  }
  [[nodiscard]] std::int64_t length(std::int32_t slot) const {
    return any([&](const auto& cache) { return cache.length(slot); });
  }
  [[nodiscard]] std::int64_t free_pages() const {
    return any([](const auto& cache) { return cache.free_pages(); });
  }
  [[nodiscard]] std::int64_t used_pages() const {
    return any([](const auto& cache) { return cache.used_pages(); });
  }
  [[nodiscard]] std::int64_t bytes_per_page() const {
    return sum([](const auto& cache) { return cache.bytes_per_page(); });
  }
  [[nodiscard]] std::int64_t bytes_per_token() const {
    return sum([](const auto& cache) { return cache.bytes_per_token(); });
  }
  [[nodiscard]] std::int64_t pages_needed(std::int32_t slot, std::int64_t tokens) const {
    return any([&](const auto& cache) { return cache.pages_needed(slot, tokens); });
  }

  /// Takes pages in every part.   @throws as a cache on one device does
  Step prepare(std::span<const std::int32_t> slots) {
    Step result;
    each([&](auto& cache) {
      const auto step = cache.prepare(slots);
      result = {step.indices, step.visible};
    });
    return result;
  }
  void commit() {
    each([](auto& cache) { cache.commit(); });
  }
  void share(std::int32_t from, std::int32_t to, std::int64_t tokens) {
    each([&](auto& cache) { cache.share(from, to, tokens); });
  }
  void truncate(std::int32_t slot, std::int64_t length) {
    each([&](auto& cache) { cache.truncate(slot, length); });
  }
  void release(std::int32_t slot) { truncate(slot, 0); }

 private:
  template <class F>
  void each(F&& f) {
    if (near_) f(*near_);
    for (std::size_t i = 0; i < far_.size(); ++i) {
      set_current(Far{}, shape_.parts[i].device);
      f(far_[i]);
    }
  }
  /// All parts hold the same tokens in the same pages.
  template <class F>
  decltype(auto) any(F&& f) const {
    return near_ ? f(*near_) : f(far_.front());
  }
  template <class F>
  std::int64_t sum(F&& f) const {
    std::int64_t total = near_ ? f(*near_) : 0;
    for (const KvCache<Far>& cache : far_) total += f(cache);
    return total;
  }

  SplitCacheShape shape_;
  std::optional<KvCache<Cpu>> near_;
  std::vector<KvCache<Far>> far_;
};

ZIYA_NAMESPACE_END
