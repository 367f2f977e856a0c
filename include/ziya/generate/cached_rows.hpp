// SPDX-License-Identifier: Apache-2.0
// Several continuations of one prompt in one cache: forward passes, and taking over each other's
// past.
#pragma once

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

/// The sequences of a search, one cache slot each.
template <class Model>
class CachedRows {
 public:
  using Device = typename Model::Device;
  using T = typename Model::T;

  /// @param tokens the longest sequence
  CachedRows(Context<Device>& ctx, const Model& model, int slots, std::int64_t tokens,
             DType cache_dtype = DType::f32)
      : ctx_(&ctx),
        model_(&model),
        cache_(model.shape().cache_shape(),
               {.dtype = cache_dtype, .slots = slots, .max_tokens = tokens}),
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

  /// Slot `to` becomes what slot `from` is: they share pages until one of them grows into one.
  void take_over(int to, int from) {
    if (to == from) return;
    const auto& source = ids_[static_cast<std::size_t>(from)];
    cache_.share(from, to, static_cast<std::int64_t>(source.size()));
    ids_[static_cast<std::size_t>(to)] = source;
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
