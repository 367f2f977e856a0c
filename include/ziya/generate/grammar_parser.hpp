// SPDX-License-Identifier: Apache-2.0
// Grammars as text, in the notation that llama.cpp calls GBNF.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/grammar.hpp"
#include "ziya/text/utf8.hpp"

ZIYA_NAMESPACE_BEGIN

/// Reads
///
///     root  ::= "a" item* | [^x-z\n]{2,5}     # a comment
///     item  ::= ("b" | .)? root2
///
/// literals "…", classes […] and [^…], any character `.`, groups, `* + ? {n} {n,} {n,m}`, names of
/// letters, digits, `-` and `_`. Escapes: \n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH. A rule
/// ends where the next one begins; the text of an answer is what `root` describes.
class GrammarParser {
 public:
  static constexpr std::size_t most_bytes = 1 << 20;
  static constexpr int most_depth = 64;  ///< of groups
  static constexpr std::int64_t most_repeats = 4096;

  /// @throws ArgumentError ZIYA-540 for a text that is no grammar (with its line), ZIYA-541 for one
  /// that is too large, ZIYA-542 for left recursion, ZIYA-543 for a rule that never ends
  static Grammar parse(std::string_view text);
};

#if ZIYA_DEFINITIONS
namespace detail {

class GrammarReader {
 public:
  explicit GrammarReader(std::string_view text) : text_(text) {
    if (text.size() > GrammarParser::most_bytes) {
      throw ArgumentError("ZIYA-541", "grammar: " + std::to_string(text.size()) +
                                          " bytes, expected at most " +
                                          std::to_string(GrammarParser::most_bytes));
    }
    if (!is_valid_utf8(text)) refuse("the text is not UTF-8");
  }

  Grammar run() {
    rule_named("root");
    skip_space();
    while (!text_.empty()) definition();
    for (const Grammar::Rule& rule : rules_) {
      if (rule.alternatives.empty()) {
        throw ArgumentError("ZIYA-540", "grammar: there is no rule " + rule.name);
      }
    }
    return Grammar(std::move(rules_), std::move(symbols_), std::move(classes_));
  }

 private:
  using Symbol = Grammar::Symbol;
  using Kind = Symbol::Kind;
  using Sequence = std::vector<Symbol>;

  void definition() {
    const std::string rule_name = name();
    if (rule_name.empty()) refuse("expected the name of a rule");
    skip_space();
    if (!take("::=")) refuse("expected ::= after " + rule_name);
    const std::size_t index = rule_named(rule_name);
    if (!rules_[index].alternatives.empty()) {
      refuse("the rule " + rule_name + " is defined twice");
    }
    define(index, alternatives(0));
    if (!text_.empty() && !begins_definition()) refuse("expected a rule, found " + here());
  }

  std::vector<Sequence> alternatives(int depth) {
    if (depth > GrammarParser::most_depth) {
      throw ArgumentError("ZIYA-541", "grammar: groups nested deeper than " +
                                          std::to_string(GrammarParser::most_depth));
    }
    std::vector<Sequence> result;
    do {
      result.push_back(sequence(depth));
      count(1);
    } while (take("|"));
    return result;
  }

  Sequence sequence(int depth) {
    Sequence result;
    while (true) {
      skip_space();
      if (text_.empty() || text_.front() == '|' || text_.front() == ')' || begins_definition()) {
        return result;
      }
      Sequence item = primary(depth);
      skip_space();
      while (!text_.empty() && std::string_view("*+?{").find(text_.front()) != std::string::npos) {
        item = repetition(std::move(item));
        skip_space();
      }
      for (const Symbol& symbol : item) result.push_back(symbol);
      count(item.size());
    }
  }

  Sequence primary(int depth) {
    if (take("\"")) return literal();
    if (take("[")) return {characters()};
    if (take(".")) return {character_class(CharacterClass({}, true))};
    if (take("(")) {
      std::vector<Sequence> inner = alternatives(depth + 1);
      if (!take(")")) refuse("expected ) after a group");
      if (inner.size() == 1) return std::move(inner.front());
      return {new_rule(std::move(inner))};
    }
    const std::string word = name();
    if (word.empty()) refuse("expected a symbol, found " + here());
    return {{Kind::rule, static_cast<std::int32_t>(rule_named(word))}};
  }

  Sequence literal() {
    Sequence result;
    while (!take("\"")) {
      if (text_.empty()) refuse("a literal has no end");
      const char32_t character = one_character();
      result.push_back(character_class(CharacterClass({{character, character}})));
    }
    return result;
  }

  Symbol characters() {
    const bool negated = take("^");
    std::vector<CharacterClass::Range> ranges;
    while (!take("]")) {
      if (text_.empty()) refuse("a class of characters has no end");
      const char32_t first = one_character();
      char32_t last = first;
      if (text_.size() > 1 && text_[0] == '-' && text_[1] != ']') {
        text_.remove_prefix(1);
        last = one_character();
      }
      if (last < first) refuse("a range of characters runs backwards");
      ranges.push_back({first, last});
      count(1);
    }
    return character_class(CharacterClass(std::move(ranges), negated));
  }

  /// x* = r ::= x r | ε;   x{n,m} = n times x, then m − n times nested: (x (x …)?)?
  Sequence repetition(Sequence item) {
    std::int64_t least = 0, most = -1;
    if (take("+")) {
      least = 1;
    } else if (take("?")) {
      most = 1;
    } else if (!take("*")) {
      text_.remove_prefix(1);
      skip_space();
      least = number();
      skip_space();
      most = least;
      if (take(",")) {
        skip_space();
        most = !text_.empty() && text_.front() == '}' ? -1 : number();
        skip_space();
      }
      if (!take("}")) refuse("expected } after the number of repetitions");
      if (most >= 0 && most < least) refuse("a repetition ends before it begins");
    }
    if (item.size() > 1) item = {new_rule({std::move(item)})};
    if (item.empty()) return item;
    count(static_cast<std::size_t>(least));
    const Symbol one = item.front();
    Sequence result(static_cast<std::size_t>(least), one);
    if (most < 0) {
      const Symbol again = new_rule({});
      define(static_cast<std::size_t>(again.index), {{one, again}, {}});
      count(3);
      result.push_back(again);
      return result;
    }
    Symbol rest;
    for (std::int64_t i = least; i < most; ++i) {
      Sequence some{one};
      if (rest.kind != Kind::end) some.push_back(rest);
      count(4);
      rest = new_rule({std::move(some), {}});
    }
    if (rest.kind != Kind::end) result.push_back(rest);
    return result;
  }

  std::int64_t number() {
    std::int64_t value = 0;
    std::size_t digits = 0;
    for (; !text_.empty() && text_.front() >= '0' && text_.front() <= '9'; ++digits) {
      value = value * 10 + (text_.front() - '0');
      text_.remove_prefix(1);
      if (value > GrammarParser::most_repeats) {
        throw ArgumentError("ZIYA-541", "grammar: line " + line() + ": more than " +
                                            std::to_string(GrammarParser::most_repeats) +
                                            " repetitions");
      }
    }
    if (digits == 0) refuse("expected a number of repetitions");
    return value;
  }

  char32_t one_character() {
    const Utf8Sequence found = read_utf8(text_);
    text_.remove_prefix(found.bytes);
    if (found.character == '\n') refuse("a line ends inside a literal or class");
    if (found.character != '\\') return found.character;
    if (text_.empty()) refuse("an escape has no end");
    const char kind = text_.front();
    text_.remove_prefix(1);
    switch (kind) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'x':
        return hexadecimal(2);
      case 'u':
        return hexadecimal(4);
      case 'U':
        return hexadecimal(8);
      default:
        break;
    }
    if (std::string_view("\\\"[]-^").find(kind) == std::string_view::npos) {
      refuse("there is no escape \\" + std::string(1, kind));
    }
    return static_cast<unsigned char>(kind);
  }
  char32_t hexadecimal(std::size_t digits) {
    char32_t value = 0;
    for (std::size_t i = 0; i < digits; ++i) {
      const char c = text_.empty() ? 'x' : text_.front();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) refuse("an escape needs " + std::to_string(digits) + " hexadecimal digits");
      value = value << 4 | static_cast<char32_t>(digit);
      text_.remove_prefix(1);
    }
    if (value > CharacterClass::last_character || (value >= 0xD800 && value <= 0xDFFF)) {
      refuse("an escape names no character");
    }
    return value;
  }

  std::string name() {
    const auto belongs = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
             c == '-' || c == '_';
    };
    std::size_t size = 0;
    while (size < text_.size() && belongs(text_[size])) ++size;
    std::string result(text_.substr(0, size));
    text_.remove_prefix(size);
    return result;
  }
  [[nodiscard]] bool begins_definition() {
    const std::string_view before = text_;
    const std::size_t lines = lines_;
    bool found = false;
    if (!name().empty()) {
      skip_space();
      found = text_.starts_with("::=");
    }
    text_ = before;
    lines_ = lines;
    return found;
  }
  void skip_space() {
    while (!text_.empty()) {
      const char c = text_.front();
      if (c == '#') {
        text_.remove_prefix(std::min(text_.find('\n'), text_.size()));
      } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        lines_ += c == '\n' ? 1 : 0;
        text_.remove_prefix(1);
      } else {
        return;
      }
    }
  }
  bool take(std::string_view word) {
    if (!text_.starts_with(word)) return false;
    text_.remove_prefix(word.size());
    return true;
  }

  std::size_t rule_named(const std::string& name) {
    const auto [found, inserted] = names_.emplace(name, rules_.size());
    if (inserted) rules_.push_back({name, {}});
    return found->second;
  }
  void define(std::size_t rule, const std::vector<Sequence>& alternatives) {
    for (const Sequence& alternative : alternatives) {
      rules_[rule].alternatives.push_back(static_cast<std::int32_t>(symbols_.size()));
      for (const Symbol& symbol : alternative) symbols_.push_back(symbol);
      symbols_.push_back(Symbol());  // ends it
    }
  }
  Symbol new_rule(const std::vector<Sequence>& alternatives) {
    rules_.push_back({"in line " + line(), {}});
    define(rules_.size() - 1, alternatives);
    return {Kind::rule, static_cast<std::int32_t>(rules_.size() - 1)};
  }
  Symbol character_class(CharacterClass characters) {
    classes_.push_back(std::move(characters));
    return {Kind::characters, static_cast<std::int32_t>(classes_.size() - 1)};
  }
  void count(std::size_t symbols) {
    if ((counted_ += symbols) > Grammar::most_symbols) {
      throw ArgumentError(
          "ZIYA-541", "grammar: more than " + std::to_string(Grammar::most_symbols) + " symbols");
    }
  }

  [[nodiscard]] std::string line() const { return std::to_string(lines_); }
  [[nodiscard]] std::string here() const {
    return text_.empty() ? "the end"
                         : "\"" + std::string(text_.substr(0, read_utf8(text_).bytes)) + "\"";
  }
  [[noreturn]] void refuse(const std::string& why) const {
    throw ArgumentError("ZIYA-540", "grammar: line " + line() + ": " + why);
  }

  std::string_view text_;
  std::size_t lines_ = 1, counted_ = 0;  // counted_: symbols, of unfinished rules too
  std::vector<Grammar::Rule> rules_;     // without alternatives: named, not yet defined
  std::vector<Symbol> symbols_;
  std::map<std::string, std::size_t, std::less<>> names_;
  std::vector<CharacterClass> classes_;
};

}  // namespace detail

ZIYA_INLINE Grammar GrammarParser::parse(std::string_view text) {
  return detail::GrammarReader(text).run();
}
#endif

ZIYA_NAMESPACE_END
