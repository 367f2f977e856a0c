// SPDX-License-Identifier: Apache-2.0
// The command line of what turns checkpoints into checkpoints.
#include <CLI/CLI.hpp>
#include <memory>
#include <vector>

#include "commands.hpp"
#include "options.hpp"

namespace cli {
namespace {

CLI::App* add_merge(CLI::App& app, MergeOptions& options) {
  auto* command = app.add_subcommand("merge-delta", "base + delta = model");
  option(*command, "--base,--base-model-path", options.base, "the base model", "DIR")->required();
  option(*command, "--delta,--delta-path", options.delta, "the published delta", "DIR")->required();
  option(*command, "--target,--target-model-path", options.target, "folder to write the model to",
         "DIR")
      ->required();
  flag(*command, "--overwrite", options.overwrite, "replace a target that exists");
  option(*command, "--max-shard-size", options.max_shard_size, "largest file, e.g. 4GB or 500MB",
         "SIZE");
  flag(*command, "--low-cpu-mem", options.low_cpu_mem,
       "accepted for the reference's sake; memory is always low");
  command->footer(
      "Example:\n"
      "  ziya merge-delta --base llama-13b-hf --delta Ziya-LLaMA-13B-v1.1 --target Ziya-LLaMA-13B\n"
      "The delta is GPL-3.0, LLaMA's weights are for non-commercial use, and merged weights may "
      "not\n"
      "be published.");
  return command;
}

}  // namespace

void add_conversion_commands(CLI::App& app, std::vector<Command>& commands) {
  const auto merge = std::make_shared<MergeOptions>();
  commands.push_back({add_merge(app, *merge), [merge] { return run(*merge); }});
}

}  // namespace cli
