// SPDX-License-Identifier: Apache-2.0
// Options of sampling made into a GenerationConfig.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "commands.hpp"
#include "input.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/generate/generation_config_file.hpp"
#include "ziya/generate/grammar_parser.hpp"
#include "ziya/generate/json_schema.hpp"
#include "ziya/generate/presets.hpp"

namespace cli {
namespace {

/// target ← what was given, if it was.
template <class T, class Given>
void set(T& target, const std::optional<Given>& given) {
  if (given) target = static_cast<T>(*given);
}

/// Ids of every token whose text holds one of `texts`.
std::vector<std::int32_t> ids_with(const ziya::Tokenizer& tokenizer,
                                   const std::vector<std::string>& texts) {
  std::vector<std::int32_t> ids;
  for (std::int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
    std::string text;
    ziya::Tokenizer::DecodeState state{false};
    tokenizer.decode_one(text, state, id);
    const auto inside = [&](const std::string& each) {
      return text.find(each) != std::string::npos;
    };
    if (std::ranges::any_of(texts, inside)) ids.push_back(id);
  }
  return ids;
}

/// A word is forbidden both where it begins a text and behind a space.
void add_bad_words(ziya::GenerationConfig& config, const std::vector<std::string>& words,
                   const ziya::Tokenizer& tokenizer) {
  for (const std::string& word : words) {
    std::vector<std::int32_t> ids = tokenizer.encode(
        word, {.mode = ziya::TokenizerMode::plain, .add_bos = false, .add_eos = false});
    if (ids.empty()) throw UsageError("ZIYA-701", "--bad-words: an empty text");
    config.bad_words_ids.push_back(ids);
    const auto bare = tokenizer.id_of(word);
    if (bare) config.bad_words_ids.push_back({*bare});
    if (tokenizer.piece(ids.front()) == "\xE2\x96\x81" && ids.size() > 1) {
      config.bad_words_ids.emplace_back(ids.begin() + 1, ids.end());
    }
  }
}

void add_logit_bias(ziya::GenerationConfig& config, const std::vector<std::string>& entries,
                    const ziya::Tokenizer& tokenizer) {
  for (const std::string& entry : entries) {
    const std::size_t equals = entry.find('=');
    std::size_t id_end = 0, bias_end = 0;
    int id = -1;
    float bias = 0;
    try {
      id = std::stoi(entry.substr(0, equals), &id_end);
      const std::string text = equals == std::string::npos ? "" : entry.substr(equals + 1);
      bias = std::stof(text, &bias_end);
      bias_end += equals + 1;
    } catch (const std::exception&) {
      id_end = 0;
    }
    if (id_end == 0 || id_end != equals || bias_end != entry.size() || !tokenizer.contains(id)) {
      throw UsageError(
          "ZIYA-701", "--logit-bias " + entry + ": expected ID=NUMBER with an id of the tokenizer");
    }
    config.sequence_bias.push_back({{id}, bias});
  }
}

void check_ids(const char* name, const std::vector<std::int32_t>& ids,
               const ziya::Tokenizer& tokenizer) {
  for (const std::int32_t id : ids) {
    if (tokenizer.contains(id)) continue;
    throw UsageError("ZIYA-701", std::string(name) + " " + std::to_string(id) +
                                     ": expected an id of the tokenizer's " +
                                     std::to_string(tokenizer.vocabulary_size()));
  }
}

/// Lists that are not given stay as they are.
void add_token_lists(ziya::GenerationConfig& config, const SamplingOptions& options,
                     const ziya::Tokenizer& tokenizer) {
  const auto take = [&](const char* name, std::vector<std::int32_t>& target,
                        const std::vector<std::int32_t>& given) {
    check_ids(name, given, tokenizer);
    if (!given.empty()) target = given;
  };
  take("--suppress-tokens", config.suppress_tokens, options.suppress_tokens);
  take("--begin-suppress-tokens", config.begin_suppress_tokens, options.begin_suppress_tokens);
  take("--forced-eos-token-id", config.forced_eos_ids, options.forced_eos_token_ids);
  if (const auto id = options.forced_bos_token_id) {
    check_ids("--forced-bos-token-id", {*id}, tokenizer);
    config.forced_bos_id = id;
  }
}

void add_decay(ziya::GenerationConfig& config, const std::string& text) {
  if (text.empty()) return;
  int used = 0;
  long long start = 0;
  if (std::sscanf(text.c_str(), "%lld,%lf%n", &start, &config.decay_factor, &used) != 2 ||
      static_cast<std::size_t>(used) != text.size()) {
    throw UsageError("ZIYA-701", "--exponential-decay-length-penalty " + text +
                                     ": expected START,FACTOR, two numbers");
  }
  config.decay_start = start;
}

void add_constraint(ziya::GenerationConfig& config, const SamplingOptions& options,
                    const ziya::Tokenizer& tokenizer) {
  if (options.grammar_file.empty() && options.json_schema.empty()) return;
  const std::string& schema = options.json_schema;
  const ziya::Grammar grammar =
      !options.grammar_file.empty()
          ? ziya::GrammarParser::parse(read_input(options.grammar_file))
          : ziya::JsonSchema::grammar(schema.front() == '@' ? read_input(schema.substr(1))
                                                            : schema);
  config.constraint = {std::make_shared<const ziya::Grammar>(grammar),
                       std::make_shared<const ziya::ConstraintVocabulary>(tokenizer)};
}

void add_dry(ziya::DryOptions& dry, const SamplingOptions& options,
             const ziya::Tokenizer& tokenizer) {
  set(dry.multiplier, options.dry_multiplier);
  set(dry.base, options.dry_base);
  set(dry.allowed_length, options.dry_allowed_length);
  set(dry.last_tokens, options.dry_penalty_last_n);
  if (dry.multiplier == 0) return;
  dry.breakers = ids_with(tokenizer, options.dry_sequence_breakers.empty()
                                         ? std::vector<std::string>{"\n", ":", "\"", "*"}
                                         : options.dry_sequence_breakers);
}

}  // namespace

ziya::GenerationConfig generation_config(const SamplingOptions& options,
                                         const std::filesystem::path& folder,
                                         const ziya::Tokenizer& tokenizer) {
  ziya::GenerationConfig config = options.preset == "model"
                                      ? ziya::GenerationConfig::load(folder)
                                      : ziya::generation_preset(options.preset);
  set(config.max_new_tokens, options.max_new_tokens);
  set(config.do_sample, options.do_sample);
  set(config.temperature, options.temperature);
  set(config.top_k, options.top_k);
  set(config.top_p, options.top_p);
  set(config.min_p, options.min_p);
  set(config.typical_p, options.typical_p);
  set(config.epsilon_cutoff, options.epsilon_cutoff);
  set(config.eta_cutoff, options.eta_cutoff);
  set(config.xtc_probability, options.xtc_probability);
  set(config.xtc_threshold, options.xtc_threshold);
  config.mirostat.enabled = options.mirostat.value_or(0) == 2;
  set(config.mirostat.tau, options.mirostat_tau);
  set(config.mirostat.eta, options.mirostat_eta);
  set(config.repetition_penalty, options.repetition_penalty);
  set(config.presence_penalty, options.presence_penalty);
  set(config.frequency_penalty, options.frequency_penalty);
  set(config.no_repeat_ngram_size, options.no_repeat_ngram_size);
  set(config.min_new_tokens, options.min_new_tokens);
  set(config.min_length, options.min_length);
  set(config.num_beams, options.num_beams);
  // One answer is drawn at a time; `generate` draws as many as are wanted.
  if (config.num_beams > 1 || !config.do_sample) {
    set(config.num_return_sequences, options.num_return_sequences);
  }
  set(config.length_penalty, options.length_penalty);
  set(config.penalty_alpha, options.penalty_alpha);
  if (options.early_stopping == "false") config.early_stopping = ziya::EarlyStopping::no;
  if (options.early_stopping == "true") config.early_stopping = ziya::EarlyStopping::yes;
  if (options.early_stopping == "never") config.early_stopping = ziya::EarlyStopping::never;
  config.logprobs = options.logprobs;
  config.stop.insert(config.stop.end(), options.stop.begin(), options.stop.end());
  config.pad_id = options.pad_token_id;
  config.eos_ids = options.eos_token_ids;
  if (config.eos_ids.empty()) {
    config.eos_ids = ziya::GenerationConfig::load(folder).eos_ids;
    const std::int32_t own = tokenizer.eos_id();
    if (own >= 0 && std::ranges::find(config.eos_ids, own) == config.eos_ids.end()) {
      config.eos_ids.push_back(own);
    }
  }
  add_dry(config.dry, options, tokenizer);
  add_bad_words(config, options.bad_words, tokenizer);
  add_logit_bias(config, options.logit_bias, tokenizer);
  add_token_lists(config, options, tokenizer);
  add_decay(config, options.decay_length_penalty);
  add_constraint(config, options, tokenizer);
  config.check();
  if (options.seed) {
    config.seed = *options.seed;
  } else if (config.do_sample) {
    config.seed = std::random_device{}();
    note("seed: " + std::to_string(config.seed));
  }
  return config;
}

}  // namespace cli
