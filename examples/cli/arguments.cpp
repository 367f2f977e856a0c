// SPDX-License-Identifier: Apache-2.0
// The command line: options in Transformers' names, spelled with hyphens or underscores.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "commands.hpp"
#include "nearest.hpp"
#include "options.hpp"
#include "terminal.hpp"
#include "ziya/config.hpp"

namespace cli {
namespace {

std::string with_hyphens(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

/// Help shows each option once, with hyphens.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option_name(const CLI::Option* option, bool positional) const override {
    if (positional) return CLI::Formatter::make_option_name(option, positional);
    std::string names;
    for (const std::string& name : option->get_snames())
      names += (names.empty() ? "-" : ",-") + name;
    for (const std::string& name : option->get_lnames()) {
      if (name.find('_') == std::string::npos) names += (names.empty() ? "--" : ",--") + name;
    }
    return names;
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    std::string text = option->get_type_name();
    if (!text.empty()) text.insert(0, " ");
    if (!option->get_default_str().empty()) text += " (" + option->get_default_str() + ")";
    return text;
  }
};

CLI::App* add_generate(CLI::App& app, GenerateOptions& options) {
  auto* command = app.add_subcommand("generate", "answer one prompt, or many at once");
  model_options(*command, options.model);
  auto* prompt = option(*command, "-p,--prompt", options.prompt, "what to answer", "TEXT")
                     ->multi_option_policy(CLI::MultiOptionPolicy::Throw)  // none is passed over
                     ->group("Prompt");
  auto* file =
      option(*command, "--prompt-file", options.prompt_file,
             "read the prompt from a file, - is standard input; of a .jsonl file many", "FILE")
          ->excludes(prompt)
          ->group("Prompt");
  option(*command, "--prompts-file", options.prompts_file,
         "many prompts: one a line, or JSON objects with \"prompt\"; - is standard input", "FILE")
      ->excludes(prompt)
      ->excludes(file)
      ->group("Prompt");
  option(*command, "--parallel", options.parallel,
         "so many answers at a time, where there are many", "N")
      ->check(CLI::Range(1, 1024).description(""))
      ->default_str("16")
      ->group("Prompt");
  flag(*command, "--echo", options.echo, "print the prompt before the answer")->group("Output");
  flag(*command, "--show-special", options.show_special, "print special tokens, </s> for one")
      ->group("Output");
  flag(*command, "--ids", options.ids,
       "print one JSON object an answer: prompt_ids, generated_ids, text, finish_reason")
      ->group("Output");
  sampling_options(*command, options.sampling);
  search_options(*command, options.sampling);
  speculation_options(*command, options.model);
  command->footer(
      "Examples:\n"
      "  ziya generate Ziya-LLaMA-13B -p \"帮我写一份去西安的旅游计划\"\n"
      "  ziya generate build/ziya-tiny --greedy -p \"What is the capital of France?\"\n"
      "  ziya generate MODEL --template raw --prompt-file story.txt --top-p 0.9 --seed 7\n"
      "  ziya generate MODEL --prompts-file questions.jsonl --ids --parallel 16\n"
      "  ziya generate MODEL --greedy --prompt-lookup 16 --prompt-file summarise.txt");
  return command;
}

CLI::App* add_chat(CLI::App& app, ChatOptions& options) {
  auto* command = app.add_subcommand("chat", "a conversation; Ctrl-C stops an answer, Ctrl-D ends");
  model_options(*command, options.model);
  option(*command, "--system", options.system, "what the conversation begins with", "TEXT")
      ->group("Prompt");
  option(*command, "--forget", options.forget,
         "when the context is full: the oldest turns whole, or the oldest tokens", "turns|tokens")
      ->check(one_of({"turns", "tokens"}))
      ->capture_default_str()
      ->group("Prompt");
  option(*command, "--history-file", options.history_file,
         "keep what is typed on a terminal in a file, for the next time", "FILE")
      ->group("Prompt");
  sampling_options(*command, options.sampling);
  speculation_options(*command, options.model);
  command->footer(
      "Example:\n"
      "  ziya chat build/ziya-tiny --greedy\n"
      "In the conversation: /help lists what can be done there.");
  return command;
}

CLI::App* add_tokenize(CLI::App& app, TokenizeOptions& options, bool& no_bos) {
  auto* command = app.add_subcommand("tokenize", "text to ids, or ids to text");
  model_argument(*command, options.model);
  auto* text =
      command->add_option("TEXT", options.text, "what to tokenise (default: standard input)")
          ->type_name("");
  option(*command, "--text-file", options.text_file,
         "read the text from a file, - is standard input", "FILE")
      ->excludes(text);
  option(*command, "--mode", options.mode,
         "legacy: as the model was trained; transformers: as Transformers 4.36; plain: no special "
         "token is recognised",
         "legacy|transformers|plain")
      ->check(one_of({"legacy", "transformers", "plain"}))
      ->capture_default_str();
  flag(*command, "--no-bos", no_bos, "do not begin with <s>");
  flag(*command, "--add-eos", options.add_eos, "end with </s>");
  flag(*command, "--json", options.json, "print one JSON object: ids, pieces");
  option(*command, "--decode", options.decode, "print {\"text\": …} of these ids", "1,2,3")
      ->excludes(text);
  command->footer(
      "Examples:\n"
      "  ziya tokenize build/ziya-tiny \"<human>:你好\"\n"
      "  ziya tokenize build/ziya-tiny --json --mode plain \"<human>:你好\"\n"
      "  ziya tokenize build/ziya-tiny --decode 1,4377,1731");
  return command;
}

CLI::App* add_inspect(CLI::App& app, InspectOptions& options) {
  auto* command = app.add_subcommand("inspect", "what a folder holds and what it needs");
  model_argument(*command, options.model);
  flag(*command, "--json", options.json, "print one JSON object");
  flag(*command, "--fingerprint", options.fingerprint, "hash the tensors, which reads them all");
  const auto scan = [&options](bool value) { return [&options, value] { options.scan = value; }; };
  auto* with = command->add_flag_callback(
      "--scan", scan(true),
      "count NaN and infinite weights (default: when there are less than 2 GB)");
  command->add_flag_callback(both_spellings("--no-scan"), scan(false), "do not")->excludes(with);
  command->footer("Example:\n  ziya inspect build/ziya-tiny");
  return command;
}

[[noreturn]] void refuse(const CLI::App& command, const std::string& message) {
  std::string path = command.get_name();
  if (command.get_parent() != nullptr) path = command.get_parent()->get_name() + " " + path;
  throw UsageError("ZIYA-701", message + " (" + path + " --help lists all)");
}

std::string suggestion(const std::string& word, const std::vector<std::string>& words) {
  const std::string known = nearest(word, words);
  return known.empty() ? "" : "; did you mean " + known + "?";
}

/// What the parser could not place, in words. Empty when there is nothing.
std::string describe_extra(const CLI::App& command, bool expects_command) {
  std::vector<std::string> extras = command.remaining();
  std::erase(extras, "--");
  if (extras.empty()) return "";
  const std::string& word = extras.front();
  std::vector<std::string> known;
  if (word.size() > 1 && word.front() == '-') {
    for (const CLI::Option* entry : command.get_options()) {
      for (const std::string& name : entry->get_lnames()) known.push_back("--" + name);
    }
    std::erase_if(known,
                  [](const std::string& name) { return name.find('_') != std::string::npos; });
    const std::string name = with_hyphens(word.substr(0, word.find('=')));
    return "unknown option " + word + suggestion(name, known);
  }
  if (!expects_command) return "unexpected argument \"" + word + "\"";
  for (const CLI::App* entry : command.get_subcommands([](const CLI::App*) { return true; })) {
    known.push_back(entry->get_name());
  }
  return "unknown command " + word + suggestion(word, known);
}

/// CLI11 takes "--prompt=" for an option whose value is the next word.
std::vector<std::string> split_empty_values(int count, const char* const* arguments) {
  std::vector<std::string> words;
  for (int i = count - 1; i > 0; --i) {  // CLI11 wants them in reverse
    std::string word = arguments[i];
    if (word.starts_with("--") && word.find('=') == word.size() - 1) {
      words.emplace_back();
      word.pop_back();
    }
    words.push_back(word);
  }
  return words;
}

}  // namespace

int main(int count, const char* const* arguments) {
  CLI::App app("Ziya-LLaMA and other LLaMA models: merge, inspect, tokenise, generate, chat.",
               "ziya");
  app.formatter(std::make_shared<HelpFormatter>());
  app.set_version_flag("--version", "ziya " ZIYA_VERSION);
  app.footer(
      "Example:\n"
      "  ziya generate build/ziya-tiny -p \"背诵李白的《夜思》\"\n"
      "ziya COMMAND --help shows the options of a command.");

  GenerateOptions generate_options;
  ChatOptions chat_options;
  TokenizeOptions tokenize_options;
  InspectOptions inspect_options;
  bool no_bos = false;
  std::vector<Command> commands = {
      {add_generate(app, generate_options), [&] { return run(generate_options); }},
      {add_chat(app, chat_options), [&] { return run(chat_options); }},
      {add_tokenize(app, tokenize_options, no_bos), [&] { return run(tokenize_options); }},
      {add_inspect(app, inspect_options), [&] { return run(inspect_options); }},
  };
  add_conversion_commands(app, commands);
  add_measure_commands(app, commands);
  add_convert_command(app, commands);
  add_scoring_commands(app, commands);
  app.allow_extras();
  for (const Command& command : commands) command.parser->allow_extras();

  const auto parsed = [&] {
    for (const Command& command : commands) {
      if (command.parser->parsed()) return &command;
    }
    return static_cast<const Command*>(nullptr);
  };
  try {
    app.parse(split_empty_values(count, arguments));
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    const CLI::App& where = parsed() != nullptr ? *parsed()->parser : app;
    const std::string extra = describe_extra(where, &where == &app);
    refuse(where, extra.empty() ? error.what() : extra);
  }
  const Command* command = parsed();
  const CLI::App& where = command != nullptr ? *command->parser : app;
  if (const std::string extra = describe_extra(where, &where == &app); !extra.empty()) {
    refuse(where, extra);
  }
  if (command == nullptr) {
    std::cerr << app.help();
    return 2;
  }
  tokenize_options.add_bos = !no_bos;
  return command->run();
}

}  // namespace cli
