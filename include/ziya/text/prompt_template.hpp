// SPDX-License-Identifier: Apache-2.0
// Prompt templates as data: what stands around what people and the model say.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/json.hpp"
#include "ziya/text/tokenizer.hpp"
#include "ziya/text/whitespace.hpp"

ZIYA_NAMESPACE_BEGIN

/// The ids of a conversation are [bos] + opening, and per turn before_query + query + after_query,
/// then answer + closing. `tokens` are recognised in the template's own texts only: what a person
/// typed is read in plain mode, so a typed `<bot>:` or `</s>` stays text.
struct PromptTemplate {
  std::string name;
  bool bos = true;            ///< begin with bos, where the tokenizer has one
  bool strip = true;          ///< queries and answers lose outer white space
  std::string before_system;  ///< around a system text, in front of the first query;
  std::string after_system;   ///< both are left away when there is no system text
  std::string system;         ///< the system text unless another is given
  bool system_first = false;  ///< before_query of the first turn stands in front of the system text
  std::string before_query, after_query, closing;
  std::vector<std::string> tokens;        ///< that must exist, longest first where they overlap
  std::vector<std::string> strip_around;  ///< tokens that swallow the white space beside them
  std::vector<std::string> stop;          ///< texts that end an answer

  friend bool operator==(const PromptTemplate&, const PromptTemplate&) = default;

  /// {"name", "bos", "strip", "before_system", …}: members as above, each may be missing.
  /// @throws FormatError ZIYA-230, 231; ZIYA-317 for unknown members, empty tokens, too many
  static PromptTemplate parse(std::string_view text, const std::string& source) {
    const nlohmann::json json = parse_json(text, source, {.bytes = 1 << 20, .values = 4096});
    if (!json.is_object()) throw FormatError("ZIYA-317", source + ": expected an object");
    PromptTemplate result;
    std::size_t known = 0;
    const auto read = [&](const char* key, auto& value) {
      known += json_find(json, key) != nullptr;
      value = json_get(json, key, source, value);
    };
    const auto read_list = [&](const char* key, std::vector<std::string>& values) {
      const nlohmann::json* list = json_find(json, key);
      if (list == nullptr) return;
      ++known;
      if (!list->is_array() || list->size() > 64) {
        throw FormatError("ZIYA-317", source + ": " + key + " is no list of at most 64 texts");
      }
      for (const auto& entry : *list) {
        if (!entry.is_string() || entry.get_ref<const std::string&>().empty()) {
          throw FormatError("ZIYA-317", source + ": " + key + " has an entry that is no text");
        }
        values.push_back(entry.get<std::string>());
      }
    };
    read("name", result.name);
    read("bos", result.bos);
    read("strip", result.strip);
    read("before_system", result.before_system);
    read("after_system", result.after_system);
    read("system", result.system);
    read("system_first", result.system_first);
    read("before_query", result.before_query);
    read("after_query", result.after_query);
    read("closing", result.closing);
    read_list("tokens", result.tokens);
    read_list("strip_around", result.strip_around);
    read_list("stop", result.stop);
    if (known != json.size()) {
      throw FormatError("ZIYA-317", source + ": has a member that no template has");
    }
    return result;
  }

  /// Whether the tokenizer knows the template's tokens.
  [[nodiscard]] bool fits(const Tokenizer& tokenizer) const {
    for (const std::string& token : tokens) {
      if (!tokenizer.id_of(token)) return false;
    }
    return true;
  }

  /// What a conversation begins with.
  [[nodiscard]] std::vector<std::int32_t> start_ids(const Tokenizer& tokenizer) const {
    return tokenizer.encode(
        "", {TokenizerMode::plain, bos && tokenizer.bos_id() >= 0 && tokenizer.adds_bos(), false});
  }
  /// A question. @param first the first of its conversation, which the system text precedes
  /// @throws ArgumentError ZIYA-315 when the tokenizer lacks a token of the template
  [[nodiscard]] std::vector<std::int32_t> query_ids(
      const Tokenizer& tokenizer, std::string_view query, bool first = false,
      std::optional<std::string_view> own_system = {}) const {
    Pieces pieces(*this);
    const std::string_view system_text = own_system.value_or(system);
    const bool with_system = first && !system_text.empty();
    if (with_system && !system_first) pieces.add_system(system_text);
    pieces.add_own(before_query);
    if (with_system && system_first) pieces.add_system(system_text);
    pieces.add_text(strip ? ziya::strip(query) : query);
    pieces.add_own(after_query);
    return pieces.ids(tokenizer);
  }
  /// An answer that the model did not write itself, and what closes it.
  [[nodiscard]] std::vector<std::int32_t> answer_ids(const Tokenizer& tokenizer,
                                                     std::string_view answer) const {
    Pieces pieces(*this);
    pieces.add_text(strip ? ziya::strip(answer) : answer);
    pieces.add_own(closing);
    return pieces.ids(tokenizer);
  }
  [[nodiscard]] std::vector<std::int32_t> closing_ids(const Tokenizer& tokenizer) const {
    Pieces pieces(*this);
    pieces.add_own(closing);
    return pieces.ids(tokenizer);
  }

 private:
  /// Texts and tokens in order; neighbouring texts are one.
  class Pieces {
   public:
    explicit Pieces(const PromptTemplate& of) : template_(of) {}

    void add_text(std::string_view text) { texts_.back() += text; }
    void add_system(std::string_view text) {
      add_own(template_.before_system);
      add_text(text);
      add_own(template_.after_system);
    }
    void add_own(std::string_view text) {
      while (!text.empty()) {
        std::size_t at = std::string_view::npos;
        const std::string* found = nullptr;
        for (const std::string& token : template_.tokens) {
          const std::size_t place = text.find(token);
          if (place < at) at = place, found = &token;
        }
        add_text(text.substr(0, at));
        if (found == nullptr) return;
        tokens_.push_back(*found);
        texts_.push_back({});
        text.remove_prefix(at + found->size());
      }
    }
    std::vector<std::int32_t> ids(const Tokenizer& tokenizer) const {
      std::vector<std::int32_t> result;
      bool strip_left = false;
      for (std::size_t i = 0; i < texts_.size(); ++i) {
        const std::string token = i < tokens_.size() ? tokens_[i] : "";
        std::string_view text = texts_[i];
        const bool strip_right = swallows(token);
        if (strip_left) text.remove_prefix(std::min(text.size(), text.find_first_not_of(white)));
        if (strip_right) text = text.substr(0, text.find_last_not_of(white) + 1);
        strip_left = strip_right;
        if (!text.empty()) {
          const auto more = tokenizer.encode(text, {TokenizerMode::plain, false, false});
          result.insert(result.end(), more.begin(), more.end());
        }
        if (token.empty()) continue;
        const auto id = tokenizer.id_of(token);
        if (!id) {
          throw ArgumentError("ZIYA-315", "template " + template_.name + ": the tokenizer has no " +
                                              token + "; give the text raw");
        }
        result.push_back(*id);
      }
      return result;
    }

   private:
    static constexpr std::string_view white = " \t\n\r\v\f";

    [[nodiscard]] bool swallows(const std::string& token) const {
      if (token.empty()) return false;
      for (const std::string& each : template_.strip_around) {
        if (each == token) return true;
      }
      return false;
    }

    const PromptTemplate& template_;
    std::vector<std::string> texts_ = {""}, tokens_;  // tokens_: behind each text but the last
  };
};

namespace prompt {

/// The templates that come with the library, as the JSON that `PromptTemplate::parse` reads.
/// Sources: model cards of Ziya-LLaMA-13B-v1 and Ziya-LLaMA-7B-Reward; the fine-tuning example of
/// Fengshenbang-LM (`ziya`: no white space between turns) and its demo (`ziya-demo`: answers end
/// with a newline and no eos); Touvron et al., arXiv 2307.09288, appendix A.3.3; FastChat's
/// vicuna_v1.1; Taori et al., Stanford Alpaca, 2023
inline constexpr std::array<std::string_view, 7> templates{
    R"({"name": "ziya", "before_query": "<human>:", "after_query": "\n<bot>:", "closing": "</s>",
        "tokens": ["<human>", "<bot>", "</s>"], "strip_around": ["<human>", "<bot>"]})",
    R"({"name": "ziya-demo", "before_query": "<human>:", "after_query": "\n<bot>:",
        "closing": "\n", "tokens": ["<human>", "<bot>"], "strip_around": ["<human>", "<bot>"]})",
    R"({"name": "raw", "strip": false, "closing": "</s>", "tokens": ["</s>"]})",
    R"({"name": "reward", "before_query": "Human:", "after_query": "\n\nAssistant:",
        "closing": "</s>", "strip": false, "tokens": ["</s>"]})",
    R"({"name": "llama2", "before_system": "<<SYS>>\n", "after_system": "\n<</SYS>>\n\n",
        "system_first": true, "before_query": "[INST] ", "after_query": " [/INST]",
        "closing": "</s><s>", "tokens": ["<s>", "</s>"]})",
    R"({"name": "vicuna", "after_system": " ", "before_query": "USER: ",
        "after_query": " ASSISTANT:", "closing": "</s>", "tokens": ["</s>"],
        "system": "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions."})",
    R"({"name": "alpaca", "after_system": "\n\n", "before_query": "### Instruction:\n",
        "after_query": "\n\n### Response:", "closing": "</s>\n\n", "tokens": ["</s>"],
        "stop": ["### Instruction:"],
        "system": "Below is an instruction that describes a task. Write a response that appropriately completes the request."})"};

/// @throws ArgumentError ZIYA-318 when there is none of that name
inline PromptTemplate template_by_name(std::string_view name) {
  std::string names;
  for (const std::string_view text : templates) {
    PromptTemplate each = PromptTemplate::parse(text, "template");
    if (each.name == name) return each;
    names += (names.empty() ? "" : ", ") + each.name;
  }
  throw ArgumentError("ZIYA-318", "there is no prompt template \"" + std::string(name) +
                                      "\", expected one of " + names);
}

}  // namespace prompt

ZIYA_NAMESPACE_END
