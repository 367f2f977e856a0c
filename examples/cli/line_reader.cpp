// SPDX-License-Identifier: Apache-2.0
// Lines from a pipe, from a plain terminal, and through libedit.
#include "line_reader.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <iostream>
#include <string_view>
#include <utility>

#if ZIYA_CLI_WITH_LIBEDIT
#include <histedit.h>
#endif

#include "terminal.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/text/whitespace.hpp"

namespace cli {

std::atomic<bool> interrupted{false};

namespace {

int interrupt_pipe[2] = {-1, -1};

/// A flag for whoever generates, and a byte in a pipe for whoever waits for a line.
void on_interrupt(int) {
  const int saved = errno;
  interrupted = true;
  const char byte = 0;
  [[maybe_unused]] const ssize_t ignored = write(interrupt_pipe[1], &byte, 1);
  errno = saved;
}

/// Waits until there is something to read; false on Ctrl-C.
bool wait_for_input() {
  while (true) {
    pollfd waits[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_pipe[0], POLLIN, 0}};
    if (poll(waits, 2, -1) < 0 && errno != EINTR) return false;
    if (interrupted) return false;
    if (waits[0].revents != 0) return true;
  }
}

}  // namespace

void catch_interrupts() {
  if (pipe2(interrupt_pipe, O_CLOEXEC | O_NONBLOCK) != 0) {
    throw ziya::IoError("ZIYA-202", "chat: no pipe for Ctrl-C can be made");
  }
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART;  // or a terminal that is slow to take the answer would lose some of it
  sigaction(SIGINT, &action, nullptr);
}

void forget_interrupt() {
  char bytes[16];
  while (read(interrupt_pipe[0], bytes, sizeof bytes) > 0) {
  }
  interrupted = false;
}

bool wants_colours() {
  const char* none = std::getenv("NO_COLOR");
  const char* kind = std::getenv("TERM");
  return errors_are_a_terminal() && (none == nullptr || *none == '\0') && kind != nullptr &&
         std::string_view(kind) != "dumb" && *kind != '\0';
}

#if ZIYA_CLI_WITH_LIBEDIT
/// libedit with a prompt that may be coloured. Characters are handed to it whole, and Ctrl-C ends
/// its line.
class LineReader::Editor {
 public:
  explicit Editor(const std::string& history_file) {
    std::setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
    editor_ = el_init("ziya", stdin, stderr, stderr);
    history_ = history_init();
    if (editor_ == nullptr || history_ == nullptr) return;
    HistEvent event;
    history(history_, &event, H_SETSIZE, 1000);
    history(history_, &event, H_SETUNIQUE, 1);
    if (!history_file.empty()) {
      file_ = ziya::expand_home(ziya::path_from_utf8(history_file)).string();
      history(history_, &event, H_LOAD, file_.c_str());  // the first time there is none
    }
    el_set(editor_, EL_CLIENTDATA, this);
    el_set(editor_, EL_PROMPT_ESC, &Editor::prompt_of, '\1');
    el_set(editor_, EL_EDITOR, "emacs");
    el_set(editor_, EL_HIST, history, history_);
    el_set(editor_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    el_set(editor_, EL_GETCFN, &Editor::read_character);
  }
  ~Editor() {
    if (editor_ != nullptr) el_end(editor_);
    if (history_ != nullptr) history_end(history_);
  }
  Editor(const Editor&) = delete;
  Editor& operator=(const Editor&) = delete;

  [[nodiscard]] bool works() const { return editor_ != nullptr && history_ != nullptr; }
  [[nodiscard]] bool typed() const { return typed_; }

  std::optional<std::string> next(const std::string& prompt) {
    prompt_ = wants_colours() ? "\1\033[1;32m\1" + prompt + "\1\033[0m\1" : prompt;
    el_set(editor_, EL_PREP_TERM, 1);  // before the prompt: a quick Ctrl-D is a key already
    typed_ = false;
    int count = 0;
    const char* line = el_gets(editor_, &count);
    if (line == nullptr || count <= 0) return std::nullopt;
    std::string text(line, static_cast<std::size_t>(count));
    if (!ziya::strip(text).empty()) {
      HistEvent event;
      history(history_, &event, H_ENTER, text.c_str());
      if (!file_.empty() && history(history_, &event, H_SAVE, file_.c_str()) < 0) {
        note("warning: the history cannot be written to " + printable(std::exchange(file_, {})));
      }
    }
    while (text.ends_with('\n') || text.ends_with('\r')) text.pop_back();
    return text;
  }

 private:
  static char* prompt_of(EditLine* editor) {
    Editor* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return self->prompt_.data();
  }
  /// @returns 1 and a character, or 0 at the end and on Ctrl-C
  static int read_character(EditLine* editor, wchar_t* character) {
    Editor* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    std::mbstate_t state{};
    while (wait_for_input()) {
      char byte = 0;
      const ssize_t got = read(STDIN_FILENO, &byte, 1);
      if (got < 0 && errno == EINTR) continue;
      if (got != 1) return 0;
      self->typed_ = true;
      const std::size_t used = std::mbrtowc(character, &byte, 1, &state);
      if (used == static_cast<std::size_t>(-2)) continue;  // the character goes on
      if (used != static_cast<std::size_t>(-1)) return 1;
      state = std::mbstate_t{};  // no character: what a terminal in another encoding sends
    }
    return 0;
  }

  EditLine* editor_ = nullptr;
  History* history_ = nullptr;
  std::string prompt_, file_;
  bool typed_ = false;
};
#else
class LineReader::Editor {
 public:
  explicit Editor(const std::string&) {}
  [[nodiscard]] bool works() const { return false; }
  [[nodiscard]] bool typed() const { return false; }
  std::optional<std::string> next(const std::string&) { return std::nullopt; }
};
#endif

LineReader::LineReader(bool person, const std::string& history_file) : person_(person) {
  if (!person || !errors_are_a_terminal()) return;
  auto editor = std::make_unique<Editor>(history_file);
  if (editor->works()) editor_ = std::move(editor);
}
LineReader::~LineReader() = default;

bool LineReader::typed() const { return editor_ && editor_->typed(); }

std::optional<std::string> LineReader::next(const std::string& prompt) {
  if (editor_) return editor_->next(prompt);
  if (person_) {
    std::cerr << (wants_colours() ? "\033[1;32m" + prompt + "\033[0m" : prompt) << std::flush;
  }
  return read_line();
}

std::optional<std::string> LineReader::read_line() {
  while (true) {
    if (const std::size_t end = buffer_.find('\n'); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      if (line.ends_with('\r')) line.pop_back();
      return line;
    }
    if (!wait_for_input()) return std::nullopt;
    char bytes[4096];
    const ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);
    if (got > 0) {
      buffer_.append(bytes, static_cast<std::size_t>(got));
    } else if (got == 0 || errno != EINTR) {
      if (buffer_.empty()) return std::nullopt;
      return std::exchange(buffer_, {});
    }
  }
}

namespace {

/// Nothing at the end of the input and on Ctrl-C.
std::optional<Message> read_message(LineReader& lines) {
  constexpr std::string_view fence = "\"\"\"", more = ". ";
  std::optional<std::string> line = lines.next("> ");
  if (!line) return std::nullopt;
  const std::string_view first = ziya::strip(*line);
  if (first.starts_with(fence)) {
    std::string text(first.substr(fence.size()));
    std::string_view last = text;
    while (!last.ends_with(fence)) {
      line = lines.next(std::string(more));
      if (!line) return std::nullopt;
      if (!text.empty()) text += '\n';
      text += *line;
      last = ziya::strip(*line);
    }
    text.resize(text.rfind(fence));
    return Message{text, true};
  }
  std::string text;
  while (line->ends_with('\\')) {
    text += line->substr(0, line->size() - 1) + '\n';
    line = lines.next(std::string(more));
    if (!line) return std::nullopt;
  }
  return Message{text + *line};
}

}  // namespace

std::optional<Message> next_message(LineReader& lines) {
  for (bool asked = false;;) {
    std::optional<Message> message = read_message(lines);
    if (message || !interrupted || !lines.has_person()) return message;
    forget_interrupt();
    std::cerr << '\n';
    if (!lines.typed() && asked) return std::nullopt;
    asked = !lines.typed();
    if (asked) note("(Ctrl-C again, Ctrl-D or /quit ends)");
  }
}

}  // namespace cli
