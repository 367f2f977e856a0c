// SPDX-License-Identifier: Apache-2.0
// What the searches have in common: limits, rows of logits, and answers out of ids.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/generate/cached_rows.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/generator.hpp"
#include "ziya/generate/logprobs.hpp"
#include "ziya/generate/sequence.hpp"
#include "ziya/generate/stopping.hpp"
#include "ziya/text/detokenizer.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

/// Checks the settings and fills in the tokenizer's end id.   @returns most ids of an answer
/// @throws ArgumentError for settings outside their domain, ZIYA-550 for a prompt that is empty,
/// longer than the context, or holds ids outside the vocabulary
template <class Model>
std::int64_t check_search(const Model& model, const Tokenizer& tokenizer,
                          const std::vector<std::int32_t>& prompt, GenerationConfig& config) {
  config.check();
  const std::int64_t context = context_limit(model.shape());
  const auto size = static_cast<std::int64_t>(prompt.size());
  const auto known = [&](std::int32_t id) { return id >= 0 && id < model.shape().vocabulary; };
  if (size == 0 || size > context || !std::all_of(prompt.begin(), prompt.end(), known)) {
    throw ArgumentError("ZIYA-550", "search: a prompt of " + std::to_string(size) +
                                        " ids; expected 1 to " + std::to_string(context) +
                                        ", each below " + std::to_string(model.shape().vocabulary));
  }
  if (config.eos_ids.empty() && tokenizer.eos_id() >= 0) {
    config.eos_ids.push_back(tokenizer.eos_id());
  }
  return std::min(config.max_new_tokens, context - size);
}

/// Row `row` of logits as host memory, without the columns that pad the vocabulary.
template <class Device>
std::vector<float> logits_row(const Tensor<float, Device>& logits, std::size_t row,
                              const Tokenizer& tokenizer) {
  std::vector<float> result(static_cast<std::size_t>(tokenizer.vocabulary_size()));
  copy(Cpu{}, result.data(), Device{}, logits.view().row(static_cast<std::int64_t>(row)),
       result.size() * sizeof(float));
  return result;
}

/// Logits of one row of `hidden`; the other rows cost nothing.
template <class Model, class T, class Device>
std::vector<float> logits_of(CachedRows<Model>& rows, const Tensor<T, Device>& hidden,
                             std::int64_t row, const Tokenizer& tokenizer) {
  const std::int64_t size = hidden.view().columns();
  Tensor<T, Device> one(Shape{1, size});
  copy(Device{}, one.data(), Device{}, hidden.view().row(row),
       static_cast<std::size_t>(size) * sizeof(T));
  return logits_row(rows.logits(one), 0, tokenizer);
}

/// log softmax of row `row`, over all columns as the reference has it, and then without those that
/// pad the vocabulary.
template <class Device>
std::vector<float> log_softmax_row(const Tensor<float, Device>& logits, std::size_t row,
                                   const Tokenizer& tokenizer) {
  std::vector<float> result(static_cast<std::size_t>(logits.view().columns()));
  copy(Cpu{}, result.data(), Device{}, logits.view().row(static_cast<std::int64_t>(row)),
       result.size() * sizeof(float));
  const float highest = *std::max_element(result.begin(), result.end());
  double total = 0;
  for (const float logit : result) total += std::exp(double{logit} - highest);
  const double log_sum = highest + std::log(total);
  result.resize(static_cast<std::size_t>(tokenizer.vocabulary_size()));
  for (float& logit : result) logit = static_cast<float>(logit - log_sum);
  return result;
}

/// Whether one of the stop strings stands in the text of `ids`.
inline bool ends_with_stop(const Tokenizer& tokenizer, const GenerationConfig& config,
                           const std::vector<std::int32_t>& ids) {
  if (config.stop.empty()) return false;
  const std::string text =
      tokenizer.decode(ids, {.skip_special = config.skip_special, .continues = config.continues});
  for (const std::string& stop : config.stop) {
    if (text.find(stop) != std::string::npos) return true;
  }
  return false;
}

/// An answer as Sequence gives it: the text ends before a stop string.
inline GenerationResult answer_of(const Tokenizer& tokenizer, const GenerationConfig& config,
                                  const std::vector<std::int32_t>& prompt,
                                  const std::vector<std::int32_t>& ids, FinishReason reason) {
  GenerationResult result;
  result.prompt_ids = prompt;
  result.generated_ids = ids;
  result.finish_reason = reason;
  Detokenizer detokenizer(tokenizer,
                          {.skip_special = config.skip_special, .continues = config.continues});
  StopStrings stop(config.stop);
  for (const std::int32_t id : ids) result.text += stop.push(detokenizer.push(id));
  result.text += stop.push(detokenizer.finish()) + stop.flush();
  result.context_exhausted = reason == FinishReason::length &&
                             static_cast<std::int64_t>(ids.size()) < config.max_new_tokens;
  return result;
}

/// Says the log-probabilities that `config` asks for, by one pass over prompt and answer.
template <class Model>
void add_logprobs(Context<typename Model::Device>& ctx, const Model& model,
                  const Tokenizer& tokenizer, const GenerationConfig& config, DType cache_dtype,
                  GenerationResult& result) {
  if (!config.logprobs || result.generated_ids.empty()) return;
  std::vector<std::int32_t> ids = result.prompt_ids;
  const auto& answer = result.generated_ids;
  ids.insert(ids.end(), answer.begin(), answer.end() - 1);
  CachedRows<Model> rows(ctx, model, 1, std::ssize(ids), cache_dtype);
  const auto hidden = rows.append(0, ids, true);
  std::int64_t row = std::ssize(result.prompt_ids) - 1;
  for (const std::int32_t id : result.generated_ids) {
    result.logprobs.push_back(
        token_logprobs(logits_of(rows, hidden, row++, tokenizer), id, *config.logprobs));
  }
}

ZIYA_NAMESPACE_END
