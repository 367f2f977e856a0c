// SPDX-License-Identifier: Apache-2.0
// Regular expressions over names of modules, as adapters' configs hold them; never backtracks.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"

ZIYA_NAMESPACE_BEGIN

/// The part of Python's `re` that names of modules are matched with: literals, `.`, `\d \w \s` and
/// escaped characters, classes, groups, `|`, `* + ?` (lazy ones too, which match the same whole
/// names), `^` and `$` at the ends. Time is length of pattern × length of name, whatever they are.
/// Source: Thompson, CACM 11(6), 1968
class NamePattern {
 public:
  /// @param source named in messages
  /// @throws ConfigError ZIYA-621 naming what is not supported, for example {2,3} or lookahead
  NamePattern(std::string_view pattern, std::string source)
      : pattern_(pattern), source_(std::move(source)) {
    if (pattern_.size() > 1000) refuse("is longer than 1000 characters");
    if (pattern_.starts_with("^")) ++at_;
    alternatives(0);
    if (at_ < pattern_.size()) refuse("has a parenthesis too many");
    emit({Op::match});
  }

  /// Whether the whole name matches (Python's re.fullmatch).
  [[nodiscard]] bool matches(std::string_view name) const {
    std::vector<std::size_t> now, next;
    std::vector<bool> seen(code_.size(), false);
    bool matched = false;
    enter(0, now, seen, matched);
    for (const char c : name) {
      next.clear();
      seen.assign(code_.size(), false);
      matched = false;
      for (const std::size_t at : now) {
        if (code_[at].set[static_cast<unsigned char>(c)]) enter(at + 1, next, seen, matched);
      }
      now.swap(next);
    }
    return matched;
  }

 private:
  enum class Op : std::uint8_t { character, split, jump, match };
  struct Instruction {
    Op op = Op::character;
    std::bitset<256> set{};             // of a character
    std::size_t first = 0, second = 0;  // of split and jump
  };

  [[noreturn]] void refuse(const std::string& why) const {
    throw ConfigError("ZIYA-621",
                      source_ + ": the pattern \"" + pattern_.substr(0, 80) + "\" " + why);
  }
  std::size_t emit(Instruction instruction) {
    if (code_.size() > 4000) refuse("is too complex");
    code_.push_back(std::move(instruction));
    return code_.size() - 1;
  }
  /// Makes room for an instruction before `at`; what was behind it moves on. Whatever led from
  /// before to `at` now leads to the new instruction.
  void insert(std::size_t at, Instruction instruction) {
    for (std::size_t i = 0; i < code_.size(); ++i) {
      const std::size_t moved = i < at ? at + 1 : at;
      if (code_[i].first >= moved) ++code_[i].first;
      if (code_[i].second >= moved) ++code_[i].second;
    }
    emit({});
    for (std::size_t i = code_.size() - 1; i > at; --i) code_[i] = code_[i - 1];
    code_[at] = std::move(instruction);
  }
  [[nodiscard]] bool more() const { return at_ < pattern_.size(); }
  [[nodiscard]] bool is(char c) const { return more() && pattern_[at_] == c; }

  void alternatives(int depth) {
    if (depth > 50) refuse("is nested too deeply");
    const std::size_t begin = code_.size();
    std::vector<std::size_t> ends;
    std::size_t branch = begin;
    sequence(depth);
    while (is('|')) {
      ++at_;
      insert(branch, {Op::split, {}, branch + 1, 0});
      ends.push_back(emit({Op::jump}));
      code_[branch].second = code_.size();
      branch = code_.size();
      sequence(depth);
    }
    for (const std::size_t end : ends) code_[end].first = code_.size();
  }
  void sequence(int depth) {
    while (more() && !is('|') && !is(')')) {
      if (is('$') && at_ + 1 == pattern_.size()) {
        ++at_;
        return;
      }
      const std::size_t begin = code_.size();
      atom(depth);
      if (!more() || std::string_view("*+?{").find(pattern_[at_]) == std::string_view::npos)
        continue;
      const char repeat = pattern_[at_++];
      if (repeat == '{') refuse("counts repetitions with {}, which is not supported");
      if (is('?')) ++at_;
      if (more() && std::string_view("*+?{").find(pattern_[at_]) != std::string_view::npos) {
        refuse("repeats a repetition");
      }
      if (repeat == '+') {
        const std::size_t split = emit({Op::split, {}, begin, 0});
        code_[split].second = split + 1;
      } else {
        insert(begin, {Op::split, {}, begin + 1, 0});
        if (repeat == '*') emit({Op::jump, {}, begin, 0});
        code_[begin].second = code_.size();
      }
    }
  }
  void atom(int depth) {
    const char c = pattern_[at_++];
    std::bitset<256> set;
    if (c == '(') {
      if (is('?')) {
        if (pattern_.compare(at_, 2, "?:") != 0) refuse("holds a (?…) group that is not supported");
        at_ += 2;
      }
      alternatives(depth + 1);
      if (!is(')')) refuse("lacks a closing parenthesis");
      ++at_;
      return;
    }
    if (std::string_view("*+?{").find(c) != std::string_view::npos) refuse("repeats nothing");
    if (c == '^' || c == '$') refuse("has an anchor in its middle");
    if (c == '.') {
      set.set();
    } else if (c == '[') {
      set = character_class();
    } else if (c == '\\') {
      set = escaped();
    } else {
      set.set(static_cast<unsigned char>(c));
    }
    emit({Op::character, set, 0, 0});
  }
  static void range(std::bitset<256>& set, char first, char last) {
    for (int c = static_cast<unsigned char>(first); c <= static_cast<unsigned char>(last); ++c) {
      set.set(static_cast<std::size_t>(c));
    }
  }
  std::bitset<256> escaped() {
    if (!more()) refuse("ends in a backslash");
    const char c = pattern_[at_++];
    std::bitset<256> set;
    if (c == 'd' || c == 'w') range(set, '0', '9');
    if (c == 'w') range(set, 'a', 'z'), range(set, 'A', 'Z'), set.set('_');
    if (c == 's') set.set(' '), range(set, '\t', '\r');
    if (set.any()) return set;
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) {
      refuse(std::string("holds \\") + c + ", which is not supported");
    }
    set.set(static_cast<unsigned char>(c));
    return set;
  }
  std::bitset<256> character_class() {
    std::bitset<256> set;
    const bool negated = is('^');
    if (negated) ++at_;
    for (bool first = true; !is(']') || first; first = false) {
      if (!more()) refuse("lacks a closing bracket");
      const char c = pattern_[at_++];
      if (c == '\\') {
        set |= escaped();
      } else if (is('-') && at_ + 1 < pattern_.size() && pattern_[at_ + 1] != ']') {
        range(set, c, pattern_[at_ + 1]);
        at_ += 2;
      } else {
        set.set(static_cast<unsigned char>(c));
      }
    }
    ++at_;
    return negated ? ~set : set;
  }

  /// Adds what is reached from `at` without reading a character.
  void enter(std::size_t at, std::vector<std::size_t>& list, std::vector<bool>& seen,
             bool& matched) const {
    std::vector<std::size_t> open{at};
    while (!open.empty()) {
      at = open.back();
      open.pop_back();
      if (seen[at]) continue;
      seen[at] = true;
      const Instruction& instruction = code_[at];
      if (instruction.op == Op::character) list.push_back(at);
      if (instruction.op == Op::match) matched = true;
      if (instruction.op == Op::split) open.push_back(instruction.second);
      if (instruction.op == Op::split || instruction.op == Op::jump) {
        open.push_back(instruction.first);
      }
    }
  }

  std::string pattern_, source_;
  std::size_t at_ = 0;
  std::vector<Instruction> code_;
};

ZIYA_NAMESPACE_END
