// SPDX-License-Identifier: Apache-2.0
// Several continuations of one prompt in one cache: forward passes, and taking over each other's
// past.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/view.hpp"
#include "ziya/model/batch.hpp"
#include "ziya/nn/kv_cache.hpp"

ZIYA_NAMESPACE_BEGIN

/// The sequences of a search, one cache slot each. What a slot holds is known by its ids, so that a
/// slot that goes on from another's past copies only the pages in which the two differ.
template <class Model>
class CachedRows {
 public:
  using Device = typename Model::Device;
  using T = typename Model::T;

  /// @param tokens the longest sequence
  CachedRows(Context<Device>& ctx, const Model& model, int slots, std::int64_t tokens)
      : ctx_(&ctx),
        model_(&model),
        cache_(model.shape().cache_shape(), {.slots = slots, .max_tokens = tokens}),
        ids_(static_cast<std::size_t>(slots)) {}

  [[nodiscard]] const std::vector<std::int32_t>& ids(int slot) const {
    return ids_[static_cast<std::size_t>(slot)];
  }

  /// Appends to a slot.   @returns hidden states (ids, hidden), or the last one alone
  Tensor<T, Device> append(int slot, std::span<const std::int32_t> ids, bool all_hidden) {
    std::vector<std::int32_t> slots(ids.size(), slot), positions, outputs;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      positions.push_back(static_cast<std::int32_t>(this->ids(slot).size() + i));
      if (all_hidden || i + 1 == ids.size()) outputs.push_back(static_cast<std::int32_t>(i));
    }
    return run(ids, slots, positions, outputs);
  }
  /// Appends one id to each of several slots.   @returns hidden states (slots, hidden)
  Tensor<T, Device> append_each(std::span<const std::int32_t> slots,
                                std::span<const std::int32_t> ids) {
    std::vector<std::int32_t> positions, outputs;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      positions.push_back(static_cast<std::int32_t>(this->ids(slots[i]).size()));
      outputs.push_back(static_cast<std::int32_t>(i));
    }
    return run(ids, slots, positions, outputs);
  }
  /// @returns logits (rows, vocabulary) of hidden states
  Tensor<float, Device> logits(const Tensor<T, Device>& hidden) {
    Tensor<float, Device> result(Shape{hidden.view().rows(), model_->shape().vocabulary});
    model_->logits(*ctx_, result.view(), hidden.view());
    return result;
  }

  /// Slot `to` becomes what slot `from` is.
  void take_over(int to, int from) {
    if (to == from) return;
    auto& target = ids_[static_cast<std::size_t>(to)];
    const auto& source = ids_[static_cast<std::size_t>(from)];
    const auto common = static_cast<std::size_t>(
        std::mismatch(source.begin(), source.end(), target.begin(), target.end()).first -
        source.begin());
    cache_.truncate(to, static_cast<std::int64_t>(common));
    cache_.prepare(std::vector<std::int32_t>(source.size() - common, to));
    cache_.commit();
    target = source;
    if (common == source.size()) return;
    const std::int64_t page_tokens = cache_.options().page_tokens;
    const auto first = static_cast<std::int64_t>(common) / page_tokens;
    const auto last = (static_cast<std::int64_t>(source.size()) - 1) / page_tokens;
    for (std::int64_t layer = 0; layer < model_->shape().layers; ++layer) {
      const auto past = cache_.layer(layer);
      const auto page = [&](int slot, std::int64_t i) {
        return past.block_table[slot * past.table_stride + i] * past.page_bytes;
      };
      const auto copy_page = [&](std::byte* base, std::int64_t i) {
        copy(Device{}, base + page(to, i), Device{}, base + page(from, i),
             static_cast<std::size_t>(past.page_bytes));
      };
      for (std::int64_t i = first; i <= last; ++i) {
        copy_page(past.keys, i);
        copy_page(past.values, i);
      }
    }
  }

 private:
  Tensor<T, Device> run(std::span<const std::int32_t> ids, std::span<const std::int32_t> slots,
                        std::span<const std::int32_t> positions,
                        std::span<const std::int32_t> outputs) {
    Tensor<T, Device> hidden(
        Shape{static_cast<std::int64_t>(outputs.size()), model_->shape().hidden});
    Batch<T, Device> batch;
    batch.ids = ids;
    batch.positions = positions;
    batch.slots = slots;
    batch.outputs = outputs;
    model_->forward(*ctx_, hidden.view(), batch, cache_);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      ids_[static_cast<std::size_t>(slots[i])].push_back(ids[i]);
    }
    return hidden;
  }

  Context<Device>* ctx_;
  const Model* model_;
  KvCache<Device> cache_;
  std::vector<std::vector<std::int32_t>> ids_;
};

ZIYA_NAMESPACE_END
