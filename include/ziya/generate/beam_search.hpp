// SPDX-License-Identifier: Apache-2.0
// Beam search: several continuations side by side, the likeliest kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/random.hpp"
#include "ziya/generate/cached_rows.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/processor_list.hpp"
#include "ziya/generate/search.hpp"
#include "ziya/generate/sequence.hpp"
#include "ziya/generate/stopping.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

/// The beams of one prompt, without the model: log-probabilities in, beams and ends out.
///
/// A beam's score is Σ log p of its ids after the processors. Of all continuations of all beams the
/// max(2, 1 + end ids) · beams best are looked at; those among the first `beams` that end become
/// ends with score / length^length_penalty, of which the best `beams` are kept; the best `beams`
/// that do not end go on. When sampling, continuations are drawn without replacement instead.
/// Source: Wu et al., arXiv 1609.08144, section 7, as Transformers searches
class BeamScorer {
 public:
  struct Beam {
    std::vector<std::int32_t> ids;  ///< of the answer
    float score = 0;
    int parent = 0;  ///< the beam of the step before that it continues
    FinishReason reason = FinishReason::length;
  };

  /// @param limit most ids of an answer
  BeamScorer(const GenerationConfig& config, std::int64_t limit)
      : config_(config), limit_(limit), random_{config.seed, 0}, beams_(1) {}

  [[nodiscard]] const std::vector<Beam>& beams() const { return beams_; }
  [[nodiscard]] bool finished() const { return finished_; }
  /// Best first; their scores are divided by length^length_penalty.
  [[nodiscard]] const std::vector<Beam>& ends() const { return ends_; }

  /// @param scores for each beam, what the processors left of log softmax
  /// @param stops   f(beam): whether a stop string ends it
  /// @throws BackendError when every token of every beam is masked
  template <class F>
  void step(const std::vector<std::vector<Candidate>>& scores, F&& stops) {
    std::vector<Choice> best = choices(scores);
    std::vector<Beam> next;
    bool all_end = true;
    for (std::size_t rank = 0; rank < best.size(); ++rank) {
      const Choice& choice = best[rank];
      Beam beam = beams_[static_cast<std::size_t>(choice.beam)];
      beam.ids.push_back(choice.id);
      beam.score = choice.score;
      beam.parent = choice.beam;
      const bool eos = contains(config_.eos_ids, choice.id);
      const bool stop = stops(beam);
      const bool full = static_cast<std::int64_t>(beam.ids.size()) >= limit_;
      beam.reason = eos ? FinishReason::eos : stop ? FinishReason::stop : FinishReason::length;
      if (!eos && !stop && !full) {
        all_end = false;
        if (next.size() < width()) next.push_back(std::move(beam));
      } else if (rank < width()) {
        beam.score /= length_factor(beam.ids.size());
        const auto place = std::find_if(ends_.begin(), ends_.end(),
                                        [&](const Beam& end) { return end.score < beam.score; });
        ends_.insert(place, std::move(beam));
      }
    }
    if (ends_.size() > width()) ends_.resize(width());
    const bool enough = ends_.size() == width();
    beams_ = std::move(next);
    finished_ =
        all_end || (enough && (config_.early_stopping == EarlyStopping::yes || !may_improve()));
  }

 private:
  struct Choice {
    double key;  // the best are chosen by it
    float score;
    int beam;
    std::int32_t id;
  };

  [[nodiscard]] std::size_t width() const { return static_cast<std::size_t>(config_.num_beams); }
  static bool contains(const std::vector<std::int32_t>& ids, std::int32_t id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
  }
  [[nodiscard]] float length_factor(std::size_t length) const {
    return std::pow(static_cast<float>(length), config_.length_penalty);
  }

  /// Whether the best beam may still become better than the worst end.
  [[nodiscard]] bool may_improve() const {
    const bool at_limit =
        config_.early_stopping == EarlyStopping::never && config_.length_penalty > 0;
    const std::size_t length =
        at_limit ? static_cast<std::size_t>(limit_) : beams_.front().ids.size();
    return beams_.front().score / length_factor(length) > ends_.back().score;
  }

  std::vector<Choice> choices(const std::vector<std::vector<Candidate>>& scores) {
    std::vector<Choice> all;
    for (std::size_t beam = 0; beam < scores.size(); ++beam) {
      for (const Candidate& candidate : scores[beam]) {
        const float score = beams_[beam].score + candidate.score;
        all.push_back({config_.do_sample ? perturbed(score) : score, score, static_cast<int>(beam),
                       candidate.id});
      }
    }
    if (all.empty()) throw BackendError("ZIYA-503", "beam search: every token is masked");
    const std::size_t count =
        std::min(std::max<std::size_t>(2, 1 + config_.eos_ids.size()) * width(), all.size());
    const auto better = [](const Choice& a, const Choice& b) {
      if (a.key != b.key) return a.key > b.key;
      return a.beam != b.beam ? a.beam < b.beam : a.id < b.id;
    };
    std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count), all.end(),
                      better);
    all.resize(count);
    return all;
  }

  /// score − log(−log u): those where it is highest are drawn without replacement from
  /// softmax(score).   Source: Kool et al., arXiv 1903.06059, section 2
  double perturbed(float score) {
    const double uniform = std::max(random_.uniform(), 0x1p-60);
    return score - std::log(-std::log(uniform));
  }

  GenerationConfig config_;
  std::int64_t limit_;
  Random random_;
  std::vector<Beam> beams_, ends_;
  bool finished_ = false;
};

/// Gives every beam a slot that holds its parent's past: the first child keeps the slot, others
/// take those of beams without children.   @returns the slot of each beam
template <class Model>
std::vector<std::int32_t> take_over(CachedRows<Model>& rows, const std::vector<std::int32_t>& slots,
                                    const std::vector<BeamScorer::Beam>& beams, std::size_t width) {
  std::vector<std::int32_t> result(beams.size(), -1);
  std::vector<bool> taken(width);
  for (std::size_t i = 0; i < beams.size(); ++i) {
    const std::int32_t slot = slots[static_cast<std::size_t>(beams[i].parent)];
    if (taken[static_cast<std::size_t>(slot)]) continue;
    taken[static_cast<std::size_t>(slot)] = true;
    result[i] = slot;
  }
  for (std::size_t i = 0; i < beams.size(); ++i) {
    if (result[i] >= 0) continue;
    const auto free = std::find(taken.begin(), taken.end(), false);
    *free = true;
    result[i] = static_cast<std::int32_t>(free - taken.begin());
    rows.take_over(result[i], slots[static_cast<std::size_t>(beams[i].parent)]);
  }
  return result;
}

/// The `num_return_sequences` best answers to a prompt, best first, with their scores.
/// @param config num_beams, length_penalty, early_stopping, and what a policy takes
/// @param cache_dtype of keys and values, as CacheOptions::dtype
/// @throws as Generator::generate
template <class Model>
std::vector<GenerationResult> beam_search(Context<typename Model::Device>& ctx, const Model& model,
                                          const Tokenizer& tokenizer,
                                          const std::vector<std::int32_t>& prompt,
                                          GenerationConfig config,
                                          const Cancellation& cancellation = {},
                                          DType cache_dtype = DType::f32) {
  const std::int64_t limit = check_search(model, tokenizer, prompt, config);
  const auto width = static_cast<std::size_t>(config.num_beams);
  ProcessorList processors;
  add_constraints(processors, config);
  if (config.do_sample) {
    add_truncation(processors, config,
                   config.num_beams > 1 ? 1 + static_cast<int>(config.eos_ids.size()) : 1);
  }
  BeamScorer scorer(config, limit);
  std::vector<BeamScorer::Beam> ends;
  FinishReason cut = FinishReason::length;
  if (limit > 0) {
    CachedRows<Model> rows(ctx, model, config.num_beams,
                           static_cast<std::int64_t>(prompt.size()) + limit, cache_dtype);
    std::vector<SamplerState> states(width);
    for (std::size_t i = 0; i < width; ++i) {
      states[i].random.seed = config.seed + i;
      states[i].prompt_size = prompt.size();
      states[i].limit = prompt.size() + static_cast<std::size_t>(limit);
    }
    std::vector<std::int32_t> slots{0};  // of each beam
    auto logits = rows.logits(rows.append(0, prompt, false));
    while (!scorer.finished()) {
      if (cancellation.requested()) {
        cut = FinishReason::cancelled;
        break;
      }
      std::vector<std::vector<Candidate>> scores;
      for (std::size_t beam = 0; beam < slots.size(); ++beam) {
        std::vector<float> row = log_softmax_row(logits, beam, tokenizer);
        SamplerState& state = states[static_cast<std::size_t>(slots[beam])];
        const auto& ids = rows.ids(slots[beam]);
        state.history = ids;
        std::vector<Candidate> left;
        processors.run({row.data(), Shape{static_cast<std::int64_t>(row.size())}}, state)
            .for_each([&](const Candidate& candidate) {
              left.push_back({candidate.id, candidate.score});
            });
        scores.push_back(std::move(left));
      }
      scorer.step(scores, [&](const BeamScorer::Beam& beam) {
        return ends_with_stop(tokenizer, config, beam.ids);
      });
      if (scorer.finished()) break;
      slots = take_over(rows, slots, scorer.beams(), width);
      std::vector<std::int32_t> ids;
      for (const BeamScorer::Beam& beam : scorer.beams()) ids.push_back(beam.ids.back());
      logits = rows.logits(rows.append_each(slots, ids));
    }
    ends = scorer.ends();
  }
  for (const BeamScorer::Beam& beam : scorer.beams()) {  // where nothing has ended yet
    if (ends.size() >= static_cast<std::size_t>(config.num_return_sequences)) break;
    ends.push_back(beam);
    ends.back().reason = cut;
  }
  std::vector<GenerationResult> results;
  for (const BeamScorer::Beam& end : ends) {
    if (results.size() == static_cast<std::size_t>(config.num_return_sequences)) break;
    results.push_back(answer_of(tokenizer, config, prompt, end.ids, end.reason));
    results.back().score = end.score;
    add_logprobs(ctx, model, tokenizer, config, cache_dtype, results.back());
  }
  return results;
}

ZIYA_NAMESPACE_END
