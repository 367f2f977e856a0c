// SPDX-License-Identifier: Apache-2.0
// Ziya's prompt template, as text and as ids in which what a person typed stays text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/text/tokenizer.hpp"
#include "ziya/text/whitespace.hpp"

ZIYA_NAMESPACE_BEGIN

namespace prompt {

inline constexpr std::string_view human = "<human>";
inline constexpr std::string_view bot = "<bot>";

/// A question and its answer; the last turn of a conversation has no answer yet.
struct Turn {
  std::string query;
  std::string answer;
};

/// Whether the tokenizer knows the template's tokens; else it takes raw text.
inline bool has_template(const Tokenizer& tokenizer) {
  return tokenizer.id_of(human).has_value() && tokenizer.id_of(bot).has_value();
}

/// `"<human>:" + query.strip() + "\n<bot>:"`
/// Source: model card of Ziya-LLaMA-13B-v1
inline std::string ziya(std::string_view query) {
  return std::string(human) + ":" + std::string(strip(query)) + "\n" + std::string(bot) + ":";
}

/// `<human>:q\n<bot>:a</s><human>:q\n<bot>:`, the form of the fine-tuning data, stripped like it.
/// A turn without an answer ends the text.
/// @throws ArgumentError ZIYA-316 when a turn before the last has no answer
inline std::string conversation(std::span<const Turn> turns, std::string_view eos = "</s>") {
  std::string text;
  for (const Turn& turn : turns) {
    text += ziya(turn.query);
    if (!turn.answer.empty()) {
      text += strip(turn.answer);
      text += eos;
    } else if (&turn != &turns.back()) {
      throw ArgumentError("ZIYA-316", "prompt: a turn before the last has no answer");
    }
  }
  return text;
}

/// One question after others: the ids of `ziya(query)` without bos. What the person typed is read
/// in plain mode, so a typed `<bot>:` or `</s>` stays text; the template's tokens are real. For a
/// query that spells no token these are the ids of legacy mode.
/// @param trust read the query as the reference does, tokens included
/// @throws ArgumentError ZIYA-315 when the tokenizer has no `<human>` or `<bot>`
inline std::vector<std::int32_t> ziya_turn_ids(const Tokenizer& tokenizer, std::string_view query,
                                               bool trust = false) {
  const auto human_id = tokenizer.id_of(human), bot_id = tokenizer.id_of(bot);
  if (!human_id || !bot_id) {
    throw ArgumentError("ZIYA-315",
                        "prompt: the tokenizer has no <human> and <bot>; give the text raw");
  }
  const EncodeOptions text{TokenizerMode::plain, false, false};
  if (trust) return tokenizer.encode(ziya(query), {TokenizerMode::legacy, false, false});
  std::vector<std::int32_t> ids{*human_id};
  const auto append = [&](const std::string& part) {
    const std::vector<std::int32_t> more = tokenizer.encode(part, text);
    ids.insert(ids.end(), more.begin(), more.end());
  };
  append(":" + std::string(strip(query)));
  ids.push_back(*bot_id);
  append(":");
  return ids;
}

/// The ids of a first question: bos, as tokenizer_config.json says, then `ziya_turn_ids`.
inline std::vector<std::int32_t> ziya_ids(const Tokenizer& tokenizer, std::string_view query,
                                          bool trust = false) {
  std::vector<std::int32_t> ids = tokenizer.encode("", {TokenizerMode::plain, std::nullopt, false});
  const std::vector<std::int32_t> turn = ziya_turn_ids(tokenizer, query, trust);
  ids.insert(ids.end(), turn.begin(), turn.end());
  return ids;
}

/// A conversation as the fine-tuning data has it: per turn the ids of the question, then the answer
/// stripped and encoded on its own (so with a leading space of its own), then eos; no bos. These
/// are not the ids of `conversation(turns)` read in one go. Nobody vouches for the answers either.
/// @throws ArgumentError ZIYA-315; ZIYA-316 when a turn before the last has no answer
/// Source: Fengshenbang-LM, fine-tuning example of Ziya-LLaMA
inline std::vector<std::int32_t> conversation_ids(const Tokenizer& tokenizer,
                                                  std::span<const Turn> turns, bool trust = false) {
  std::vector<std::int32_t> ids;
  const auto append = [&](const std::vector<std::int32_t>& more) {
    ids.insert(ids.end(), more.begin(), more.end());
  };
  for (const Turn& turn : turns) {
    append(ziya_turn_ids(tokenizer, turn.query, trust));
    if (!turn.answer.empty()) {
      append(tokenizer.encode(
          strip(turn.answer),
          {trust ? TokenizerMode::legacy : TokenizerMode::plain, false, /*add_eos=*/true}));
    } else if (&turn != &turns.back()) {
      throw ArgumentError("ZIYA-316", "prompt: a turn before the last has no answer");
    }
  }
  return ids;
}

/// A text without template (Pretrain-v1 takes those), nobody vouching for it unless `trust`.
inline std::vector<std::int32_t> raw_ids(const Tokenizer& tokenizer, std::string_view text,
                                         bool trust = false) {
  return tokenizer.encode(
      text, {trust ? TokenizerMode::legacy : TokenizerMode::plain, std::nullopt, false});
}

}  // namespace prompt

ZIYA_NAMESPACE_END
