// SPDX-License-Identifier: Apache-2.0
// The command line of what makes models smaller and measures them.
#include <CLI/CLI.hpp>
#include <memory>
#include <vector>

#include "commands.hpp"
#include "options.hpp"

namespace cli {
namespace {

CLI::App* add_quantize(CLI::App& app, QuantizeOptions& options) {
  auto* command = app.add_subcommand("quantize", "the model in fewer bits, as a GGUF file");
  model_argument(*command, options.model);
  type_option(
      *command, "--type", options.type,
      "q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1, q4_0, iq4_nl, q3_k, q2_k, f16, bf16, f32, or a "
      "mixture: q5_k_m, q4_k_m, q3_k_m",
      "TYPE")
      ->required();
  option(*command, "--output", options.output, "the file to write", "FILE.gguf")->required();
  repeated(*command, "--keep", options.keep,
           "tensors whose names hold this keep their type; * stands for anything; may be repeated",
           "PATTERN");
  option(*command, "--calibrate", options.calibrate,
         "text like what the model will meet: inputs that it drives hard are stored more exactly",
         "FILE");
  option(*command, "--context", options.context, "tokens of the text that are run at once", "N")
      ->check(CLI::Range(16, 1 << 20).description(""))
      ->capture_default_str();
  flag(*command, "--overwrite", options.overwrite, "replace an output that exists");
  flag(*command, "--resume", options.resume, "go on where an interrupted run has left off");
  option(*command, "--threads", options.threads, "default: the cores this program may use", "N")
      ->check(CLI::Range(0, 4096).description(""));
  command->footer(
      "Examples:\n"
      "  ziya quantize build/ziya-tiny --type q4_k_m --output ziya-tiny.q4_k_m.gguf\n"
      "  ziya quantize MODEL --type q4_0 --calibrate text.txt --keep lm_head --output MODEL.gguf");
  return command;
}

CLI::App* add_perplexity(CLI::App& app, PerplexityOptions& options) {
  auto* command = app.add_subcommand("perplexity", "how well a model predicts a text");
  model_argument(*command, options.model.model);
  option(*command, "--file", options.file, "the text, - is standard input", "FILE")->required();
  option(*command, "--method", options.method,
         "llama.cpp: windows side by side, their second halves count; strided: as Transformers "
         "documents it",
         "llama.cpp|strided")
      ->check(one_of({"llama.cpp", "strided"}))
      ->capture_default_str();
  option(*command, "--context", options.context, "tokens of a window", "N")
      ->check(CLI::Range(4, 1 << 20).description(""))
      ->capture_default_str();
  option(*command, "--stride", options.stride,
         "tokens from window to window (default: half a window)", "N")
      ->check(CLI::Range(1, 1 << 20).description(""));
  option(*command, "--windows", options.windows, "measure no more than so many", "N")
      ->check(CLI::Range(1, 1 << 20).description(""));
  option(*command, "--against", options.against,
         "another model: mean divergence of the predictions from its own", "MODEL");
  flag(*command, "--json", options.json, "print one JSON object");
  running_options(*command, options.model);
  placement_options(*command, options.model);
  command->footer(
      "Examples:\n"
      "  ziya perplexity MODEL --file wiki.test.raw\n"
      "  ziya perplexity MODEL.q4_k_m.gguf --file text.txt --against MODEL");
  return command;
}

CLI::App* add_bench(CLI::App& app, BenchOptions& options) {
  auto* command = app.add_subcommand(
      "bench", "tokens per second, beside what the machine can do in the same minute");
  auto* model =
      command->add_option("MODEL", options.model.model, "folder of the model, or a GGUF file")
          ->type_name("");
  option(*command, "-p", options.prompt, "tokens of the prompt; 0: no such test", "N")
      ->check(CLI::Range(0, 1 << 20).description(""))
      ->capture_default_str();
  option(*command, "-n", options.generate, "tokens to generate; 0: no such test", "N")
      ->check(CLI::Range(0, 1 << 20).description(""))
      ->capture_default_str();
  option(*command, "-d", options.depth, "tokens that lie in the cache before", "N")
      ->check(CLI::Range(0, 1 << 20).description(""))
      ->capture_default_str();
  option(*command, "-b", options.batch, "sequences that generate together", "N")
      ->check(CLI::Range(1, 4096).description(""))
      ->capture_default_str();
  option(*command, "-r", options.repetitions, "repetitions", "N")
      ->check(CLI::Range(1, 1000).description(""))
      ->capture_default_str();
  option(*command, "--random-weights", options.random_weights,
         "the shape of a model, with random weights, in place of MODEL", "tiny|1b|7b|13b")
      ->check(one_of({"tiny", "1b", "7b", "13b"}))
      ->excludes(model);
  type_option(*command, "--type", options.type, "of random weights: any stored type, int8 or fp8",
              "TYPE")
      ->capture_default_str();
  flag(*command, "--json", options.json, "print a list of JSON objects");
  running_options(*command, options.model);
  command->footer(
      "Examples:\n"
      "  ziya bench MODEL -p 512 -n 128\n"
      "  ziya bench --random-weights 7b --type q4_0 --json");
  return command;
}

}  // namespace

void add_measure_commands(CLI::App& app, std::vector<Command>& commands) {
  const auto quantize = std::make_shared<QuantizeOptions>();
  commands.push_back({add_quantize(app, *quantize), [quantize] { return run(*quantize); }});
  const auto perplexity = std::make_shared<PerplexityOptions>();
  commands.push_back({add_perplexity(app, *perplexity), [perplexity] { return run(*perplexity); }});
  const auto bench = std::make_shared<BenchOptions>();
  commands.push_back({add_bench(app, *bench), [bench] { return run(*bench); }});
}

}  // namespace cli
