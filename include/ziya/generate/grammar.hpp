// SPDX-License-Identifier: Apache-2.0
// A context-free grammar over Unicode characters, as an automaton with a stack runs it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"

ZIYA_NAMESPACE_BEGIN

/// Characters, as closed ranges, ascending and apart.
class CharacterClass {
 public:
  struct Range {
    char32_t first = 0, last = 0;
    /// A bit for every remainder of 64 that its characters have: sets whose digests have no bit in
    /// common are apart.
    [[nodiscard]] std::uint64_t digest() const {
      if (last - first >= 63) return ~std::uint64_t{0};
      return std::rotl((std::uint64_t{1} << (last - first + 1)) - 1, static_cast<int>(first % 64));
    }
    friend bool operator==(const Range&, const Range&) = default;
  };
  static constexpr char32_t last_character = 0x10FFFF;

  /// @param ranges in any order, overlapping or not   @param negated all others instead
  explicit CharacterClass(std::vector<Range> ranges, bool negated = false) {
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.first < b.first; });
    for (const Range& range : ranges) {
      if (!ranges_.empty() && range.first <= ranges_.back().last + 1) {
        ranges_.back().last = std::max(ranges_.back().last, range.last);
      } else {
        ranges_.push_back(range);
      }
    }
    if (negated) negate();
    for (const Range& range : ranges_) digest_ |= range.digest();
  }

  [[nodiscard]] const std::vector<Range>& ranges() const { return ranges_; }
  /// The bits of all its ranges.
  [[nodiscard]] std::uint64_t digest() const { return digest_; }
  /// Whether one of its characters lies between `first` and `last`.
  [[nodiscard]] bool meets(char32_t first, char32_t last) const {
    for (const Range& range : ranges_) {
      if (range.first <= last && first <= range.last) return true;
    }
    return false;
  }
  friend bool operator==(const CharacterClass&, const CharacterClass&) = default;

 private:
  void negate() {
    std::vector<Range> rest;
    char32_t next = 0;
    for (const Range& range : ranges_) {
      if (range.first > next) rest.push_back({next, range.first - 1});
      next = range.last + 1;
    }
    if (next <= last_character) rest.push_back({next, last_character});
    ranges_ = std::move(rest);
  }

  std::vector<Range> ranges_;
  std::uint64_t digest_ = 0;
};

/// Rules of alternatives of symbols. Rule 0 is the root. All alternatives lie one after the other
/// in `symbols`, each closed by an `end`, none within another. Immutable once made.
class Grammar {
 public:
  struct Symbol {
    enum class Kind : std::uint8_t { end, characters, rule };
    Kind kind = Kind::end;
    std::int32_t index = 0;  ///< of the class, or of the rule
  };
  struct Rule {
    std::string name;
    std::vector<std::int32_t> alternatives;  ///< where each begins in `symbols`
  };
  static constexpr std::size_t most_symbols = 1 << 18;

  /// @throws ArgumentError ZIYA-542 for a rule that begins with itself, ZIYA-543 for one that no
  /// text ends
  Grammar(std::vector<Rule> rules, std::vector<Symbol> symbols, std::vector<CharacterClass> classes)
      : rules_(std::move(rules)), symbols_(std::move(symbols)), classes_(std::move(classes)) {
    refuse_endless();
    refuse_left_recursion();
  }

  [[nodiscard]] const std::vector<Rule>& rules() const { return rules_; }
  [[nodiscard]] const Symbol& symbol(std::int32_t position) const {
    return symbols_[static_cast<std::size_t>(position)];
  }
  [[nodiscard]] const std::vector<std::int32_t>& alternatives(std::int32_t rule) const {
    return rules_[static_cast<std::size_t>(rule)].alternatives;
  }
  [[nodiscard]] const CharacterClass& characters(std::int32_t index) const {
    return classes_[static_cast<std::size_t>(index)];
  }

 private:
  using Kind = Symbol::Kind;

  /// The least set of rules that holds every rule with an alternative all of whose symbols `holds`
  /// accepts, where a rule is accepted when it is in the set. Every rule is looked at again when
  /// one that it mentions comes in, so the cost is linear in the symbols.
  [[nodiscard]] std::vector<bool> closure(bool (*accepts_class)(const CharacterClass&)) const {
    std::vector<bool> inside(rules_.size());
    std::vector<std::int32_t> rule_at(symbols_.size()), work;  // work: positions
    std::vector<std::vector<std::int32_t>> waiting(rules_.size());
    for (std::size_t rule = 0; rule < rules_.size(); ++rule) {
      for (const std::int32_t start : rules_[rule].alternatives) {
        work.push_back(start);
        for (auto at = static_cast<std::size_t>(start); at < symbols_.size(); ++at) {
          rule_at[at] = static_cast<std::int32_t>(rule);
          if (symbols_[at].kind == Kind::end) break;
        }
      }
    }
    while (!work.empty()) {
      std::int32_t position = work.back();
      work.pop_back();
      const auto rule = static_cast<std::size_t>(rule_at[static_cast<std::size_t>(position)]);
      while (true) {
        const Symbol& next = symbol(position);
        if (next.kind == Kind::end) {
          if (inside[rule]) break;
          inside[rule] = true;
          for (const std::int32_t waiter : waiting[rule]) work.push_back(waiter);
          waiting[rule].clear();
          break;
        }
        if (next.kind == Kind::characters && !accepts_class(characters(next.index))) break;
        if (next.kind == Kind::rule && !inside[static_cast<std::size_t>(next.index)]) {
          waiting[static_cast<std::size_t>(next.index)].push_back(position);
          break;
        }
        ++position;
      }
    }
    return inside;
  }

  void refuse_endless() const {
    const std::vector<bool> ends =
        closure([](const CharacterClass& characters) { return !characters.ranges().empty(); });
    for (std::size_t rule = 0; rule < rules_.size(); ++rule) {
      if (!ends[rule]) {
        throw ArgumentError("ZIYA-543", "grammar: no text ends the rule " + rules_[rule].name);
      }
    }
  }

  /// A rule that may begin with itself would be entered again and again without reading anything.
  void refuse_left_recursion() const {
    const std::vector<bool> empty = closure([](const CharacterClass&) { return false; });
    std::vector<bool> met(rules_.size()), closed(rules_.size());
    for (std::size_t root = 0; root < rules_.size(); ++root) {
      if (met[root]) continue;
      std::vector<std::size_t> path;
      std::vector<std::vector<std::int32_t>> left;  // of each rule of the path, beginnings to try
      const auto open = [&](std::size_t rule) {
        met[rule] = true;
        path.push_back(rule);
        left.push_back(beginnings(rule, empty));
      };
      open(root);
      while (!path.empty()) {
        if (left.back().empty()) {
          closed[path.back()] = true;
          path.pop_back();
          left.pop_back();
          continue;
        }
        const auto next = static_cast<std::size_t>(left.back().back());
        left.back().pop_back();
        if (met[next] && !closed[next]) {
          throw ArgumentError("ZIYA-542", "grammar: the rule " + rules_[next].name +
                                              " begins with itself (left recursion)");
        }
        if (!met[next]) open(next);
      }
    }
  }
  /// Rules that may stand at the very beginning of `rule`.
  [[nodiscard]] std::vector<std::int32_t> beginnings(std::size_t rule,
                                                     const std::vector<bool>& empty) const {
    std::vector<std::int32_t> result;
    for (std::int32_t position : rules_[rule].alternatives) {
      for (; symbol(position).kind == Kind::rule; ++position) {
        const std::int32_t next = symbol(position).index;
        result.push_back(next);
        if (!empty[static_cast<std::size_t>(next)]) break;
      }
    }
    return result;
  }

  std::vector<Rule> rules_;
  std::vector<Symbol> symbols_;
  std::vector<CharacterClass> classes_;
};

ZIYA_NAMESPACE_END
