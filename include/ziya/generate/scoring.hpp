// SPDX-License-Identifier: Apache-2.0
// How likely a model finds a text, and a text as one vector.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/workspace.hpp"
#include "ziya/generate/limits.hpp"
#include "ziya/generate/step_rows.hpp"
#include "ziya/nn/kv_cache.hpp"

ZIYA_NAMESPACE_BEGIN

/// log p(continuation | prompt) = Σ log softmax(logits)[token], in double, over all columns of the
/// head.
struct Likelihood {
  double log_probability = 0;
  std::int64_t tokens = 0;
  bool greedy = true;  ///< each token was the likeliest: greedy decoding would have said it
};

/// Scores and embeds texts; keeps the cache between calls, so that the choices of a question share
/// its beginning. Context and model outlive it; it belongs to the context's thread.
template <class Model>
class Scorer {
 public:
  using Device = typename Model::Device;
  using T = typename Model::T;

  /// @param cache_dtype of keys and values, as CacheOptions::dtype
  Scorer(Context<Device>& ctx, const Model& model, std::int64_t chunk_tokens = 256,
         DType cache_dtype = DType::f32)
      : ctx_(&ctx),
        model_(&model),
        chunk_(chunk_tokens),
        cache_(model.shape().cache_shape(),
               {.dtype = cache_dtype, .max_tokens = context_limit(model.shape())}) {
    check_chunk(chunk_tokens);
  }

  /// @throws ArgumentError for an empty prompt or continuation, ids outside the vocabulary, more
  /// than the context
  Likelihood log_likelihood(std::span<const std::int32_t> prompt,
                            std::span<const std::int32_t> continuation) {
    if (continuation.empty()) {
      throw ArgumentError("ZIYA-585", "scoring: the continuation has no tokens");
    }
    std::vector<std::int32_t> ids(prompt.begin(), prompt.end());
    ids.insert(ids.end(), continuation.begin(), continuation.end());
    check_request(prompt, {}, model_->shape(), context_limit(model_->shape()));
    check_request(ids, {}, model_->shape(), context_limit(model_->shape()));
    Likelihood result;
    result.tokens = std::ssize(continuation);
    const std::int64_t wanted = std::ssize(prompt) - 1;  // the first row whose logits count
    pass(ids, std::ssize(ids) - 1, wanted, [&](std::int64_t at, View<const float, Device> row) {
      const auto [log_probability, best] = score(row, ids[static_cast<std::size_t>(at) + 1]);
      result.log_probability += log_probability;
      result.greedy = result.greedy && best;
    });
    return result;
  }

  /// The mean over all tokens of the last hidden state behind the final norm, scaled to length 1.
  /// @throws ArgumentError as above
  std::vector<float> embed(std::span<const std::int32_t> ids, bool normalise = true) {
    check_request(ids, {}, model_->shape(), context_limit(model_->shape()));
    std::vector<double> sum(static_cast<std::size_t>(model_->shape().hidden));
    forget();
    const std::int64_t size = std::ssize(ids);
    for (std::int64_t begin = 0; begin < size;) {
      const std::int64_t end = chunk_end(begin, size);
      fill_rows(ids, begin, end, begin);
      typename Workspace<Device>::Scope scope(ctx_->workspace());
      const auto hidden = rows_.forward(*ctx_, *model_, cache_);
      for (std::int64_t row = 0; row < hidden.rows(); ++row) {
        const T* values = on_host(hidden.row(row), sum.size(), hidden_);
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += double{to_float(values[i])};
      }
      begin = end;
    }
    forget();
    double length = 0;
    for (double& value : sum) {
      value /= static_cast<double>(size);
      length += value * value;
    }
    const double scale = normalise && length > 0 ? 1 / std::sqrt(length) : 1;
    std::vector<float> result;
    for (const double value : sum) result.push_back(static_cast<float>(value * scale));
    return result;
  }

 private:
  struct TokenScore {
    double log_probability;
    bool best;
  };
  /// A row where the host can read it: in place, or copied into `memory`.
  template <class U>
  static const U* on_host(const U* row, std::size_t count, std::vector<U>& memory) {
    if constexpr (std::is_same_v<Device, Cpu>) {
      return row;
    } else {
      memory.resize(count);
      copy(Cpu{}, memory.data(), Device{}, row, count * sizeof(U));
      return memory.data();
    }
  }
  TokenScore score(View<const float, Device> row, std::int32_t token) {
    const std::int64_t columns = row.elements();
    const float* logits = on_host(row.data(), static_cast<std::size_t>(columns), logits_);
    const double highest = static_cast<double>(*std::max_element(logits, logits + columns));
    double total = 0;
    for (std::int64_t i = 0; i < columns; ++i) {
      total += std::exp(static_cast<double>(logits[i]) - highest);
    }
    const auto own = static_cast<double>(logits[token]);
    if (!std::isfinite(own - std::log(total))) {
      throw BackendError("ZIYA-502",
                         "scoring: the score of token " + std::to_string(token) + " is no number");
    }
    return {own - highest - std::log(total), own == highest};
  }

  void forget() {
    cache_.release(0);
    held_.clear();
  }
  [[nodiscard]] std::int64_t chunk_end(std::int64_t begin, std::int64_t size) const {
    const bool whole = rotation_changes(model_->shape(), static_cast<std::size_t>(size));
    return whole ? size : std::min(size, begin + chunk_);
  }
  void fill_rows(std::span<const std::int32_t> ids, std::int64_t begin, std::int64_t end,
                 std::int64_t wanted) {
    rows_.clear();
    for (std::int64_t at = begin; at < end; ++at) {
      rows_.push_back(ids[static_cast<std::size_t>(at)], at, 0);
      if (at >= wanted) rows_.want_last(static_cast<std::size_t>(at));
    }
  }

  /// Computes ids[0 … size) and calls f(index, logits) from `wanted` on.
  template <class F>
  void pass(std::span<const std::int32_t> ids, std::int64_t size, std::int64_t wanted, F&& f) {
    std::int64_t begin = common_beginning(ids.first(static_cast<std::size_t>(wanted)), held_);
    if (rotation_changes(model_->shape(), ids.size()) ||
        rotation_changes(model_->shape(), held_.size())) {
      begin = 0;
    }
    cache_.truncate(0, begin);
    begin = cache_.length(0);
    held_.assign(ids.begin(), ids.begin() + size);
    while (begin < size) {
      const std::int64_t end = chunk_end(begin, size);
      fill_rows(ids, begin, end, wanted);
      rows_.run(*ctx_, *model_, cache_, model_->shape().vocabulary,
                [&](std::size_t at, const auto& row) { f(static_cast<std::int64_t>(at), row); });
      begin = end;
    }
  }

  Context<Device>* ctx_;
  const Model* model_;
  std::int64_t chunk_;
  KvCache<Device> cache_;
  std::vector<std::int32_t> held_;  ///< what the cache holds, or was to hold
  StepRows rows_;
  std::vector<T> hidden_;      ///< of a row, from another device
  std::vector<float> logits_;  ///< likewise
};

ZIYA_NAMESPACE_END
