// SPDX-License-Identifier: Apache-2.0
// Multiple-choice questions from the files in which they are published.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace cli {

struct Question {
  std::string question;
  std::vector<std::string> choices;  ///< 2 to 26
  std::size_t answer = 0;
};

struct QuestionFile {
  std::string name;
  bool chinese = false;  ///< C-Eval's columns: the answer is asked for as C-Eval does
  std::vector<Question> questions;
};

inline char letter_of(std::size_t choice) { return static_cast<char>('A' + choice); }

/// JSON lines with `question`, `choices` and `answer` (a letter, the index from 0, or the choice
/// itself); CSV with C-Eval's header (`question`, `A`, `B`, …, `answer`, others ignored); or CSV as
/// MMLU has it, without a header: question, choices, letter.
/// @throws IoError; FormatError ZIYA-712 naming the line
QuestionFile read_questions(const std::string& file);

}  // namespace cli
