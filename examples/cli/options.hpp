// SPDX-License-Identifier: Apache-2.0
// How options are declared: names in both spellings, types that help shows, groups.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "commands.hpp"

namespace cli {

/// A command of the program: its part of the command line, and what it does.
struct Command {
  CLI::App* parser;
  std::function<int()> run;
};

/// One of a few words; help shows them through the option's type.
inline CLI::Validator one_of(std::vector<std::string> words) {
  return CLI::IsMember(std::move(words)).description("");
}

/// "-p,--top-p" and, unseen, "--top_p".
inline std::string both_spellings(const std::string& names) {
  std::string result = names;
  for (const std::string& name : CLI::detail::split(names, ',')) {
    if (!name.starts_with("--") || name.find('-', 2) == std::string::npos) continue;
    std::string spelling = name.substr(2);
    std::replace(spelling.begin(), spelling.end(), '-', '_');
    result += ",--" + spelling;
  }
  return result;
}

template <class T>
CLI::Option* option(CLI::App& command, const std::string& names, T& value,
                    const std::string& description, const std::string& type) {
  return command.add_option(both_spellings(names), value, description)
      ->type_name(type)
      ->take_last();
}

/// The same for a type, which the format's tools write in capital letters too: Q4_0.
inline CLI::Option* type_option(CLI::App& command, const std::string& names, std::string& value,
                                const std::string& description, const std::string& types) {
  const auto lower = [](std::string& word) {
    for (char& c : word) {
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return std::string();
  };
  return option(command, names, value, description, types)->transform(CLI::Validator(lower, ""));
}

/// How many threads a conversion has.
inline CLI::Option* threads_option(CLI::App& command, int& threads) {
  return option(command, "--threads", threads, "that read and compute; no byte depends on it", "N")
      ->check(CLI::Range(0, 256).description(""));
}

/// The same for an option that may be repeated; each use takes one word.
template <class T>
CLI::Option* repeated(CLI::App& command, const std::string& names, T& values,
                      const std::string& description, const std::string& type) {
  return command.add_option(both_spellings(names), values, description)
      ->type_name(type)
      ->allow_extra_args(false);
}

inline CLI::Option* flag(CLI::App& command, const std::string& names, bool& value,
                         const std::string& description) {
  return command.add_flag(both_spellings(names), value, description);
}

inline CLI::Option* model_argument(CLI::App& command, std::string& model) {
  return command
      .add_option("MODEL", model,
                  "folder of the model (Hugging Face layout), a GGUF file, or a hub cache folder")
      ->type_name("")
      ->required();
}

/// How a model is run.
inline void running_options(CLI::App& command, ModelOptions& options) {
  option(command, "--device", options.device,
         "where to run: cpu, cuda, or auto: a GPU where there is one", "NAME")
      ->capture_default_str()
      ->group("Running");
  type_option(command, "--dtype", options.dtype,
              "type of the weights; another than the stored one makes a copy in memory",
              "auto|f32|f16|bf16|int8|fp8|q8_0|q4_k|…")
      ->check(one_of({"auto", "f32", "f16", "bf16", "int8", "fp8", "q4_0", "q4_1", "q5_0", "q5_1",
                      "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl"}))
      ->capture_default_str()
      ->group("Running");
  type_option(
      command, "--cache-dtype", options.cache_dtype,
      "type of the cached keys and values; auto: f32, on a GPU the type of the activations",
      "auto|f32|f16|bf16|q8_0")
      ->check(one_of({"auto", "f32", "f16", "bf16", "q8_0"}))
      ->capture_default_str()
      ->group("Running");
  option(command, "--threads", options.threads, "default: the cores this program may use", "N")
      ->check(CLI::Range(0, 4096).description(""))
      ->group("Running");
  option(command, "--isa", options.isa, "instruction set: " + isa_words(), "NAME")
      ->capture_default_str()
      ->group("Running");
  repeated(command, "--adapter", options.adapters,
           "a LoRA adapter (PEFT) to hold beside the model; may be repeated", "DIR")
      ->group("Running");
  flag(command, "--any-base", options.any_base, "take an adapter that records another base")
      ->group("Running");
}

/// How much of a model goes to GPUs.
inline void placement_options(CLI::App& command, ModelOptions& options) {
  option(command, "--gpu-layers", options.gpu_layers,
         "layers on the GPUs, the last ones; the others run on the CPU. auto: as many as fit",
         "N|auto|all")
      ->capture_default_str()
      ->group("Running");
  option(command, "--max-memory", options.max_memory,
         "most memory to use of a GPU, e.g. 20GB; 20GB,10GB: of the first and the others", "SIZE")
      ->group("Running");
}

/// What prompts are wrapped in.
inline void template_options(CLI::App& command, ModelOptions& options) {
  auto* choice =
      option(command, "--template", options.prompt_template,
             "ziya: <human>:…\\n<bot>:, raw: the text as it is; ziya-demo, reward, llama2, vicuna, "
             "alpaca; a .json file; auto: ziya where the tokenizer has <human> and <bot>",
             "NAME")
          ->capture_default_str()
          ->group("Prompt");
  command
      .add_flag_callback(
          "--raw", [&options] { options.prompt_template = "raw"; }, "the same as --template raw")
      ->excludes(choice)
      ->group("Prompt");
}

/// Which of the sizes in a folder of Meta's is the base.
inline CLI::Option* model_size_option(CLI::App& command, std::string& size) {
  return option(command, "--model-size", size,
                "the subfolder of a base in Meta's layout that holds the weights", "7B|13B|…");
}

inline void model_options(CLI::App& command, ModelOptions& options) {
  model_argument(command, options.model)->required(false);
  auto* base = option(command, "--base", options.base,
                      "instead of MODEL: a base, merged with --delta while loading", "DIR")
                   ->group("Running");
  auto* delta =
      option(command, "--delta", options.delta, "the delta for --base", "DIR")->group("Running");
  model_size_option(command, options.model_size)->group("Running")->needs(base);
  base->needs(delta);
  delta->needs(base);
  command.callback([&options] {
    if (options.model.empty() == options.base.empty()) {
      throw UsageError("ZIYA-701", "expected MODEL, or --base DIR with --delta DIR");
    }
    if (options.model.empty()) options.model = options.delta;  // config and tokenizer are there
  });
  running_options(command, options);
  placement_options(command, options);
  template_options(command, options);
}

/// How an answer is guessed ahead.
inline void speculation_options(CLI::App& command, ModelOptions& options) {
  const char* group = "Speculation (the text stays the same)";
  auto* lookup = option(command, "--prompt-lookup", options.prompt_lookup,
                        "guess up to N tokens ahead from what prompt and answer repeat", "N")
                     ->check(CLI::Range(0, 64).description(""))
                     ->group(group);
  option(command, "--draft", options.draft,
         "guess ahead with a smaller model of the same vocabulary", "MODEL")
      ->excludes(lookup)
      ->group(group);
}

void sampling_options(CLI::App& command, SamplingOptions& options);
void search_options(CLI::App& command, SamplingOptions& options);

// Commands by topic, one file each; each appends what it declares.
void add_conversion_commands(CLI::App& app, std::vector<Command>& commands);
void add_measure_commands(CLI::App& app, std::vector<Command>& commands);
void add_convert_command(CLI::App& app, std::vector<Command>& commands);
void add_scoring_commands(CLI::App& app, std::vector<Command>& commands);

}  // namespace cli
