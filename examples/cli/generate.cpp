// SPDX-License-Identifier: Apache-2.0
// `ziya generate`: one prompt, one answer.
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "commands.hpp"
#include "input.hpp"
#include "json_text.hpp"
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
                              "generate: there is no prompt; give --prompt TEXT or "
                              "--prompt-file FILE");
  }
  const std::string text = options.prompt ? *options.prompt : read_input(options.prompt_file);
  if (ziya::strip(text).empty()) {
    throw ziya::ArgumentError("ZIYA-709", "generate: the prompt is empty");
  }
  return text;
}

void say_end(const ziya::GenerationResult& result, double seconds) {
  const auto count = static_cast<double>(result.generated_ids.size());
  char speed[64];
  std::snprintf(speed, sizeof speed, "%.2f s, %.1f per second", seconds, count / seconds);
  note("tokens: " + std::to_string(result.prompt_ids.size()) + " prompt, " +
       std::to_string(result.generated_ids.size()) + " generated (" + speed +
       "); finish reason: " + std::string(name(result.finish_reason)));
  if (result.context_exhausted) {
    note("the model's context of " +
         std::to_string(result.prompt_ids.size() + result.generated_ids.size()) +
         " tokens is full: the answer stops there");
  }
}

std::string number_text(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6f", number);
  return text;
}

/// [{"id": …, "logprob": …, "top": [[id, logprob], …]}, …]
std::string logprobs_text(const std::vector<ziya::TokenLogprobs>& logprobs) {
  std::string text;
  for (const ziya::TokenLogprobs& each : logprobs) {
    std::string top;
    for (const ziya::Candidate& other : each.top) {
      top += (top.empty() ? "[" : ", [") + std::to_string(other.id) + ", " +
             number_text(other.score) + "]";
    }
    text += (text.empty() ? "{\"id\": " : ", {\"id\": ") + std::to_string(each.id) +
            ", \"logprob\": " + number_text(each.logprob) + ", \"top\": [" + top + "]}";
  }
  return "[" + text + "]";
}

void print_ids(const ziya::GenerationResult& result, const ziya::GenerationConfig& config) {
  JsonObject object;
  object.add("prompt_ids", result.prompt_ids)
      .add("generated_ids", result.generated_ids)
      .add("text", result.text)
      .add("finish_reason", name(result.finish_reason));
  if (config.num_beams > 1) object.add_raw("score", number_text(result.score));
  if (config.logprobs) object.add_raw("logprobs", logprobs_text(result.logprobs));
  print(object.line());
}

}  // namespace

int run(const GenerateOptions& options) {
  std::string text = read_prompt(options);
  const auto folder = ziya::resolve_model_path(ziya::path_from_utf8(options.model.model));
  const ziya::Tokenizer tokenizer = ziya::Tokenizer::load(folder);
  if (uses_template(options.model, tokenizer)) text = ziya::prompt::ziya(text);
  std::vector<std::int32_t> prompt = tokenizer.encode(text);
  replace_bos(prompt, options.sampling, tokenizer);
  ziya::GenerationConfig config = generation_config(options.sampling, folder, tokenizer);
  config.skip_special = !options.show_special;

  Session session(options.model, tokenizer, folder,
                  static_cast<std::int64_t>(prompt.size()) + config.max_new_tokens);
  if (options.echo && !options.ids) print(text);
  const auto begin = std::chrono::steady_clock::now();
  const bool searched = config.num_beams > 1 || ziya::wants_contrastive_search(config);
  const auto callback = options.ids || searched ? ziya::TextCallback{} : ziya::TextCallback{print};
  std::vector<ziya::GenerationResult> results;
  if (searched) {
    results = session.search(prompt, config);
  } else {
    results.push_back(session.generate(std::move(prompt), config, callback));
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  for (const ziya::GenerationResult& result : results) {
    if (options.ids) {
      print_ids(result, config);
    } else {
      if (searched) print(result.text);
      if (!result.text.ends_with('\n')) print("\n");
    }
  }
  say_end(results.front(), elapsed.count());
  return 0;
}

}  // namespace cli
