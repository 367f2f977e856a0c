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
/// in `symbols`, each closed by an `end`. Immutable once made.
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
    struct Place {
      std::size_t rule;
      std::int32_t position;
    };
    std::vector<bool> inside(rules_.size());
    std::vector<std::vector<Place>> waiting(rules_.size());
    std::vector<Place> work;
    for (std::size_t rule = 0; rule < rules_.size(); ++rule) {
      for (const std::int32_t start : rules_[rule].alternatives) work.push_back({rule, start});
    }
    while (!work.empty()) {
      Place place = work.back();
      work.pop_back();
      while (true) {
        const Symbol& next = symbol(place.position);
        if (next.kind == Kind::end) {
          if (inside[place.rule]) break;
          inside[place.rule] = true;
          for (const Place& waiter : waiting[place.rule]) work.push_back(waiter);
          waiting[place.rule].clear();
          break;
        }
        if (next.kind == Kind::characters && !accepts_class(characters(next.index))) break;
        if (next.kind == Kind::rule && !inside[static_cast<std::size_t>(next.index)]) {
          waiting[static_cast<std::size_t>(next.index)].push_back(place);
          break;
        }
        ++place.position;
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
    enum class Mark : std::uint8_t { none, open, closed };
    std::vector<Mark> marks(rules_.size(), Mark::none);
    for (std::size_t root = 0; root < rules_.size(); ++root) {
      if (marks[root] != Mark::none) continue;
      std::vector<std::pair<std::size_t, std::vector<std::size_t>>> path;
      const auto open = [&](std::size_t rule) {
        marks[rule] = Mark::open;
        path.emplace_back(rule, beginnings(rule, empty));
      };
      open(root);
      while (!path.empty()) {
        if (path.back().second.empty()) {
          marks[path.back().first] = Mark::closed;
          path.pop_back();
          continue;
        }
        const std::size_t next = path.back().second.back();
        path.back().second.pop_back();
        if (marks[next] == Mark::open) {
          throw ArgumentError("ZIYA-542", "grammar: the rule " + rules_[next].name +
                                              " begins with itself (left recursion)");
        }
        if (marks[next] == Mark::none) open(next);
      }
    }
  }
  /// Rules that may stand at the very beginning of `rule`.
  [[nodiscard]] std::vector<std::size_t> beginnings(std::size_t rule,
                                                    const std::vector<bool>& empty) const {
    std::vector<std::size_t> result;
    for (std::int32_t position : rules_[rule].alternatives) {
      for (; symbol(position).kind == Kind::rule; ++position) {
        const auto next = static_cast<std::size_t>(symbol(position).index);
        result.push_back(next);
        if (!empty[next]) break;
      }
    }
    return result;
  }

  std::vector<Rule> rules_;
  std::vector<Symbol> symbols_;
  std::vector<CharacterClass> classes_;
};

ZIYA_NAMESPACE_END
