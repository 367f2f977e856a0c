// SPDX-License-Identifier: Apache-2.0
// Saved sessions: every document that is accepted is written and read again, and so is every
// conversation that it can be restored to.
#include "ziya/generate/session_file.hpp"

#include "fuzz/memory_file.hpp"
#include "fuzz/small_tokenizer.hpp"
#include "ziya/generate/conversation.hpp"

#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const fuzz::MemoryFile stored(data, size);
    const ziya::SessionFile file = ziya::SessionFile::read(stored.path());
    const ziya::SessionFile again = ziya::SessionFile::parse(file.text(), "fuzz");
    if (again.model != file.model || again.seed != file.seed ||
        again.conversation != file.conversation) {
      std::abort();
    }
    static const ziya::Tokenizer tokens = fuzz::small_tokenizer();
    static const auto wrapping = ziya::prompt::template_by_name("ziya");
    ziya::Conversation conversation(tokens, wrapping), second(tokens, wrapping);
    const auto empty = conversation.ids();
    try {
      conversation.restore(file.conversation, "fuzz");
    } catch (const ziya::Error&) {
      if (conversation.ids() != empty) std::abort();
      throw;
    }
    for (const std::int32_t id : conversation.ids()) {
      if (!tokens.contains(id)) std::abort();
    }
    second.restore(conversation.to_json(), "fuzz");
    if (second.ids() != conversation.ids() || second.turns() != conversation.turns() ||
        second.system() != conversation.system()) {
      std::abort();
    }
    conversation.ask("a");
    conversation.shorten(ziya::HistoryRule::slide, 8, 64);
    conversation.answered({});
  } catch (const ziya::Error&) {
  }
  return 0;
}
