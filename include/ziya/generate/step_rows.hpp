// SPDX-License-Identifier: Apache-2.0
// The rows of one forward pass, and the logits of those that are wanted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/shape.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/workspace.hpp"
#include "ziya/model/batch.hpp"
#include "ziya/nn/kv_cache.hpp"

ZIYA_NAMESPACE_BEGIN

/// Collects tokens of any sequences; its vectors are kept, so that a token allocates nothing.
class StepRows {
 public:
  void clear() {
    for (auto* column : {&ids_, &positions_, &slots_, &outputs_}) column->clear();
    owners_.clear();
  }
  [[nodiscard]] bool empty() const { return ids_.empty(); }
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(ids_.size()); }

  void push_back(std::int32_t id, std::int64_t position, std::int32_t slot) {
    ids_.push_back(id);
    positions_.push_back(static_cast<std::int32_t>(position));
    slots_.push_back(slot);
  }
  /// Tokens `begin` … `end` of a sequence.
  void push_back(std::span<const std::int32_t> ids, std::int64_t begin, std::int64_t end,
                 std::int32_t slot) {
    for (std::int64_t at = begin; at < end; ++at) {
      push_back(ids[static_cast<std::size_t>(at)], at, slot);
    }
  }
  /// The logits of the last row are wanted, for `owner`.
  void want_last(std::size_t owner) {
    outputs_.push_back(static_cast<std::int32_t>(ids_.size()) - 1);
    owners_.push_back(owner);
  }

  /// For whom the rows are that are wanted, in their order.
  [[nodiscard]] std::span<const std::size_t> owners() const {
    return {owners_.data(), owners_.size()};
  }

  /// Runs the rows and calls f(logits) with all that are wanted, (owners, columns), if any is.
  /// @param columns of the logits that f sees: rows of the embedding past the tokenizer's last id
  /// are padding and mean nothing
  template <class Model, class F>
  void run_together(Context<typename Model::Device>& ctx, const Model& model,
                    KvCache<typename Model::Device>& cache, std::int64_t columns, F&& f) const {
    using Device = typename Model::Device;
    using T = typename Model::T;
    typename Workspace<Device>::Scope scope(ctx.workspace());
    const auto hidden = forward(ctx, model, cache);
    const std::int64_t outputs = hidden.rows();
    if (outputs == 0) return;
    const auto logits =
        ctx.workspace().template take<float>(Shape{outputs, model.shape().vocabulary});
    model.logits(ctx, logits, View<T, Device>(hidden));
    f(View<const float, Device>(logits).column_range(0, columns));
  }
  /// Runs the rows and calls f(owner, logits (columns)) for each that is wanted, in their order.
  template <class Model, class F>
  void run(Context<typename Model::Device>& ctx, const Model& model,
           KvCache<typename Model::Device>& cache, std::int64_t columns, F&& f) const {
    run_together(ctx, model, cache, columns, [&](const auto& logits) {
      for (std::size_t row = 0; row < owners_.size(); ++row) f(owners_[row], row_of(logits, row));
    });
  }
  template <class Device>
  static View<const float, Device> row_of(View<const float, Device> logits, std::size_t row) {
    return {logits.row(static_cast<std::int64_t>(row)), Shape{logits.columns()}};
  }

  /// The hidden rows that are wanted, in the workspace of the caller's scope.
  template <class Model>
  auto forward(Context<typename Model::Device>& ctx, const Model& model,
               KvCache<typename Model::Device>& cache) const {
    using Device = typename Model::Device;
    using T = typename Model::T;
    const auto outputs = static_cast<std::int64_t>(outputs_.size());
    const auto hidden = ctx.workspace().template take<T>(Shape{outputs, model.shape().hidden});
    Batch<T, Device> batch;
    batch.ids = ids_;
    batch.positions = positions_;
    batch.slots = slots_;
    batch.outputs = outputs_;
    model.forward(ctx, hidden, batch, cache);
    return hidden;
  }

 private:
  std::vector<std::int32_t> ids_, positions_, slots_, outputs_;
  std::vector<std::size_t> owners_;  ///< of each output
};

ZIYA_NAMESPACE_END
