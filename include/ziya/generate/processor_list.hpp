// SPDX-License-Identifier: Apache-2.0
// Processors whose order is chosen at run time: the reference's, or llama.cpp's.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/view.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/grammar_constraint.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/generate/repetition_processors.hpp"
#include "ziya/generate/sampler_state.hpp"
#include "ziya/generate/token_processors.hpp"
#include "ziya/generate/truncation_processors.hpp"

ZIYA_NAMESPACE_BEGIN

/// A processor whose type is forgotten; copies share it.
class AnyProcessor {
 public:
  template <class P>
  AnyProcessor(P processor)
      : self_(
            static_cast<const void*>(new P(std::move(processor))),
            +[](const void* self) { delete static_cast<const P*>(self); }),
        apply_([](const void* self, SamplerState& state) {
          ziya::apply(*static_cast<const P*>(self), state);
        }) {}
  void apply(SamplerState& state) const { apply_(self_.get(), state); }

 private:
  std::shared_ptr<const void> self_;
  void (*apply_)(const void* self, SamplerState& state);
};

class ProcessorList {
 public:
  ProcessorList() = default;
  explicit ProcessorList(std::vector<AnyProcessor> processors)
      : processors_(std::move(processors)) {}

  /// The candidates that are left of a row.   @throws BackendError for logits that are no
  /// distribution, and as the processors do
  Candidates& run(View<const float, Cpu> logits, SamplerState& state) const {
    state.candidates.assign({logits.data(), static_cast<std::size_t>(logits.elements())});
    for (const AnyProcessor& processor : processors_) processor.apply(state);
    return state.candidates;
  }
  void push_back(AnyProcessor processor) { processors_.push_back(std::move(processor)); }

 private:
  std::vector<AnyProcessor> processors_;
};

/// What acts whether tokens are drawn or searched for, as Transformers' `_get_logits_processor`
/// orders it; what Transformers lacks stands beside its kin: the other penalties behind the
/// repetition penalty, the grammar where `prefix_allowed_tokens_fn` has its place.
inline void add_constraints(ProcessorList& list, const GenerationConfig& config) {
  const std::int64_t last =
      config.order == SamplerOrder::llama_cpp ? config.penalty_last_tokens : -1;
  if (!config.sequence_bias.empty()) list.push_back(SequenceBias(config.sequence_bias));
  list.push_back(RepetitionPenalty(config.repetition_penalty, last));
  list.push_back(CountPenalty(config.presence_penalty, config.frequency_penalty, last));
  list.push_back(Dry(config.dry));
  list.push_back(NoRepeatNgram(config.no_repeat_ngram_size));
  if (!config.bad_words_ids.empty()) {
    list.push_back(bad_words(config.bad_words_ids, config.eos_ids));
  }
  list.push_back(MinLength(config.eos_ids, config.min_length, config.min_new_tokens));
  list.push_back(GrammarConstraint(config.constraint, config.eos_ids, config.continues));
  list.push_back(ForcedBos(config.forced_bos_id.value_or(-1)));
  list.push_back(ForcedEos(config.forced_eos_ids));
  list.push_back(
      ExponentialDecayLengthPenalty(config.eos_ids, config.decay_start, config.decay_factor));
  list.push_back(SuppressTokens(config.suppress_tokens, config.begin_suppress_tokens,
                                config.forced_bos_id.has_value()));
}

/// What narrows the distribution that is drawn from.
/// @param at_least tokens that stay in any case
inline void add_truncation(ProcessorList& list, const GenerationConfig& config, int at_least = 1) {
  if (config.order == SamplerOrder::llama_cpp) {
    list.push_back(TopK(config.top_k, at_least));
    list.push_back(TypicalP(config.typical_p, at_least));
    list.push_back(TopP(config.top_p, at_least));
    list.push_back(MinP(config.min_p, at_least));
    list.push_back(Xtc(config.xtc_probability, config.xtc_threshold));
    list.push_back(Temperature(config.temperature));
    return;
  }
  list.push_back(Temperature(config.temperature));
  list.push_back(TopK(config.top_k, at_least));
  list.push_back(TopP(config.top_p, at_least));
  list.push_back(MinP(config.min_p, at_least));
  list.push_back(TypicalP(config.typical_p, at_least));
  list.push_back(EpsilonCutoff(config.epsilon_cutoff, at_least));
  list.push_back(EtaCutoff(config.eta_cutoff, at_least));
  list.push_back(Xtc(config.xtc_probability, config.xtc_threshold));
}

/// All that `config` asks for. With mirostat only the temperature acts beside what is added always:
/// mirostat is the truncation.   @throws ArgumentError for settings outside their domain
inline ProcessorList processors_of(const GenerationConfig& config) {
  ProcessorList list;
  add_constraints(list, config);
  if (!config.do_sample) return list;
  if (config.mirostat.enabled) {
    list.push_back(Temperature(config.temperature));
  } else {
    add_truncation(list, config);
  }
  return list;
}

ZIYA_NAMESPACE_END
