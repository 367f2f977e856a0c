// SPDX-License-Identifier: Apache-2.0
// `ziya generate` of many answers: computed together, printed in the order of their prompts.
#include <chrono>
#include <cstddef>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "answer_text.hpp"
#include "commands.hpp"
#include "input.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/generate/contrastive_search.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/text/whitespace.hpp"

namespace cli {

std::vector<PromptLine> read_prompts(const std::string& file) {
  const std::string name = file == "-" ? "standard input" : file;
  std::vector<PromptLine> prompts;
  bool json = file.ends_with(".jsonl");
  std::size_t number = 0;
  for (const std::string& line : lines_of(read_input(file))) {
    ++number;
    if (ziya::strip(line).empty()) continue;
    json = json || (prompts.empty() && line.front() == '{');
    const std::string where = name + ":" + std::to_string(number);
    prompts.push_back(
        {json ? ziya::json_get<std::string>(ziya::parse_json(line, where), "prompt", where) : line,
         where});
    if (ziya::strip(prompts.back().text).empty()) {
      throw ziya::ArgumentError("ZIYA-709", where + ": the prompt is empty");
    }
  }
  if (prompts.empty()) throw ziya::ArgumentError("ZIYA-709", name + ": there is no prompt");
  return prompts;
}

namespace {

/// Prints what is done, as far as all before it are done too.
class AnswersInOrder {
 public:
  AnswersInOrder(std::size_t count, const ziya::GenerationConfig& config, bool ids)
      : config_(config), ids_(ids), texts_(count) {}

  void done(std::size_t index, const std::vector<ziya::GenerationResult>& results) {
    std::string& text = texts_[index].emplace();
    for (const ziya::GenerationResult& result : results) {
      tokens_ += result.generated_ids.size();
      if (ids_) {
        text += answer_line(result, config_);
      } else {
        text += result.text;
        if (!result.text.ends_with('\n')) text += '\n';
      }
    }
    for (; next_ < texts_.size() && texts_[next_]; ++next_) {
      print((ids_ || next_ == 0 ? "" : "\n") + *texts_[next_]);
      texts_[next_]->clear();
    }
  }
  [[nodiscard]] std::size_t tokens() const { return tokens_; }

 private:
  const ziya::GenerationConfig& config_;
  bool ids_;
  std::vector<std::optional<std::string>> texts_;
  std::size_t next_ = 0, tokens_ = 0;
};

}  // namespace

int run_batch(const GenerateOptions& options, const std::vector<PromptLine>& prompts) {
  if (options.model.prompt_lookup > 0 || !options.model.draft.empty()) {
    throw UsageError("ZIYA-701", "many answers at once are not guessed ahead");
  }
  const int parallel = options.parallel.value_or(16);
  const auto folder = ziya::resolve_model_folder(ziya::path_from_utf8(options.model.model));
  const ziya::Tokenizer tokenizer = ziya::Tokenizer::load(folder);
  const ziya::PromptTemplate wrapping = chosen_template(options.model, tokenizer);
  ziya::GenerationConfig config = generation_config(options.sampling, folder, tokenizer);
  config.stop.insert(config.stop.end(), wrapping.stop.begin(), wrapping.stop.end());
  config.skip_special = !options.show_special;

  const bool searched = config.num_beams > 1 || ziya::wants_contrastive_search(config);
  const int draws = searched ? 1 : options.sampling.num_return_sequences.value_or(1);
  const std::size_t count = prompts.size() * static_cast<std::size_t>(draws);

  AnswersInOrder answers(count, config, options.ids);
  std::vector<ziya::Request> requests;
  std::int64_t longest = 0;
  const auto line_of = [&](std::size_t i) { return prompts[i / static_cast<std::size_t>(draws)]; };
  for (std::size_t i = 0; i < count; ++i) {
    ziya::Request request{prompt_ids(wrapping, line_of(i).text, tokenizer), config};
    replace_bos(request.prompt, options.sampling, tokenizer);
    request.config.seed += i;  // the same question twice is not the same draw
    request.on_end = [&answers, i](const ziya::Outcome& outcome) {
      if (outcome.error) std::rethrow_exception(outcome.error);
      answers.done(i, {outcome.result});
    };
    longest =
        std::max(longest, static_cast<std::int64_t>(request.prompt.size()) + config.max_new_tokens);
    requests.push_back(std::move(request));
  }
  SessionSetup setup{options.model, folder};
  setup.tokens = longest;
  setup.sequences = std::min(std::ssize(requests), std::ptrdiff_t{parallel});
  const auto session = make_session(setup, tokenizer);
  for (std::size_t i = 0; i < count; ++i) {
    try {
      session->check(requests[i]);
    } catch (const ziya::ArgumentError&) {
      note("at " + printable(line_of(i).where));
      throw;
    }
  }
  const auto begin = std::chrono::steady_clock::now();
  if (searched) {
    for (std::size_t i = 0; i < count; ++i) {
      answers.done(i, session->search(requests[i].prompt, requests[i].config));
    }
  } else {
    session->batch(std::move(requests), parallel);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  note("prompts: " + std::to_string(prompts.size()) +
       "; tokens: " + std::to_string(answers.tokens()) + " generated (" +
       speed_text(answers.tokens(), elapsed.count()) + ")");
  return 0;
}

}  // namespace cli
