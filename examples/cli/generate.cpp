// SPDX-License-Identifier: Apache-2.0
// `ziya generate`: one prompt and its answers.
#include <chrono>
#include <string>
#include <vector>

#include "answer_text.hpp"
#include "commands.hpp"
#include "input.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/generate/contrastive_search.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/text/prompt.hpp"

namespace cli {
namespace {

std::string read_prompt(const GenerateOptions& options) {
  if (!options.prompt && options.prompt_file.empty()) {
    throw ziya::ArgumentError("ZIYA-709",
                              "generate: there is no prompt; give --prompt TEXT, "
                              "--prompt-file FILE or --prompts-file FILE");
  }
  const std::string text = options.prompt ? *options.prompt : read_input(options.prompt_file);
  if (ziya::strip(text).empty()) {
    throw ziya::ArgumentError("ZIYA-709", "generate: the prompt is empty");
  }
  return text;
}

void say_end(const ziya::GenerationResult& result, const SessionParts& session, double seconds) {
  note("tokens: " + std::to_string(result.prompt_ids.size()) + " prompt, " +
       std::to_string(result.generated_ids.size()) + " generated (" +
       speed_text(result.generated_ids.size(), seconds) +
       "); finish reason: " + std::string(name(result.finish_reason)));
  if (result.context_exhausted) {
    note("the model's context of " +
         std::to_string(result.prompt_ids.size() + result.generated_ids.size()) +
         " tokens is full: the answer stops there");
  }
  const std::string speculation = speculation_text(
      result, session.speed_up(static_cast<std::int64_t>(result.generated_ids.size())));
  if (!speculation.empty()) note(speculation);
}

/// What --echo prints: the prompt as the model sees it, but for bos.
std::string shown_prompt(const ziya::PromptTemplate& wrapping, const std::string& text,
                         const std::vector<std::int32_t>& ids, const ziya::Tokenizer& tokenizer) {
  if (wrapping.name == "ziya") return ziya::prompt::ziya(text);
  return wrapping.name == "raw" ? text : tokenizer.decode(ids);
}

}  // namespace

int run(const GenerateOptions& options) {
  const bool is_list = options.prompt_file.ends_with(".jsonl");
  if (is_list || !options.prompts_file.empty()) {
    return run_batch(options, read_prompts(is_list ? options.prompt_file : options.prompts_file));
  }
  const std::string text = read_prompt(options);
  if (options.sampling.num_return_sequences.value_or(1) > 1 &&
      options.sampling.num_beams.value_or(1) == 1) {
    return run_batch(options, {{text, "the prompt"}});
  }
  if (options.parallel) {
    throw UsageError("ZIYA-701", "--parallel: there is one answer; expected --prompts-file FILE");
  }
  const auto folder = ziya::resolve_model_folder(ziya::path_from_utf8(options.model.model));
  const ziya::Tokenizer tokenizer = ziya::Tokenizer::load(folder);
  const ziya::PromptTemplate wrapping = chosen_template(options.model, tokenizer);
  std::vector<std::int32_t> prompt = prompt_ids(wrapping, text, tokenizer);
  replace_bos(prompt, options.sampling, tokenizer);
  ziya::GenerationConfig config = generation_config(options.sampling, folder, tokenizer);
  config.stop.insert(config.stop.end(), wrapping.stop.begin(), wrapping.stop.end());
  config.skip_special = !options.show_special;

  SessionSetup setup{options.model, folder};
  setup.tokens = static_cast<std::int64_t>(prompt.size()) + config.max_new_tokens;
  const auto session = make_session(setup, tokenizer);
  if (options.echo && !options.ids) print(shown_prompt(wrapping, text, prompt, tokenizer));
  const auto begin = std::chrono::steady_clock::now();
  const bool searched = config.num_beams > 1 || ziya::wants_contrastive_search(config);
  const auto callback = options.ids || searched ? ziya::TextCallback{} : ziya::TextCallback{print};
  std::vector<ziya::GenerationResult> results;
  if (searched) {
    results = session->search(prompt, config);
  } else {
    results.push_back(session->generate(std::move(prompt), config, callback));
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  for (const ziya::GenerationResult& result : results) {
    if (options.ids) {
      print(answer_line(result, config));
    } else {
      if (searched) print(result.text);
      if (!result.text.ends_with('\n')) print("\n");
    }
  }
  say_end(results.front(), *session, elapsed.count());
  return 0;
}

}  // namespace cli
