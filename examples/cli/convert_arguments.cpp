// SPDX-License-Identifier: Apache-2.0
// The command line of `ziya convert`.
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
         "hf|gguf");
  option(*command, "--to", options.to, "format of the output (default: by its name)", "hf|gguf");
  option(*command, "--type", options.type, "type of the weights (default: as they are stored)",
         "f32|f16|bf16");
  flag(*command, "--overwrite", options.overwrite, "replace an output that exists");
  option(*command, "--max-shard-size", options.max_shard_size,
         "largest file of safetensors, e.g. 4GB or 500MB", "SIZE");
  command->footer(
      "Examples:\n"
      "  ziya convert --input MODEL --output MODEL.gguf --type f16\n"
      "  ziya convert --input MODEL.gguf --output MODEL-hf");
  return command;
}

}  // namespace

void add_convert_command(CLI::App& app, std::vector<Command>& commands) {
  const auto options = std::make_shared<ConvertOptions>();
  commands.push_back({add_convert(app, *options), [options] { return run(*options); }});
}

}  // namespace cli
