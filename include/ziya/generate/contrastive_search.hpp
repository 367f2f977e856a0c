// SPDX-License-Identifier: Apache-2.0
// Contrastive search: likely tokens whose hidden state resembles none that was there before.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/generate/cached_rows.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/processor_list.hpp"
#include "ziya/generate/search.hpp"
#include "ziya/generate/sequence.hpp"
#include "ziya/generate/stopping.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

/// Whether the settings ask for it, as Transformers 4 decides.
inline bool wants_contrastive_search(const GenerationConfig& config) {
  return !config.do_sample && config.num_beams == 1 && config.top_k > 1 && config.penalty_alpha > 0;
}

/// Appends row `row` of `hidden`, divided by its length.
template <class T, class Device>
void append_unit(std::vector<float>& units, const Tensor<T, Device>& hidden, std::size_t row,
                 std::size_t size) {
  std::vector<T> values(size);
  copy(Cpu{}, values.data(), Device{}, hidden.view().row(static_cast<std::int64_t>(row)),
       size * sizeof(T));
  double squares = 0;
  for (const T value : values) squares += double{to_float(value)} * to_float(value);
  const double scale = squares > 0 ? 1 / std::sqrt(squares) : 0;
  for (const T value : values) units.push_back(static_cast<float>(to_float(value) * scale));
}

/// max over the rows of `past` of the product with row `row` of `units`.
inline double most_alike(const std::vector<float>& past, const std::vector<float>& units,
                         std::size_t row, std::size_t size) {
  double most = -1;
  for (std::size_t j = 0; j < past.size(); j += size) {
    double product = 0;
    for (std::size_t i = 0; i < size; ++i) product += double{past[j + i]} * units[row * size + i];
    most = std::max(most, product);
  }
  return most;
}

/// Each step takes, of the top_k tokens that are likeliest after the processors, the one with the
/// highest (1 − α) p(v) − α max_j cos(h_v, h_j), α = penalty_alpha, h_v the normalised last hidden
/// state that v would have, h_j those of prompt and answer.
/// Source: Su et al., arXiv 2202.06417, section 3.2
/// @param cache_dtype of keys and values, as CacheOptions::dtype   @throws as Generator::generate
template <class Model>
GenerationResult contrastive_search(Context<typename Model::Device>& ctx, const Model& model,
                                    const Tokenizer& tokenizer,
                                    const std::vector<std::int32_t>& prompt,
                                    GenerationConfig config, const Cancellation& cancellation = {},
                                    DType cache_dtype = DType::f32) {
  const std::int64_t limit = check_search(model, tokenizer, prompt, config);
  check_setting(config.top_k > 1, "top_k", config.top_k, "2 or more for contrastive search");
  std::vector<std::int32_t> answer;
  if (limit == 0) return answer_of(tokenizer, config, prompt, answer, FinishReason::length);
  ProcessorList processors;
  add_constraints(processors, config);
  SamplerState state;
  state.prompt_size = prompt.size();
  state.limit = prompt.size() + static_cast<std::size_t>(limit);

  const int width = std::min(config.top_k, tokenizer.vocabulary_size());
  CachedRows<Model> rows(ctx, model, width, static_cast<std::int64_t>(prompt.size()) + limit,
                         cache_dtype);
  const auto size = static_cast<std::size_t>(model.shape().hidden);
  std::vector<float> past;  // unit vectors (ids, hidden)
  const auto hidden = rows.append(0, prompt, true);
  for (std::size_t i = 0; i < prompt.size(); ++i) append_unit(past, hidden, i, size);
  std::vector<float> row = logits_of(rows, hidden, std::ssize(prompt) - 1, tokenizer);
  std::vector<std::int32_t> ids = prompt;

  const auto answered = [&](FinishReason reason) {
    GenerationResult result = answer_of(tokenizer, config, prompt, answer, reason);
    add_logprobs(ctx, model, tokenizer, config, cache_dtype, result);
    return result;
  };
  while (true) {
    if (cancellation.requested()) return answered(FinishReason::cancelled);
    state.history = ids;
    Candidates& left =
        processors.run({row.data(), Shape{static_cast<std::int64_t>(row.size())}}, state);
    const double log_sum = left.log_sum();
    left.keep_best(static_cast<std::size_t>(width));
    left.narrow();
    std::vector<std::int32_t> slots, tokens;
    std::vector<double> likelihoods;
    for (const Candidate& candidate : left.list()) {
      if (static_cast<int>(slots.size()) == width) break;
      slots.push_back(static_cast<std::int32_t>(slots.size()));
      tokens.push_back(candidate.id);
      likelihoods.push_back(std::exp(candidate.score - log_sum));
    }
    for (const std::int32_t slot : slots) rows.take_over(slot, 0);
    const auto next = rows.append_each(slots, tokens);
    std::vector<float> units;
    for (std::size_t i = 0; i < slots.size(); ++i) append_unit(units, next, i, size);
    std::size_t chosen = 0;
    double best = -1e300;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const double score = (1 - double{config.penalty_alpha}) * likelihoods[i] -
                           config.penalty_alpha * most_alike(past, units, i, size);
      if (score > best) best = score, chosen = i;
    }
    const float* unit = units.data() + chosen * size;
    past.insert(past.end(), unit, unit + size);
    row = logits_row(rows.logits(next), chosen, tokenizer);
    rows.take_over(0, static_cast<int>(chosen));
    ids.push_back(tokens[chosen]);
    answer.push_back(tokens[chosen]);
    const bool eos = std::find(config.eos_ids.begin(), config.eos_ids.end(), answer.back()) !=
                     config.eos_ids.end();
    const bool stop = ends_with_stop(tokenizer, config, answer);
    if (eos || stop || static_cast<std::int64_t>(answer.size()) == limit) {
      return answered(stop ? FinishReason::stop : eos ? FinishReason::eos : FinishReason::length);
    }
  }
}

ZIYA_NAMESPACE_END
