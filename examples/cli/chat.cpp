// SPDX-License-Identifier: Apache-2.0
// `ziya chat`: a conversation in the form the model was trained on.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "commands.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/text/prompt.hpp"

namespace cli {
namespace {

/// Ctrl-C: a flag for whoever generates, and a byte in a pipe for whoever waits for a line.
std::atomic<bool> interrupted{false};
int interrupt_pipe[2] = {-1, -1};

void on_interrupt(int) {
  const int saved = errno;
  interrupted = true;
  const char byte = 0;
  [[maybe_unused]] const ssize_t ignored = write(interrupt_pipe[1], &byte, 1);
  errno = saved;
}

void catch_interrupts() {
  if (pipe2(interrupt_pipe, O_CLOEXEC | O_NONBLOCK) != 0) {
    throw ziya::IoError("ZIYA-202", "chat: no pipe for Ctrl-C can be made");
  }
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, nullptr);
}

void forget_interrupt() {
  char bytes[16];
  while (read(interrupt_pipe[0], bytes, sizeof bytes) > 0) {
  }
  interrupted = false;
}

/// Lines of standard input; nothing at its end and on Ctrl-C.
class LineReader {
 public:
  std::optional<std::string> next() {
    while (true) {
      if (const std::size_t end = buffer_.find('\n'); end != std::string::npos) {
        std::string line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return line;
      }
      pollfd waits[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_pipe[0], POLLIN, 0}};
      if (poll(waits, 2, -1) < 0 && errno != EINTR) return std::nullopt;
      if (interrupted) return std::nullopt;
      if (waits[0].revents == 0) continue;
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

 private:
  std::string buffer_;
};

/// The ids of a conversation, turn by turn, so that the oldest can be forgotten.
class Conversation {
 public:
  Conversation(const ziya::Tokenizer& tokenizer, const SamplingOptions& options, bool wrapped)
      : tokenizer_(&tokenizer), wrapped_(wrapped) {
    // Just the bos id, where the tokenizer wants one.
    start_ = tokenizer.encode("", {.mode = ziya::TokenizerMode::plain, .add_eos = false});
    replace_bos(start_, options, tokenizer);
  }

  /// What a person typed is text, whatever tokens it spells.
  void ask(const std::string& query) {
    turns_.push_back(wrapped_ ? ziya::prompt::ziya_turn_ids(*tokenizer_, query)
                              : tokenizer_->encode(query, {.mode = ziya::TokenizerMode::plain,
                                                           .add_bos = false,
                                                           .add_eos = false}));
  }
  /// An answer that was stopped is closed as a whole one would be.
  void answered(const std::vector<std::int32_t>& ids) {
    std::vector<std::int32_t>& turn = turns_.back();
    turn.insert(turn.end(), ids.begin(), ids.end());
    const std::int32_t eos = tokenizer_->eos_id();
    if (eos >= 0 && turn.back() != eos) turn.push_back(eos);
  }
  void take_back() { turns_.pop_back(); }
  void reset() { turns_.clear(); }

  /// Forgets the oldest turns until what is left fits, and nothing when the question alone does
  /// not. @returns how many were forgotten
  std::size_t shorten(std::int64_t limit, std::int64_t context) {
    std::size_t forgotten = 0;
    if (static_cast<std::int64_t>(start_.size() + turns_.back().size()) > context) return 0;
    while (turns_.size() > 1 && static_cast<std::int64_t>(ids().size()) > limit) {
      turns_.erase(turns_.begin());
      ++forgotten;
    }
    return forgotten;
  }
  [[nodiscard]] std::vector<std::int32_t> ids() const {
    std::vector<std::int32_t> result = start_;
    for (const auto& turn : turns_) result.insert(result.end(), turn.begin(), turn.end());
    return result;
  }

 private:
  const ziya::Tokenizer* tokenizer_;
  bool wrapped_;
  std::vector<std::int32_t> start_;
  std::vector<std::vector<std::int32_t>> turns_;
};

void answer(Session& session, Conversation& conversation, const std::string& query,
            const ziya::GenerationConfig& config) {
  conversation.ask(query);
  const std::int64_t context = session.context_limit();
  const std::int64_t reserve = std::min(config.max_new_tokens, context / 4);
  if (const std::size_t forgotten = conversation.shorten(context - reserve, context);
      forgotten > 0) {
    note("the conversation outgrows the model's context: the oldest " + std::to_string(forgotten) +
         (forgotten == 1 ? " turn is" : " turns are") + " forgotten");
  }
  const ziya::GenerationResult result =
      session.generate(conversation.ids(), config, print, interrupted);
  conversation.answered(result.generated_ids);
  if (!result.text.ends_with('\n')) print("\n");
  if (result.finish_reason == ziya::FinishReason::cancelled) note("(stopped)");
  if (result.context_exhausted) note("(the model's context is full: the answer stops there)");
}

}  // namespace

int run(const ChatOptions& options) {
  const auto folder = ziya::resolve_model_path(ziya::path_from_utf8(options.model.model));
  const ziya::Tokenizer tokenizer = ziya::Tokenizer::load(folder);
  const bool wrapped = uses_template(options.model, tokenizer);
  ziya::GenerationConfig config = generation_config(options.sampling, folder, tokenizer);
  Session session(options.model, tokenizer, folder, std::int64_t{1} << 40);
  Conversation conversation(tokenizer, options.sampling, wrapped);
  catch_interrupts();
  const bool person = isatty(STDIN_FILENO) != 0;
  if (person) note("Ctrl-C stops an answer; /reset forgets the conversation, /quit ends it");

  LineReader lines;
  while (true) {
    if (person) std::cerr << "> " << std::flush;
    const std::optional<std::string> line = lines.next();
    if (!line || *line == "/quit") break;
    if (ziya::strip(*line).empty()) continue;
    if (*line == "/reset") {
      conversation.reset();
      note("(forgotten)");
      continue;
    }
    try {
      answer(session, conversation, *line, config);
    } catch (const ziya::ArgumentError& error) {  // a question longer than the context
      conversation.take_back();
      note(std::string("error: ") + printable(error.what()));
    }
    forget_interrupt();
    ++config.seed;  // the same question twice is not the same draw
  }
  if (person) std::cerr << '\n';
  return 0;
}

}  // namespace cli
