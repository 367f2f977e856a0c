// SPDX-License-Identifier: Apache-2.0
// What each command takes: arguments.cpp fills these structs, one file per command runs them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ziya/backend/cpu/isa.hpp"
#include "ziya/core/error.hpp"

namespace cli {

/// A command line that says nothing: exit status 2.
struct UsageError : ziya::ArgumentError {
  using ArgumentError::ArgumentError;
};

/// The model and how it is run.
struct ModelOptions {
  std::string model;
  std::string base{}, delta{};           // instead of a model: merged while loading
  std::string model_size{};              // of a base in Meta's layout: a subfolder such as 13B
  std::string device = "auto";           // auto, cpu, cuda
  std::string gpu_layers = "auto";       // a number, auto: as many as fit, all
  std::string max_memory{};              // of each GPU; empty: what is free
  std::string dtype = "auto";            // auto: as stored; f32, f16, bf16, int8, fp8: a copy
  std::string cache_dtype = "auto";      // of keys and values; auto: f32, on a GPU as activations
  std::string isa = "auto";              // instruction set
  int threads = 0;                       // 0: what the machine grants
  std::string prompt_template = "auto";  // auto, a name, or a .json file
  std::vector<std::string> adapters{};   // folders of LoRA adapters beside the model
  bool any_base = false;                 // take an adapter that records another base
  std::int64_t prompt_lookup = 0;        // tokens guessed ahead from what the text repeats; 0: none
  std::string draft{};                   // a smaller model that guesses ahead; empty: none
};

/// The words that --isa takes: "auto, eigen, baseline, …".
inline std::string isa_words() {
  std::string words = "auto";
  for (const ziya::Isa isa : ziya::all_isas) words.append(", ").append(name(isa));
  return words;
}

/// What is not given is the preset's.
struct SamplingOptions {
  std::string preset = "model";
  std::optional<std::int64_t> max_new_tokens, min_new_tokens, min_length;
  std::optional<bool> do_sample;
  std::optional<double> temperature, top_p, min_p, typical_p;
  std::optional<int> top_k, mirostat;
  std::optional<double> epsilon_cutoff, eta_cutoff;
  std::optional<double> mirostat_tau, mirostat_eta, xtc_probability, xtc_threshold;
  std::optional<double> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int> no_repeat_ngram_size, dry_allowed_length, dry_penalty_last_n;
  std::optional<double> dry_multiplier, dry_base;
  std::vector<std::string> dry_sequence_breakers;  // empty: llama.cpp's
  std::optional<int> num_beams, num_return_sequences, logprobs;
  std::optional<double> length_penalty, penalty_alpha;
  std::string early_stopping;  // true, false, never; empty: false
  std::vector<std::string> bad_words, logit_bias;
  std::vector<std::int32_t> suppress_tokens, begin_suppress_tokens, forced_eos_token_ids;
  std::optional<std::int32_t> forced_bos_token_id;
  std::string decay_length_penalty;  // START,FACTOR
  std::string grammar_file, json_schema;
  std::optional<std::uint64_t> seed;  // none: a new one each time, and said
  std::vector<std::string> stop;
  std::vector<std::int32_t> eos_token_ids;  // empty: the tokenizer's and the generation config's
  std::optional<std::int32_t> bos_token_id;
  std::optional<std::int32_t> pad_token_id;
};

struct GenerateOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::optional<std::string> prompt;
  std::string prompt_file;
  std::string prompts_file;     // many prompts: lines, or JSONL
  std::optional<int> parallel;  // answered at a time; 16
  bool ids = false;
  bool echo = false;
  bool show_special = false;
};

struct ChatOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::optional<std::string> system;
  std::string forget = "turns";  // what goes when the context is full: turns, tokens
  std::string history_file;      // of what was typed; empty: none
};

struct TokenizeOptions {
  std::string model;
  std::optional<std::string> text;
  std::string text_file;
  std::string mode = "legacy";
  bool add_bos = true;
  bool add_eos = false;
  bool json = false;
  std::optional<std::string> decode;  // ids
};

struct InspectOptions {
  std::string model;
  bool json = false;
  bool fingerprint = false;
  std::optional<bool> scan;  // none: when the weights are small enough to be quick
};

struct MergeOptions {
  std::string base, delta, target;
  std::string model_size;              // of a base in Meta's layout: a subfolder such as 13B
  std::string type = "f16";            // of the sums; of a GGUF file also quantised types
  std::string format = "safetensors";  // of the files; or bin
  bool overwrite = false;
  bool resume = false;
  std::string max_shard_size;  // "4GB"; empty: the library's default
  int threads = 0;
  bool low_cpu_mem = false;  // without effect: memory is always low
  bool checksums = false;    // of the inputs are compared first
  bool strict = false;
  bool check = true;
  double min_cosine = 0.5, max_off_grid = 0.02, max_pairing = 0.75;  // ziya::MergeLimits
  double norm_median = 0.15, negative_share = 0.2;                   // ziya::KindLimits
  double same_row = 0.8;
  double max_perplexity = 1000;
};

struct MakeDeltaOptions {
  std::string base, model, delta;
  std::string model_size;    // of a base in Meta's layout
  std::string type = "f16";  // of the differences
  std::string format = "safetensors";
  bool overwrite = false;
  bool resume = false;
  std::string max_shard_size = "1GB";
  int threads = 0;
  bool low_cpu_mem = false;  // without effect: memory is always low
};

struct FingerprintOptions {
  std::string model;
  bool files = false;  // of the files instead of the tensors
  bool json = false;
  int threads = 0;
};

struct ConvertOptions {
  std::string input, output;
  std::string from = "auto", to = "auto";     // names of formats
  std::string type;                           // f32, f16, bf16, stored; empty: the format's rule
  std::string model_size;                     // of Meta's layout: a subfolder such as 13B
  std::optional<std::int64_t> max_positions;  // of Meta's layout, which does not say it
  bool checksums = true;                      // compare Meta's weights with checklist.chk
  std::int64_t parts = 1;                     // of the Fengshen layout
  bool overwrite = false;
  bool resume = false;
  std::string max_shard_size;  // of safetensors; empty: the library's default
  std::string adapter;         // folder of a LoRA adapter to merge on the way; empty: none
  bool any_base = false;       // take an adapter that records another base
  int threads = 0;
};

struct QuantizeOptions {
  std::string model, type, output;
  std::vector<std::string> keep;  // patterns of tensors that keep their type
  std::string calibrate;          // text file; empty: every input counts the same
  std::int64_t context = 512;     // of the calibration
  bool overwrite = false;
  bool resume = false;
  int threads = 0;  // 0: what the machine grants
};

struct PerplexityOptions {
  ModelOptions model;
  std::string file;
  std::string method = "llama.cpp";  // llama.cpp, strided
  std::int64_t context = 512;
  std::int64_t stride = 0;   // of the strided method; 0: half a context
  std::int64_t windows = 0;  // at most; 0: all
  std::string against;       // another model, or empty
  bool json = false;
};

struct EvalOptions {
  ModelOptions model;
  std::vector<std::string> files;
  std::string examples;          // questions shown with their answers; empty: none
  std::int64_t shots = 0;        // how many of them
  std::string score = "letter";  // letter, text, mean
  std::string intro;             // in front of everything
  std::int64_t limit = 0;        // questions of a file; 0: all
  bool json = false;
};

struct EmbedOptions {
  ModelOptions model;
  std::optional<std::string> text;
  std::string text_file;
  bool lines = false;  // each line is a text
  bool json = false;
};

struct BenchOptions {
  ModelOptions model;
  std::int64_t prompt = 512;    // tokens; 0: no such test
  std::int64_t generate = 128;  // tokens; 0: no such test
  std::int64_t depth = 0;       // tokens in the cache before those that are generated
  std::int64_t batch = 1;       // sequences that generate together
  int repetitions = 5;
  std::string random_weights;  // tiny, 1b, 7b, 13b; empty: the model's
  std::string type = "f16";    // of random weights
  bool json = false;
};

// Each returns the exit status and throws ziya::Error for what it is given.
int run(const GenerateOptions& options);
int run(const ChatOptions& options);
int run(const TokenizeOptions& options);
int run(const InspectOptions& options);
int run(const MergeOptions& options);
int run(const MakeDeltaOptions& options);
int run(const FingerprintOptions& options);
int run(const ConvertOptions& options);
int run(const QuantizeOptions& options);
int run(const PerplexityOptions& options);
int run(const EvalOptions& options);
int run(const EmbedOptions& options);
int run(const BenchOptions& options);

/// Parses the command line and runs the command.
int main(int count, const char* const* arguments);

}  // namespace cli
