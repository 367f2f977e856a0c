// SPDX-License-Identifier: Apache-2.0
// The command line of what scores and embeds texts.
#include <CLI/CLI.hpp>
#include <memory>
#include <vector>

#include "commands.hpp"
#include "options.hpp"

namespace cli {
namespace {

CLI::App* add_eval(CLI::App& app, EvalOptions& options) {
  auto* command = app.add_subcommand("eval", "multiple-choice questions: how many it gets right");
  model_argument(*command, options.model.model);
  repeated(*command, "--file", options.files,
           "questions: JSON lines (question, choices, answer), C-Eval's CSV or MMLU's; may be "
           "repeated",
           "FILE")
      ->required();
  auto* examples =
      option(*command, "--examples", options.examples,
             "questions that are shown with their answers, in the same formats", "FILE");
  auto* shots = option(*command, "--shots", options.shots, "how many of them", "N")
                    ->check(CLI::Range(0, 1000).description(""))
                    ->capture_default_str();
  examples->needs(shots);
  option(*command, "--score", options.score,
         "letter: the choices are listed, the letter is scored; text: each choice as the answer, "
         "by its log-probability; mean: the same per token",
         "letter|text|mean")
      ->check(one_of({"letter", "text", "mean"}))
      ->capture_default_str();
  option(*command, "--intro", options.intro, "in front of everything, with an empty line behind",
         "TEXT");
  option(*command, "--limit", options.limit, "no more than so many questions of a file", "N")
      ->check(CLI::Range(1, 1 << 30).description(""));
  flag(*command, "--json", options.json, "print one JSON object, with the scores of every choice");
  options.model.prompt_template = "raw";
  template_options(*command, options.model);
  running_options(*command, options.model);
  placement_options(*command, options.model);
  command->footer(
      "Examples:\n"
      "  ziya eval MODEL --file questions.jsonl\n"
      "  ziya eval MODEL --file val/law_val.csv --examples dev/law_dev.csv --shots 5 --json");
  return command;
}

CLI::App* add_embed(CLI::App& app, EmbedOptions& options) {
  auto* command = app.add_subcommand(
      "embed", "a text as a vector: the last hidden states, averaged, of length 1");
  model_argument(*command, options.model.model);
  auto* text = command->add_option("TEXT", options.text, "the text (default: standard input)")
                   ->type_name("");
  option(*command, "--text-file", options.text_file,
         "read the text from a file, - is standard input", "FILE")
      ->excludes(text);
  flag(*command, "--lines", options.lines, "each line is a text of its own");
  flag(*command, "--json", options.json, "print a JSON object a text: tokens, embedding");
  running_options(*command, options.model);
  placement_options(*command, options.model);
  command->footer(
      "Examples:\n"
      "  ziya embed MODEL \"床前明月光\"\n"
      "  ziya embed MODEL --text-file sentences.txt --lines --json");
  return command;
}

}  // namespace

void add_scoring_commands(CLI::App& app, std::vector<Command>& commands) {
  const auto eval = std::make_shared<EvalOptions>();
  commands.push_back({add_eval(app, *eval), [eval] { return run(*eval); }});
  const auto embed = std::make_shared<EmbedOptions>();
  commands.push_back({add_embed(app, *embed), [embed] { return run(*embed); }});
}

}  // namespace cli
