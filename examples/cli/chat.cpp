// SPDX-License-Identifier: Apache-2.0
// `ziya chat`: a conversation in the form the model was trained on.
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "answer_text.hpp"
#include "commands.hpp"
#include "line_reader.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/text/utf8.hpp"
#include "ziya/text/whitespace.hpp"

namespace cli {
namespace {

constexpr std::string_view chat_help =
    "/reset         forget the conversation\n"
    "/save FILE     write the conversation to a file\n"
    "/load FILE     go on with one that was written\n"
    "/system TEXT   what the next conversation begins with; without TEXT: the template's own\n"
    "/stats         how long it is, and how fast\n"
    "/help          this\n"
    "/quit          end, as Ctrl-D does; Ctrl-C stops an answer\n"
    "A line that ends in a backslash goes on in the next one; lines between \"\"\" and \"\"\" are "
    "one message.";

/// What the model says cannot move the cursor, and is whole characters.
std::string shown_text(std::string_view text, bool on_terminal) {
  std::string shown = ziya::replace_invalid_utf8(text);
  if (!on_terminal) return shown;
  for (char& c : shown) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) c = ' ';
  }
  return shown;
}

class Chat {
 public:
  Chat(SessionParts& session, const ziya::GenerationConfig& config, bool person)
      : session_(session),
        config_(config),
        person_(person),
        colours_(wants_colours()),
        output_is_terminal_(isatty(STDOUT_FILENO) != 0) {}

  void answer(const std::string& text) {
    bool ends_line = false;
    const auto begin = std::chrono::steady_clock::now();
    try {
      const ziya::Reply reply = session_.say(
          text, config_,
          [&](std::string_view piece) {
            print(shown_text(piece, output_is_terminal_));
            if (!piece.empty()) ends_line = piece.ends_with('\n');
          },
          interrupted);
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
      if (!ends_line) print("\n");
      say_end(reply, elapsed.count());
    } catch (const ziya::ArgumentError& error) {  // a question longer than the context
      note(std::string("error: ") + printable(error.what()));
    }
    forget_interrupt();
  }

  /// @returns false when `text` is no command
  bool command(const std::string& text) {
    const std::size_t end = std::min(text.find_first_of(" \t\n"), text.size());
    const std::string word = text.substr(0, end);
    const std::string rest(ziya::strip(std::string_view(text).substr(end)));
    if (word.size() < 2 || word[0] != '/') return false;
    if (word.find_first_not_of("abcdefghijklmnopqrstuvwxyz", 1) != std::string::npos) return false;
    try {
      if (!run_command(word, rest)) note("there is no " + word + "; /help lists what there is");
    } catch (const ziya::Error& error) {
      note(std::string("error: ") + printable(error.what()));
    }
    return true;
  }

  void say_total() const {
    if (answers_ > 0) dim_note("answers: " + std::to_string(answers_) + "; tokens: " + speed());
  }

 private:
  bool run_command(const std::string& word, const std::string& rest) {
    ziya::Conversation& conversation = session_.conversation();
    if (word == "/reset") {
      conversation.reset();
      note("(forgotten)");
    } else if (word == "/help") {
      note(chat_help);
    } else if (word == "/stats") {
      say_stats();
    } else if (word == "/system") {
      conversation.set_system(rest.empty() ? std::nullopt : std::optional<std::string>(rest));
      note(conversation.turns() == 0 ? "(set)" : "(set; /reset begins the next conversation)");
    } else if (word == "/save" || word == "/load") {
      if (rest.empty()) {
        note("expected " + word + " FILE");
        return true;
      }
      const auto path = ziya::expand_home(ziya::path_from_utf8(rest));
      word == "/save" ? session_.save(path) : session_.load(path);
      note((word == "/save" ? "(saved: " : "(loaded: ") + turns_text() + ")");
    } else {
      return false;
    }
    return true;
  }

  void say_end(const ziya::Reply& reply, double seconds) {
    const ziya::GenerationResult& result = reply.result;
    if (reply.forgotten.tokens > 0) {
      const std::size_t turns = reply.forgotten.turns;
      const std::string what =
          turns > 0 ? std::to_string(turns) + (turns == 1 ? " turn is" : " turns are")
                    : std::to_string(reply.forgotten.tokens) + " tokens are";
      note("the conversation outgrows the model's context: the oldest " + what + " forgotten");
    }
    if (result.finish_reason == ziya::FinishReason::cancelled) note("(stopped)");
    if (result.context_exhausted && result.finish_reason == ziya::FinishReason::length) {
      note("(the model's context is full: the answer stops there)");
    }
    ++answers_;
    tokens_ += result.generated_ids.size();
    seconds_ += seconds;
    reused_ = result.reused_tokens;
    if (person_) {
      dim_note("(" + std::to_string(result.generated_ids.size()) + " tokens, " +
               speed_text(result.generated_ids.size(), seconds) + ")");
    }
    const std::string speculation = speculation_text(
        result, session_.speed_up(static_cast<std::int64_t>(result.generated_ids.size())));
    if (!speculation.empty()) dim_note("(" + speculation + ")");
  }
  void say_stats() const {
    const ziya::Conversation& conversation = session_.conversation();
    note("conversation: " + turns_text() + ", " + std::to_string(conversation.size()) + " of " +
         std::to_string(session_.context_limit()) + " tokens of the context");
    note("template: " + printable(conversation.prompt_template().name) +
         (conversation.system() ? "; system: " + printable(*conversation.system()) : ""));
    note("answers: " + std::to_string(answers_) + "; tokens: " + speed());
    if (answers_ > 0) {
      note("tokens that the last answer took over from the turns before: " +
           std::to_string(reused_));
    }
  }
  [[nodiscard]] std::string turns_text() const {
    const std::size_t turns = session_.conversation().turns();
    return std::to_string(turns) + (turns == 1 ? " turn" : " turns");
  }
  [[nodiscard]] std::string speed() const {
    return std::to_string(tokens_) + " generated (" + speed_text(tokens_, seconds_) + ")";
  }
  void dim_note(const std::string& line) const {
    note(colours_ ? "\033[2m" + line + "\033[0m" : line);
  }

  SessionParts& session_;
  const ziya::GenerationConfig& config_;
  bool person_, colours_, output_is_terminal_;
  std::size_t answers_ = 0, tokens_ = 0;
  std::int64_t reused_ = 0;
  double seconds_ = 0;
};

}  // namespace

int run(const ChatOptions& options) {
  const auto folder = ziya::resolve_model_folder(ziya::path_from_utf8(options.model.model));
  const ziya::Tokenizer tokenizer = ziya::Tokenizer::load(folder);
  const ziya::GenerationConfig config = generation_config(options.sampling, folder, tokenizer);
  if (config.num_beams > 1 || config.penalty_alpha > 0) {
    note(
        "note: answers of a conversation are not searched for: num_beams and penalty_alpha of the "
        "model's generation_config.json count for nothing");
  }
  SessionSetup setup{options.model, folder};
  setup.tokens = std::int64_t{1} << 40;
  setup.wrapping = chosen_template(options.model, tokenizer);
  setup.conversation.seed = config.seed;
  setup.conversation.reserve = config.max_new_tokens;
  if (options.forget == "tokens") setup.conversation.history = ziya::HistoryRule::slide;
  const auto session = make_session(setup, tokenizer);
  session->conversation().set_system(options.system);
  if (options.sampling.bos_token_id) {
    std::vector<std::int32_t> start(session->conversation().start().begin(),
                                    session->conversation().start().end());
    replace_bos(start, options.sampling, tokenizer);
    session->conversation().start_with(std::move(start));
  }
  catch_interrupts();
  const bool person = isatty(STDIN_FILENO) != 0;
  if (person) note("Ctrl-C stops an answer; /help lists what can be done, /quit ends");

  Chat chat(*session, config, person);
  LineReader lines(person, options.history_file);
  while (const std::optional<Message> message = next_message(lines)) {
    const std::string_view text = ziya::strip(message->text);
    if (text.empty()) continue;
    if (!message->block && text == "/quit") break;
    if (!message->block && chat.command(std::string(text))) continue;
    chat.answer(message->text);
  }
  if (person) std::cerr << '\n';
  chat.say_total();
  return 0;
}

}  // namespace cli
