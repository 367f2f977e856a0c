// SPDX-License-Identifier: Apache-2.0
// The command lines of `ziya convert` and `ziya merge-lora`, which is a conversion on the way.
#include <CLI/CLI.hpp>
#include <memory>
#include <vector>

#include "commands.hpp"
#include "options.hpp"

namespace cli {
namespace {

CLI::App* add_convert(CLI::App& app, ConvertOptions& options) {
  auto* command = app.add_subcommand("convert", "a model from one format to another");
  option(*command, "--input,--input-dir", options.input, "the model to read", "PATH")->required();
  option(*command, "--output,--output-dir", options.output, "folder or file to write", "PATH")
      ->required();
  option(*command, "--from", options.from, "format of the input (default: what it looks like)",
         "hf|meta|fengshen|gguf");
  option(*command, "--to", options.to, "format of the output (default: by its name)",
         "hf|fengshen|gguf");
  type_option(
      *command, "--type", options.type,
      "type of the weights (default: as they are stored; from Meta's layout f16, as the reference "
      "writes)",
      "stored|f32|f16|bf16");
  flag(*command, "--overwrite", options.overwrite, "replace an output that exists");
  flag(*command, "--resume", options.resume, "go on where an interrupted run has left off");
  option(*command, "--max-shard-size", options.max_shard_size,
         "largest file of safetensors or PyTorch, e.g. 4GB or 500MB", "SIZE");
  threads_option(*command, options.threads);
  const char* meta = "From Meta's layout";
  option(*command, "--model-size", options.model_size,
         "the subfolder of the input that holds the weights", "7B|13B|…")
      ->group(meta);
  option(*command, "--max-positions", options.max_positions,
         "tokens of context (default: 2048, 4096 for LLaMA-2, 16384 for Code Llama)", "N")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30).description(""))
      ->group(meta);
  command
      ->add_flag_callback(
          "--no-checksums,--no_checksums", [&options] { options.checksums = false; },
          "do not compare the weights with checklist.chk")
      ->group(meta);
  option(*command, "--parts", options.parts, "tensor-parallel parts of the output", "N")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{4096}).description(""))
      ->capture_default_str()
      ->group("To the Fengshen layout");
  command->footer(
      "Examples:\n"
      "  ziya convert --from meta --input llama --model-size 13B --output llama-13b-hf\n"
      "  ziya convert --input MODEL --output MODEL.gguf --type f16\n"
      "  ziya convert --input MODEL.gguf --output MODEL-hf\n"
      "  ziya convert --input MODEL --to fengshen --parts 8 --output MODEL-fs");
  return command;
}

CLI::App* add_merge_lora(CLI::App& app, ConvertOptions& options) {
  auto* command = app.add_subcommand("merge-lora", "model + LoRA adapter = model");
  option(*command, "--base", options.input,
         "the model that the adapter was trained on, in any format that convert reads", "PATH")
      ->required();
  option(*command, "--adapter", options.adapter, "the adapter's folder (PEFT)", "DIR")->required();
  option(*command, "--output,--output-dir", options.output, "folder or file to write", "PATH")
      ->required();
  type_option(*command, "--type", options.type, "type of the weights (default: as they are stored)",
              "stored|f32|f16|bf16");
  option(*command, "--to", options.to, "format of the output (default: by its name)",
         "hf|fengshen|gguf");
  option(*command, "--parts", options.parts, "tensor-parallel parts of a Fengshen output", "N")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{4096}).description(""))
      ->capture_default_str();
  flag(*command, "--any-base", options.any_base, "take an adapter that records another base");
  flag(*command, "--overwrite", options.overwrite, "replace an output that exists");
  flag(*command, "--resume", options.resume, "go on where an interrupted run has left off");
  option(*command, "--max-shard-size", options.max_shard_size, "largest file, e.g. 4GB or 500MB",
         "SIZE");
  threads_option(*command, options.threads);
  command->footer(
      "Example:\n"
      "  ziya merge-lora --base Ziya-LLaMA-13B --adapter my-adapter --output my-model\n"
      "Adapters can also stand beside a model: ziya generate MODEL --adapter my-adapter -p ...");
  return command;
}

}  // namespace

void add_convert_command(CLI::App& app, std::vector<Command>& commands) {
  const auto options = std::make_shared<ConvertOptions>();
  commands.push_back({add_convert(app, *options), [options] { return run(*options); }});
  const auto merge = std::make_shared<ConvertOptions>();
  commands.push_back({add_merge_lora(app, *merge), [merge] { return run(*merge); }});
}

}  // namespace cli
