// SPDX-License-Identifier: Apache-2.0
// Multiple-choice questions from JSON lines and CSV.
#include "questions.hpp"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "input.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/json.hpp"
#include "ziya/text/whitespace.hpp"

namespace cli {
namespace {

[[noreturn]] void refuse_question(const std::string& where, const std::string& why) {
  throw ziya::FormatError("ZIYA-712", where + ": " + why);
}

/// A letter, or the text of a choice.
std::size_t choice_named(const std::vector<std::string>& choices, std::string_view text,
                         const std::string& where) {
  text = ziya::strip(text);
  if (text.size() == 1) {
    const auto letter = static_cast<unsigned char>(text.front() & ~0x20);
    if (letter >= 'A' && letter < 'A' + choices.size()) return letter - std::size_t{'A'};
  }
  const auto found = std::find(choices.begin(), choices.end(), text);
  if (found == choices.end()) {
    refuse_question(where, "the answer \"" + std::string(text.substr(0, 40)) +
                               "\" is none of the " + std::to_string(choices.size()) + " choices");
  }
  return static_cast<std::size_t>(found - choices.begin());
}

void check_question(const Question& question, const std::string& where) {
  if (ziya::strip(question.question).empty()) refuse_question(where, "the question is empty");
  if (question.choices.size() < 2 || question.choices.size() > 26) {
    refuse_question(
        where, "has " + std::to_string(question.choices.size()) + " choices, expected 2 to 26");
  }
  for (const std::string& choice : question.choices) {
    if (ziya::strip(choice).empty()) refuse_question(where, "a choice is empty");
  }
}

Question question_from_json(const std::string& line, const std::string& where) {
  const nlohmann::json json = ziya::parse_json(line, where, {.depth = 8});
  Question question{ziya::json_get<std::string>(json, "question", where), {}};
  const nlohmann::json* choices = ziya::json_find(json, "choices");
  if (choices == nullptr || !choices->is_array()) refuse_question(where, "has no list of choices");
  for (const auto& choice : *choices) {
    if (!choice.is_string()) refuse_question(where, "a choice is no text");
    question.choices.push_back(choice.get<std::string>());
  }
  check_question(question, where);
  const nlohmann::json* answer = ziya::json_find(json, "answer");
  if (answer == nullptr) refuse_question(where, "has no answer");
  if (answer->is_string()) {
    question.answer = choice_named(question.choices, answer->get<std::string>(), where);
  } else {
    const auto index = ziya::json_get<std::int64_t>(json, "answer", where);
    if (index < 0 || index >= std::ssize(question.choices)) {
      refuse_question(where, "the answer " + std::to_string(index) + " is none of the " +
                                 std::to_string(question.choices.size()) + " choices");
    }
    question.answer = static_cast<std::size_t>(index);
  }
  return question;
}

struct CsvRow {
  std::vector<std::string> fields;
  std::size_t line = 0;  ///< on which it begins
};

/// Source: RFC 4180, with either end of line
std::vector<CsvRow> csv_rows(std::string_view text, const std::string& name) {
  std::vector<CsvRow> rows;
  std::size_t line = 1, at = text.starts_with("\xEF\xBB\xBF") ? 3 : 0;
  while (at < text.size()) {
    CsvRow row{{}, line};
    for (bool more = true; more;) {
      std::string field;
      if (at < text.size() && text[at] == '"') {
        while (true) {
          const std::size_t end = text.find('"', at + 1);
          if (end == std::string_view::npos) {
            refuse_question(name + ":" + std::to_string(row.line), "a quoted field does not end");
          }
          field += text.substr(at + 1, end - at - 1);
          at = end + 1;
          if (at >= text.size() || text[at] != '"') break;
          field += '"';
        }
        line += static_cast<std::size_t>(std::count(field.begin(), field.end(), '\n'));
      }
      const std::size_t end = std::min(text.find_first_of(",\n", at), text.size());
      field += text.substr(at, end - at);
      more = end < text.size() && text[end] == ',';
      if (!more && field.ends_with('\r')) field.pop_back();
      row.fields.push_back(std::move(field));
      at = std::min(end + 1, text.size());
    }
    ++line;
    if (row.fields.size() > 1 || !row.fields.front().empty()) rows.push_back(std::move(row));
  }
  return rows;
}

/// The columns of a header that names question, A, B, … and answer.
struct Columns {
  std::size_t question = 0, answer = 0;
  std::vector<std::size_t> choices;
};

std::optional<Columns> columns_of(const std::vector<std::string>& header) {
  const auto find = [&](const std::string& name) -> std::optional<std::size_t> {
    const auto found = std::find(header.begin(), header.end(), name);
    if (found == header.end()) return std::nullopt;
    return static_cast<std::size_t>(found - header.begin());
  };
  const auto question = find("question");
  if (!question || !find("A") || !find("B")) return std::nullopt;
  const auto answer = find("answer");
  if (!answer) return std::nullopt;
  Columns columns{*question, *answer, {}};
  for (std::size_t i = 0; i < 26; ++i) {
    const auto choice = find(std::string(1, letter_of(i)));
    if (!choice) break;
    columns.choices.push_back(*choice);
  }
  return columns;
}

QuestionFile questions_from_csv(const std::string& name, const std::string& text) {
  QuestionFile result{name, false, {}};
  std::vector<CsvRow> rows = csv_rows(text, name);
  std::optional<Columns> columns;
  if (!rows.empty()) columns = columns_of(rows.front().fields);
  if (columns) {
    result.chinese = true;
    rows.erase(rows.begin());
  } else if (!rows.empty() && std::ranges::count(rows.front().fields, "question") > 0) {
    refuse_question(name + ":1", "the header names no answer, or no choices A, B, …");
  }
  for (CsvRow& row : rows) {
    const std::string where = name + ":" + std::to_string(row.line);
    std::vector<std::string>& fields = row.fields;
    Question question;
    std::string answer;
    if (columns) {
      for (const std::size_t column : columns->choices) {
        if (column < fields.size() && !fields[column].empty()) {
          question.choices.push_back(fields[column]);
        }
      }
      if (columns->question < fields.size()) question.question = fields[columns->question];
      if (columns->answer < fields.size()) answer = fields[columns->answer];
    } else if (fields.size() >= 4) {
      question.question = fields.front();
      answer = fields.back();
      question.choices.assign(fields.begin() + 1, fields.end() - 1);
    } else {
      refuse_question(where, "has " + std::to_string(fields.size()) +
                                 " fields, expected a question, choices and the answer");
    }
    check_question(question, where);
    question.answer = choice_named(question.choices, answer, where);
    result.questions.push_back(std::move(question));
  }
  return result;
}

}  // namespace

QuestionFile read_questions(const std::string& file) {
  const std::string name = file == "-" ? "standard input" : file;
  const std::string text = read_input(file);
  QuestionFile result{name, false, {}};
  const std::size_t first = text.find_first_not_of(" \t\r\n\xEF\xBB\xBF");
  if (first != std::string::npos && text[first] == '{') {
    std::size_t number = 0;
    for (const std::string& line : lines_of(text)) {
      ++number;
      if (ziya::strip(line).empty()) continue;
      result.questions.push_back(question_from_json(line, name + ":" + std::to_string(number)));
    }
  } else {
    result = questions_from_csv(name, text);
  }
  if (result.questions.empty()) throw ziya::FormatError("ZIYA-712", name + ": has no question");
  return result;
}

}  // namespace cli
