// SPDX-License-Identifier: Apache-2.0
// Decode steps recorded once per shape and replayed, through the decode hook.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/decode_hook.hpp"
#include "ziya/core/view.hpp"
#include "ziya/model/batch.hpp"
#include "ziya/nn/kv_cache.hpp"

ZIYA_NAMESPACE_BEGIN

/// Takes over the decode steps of a context while it lives: the first step of a shape runs op by
/// op, the second is recorded, later ones are replayed with the same result to the bit. Shapes are
/// the number of rows and, in powers of two, the length of the longest sequence.
template <class Model>
class DecodeGraph {
 public:
  using Device = typename Model::Device;
  using T = typename Model::T;

  /// @param ctx outlives it   @param most_rows larger batches run op by op
  explicit DecodeGraph(Context<Device>& ctx, std::int64_t most_rows = 256)
      : ctx_(ctx), most_rows_(most_rows), hook_{this, &run} {
    ctx_.set_decode_hook(&hook_);
  }
  DecodeGraph(const DecodeGraph&) = delete;
  DecodeGraph& operator=(const DecodeGraph&) = delete;
  ~DecodeGraph() { ctx_.set_decode_hook(nullptr); }

  /// Steps that were replayed.
  [[nodiscard]] std::int64_t replays() const { return replays_; }

 private:
  struct Key {
    const void* model = nullptr;
    const void* keys = nullptr;
    const void* hidden = nullptr;
    std::int64_t table_stride = 0;
    typename Context<Device>::StepKey step{};
    friend bool operator==(const Key&, const Key&) = default;
  };

  static bool run(void* self, const void* model, void* cache, const DecodeStep& step) {
    return static_cast<DecodeGraph*>(self)->take(*static_cast<const Model*>(model),
                                                 *static_cast<KvCache<Device>*>(cache), step);
  }

  bool take(const Model& model, KvCache<Device>& cache, const DecodeStep& step) {
    if (step.rows > most_rows_ || step.dtype != dtype_of<T>) return false;
    const auto rows = static_cast<std::size_t>(step.rows);
    outputs_.resize(rows);
    std::iota(outputs_.begin(), outputs_.end(), 0);
    Batch<T, Device> batch;
    batch.ids = {step.ids, rows};
    batch.positions = {step.positions, rows};
    batch.slots = {step.slots, rows};
    batch.outputs = outputs_;
    const View<T, Device> hidden(static_cast<T*>(step.hidden),
                                 Shape{step.rows, model.shape().hidden});
    const auto places = cache.prepare(batch.slots);
    const auto layer = cache.layer(0);
    const StepArrays arrays{batch.ids,      batch.positions,   batch.slots,       places.indices,
                            places.visible, layer.block_table, layer.table_stride};
    ctx_.upload(arrays);
    const auto key = [&] {
      return Key{&model, layer.keys, step.hidden, layer.table_stride, ctx_.key_of(arrays)};
    };
    const Key now = key();
    if (!graph_.empty() && now == recorded_) {
      graph_.launch(ctx_.stream());
      ++replays_;
    } else if (now == seen_) {
      graph_.capture(ctx_.stream(),
                     [&] { model.run_prepared(ctx_, hidden, batch, cache, places); });
      recorded_ = now;
      graph_.launch(ctx_.stream());
    } else {
      model.run_prepared(ctx_, hidden, batch, cache, places);
      seen_ = key();  // the step may have made the workspace grow
    }
    cache.commit();
    return true;
  }

  Context<Device>& ctx_;
  std::int64_t most_rows_;
  DecodeHook hook_;
  typename Context<Device>::Graph graph_;
  Key recorded_, seen_;
  std::vector<std::int32_t> outputs_;
  std::int64_t replays_ = 0;
};

ZIYA_NAMESPACE_END
