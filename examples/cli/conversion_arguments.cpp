// SPDX-License-Identifier: Apache-2.0
// The command line of what turns checkpoints into checkpoints.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "commands.hpp"
#include "options.hpp"

namespace cli {
namespace {

void writing_options(CLI::App& command, std::string& format, bool& overwrite, bool& resume,
                     std::string& max_shard_size, int& threads) {
  option(command, "--format", format, "of the files", "safetensors|bin")
      ->check(one_of({"safetensors", "bin"}))
      ->capture_default_str();
  flag(command, "--overwrite", overwrite, "replace a target that exists");
  flag(command, "--resume", resume, "go on where an interrupted run has left off");
  option(command, "--max-shard-size", max_shard_size, "largest file, e.g. 4GB or 500MB", "SIZE");
  threads_option(command, threads);
}

void low_memory_flag(CLI::App& command, bool& value) {
  flag(command, "--low-cpu-mem", value, "accepted for the reference's sake; memory is always low");
}

CLI::App* add_merge(CLI::App& app, MergeOptions& options) {
  auto* command = app.add_subcommand("merge-delta", "base + delta = model")->alias("apply-delta");
  option(*command, "--base,--base-model-path", options.base, "the base model", "DIR")->required();
  model_size_option(*command, options.model_size);
  option(*command, "--delta,--delta-path", options.delta, "the published delta", "DIR")->required();
  option(*command, "--target,--target-model-path,--output", options.target,
         "folder to write the model to, or FILE.gguf", "PATH")
      ->required();
  type_option(
      *command, "--type", options.type,
      "of the weights: f16 is the reference's rule, bf16, f32; of a GGUF file also q8_0, q4_k_m "
      "and whatever quantize takes",
      "TYPE")
      ->capture_default_str();
  writing_options(*command, options.format, options.overwrite, options.resume,
                  options.max_shard_size, options.threads);
  flag(*command, "--checksums", options.checksums,
       "first compare the checksums that the inputs' .bin and .pth files record: one more reading");
  low_memory_flag(*command, options.low_cpu_mem);
  const char* group = "Checks (docs/merging.md says how the limits were found)";
  flag(*command, "--strict", options.strict, "what the checks find is an error")->group(group);
  command
      ->add_flag_callback(
          "--no-check", [&options] { options.check = false; },
          "neither compare base and delta nor run the result")
      ->group(group);
  option(*command, "--min-cosine", options.min_cosine, "of the embedding rows that both share", "X")
      ->capture_default_str()
      ->group(group);
  option(*command, "--same-row", options.same_row,
         "cosine from which embedding rows are of the same token", "X")
      ->capture_default_str()
      ->group(group);
  option(*command, "--max-off-grid", options.max_off_grid,
         "share of numbers that cannot come from this base", "X")
      ->capture_default_str()
      ->group(group);
  option(*command, "--max-pairing", options.max_pairing, "sign of q and k without permutation", "X")
      ->capture_default_str()
      ->group(group);
  option(*command, "--norm-median", options.norm_median, "norms below it are a delta's", "X")
      ->capture_default_str()
      ->group(group);
  option(*command, "--negative-share", options.negative_share,
         "norms with more negative weights are a delta's", "X")
      ->capture_default_str()
      ->group(group);
  option(*command, "--max-perplexity", options.max_perplexity, "of the built-in text", "X")
      ->capture_default_str()
      ->group(group);
  command->footer(
      "Examples:\n"
      "  ziya merge-delta --base llama-13b-hf --delta Ziya-LLaMA-13B-v1.1 --target Ziya-LLaMA-13B\n"
      "  ziya merge-delta --base llama/13B --delta Ziya-LLaMA-13B-v1.1 --type q4_k_m --output "
      "ziya.gguf\n"
      "The delta is GPL-3.0, LLaMA's weights are for non-commercial use, and merged weights may "
      "not\n"
      "be published.");
  return command;
}

CLI::App* add_make_delta(CLI::App& app, MakeDeltaOptions& options) {
  auto* command = app.add_subcommand("make-delta", "model - base = delta");
  option(*command, "--base,--base-model-path", options.base, "the base model", "DIR")->required();
  model_size_option(*command, options.model_size);
  option(*command, "--target,--target-model-path,--model", options.model,
         "the model that was made from it", "DIR")
      ->required();
  option(*command, "--delta,--delta-path,--output", options.delta, "folder to write the delta to",
         "DIR")
      ->required();
  type_option(*command, "--type", options.type,
              "of the differences: f16 is the reference's rule, bf16, f32", "TYPE")
      ->check(one_of({"f16", "bf16", "f32"}))
      ->capture_default_str();
  writing_options(*command, options.format, options.overwrite, options.resume,
                  options.max_shard_size, options.threads);
  low_memory_flag(*command, options.low_cpu_mem);
  command->footer(
      "Example:\n"
      "  ziya make-delta --base llama-13b-hf --target my-model --delta my-delta");
  return command;
}

CLI::App* add_fingerprint(CLI::App& app, FingerprintOptions& options) {
  auto* command = app.add_subcommand(
      "fingerprint", "SHA-256 of every tensor and of the model, whatever its files");
  model_argument(*command, options.model);
  flag(*command, "--files", options.files, "hash the files instead, and say which are known");
  flag(*command, "--json", options.json, "print one JSON object");
  option(*command, "--threads", options.threads, "tensors hashed at a time", "N")
      ->check(CLI::Range(0, 256).description(""));
  command->footer(
      "Examples:\n"
      "  ziya fingerprint Ziya-LLaMA-13B\n"
      "  ziya fingerprint --files Ziya-LLaMA-13B-v1.1");
  return command;
}

}  // namespace

void add_conversion_commands(CLI::App& app, std::vector<Command>& commands) {
  const auto merge = std::make_shared<MergeOptions>();
  commands.push_back({add_merge(app, *merge), [merge] { return run(*merge); }});
  const auto make = std::make_shared<MakeDeltaOptions>();
  commands.push_back({add_make_delta(app, *make), [make] { return run(*make); }});
  const auto print = std::make_shared<FingerprintOptions>();
  commands.push_back({add_fingerprint(app, *print), [print] { return run(*print); }});
}

}  // namespace cli
