// SPDX-License-Identifier: Apache-2.0
// How to generate: the settings of Transformers' generate(), by its names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/generate/grammar_constraint.hpp"
#include "ziya/generate/mirostat.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/generate/repetition_processors.hpp"
#include "ziya/generate/token_processors.hpp"
#include "ziya/generate/truncation_processors.hpp"

ZIYA_NAMESPACE_BEGIN

/// In which order the processors act.
enum class SamplerOrder {
  transformers,  ///< as Transformers' generate() builds them
  llama_cpp      ///< as llama.cpp chains them: temperature last, penalties count the last tokens
};

/// When a beam search ends (Transformers' early_stopping).
enum class EarlyStopping {
  no,   ///< when the best beam, divided by its length now, cannot become better than the worst end
  yes,  ///< as soon as there are as many ends as beams
  never,  ///< the same as `no` at the length that is best for a beam: the limit, or its length now
};

/// Defaults are those of Ziya's model card; `top_k` is the one that Transformers adds silently.
struct GenerationConfig {
  std::int64_t max_new_tokens = 1024;
  bool do_sample = true;  ///< false: the best token each time; only the penalty still acts
  float temperature = 1.0f;
  int top_k = 50;       ///< 0: all
  float top_p = 0.85f;  ///< 1: all
  float repetition_penalty = 1.0f;
  std::uint64_t seed = 0;                   ///< the same seed gives the same text
  std::vector<std::int32_t> eos_ids = {};   ///< ids that end an answer; empty: the tokenizer's eos
  std::vector<std::string> stop = {};       ///< texts that end an answer and do not appear in it
  std::optional<std::int32_t> bos_id = {};  ///< as the files say; the tokenizer's own is used
  std::optional<std::int32_t> pad_id = {};  ///< as the files say; nothing is ever padded here
  bool skip_special = true;                 ///< leave special tokens (`</s>`, …) out of the text
  /// The text goes on from the prompt's: the space in front of its first word belongs to it.
  bool continues = false;

  // Truncation, when sampling.
  float min_p = 0.0f;           ///< 0: all
  float typical_p = 1.0f;       ///< 1: all
  float epsilon_cutoff = 0.0f;  ///< 0: all
  float eta_cutoff = 0.0f;      ///< 0: all
  float xtc_probability = 0.0f, xtc_threshold = 0.1f;
  MirostatOptions mirostat = {};
  SamplerOrder order = SamplerOrder::transformers;

  // Repetition.
  float presence_penalty = 0.0f, frequency_penalty = 0.0f;
  std::int64_t penalty_last_tokens = 64;  ///< of the llama.cpp order; −1: all
  int no_repeat_ngram_size = 0;
  DryOptions dry = {};

  // Tokens.
  std::vector<SequenceBiasEntry> sequence_bias = {};  ///< of one id: logit bias
  std::vector<std::vector<std::int32_t>> bad_words_ids = {};
  std::int64_t min_length = 0, min_new_tokens = 0;
  std::optional<std::int32_t> forced_bos_id = {};
  std::vector<std::int32_t> forced_eos_ids = {};
  std::vector<std::int32_t> suppress_tokens = {}, begin_suppress_tokens = {};
  std::int64_t decay_start = 0;  ///< exponential_decay_length_penalty
  double decay_factor = 1.0;
  Constraint constraint = {};  ///< a grammar that the answer has to follow

  // Searches.
  int num_beams = 1, num_return_sequences = 1;
  float length_penalty = 1.0f;
  EarlyStopping early_stopping = EarlyStopping::no;
  float penalty_alpha = 0.0f;  ///< above 0, with top_k > 1 and without sampling: contrastive search

  std::optional<int> logprobs = {};  ///< say the log-probability of each token, and of so many best

  /// @throws ArgumentError naming the setting that is outside its domain
  void check() const;

  /// The defaults, changed by what generation_config.json of a model folder says; the ids that it
  /// does not name come from config.json. Both files may be absent. Of a GGUF file, what it records
  /// of them. `max_length` is ignored: the context ends an answer anyway.
  /// @throws IoError, FormatError for files that are no JSON or hold values of other kinds
  /// @throws ConfigError ZIYA-547 for a setting that is not implemented here
  static GenerationConfig load(const std::filesystem::path& path);
};

inline void GenerationConfig::check() const {
  check_setting(max_new_tokens >= 0, "max_new_tokens", static_cast<double>(max_new_tokens),
                "0 or more");
  check_setting(num_beams >= 1 && num_beams <= 1024, "num_beams", num_beams, "1 to 1024");
  check_setting(num_return_sequences >= 1 && num_return_sequences <= num_beams,
                "num_return_sequences", num_return_sequences, "1 to num_beams");
  check_setting(length_penalty > -1e6f && length_penalty < 1e6f, "length_penalty", length_penalty,
                "a number");
  check_setting(penalty_alpha >= 0 && penalty_alpha <= 1, "penalty_alpha", penalty_alpha,
                "a number between 0 and 1");
  check_setting(!logprobs || *logprobs >= 0, "logprobs", logprobs.value_or(0), "0 or more");
  RepetitionPenalty{repetition_penalty};
  CountPenalty{presence_penalty, frequency_penalty};
  Dry{dry};
  NoRepeatNgram{no_repeat_ngram_size};
  SequenceBias{sequence_bias};
  bad_words(bad_words_ids, {});
  MinLength({}, min_length, min_new_tokens);
  ExponentialDecayLengthPenalty({}, decay_start, decay_factor);
  if (!do_sample) return;
  Temperature{temperature};
  TopK{top_k};
  TopP{top_p};
  MinP{min_p};
  TypicalP{typical_p};
  EpsilonCutoff{epsilon_cutoff};
  EtaCutoff{eta_cutoff};
  Xtc(xtc_probability, xtc_threshold);
  mirostat.check();
}

ZIYA_NAMESPACE_END
