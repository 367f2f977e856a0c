// SPDX-License-Identifier: Apache-2.0
// Guesses of the tokens to come, which the model then checks in one pass.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/view.hpp"
#include "ziya/generate/limits.hpp"
#include "ziya/generate/step_rows.hpp"
#include "ziya/nn/kv_cache.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

/// What a drafter is asked: at most `count` tokens that follow `ids`. `sample` draws from logits
/// as the answer will be drawn, with the random numbers that it will use.
template <class Device>
struct DraftRequest {
  std::span<const std::int32_t> ids;
  std::size_t count = 0;
  std::function<std::int32_t(Context<Device>&, View<const float, Device> logits,
                             std::span<const std::int32_t> history)>
      sample;
};

/// Appends guesses to an empty list. The answer's tokens are drawn by the model itself, one after
/// the other, and a guess counts where it equals the token drawn: so the text is the one without
/// guesses, for every policy and seed. (Accepting with probability min(1, p/q), the other exact
/// rule, keeps the distribution only.)
/// Source: Leviathan, Kalman & Matias, arXiv 2211.17192, whose rule for a draft that proposes one
/// token with certainty this is
template <class Device>
using Drafter = std::function<void(const DraftRequest<Device>&, std::vector<std::int32_t>&)>;

/// Guesses that what followed the last tokens before follows them again: for answers that quote.
/// Source: Saxena, "Prompt lookup decoding", 2023
struct PromptLookup {
  std::int64_t most = 16;         ///< tokens at a time
  std::size_t longest_match = 4;  ///< tokens at the end that are looked for, then fewer
  std::size_t least_match = 2;

  template <class Device>
  void operator()(const DraftRequest<Device>& request, std::vector<std::int32_t>& guesses) const {
    find(request.ids,
         std::min(request.count, static_cast<std::size_t>(std::max<std::int64_t>(most, 0))),
         guesses);
  }
  /// The latest place counts, of the longest match.
  void find(std::span<const std::int32_t> ids, std::size_t count,
            std::vector<std::int32_t>& guesses) const {
    const std::size_t least = std::max<std::size_t>(least_match, 1);
    std::size_t best = 0, where = 0;
    for (std::size_t end = ids.size(); end-- > least;) {  // ids[end] would be the first guess
      std::size_t match = 0;
      while (match < longest_match && match < end &&
             ids[end - 1 - match] == ids[ids.size() - 1 - match]) {
        ++match;
      }
      if (match > best) best = match, where = end;
      if (best == longest_match) break;
    }
    if (best < least) return;
    for (std::size_t at = where; at < ids.size() && guesses.size() < count; ++at) {
      guesses.push_back(ids[at]);
    }
  }
};

/// Guesses with a smaller model of the same vocabulary. Context, model and tokenizer outlive it; it
/// belongs to the thread of the generator that asks it, and keeps its cache between tokens and
/// turns.
template <class Model>
class DraftModel {
 public:
  using Device = typename Model::Device;

  /// @param tokenizer the generator's   @param most tokens at a time
  /// @throws ConfigError when the draft's vocabulary is not the tokenizer's
  DraftModel(Context<Device>& ctx, const Model& model, const Tokenizer& tokenizer,
             std::int64_t most = 8, DType cache_dtype = DType::f32)
      : ctx_(&ctx),
        model_(&model),
        columns_(tokenizer.vocabulary_size()),
        most_(static_cast<std::size_t>(std::max<std::int64_t>(most, 0))),
        cache_(model.shape().cache_shape(),
               {.dtype = cache_dtype, .max_tokens = context_limit(model.shape())}) {
    check_vocabulary(tokenizer, model.shape());
  }

  void operator()(const DraftRequest<Device>& request, std::vector<std::int32_t>& guesses) {
    const std::size_t count = std::min(request.count, most_);
    const std::size_t size = request.ids.size();
    if (static_cast<std::int64_t>(size + count) > context_limit(model_->shape()) ||
        rotation_changes(model_->shape(), size + count)) {
      return;
    }
    cache_.truncate(0, common_beginning(request.ids.first(size - 1), history_));
    history_.assign(request.ids.begin(), request.ids.end());
    while (guesses.size() < count) {
      const auto begin = cache_.length(0), end = std::ssize(history_);
      constexpr std::int64_t chunk = 512;
      rows_.clear();
      rows_.push_back(history_, begin, std::min(end, begin + chunk), 0);
      if (end <= begin + chunk) rows_.want_last(0);
      rows_.run(*ctx_, *model_, cache_, columns_, [&](std::size_t, const auto& logits) {
        guesses.push_back(request.sample(*ctx_, logits, history_));
      });
      if (end <= begin + chunk) history_.push_back(guesses.back());
    }
    history_.resize(static_cast<std::size_t>(cache_.length(0)));
  }

 private:
  Context<Device>* ctx_;
  const Model* model_;
  std::int64_t columns_;
  std::size_t most_;
  KvCache<Device> cache_;
  std::vector<std::int32_t> history_;  ///< what the cache holds
  StepRows rows_;
};

ZIYA_NAMESPACE_END
