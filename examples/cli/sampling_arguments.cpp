// SPDX-License-Identifier: Apache-2.0
// How tokens are chosen: the options that generate and chat share.
#include <CLI/CLI.hpp>
#include <string>

#include "commands.hpp"
#include "options.hpp"

namespace cli {
namespace {

void choice_options(CLI::App& command, SamplingOptions& options) {
  const char* group = "Sampling (defaults are the model card's)";
  option(command, "--preset", options.preset,
         "where the defaults come from: the model's generation_config.json over Ziya's card, that "
         "card, the visual model's, or llama.cpp",
         "model|ziya|visual|llama.cpp")
      ->check(one_of({"model", "ziya", "visual", "llama.cpp"}))
      ->capture_default_str()
      ->group(group);
  option(command, "--max-new-tokens", options.max_new_tokens, "stop after so many", "N")
      ->default_str("1024")
      ->group(group);
  auto* do_sample = option(command, "--do-sample", options.do_sample,
                           "true: draw; false: take the likeliest token", "true|false")
                        ->default_str("true")
                        ->group(group);
  command
      .add_flag_callback(
          "--greedy", [&options] { options.do_sample = false; }, "the same as --do-sample false")
      ->excludes(do_sample)
      ->group(group);
  option(command, "--temperature", options.temperature, "below 1 is safer, above 1 is wilder", "X")
      ->default_str("1.0")
      ->group(group);
  option(command, "--top-k", options.top_k, "draw from the k likeliest; 0: from all", "K")
      ->default_str("50")
      ->group(group);
  option(command, "--top-p", options.top_p, "draw from the likeliest that sum up to p", "P")
      ->default_str("0.85")
      ->group(group);
  option(command, "--min-p", options.min_p, "draw from what has p times the best's probability",
         "P")
      ->group(group);
  option(command, "--typical-p", options.typical_p, "draw from the most typical that sum up to p",
         "P")
      ->group(group);
  option(command, "--epsilon-cutoff", options.epsilon_cutoff,
         "draw from what has this probability at least", "P")
      ->group(group);
  option(command, "--eta-cutoff", options.eta_cutoff,
         "the same, less where the model is less certain", "P")
      ->group(group);
  option(command, "--mirostat", options.mirostat, "2: mirostat 2 instead of truncation; 0: off",
         "0|2")
      ->check(one_of({"0", "2"}))
      ->group(group);
  option(command, "--mirostat-tau", options.mirostat_tau, "surprise aimed at, in bits (5)", "X")
      ->group(group);
  option(command, "--mirostat-eta", options.mirostat_eta, "how fast it is approached (0.1)", "X")
      ->group(group);
  option(command, "--xtc-probability", options.xtc_probability,
         "how often all likely tokens but the last go", "P")
      ->group(group);
  option(command, "--xtc-threshold", options.xtc_threshold, "what counts as likely (0.1)", "P")
      ->group(group);
  option(command, "--seed", options.seed,
         "the same seed draws the same text (default: another each time)", "N")
      ->group(group);
}

void repetition_options(CLI::App& command, SamplingOptions& options) {
  const char* group = "Repetition";
  option(command, "--repetition-penalty", options.repetition_penalty, "above 1 repeats less", "X")
      ->default_str("1.0")
      ->group(group);
  option(command, "--presence-penalty", options.presence_penalty,
         "subtracted from what the answer has already", "X")
      ->group(group);
  option(command, "--frequency-penalty", options.frequency_penalty,
         "subtracted as often as it has it", "X")
      ->group(group);
  option(command, "--no-repeat-ngram-size", options.no_repeat_ngram_size,
         "no n tokens twice in a row", "N")
      ->group(group);
  option(command, "--dry-multiplier", options.dry_multiplier,
         "weight against repeated stretches; 0: off", "X")
      ->group(group);
  option(command, "--dry-base", options.dry_base, "growth per token of the stretch (1.75)", "X")
      ->group(group);
  option(command, "--dry-allowed-length", options.dry_allowed_length,
         "shorter stretches are free (2)", "N")
      ->group(group);
  option(command, "--dry-penalty-last-n", options.dry_penalty_last_n,
         "how far to look back; -1: to the beginning", "N")
      ->group(group);
  repeated(command, "--dry-sequence-breaker", options.dry_sequence_breakers,
           "text that ends a stretch; may be repeated (default: newline : \" *)", "TEXT")
      ->group(group);
}

void token_options(CLI::App& command, SamplingOptions& options) {
  const char* group = "Tokens and ends";
  repeated(command, "--bad-words", options.bad_words, "text never to write; may be repeated",
           "TEXT")
      ->group(group);
  repeated(command, "--logit-bias", options.logit_bias,
           "added to the score of a token, e.g. 13=-2; may be repeated", "ID=X")
      ->group(group);
  repeated(command, "--suppress-tokens", options.suppress_tokens,
           "never drawn; may be repeated, or separated by commas", "ID")
      ->delimiter(',')
      ->group(group);
  repeated(command, "--begin-suppress-tokens", options.begin_suppress_tokens,
           "not the first token of an answer; likewise", "ID")
      ->delimiter(',')
      ->group(group);
  option(command, "--forced-bos-token-id", options.forced_bos_token_id,
         "first token of an answer to a prompt of one token", "ID")
      ->group(group);
  repeated(command, "--forced-eos-token-id", options.forced_eos_token_ids,
           "last token that --max-new-tokens allows; may be repeated", "ID")
      ->delimiter(',')
      ->group(group);
  option(command, "--min-new-tokens", options.min_new_tokens, "no end before so many", "N")
      ->group(group);
  option(command, "--min-length", options.min_length,
         "no end before prompt and answer have so many tokens", "N")
      ->group(group);
  option(command, "--exponential-decay-length-penalty", options.decay_length_penalty,
         "raise the end by FACTOR^n, n tokens behind START", "START,FACTOR")
      ->group(group);
  repeated(command, "--stop", options.stop, "stop before this text; may be repeated", "TEXT")
      ->group(group);
  repeated(command, "--eos-token-id", options.eos_token_ids,
           "end of an answer; may be repeated (default: the model's)", "ID")
      ->delimiter(',')
      ->group(group);
  option(command, "--bos-token-id", options.bos_token_id,
         "first id of the prompt (default: the model's)", "ID")
      ->group(group);
  option(command, "--pad-token-id", options.pad_token_id,
         "accepted for Transformers' sake; one prompt needs no padding", "ID")
      ->group(group);
  auto* grammar = option(command, "--grammar-file", options.grammar_file,
                         "answer in the language of this grammar (GBNF)", "FILE")
                      ->group(group);
  option(command, "--json-schema", options.json_schema,
         "answer in JSON that satisfies this schema; @FILE reads it from a file", "JSON")
      ->excludes(grammar)
      ->group(group);
}

}  // namespace

void sampling_options(CLI::App& command, SamplingOptions& options) {
  choice_options(command, options);
  repetition_options(command, options);
  token_options(command, options);
}

void search_options(CLI::App& command, SamplingOptions& options) {
  const char* group = "Search";
  option(command, "--num-beams", options.num_beams, "beams of a beam search; 1: none", "N")
      ->group(group);
  option(command, "--num-return-sequences", options.num_return_sequences,
         "so many answers, drawn, or of a beam search: at most as many as beams", "N")
      ->check(CLI::Range(1, 1024).description(""))
      ->group(group);
  option(command, "--length-penalty", options.length_penalty,
         "above 0 favours long answers of a beam search (1.0)", "X")
      ->group(group);
  option(command, "--early-stopping", options.early_stopping,
         "true: end with as many answers as beams", "true|false|never")
      ->check(one_of({"true", "false", "never"}))
      ->group(group);
  option(command, "--penalty-alpha", options.penalty_alpha,
         "contrastive search, with --greedy and --top-k", "X")
      ->group(group);
  option(command, "--logprobs", options.logprobs,
         "with --ids: log-probabilities of each token and of the N likeliest", "N")
      ->group(group);
}

}  // namespace cli
