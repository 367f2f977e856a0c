// SPDX-License-Identifier: Apache-2.0
// Lines that a person types, and the Ctrl-C between them.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

namespace cli {

/// Set by Ctrl-C once `catch_interrupts` was called.
extern std::atomic<bool> interrupted;

/// @throws IoError
void catch_interrupts();
void forget_interrupt();

/// Whether standard error is a terminal that is to be coloured (https://no-color.org).
bool wants_colours();

/// Lines of standard input. On a terminal they are edited, with a history, where the program was
/// built with libedit.
class LineReader {
 public:
  /// @param person somebody sits there: prompts are shown
  /// @param history_file what was typed earlier, and will have been; empty: none
  LineReader(bool person, const std::string& history_file);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  /// The next line; nothing at the end of the input and on Ctrl-C.
  std::optional<std::string> next(const std::string& prompt);
  [[nodiscard]] bool has_person() const { return person_; }
  /// Whether the last line had a key pressed for it, as far as that can be seen.
  [[nodiscard]] bool typed() const;

 private:
  class Editor;
  std::optional<std::string> read_line();

  bool person_;
  std::unique_ptr<Editor> editor_;
  std::string buffer_;
};

struct Message {
  std::string text;
  bool block = false;  ///< between `"""` and `"""`: no command, whatever it begins with
};

/// One message of a person: a line; lines that end in a backslash and the one behind them; or a
/// block. Nothing at the end of the input. Ctrl-C drops what a person has typed; where nothing was,
/// the second one in a row is an end too.
std::optional<Message> next_message(LineReader& lines);

}  // namespace cli
