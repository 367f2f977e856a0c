// SPDX-License-Identifier: Apache-2.0
// `ziya eval`: multiple-choice questions, answered with the choice that the model finds likeliest.
#include <cmath>
#include <cstdio>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "commands.hpp"
#include "conversion.hpp"
#include "json_text.hpp"
#include "questions.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/text/tokenizer.hpp"

namespace cli {
namespace {

constexpr ziya::EncodeOptions plain_text{ziya::TokenizerMode::plain, false, false};

std::string eval_number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// The texts of questions. With letters: the question, "A. …" and so on, "Answer:"; without:
/// "Question: …", "Answer:".
class QuestionForm {
 public:
  QuestionForm(bool letters, bool chinese)
      : letters_(letters),
        question_(letters   ? ""
                  : chinese ? "问题："
                            : "Question: "),
        answer_(chinese ? "答案：" : "Answer:") {}

  [[nodiscard]] std::string ask(const Question& question) const {
    std::string text = question_ + question.question + "\n";
    for (std::size_t i = 0; letters_ && i < question.choices.size(); ++i) {
      text += std::string(1, letter_of(i)) + ". " + question.choices[i] + "\n";
    }
    return text + answer_;
  }
  /// What follows, without the space in front of it that the tokenizer adds.
  [[nodiscard]] std::string choice(const Question& question, std::size_t index) const {
    return letters_ ? std::string(1, letter_of(index)) : question.choices[index];
  }
  [[nodiscard]] std::string shown(const Question& question) const {
    return ask(question) + " " + choice(question, question.answer) + "\n\n";
  }

 private:
  bool letters_;
  std::string question_, answer_;
};

struct Answered {
  std::size_t chosen = 0;
  std::vector<double> scores;
};

class Examiner {
 public:
  Examiner(const EvalOptions& options, const ziya::Tokenizer& tokenizer,
           const ziya::PromptTemplate& wrapping, ScoringParts& model)
      : options_(options),
        tokenizer_(tokenizer),
        template_(wrapping),
        limit_(model.context_limit()),
        model_(model) {}

  /// Examples that leave no room for the question are left away, the first ones first.
  Answered answer(const Question& question, const QuestionForm& form,
                  std::span<const Question> examples) {
    std::vector<std::vector<std::int32_t>> choices;
    std::size_t longest = 0;
    for (std::size_t i = 0; i < question.choices.size(); ++i) {
      choices.push_back(tokenizer_.encode(form.choice(question, i), plain_text));
      longest = std::max(longest, choices.back().size());
    }
    std::vector<std::int32_t> prompt = prompt_of(question, form, examples);
    while (!examples.empty() && static_cast<std::int64_t>(prompt.size() + longest) > limit_) {
      examples = examples.subspan(1);
      prompt = prompt_of(question, form, examples);
      ++left_away_;
    }
    Answered result;
    for (const auto& choice : choices) {
      const ziya::Likelihood likelihood = model_.log_likelihood(prompt, choice);
      const auto tokens = static_cast<double>(likelihood.tokens);
      result.scores.push_back(likelihood.log_probability / (options_.score == "mean" ? tokens : 1));
      if (result.scores.back() > result.scores[result.chosen]) {
        result.chosen = result.scores.size() - 1;
      }
    }
    return result;
  }
  [[nodiscard]] std::int64_t left_away() const { return left_away_; }

 private:
  [[nodiscard]] std::vector<std::int32_t> prompt_of(const Question& question,
                                                    const QuestionForm& form,
                                                    std::span<const Question> examples) const {
    std::string text = options_.intro.empty() ? "" : options_.intro + "\n\n";
    for (const Question& example : examples) text += form.shown(example);
    text += form.ask(question);
    std::vector<std::int32_t> ids = template_.start_ids(tokenizer_);
    const std::vector<std::int32_t> query = template_.query_ids(tokenizer_, text, true);
    ids.insert(ids.end(), query.begin(), query.end());
    return ids;
  }

  const EvalOptions& options_;
  const ziya::Tokenizer& tokenizer_;
  const ziya::PromptTemplate& template_;
  std::int64_t limit_, left_away_ = 0;
  ScoringParts& model_;
};

struct FileScore {
  std::string name;
  std::size_t questions = 0, correct = 0;
  std::string results;  ///< of each question, as JSON

  [[nodiscard]] double accuracy() const {
    return static_cast<double>(correct) / static_cast<double>(questions);
  }
  /// sqrt(p (1 − p) / (n − 1))
  [[nodiscard]] double uncertainty() const {
    const double p = accuracy();
    return questions < 2 ? 0 : std::sqrt(p * (1 - p) / static_cast<double>(questions - 1));
  }
  [[nodiscard]] std::string json() const {
    return "\"questions\": " + std::to_string(questions) +
           ", \"correct\": " + std::to_string(correct) +
           ", \"accuracy\": " + eval_number(accuracy(), "%.9g") +
           ", \"uncertainty\": " + eval_number(uncertainty(), "%.9g");
  }
  [[nodiscard]] std::string row(std::size_t width) const {
    std::string text = printable(name);
    text.resize(std::max(width, text.size()), ' ');
    char numbers[96];
    std::snprintf(numbers, sizeof numbers, "  %9zu  %7zu  %6.2f %% ± %.2f\n", questions, correct,
                  100 * accuracy(), 100 * uncertainty());
    return text + numbers;
  }
};

std::string result_json(const Question& question, const Answered& answered) {
  std::string scores;
  for (const double score : answered.scores) {
    scores += (scores.empty() ? "" : ", ") + eval_number(score, "%.6f");
  }
  return "{\"question\": " + json_text(question.question) +
         ", \"answer\": " + std::to_string(question.answer) +
         ", \"chosen\": " + std::to_string(answered.chosen) + ", \"scores\": [" + scores + "]}";
}

void print_scores(const EvalOptions& options, const std::vector<FileScore>& files,
                  const FileScore& total) {
  std::string text;
  if (options.json) {
    for (const FileScore& file : files) {
      text += (text.empty() ? "" : ", ") + ("{\"file\": " + json_text(file.name)) + ", " +
              file.json() + ", \"results\": [" + file.results + "]}";
    }
    print("{\"score\": " + json_text(options.score) + ", \"shots\": " +
          std::to_string(options.shots) + ", " + total.json() + ", \"files\": [" + text + "]}\n");
    return;
  }
  std::size_t width = total.name.size();
  for (const FileScore& file : files) width = std::max(width, printable(file.name).size());
  text = "file" + std::string(std::max<std::size_t>(width, 4) - 4, ' ') +
         "  questions  correct  accuracy\n";
  for (const FileScore& file : files) text += file.row(width);
  if (files.size() > 1) text += total.row(width);
  print(text);
}

std::vector<Question> shown_examples(const EvalOptions& options) {
  if (options.shots == 0) return {};
  if (options.examples.empty()) {
    throw UsageError("ZIYA-701", "--shots " + std::to_string(options.shots) +
                                     ": expected --examples FILE with the questions to show");
  }
  std::vector<Question> examples = read_questions(options.examples).questions;
  if (std::ssize(examples) < options.shots) {
    throw ziya::FormatError("ZIYA-712", options.examples + ": has " +
                                            std::to_string(examples.size()) +
                                            " questions, expected at least " +
                                            std::to_string(options.shots) + " to show");
  }
  examples.resize(static_cast<std::size_t>(options.shots));
  return examples;
}

}  // namespace

int run(const EvalOptions& options) {
  std::vector<QuestionFile> files;
  std::size_t count = 0;
  for (const std::string& file : options.files) {
    files.push_back(read_questions(file));
    auto& questions = files.back().questions;
    if (options.limit > 0 && std::ssize(questions) > options.limit) {
      questions.resize(static_cast<std::size_t>(options.limit));
    }
    count += questions.size();
  }
  const std::vector<Question> examples = shown_examples(options);
  const auto folder = ziya::resolve_model_folder(ziya::path_from_utf8(options.model.model));
  const ziya::Tokenizer tokenizer = ziya::Tokenizer::load(folder);
  const ziya::PromptTemplate wrapping = chosen_template(options.model, tokenizer);
  ScoringSetup setup{options.model, folder};
  setup.tokens = ziya::context_limit(ziya::read_llama_shape(folder));
  const auto model = make_scoring(setup);
  Examiner examiner(options, tokenizer, wrapping, *model);

  std::vector<FileScore> scores;
  FileScore total{"total", 0, 0, {}};
  catch_signals();
  ProgressBar bar("answering", false);
  for (const QuestionFile& file : files) {
    const QuestionForm form(options.score == "letter", file.chinese);
    FileScore& score = scores.emplace_back(FileScore{file.name, 0, 0, {}});
    for (const Question& question : file.questions) {
      if (cancelled) throw ziya::Error("ZIYA-713", "eval: cancelled");
      const Answered answered = examiner.answer(question, form, examples);
      ++score.questions;
      score.correct += answered.chosen == question.answer;
      score.results += (score.results.empty() ? "" : ", ") + result_json(question, answered);
      bar.update(static_cast<std::int64_t>(total.questions + score.questions),
                 static_cast<std::int64_t>(count), "questions");
    }
    total.questions += score.questions;
    total.correct += score.correct;
  }
  bar.clear();
  if (examiner.left_away() > 0) {
    note("note: " + std::to_string(examiner.left_away()) +
         " examples were left away where the model's context had no room for them");
  }
  print_scores(options, scores, total);
  return 0;
}

}  // namespace cli
