// SPDX-License-Identifier: Apache-2.0
// A conversation as ids, turn by turn, so that it can be shortened, saved and restored.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/json.hpp"
#include "ziya/text/prompt_template.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

/// What happens to a conversation that outgrows the context.
enum class HistoryRule {
  drop_turns,  ///< the oldest turns are forgotten, whole
  slide        ///< the oldest tokens are forgotten, behind the opening and the system text
};

/// Knows no model. The tokenizer outlives it.
class Conversation {
 public:
  Conversation(const Tokenizer& tokenizer, PromptTemplate wrapping)
      : tokenizer_(&tokenizer),
        template_(std::move(wrapping)),
        start_(template_.start_ids(tokenizer)) {}

  [[nodiscard]] const PromptTemplate& prompt_template() const { return template_; }
  [[nodiscard]] const Tokenizer& tokenizer() const { return *tokenizer_; }
  [[nodiscard]] std::size_t turns() const { return turns_.size(); }
  /// Another opening than the template's, e.g. another bos.
  void start_with(std::vector<std::int32_t> ids) { start_ = std::move(ids); }
  [[nodiscard]] std::span<const std::int32_t> start() const { return start_; }

  /// The system text from the next conversation on; it belongs to the first question.
  void set_system(std::optional<std::string> text) { system_ = std::move(text); }
  [[nodiscard]] const std::optional<std::string>& system() const { return system_; }

  /// @throws ArgumentError ZIYA-315 when the tokenizer lacks a token of the template
  void ask(std::string_view query) {
    const auto given = system_ ? std::optional<std::string_view>(*system_) : std::nullopt;
    turns_.push_back(template_.query_ids(*tokenizer_, query, turns_.empty(), given));
  }
  /// The answer as generated; one that was stopped is closed as a whole one would be.
  void answered(std::span<const std::int32_t> ids) {
    std::vector<std::int32_t>& turn = turns_.back();
    turn.insert(turn.end(), ids.begin(), ids.end());
    const std::vector<std::int32_t> closing = template_.closing_ids(*tokenizer_);
    const bool closed = !closing.empty() && !turn.empty() && turn.back() == closing.front();
    turn.insert(turn.end(), closing.begin() + (closed ? 1 : 0), closing.end());
  }
  /// A turn that others wrote.
  void add(std::string_view query, std::string_view answer) {
    ask(query);
    const std::vector<std::int32_t> ids = template_.answer_ids(*tokenizer_, answer);
    turns_.back().insert(turns_.back().end(), ids.begin(), ids.end());
  }
  void take_back() { turns_.pop_back(); }
  void reset() { turns_.clear(); }

  [[nodiscard]] std::vector<std::int32_t> ids() const {
    std::vector<std::int32_t> result = start_;
    for (const auto& turn : turns_) result.insert(result.end(), turn.begin(), turn.end());
    return result;
  }
  [[nodiscard]] std::int64_t size() const {
    std::size_t total = start_.size();
    for (const auto& turn : turns_) total += turn.size();
    return static_cast<std::int64_t>(total);
  }

  struct Forgotten {
    std::size_t turns = 0;
    std::int64_t tokens = 0;
  };
  /// Shortens to `limit` tokens; the last question stays whole, and nothing changes when it does
  /// not fit into `context` by itself.
  Forgotten shorten(HistoryRule rule, std::int64_t limit, std::int64_t context) {
    Forgotten forgotten;
    if (turns_.empty() || std::ssize(start_) + std::ssize(turns_.back()) > context) return {};
    while (turns_.size() > 1 && size() > limit) {
      std::vector<std::int32_t>& oldest = turns_.front();
      const std::int64_t over = size() - limit;
      if (rule == HistoryRule::slide && over < std::ssize(oldest)) {
        oldest.erase(oldest.begin(), oldest.begin() + over);
        forgotten.tokens += over;
        break;
      }
      forgotten.tokens += std::ssize(oldest);
      ++forgotten.turns;
      turns_.erase(turns_.begin());
    }
    return forgotten;
  }

  [[nodiscard]] nlohmann::json to_json() const {
    const auto list = [](const std::vector<std::int32_t>& ids) {
      nlohmann::json result(nlohmann::json::value_t::array);
      for (const std::int64_t id : ids) result.push_back(id);
      return result;
    };
    nlohmann::json json;
    json["template"] = template_.name;
    json["start"] = list(start_);
    json["turns"] = json_array();
    for (const auto& turn : turns_) json["turns"].push_back(list(turn));
    if (system_) json["system"] = replace_invalid_utf8(*system_);
    return json;
  }
  /// Replaces turns, opening and system text by those of `to_json`; on an error nothing changes.
  /// @throws FormatError ZIYA-231; ZIYA-583 for another template, ids outside the vocabulary
  void restore(const nlohmann::json& json, const std::string& source) {
    const auto name = json_get<std::string>(json, "template", source);
    if (name != template_.name) {
      throw FormatError("ZIYA-583", source + ": was made with the template " + name.substr(0, 40) +
                                        ", expected " + template_.name);
    }
    const auto list = [&](const nlohmann::json& from) {
      if (!from.is_array()) throw FormatError("ZIYA-583", source + ": ids are no list");
      std::vector<std::int32_t> result;
      for (const auto& id : from) {
        if (!json_is<std::int32_t>(id) || !tokenizer_->contains(id.get<std::int32_t>())) {
          throw FormatError("ZIYA-583", source + ": an id is none of the tokenizer's " +
                                            std::to_string(tokenizer_->vocabulary_size()));
        }
        result.push_back(id.get<std::int32_t>());
      }
      return result;
    };
    const auto *turns = json_find(json, "turns"), *start = json_find(json, "start");
    if (turns == nullptr || !turns->is_array() || start == nullptr) {
      throw FormatError("ZIYA-583", source + ": has no list of turns, or no start");
    }
    std::vector<std::vector<std::int32_t>> read;
    for (const auto& turn : *turns) read.push_back(list(turn));
    std::vector<std::int32_t> opening = list(*start);
    std::optional<std::string> text;
    if (json_find(json, "system") != nullptr) text = json_get<std::string>(json, "system", source);
    turns_ = std::move(read);
    start_ = std::move(opening);
    system_ = std::move(text);
  }

 private:
  const Tokenizer* tokenizer_;
  PromptTemplate template_;
  std::optional<std::string> system_;
  std::vector<std::int32_t> start_;
  std::vector<std::vector<std::int32_t>> turns_;
};

ZIYA_NAMESPACE_END
