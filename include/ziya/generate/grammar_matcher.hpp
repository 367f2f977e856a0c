// SPDX-License-Identifier: Apache-2.0
// Reads bytes against a grammar: a nondeterministic automaton with stacks, made deterministic as
// far as it is visited.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/grammar.hpp"
#include "ziya/generate/number_table.hpp"

ZIYA_NAMESPACE_BEGIN

/// A state is the set of all stacks that the bytes so far may have led to, and the beginning of a
/// character whose last byte has not come; states are numbered as they are found, and the step from
/// a state by a byte is computed once. A stack is a sequence of symbols that wait to be read; a
/// rule that ends an alternative leaves nothing behind, so that lists of any length stay in few
/// states.
///
/// A set of stacks is a trie over the bits of their first symbols, at whose leaves hang the sets of
/// what follows them. Equal sets are one node (Bryant's reduced diagrams, over sequences), so that
/// however many stacks there are, they cost what tells them apart, and what was once computed of a
/// set is known wherever it comes again.
class GrammarMatcher {
 public:
  static constexpr std::int32_t dead = -1;
  static constexpr std::size_t most_states = 1 << 15;
  static constexpr std::size_t most_held = 1 << 20;  ///< sets, and what was computed of them
  /// What may be computed, in sets: so many at first, and so many more with each new step. So
  /// reading takes a time that is linear in the text, whatever the grammar.
  static constexpr std::size_t most_work = 1 << 19, work_per_step = 1 << 8;

  GrammarMatcher() = default;
  explicit GrammarMatcher(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)) {
    const Node end{.position = std::numeric_limits<std::int32_t>::max(), .closed = finished};
    nodes_.push_back(end);
  }

  [[nodiscard]] const std::shared_ptr<const Grammar>& grammar() const { return grammar_; }

  /// The state before the first byte. @throws BackendError as `next`
  std::int32_t start() { return number(closed(united(beginnings(0, finished))), {}); }

  /// The state after one more byte, or `dead` when no text of the grammar goes on so.
  /// @throws BackendError ZIYA-545 for a grammar so ambiguous that its states take too much memory
  /// or work
  std::int32_t next(std::int32_t state, std::uint8_t byte) {
    const std::int32_t known = steps_[static_cast<std::size_t>(state)][byte];
    if (known != unknown) return known;
    const std::int32_t found = step(state, byte);
    return steps_[static_cast<std::size_t>(state)][byte] = found;
  }

  /// Whether the bytes so far are a whole text of the grammar.
  [[nodiscard]] bool may_end(std::int32_t state) const {
    std::int32_t set = states_[static_cast<std::size_t>(state)].stacks;
    while (node(set).block > 0) set = node(set).right;
    return set == finished;  // of all positions the last
  }

  /// Whether so much was visited that forgetting it is due.
  [[nodiscard]] bool crowded() const {
    return states_.size() > most_states / 8 || held() > most_held / 4;
  }
  /// Forgets all states but one, and all stacks but its own where they have become many more since
  /// the last time, so that what follows from these is not computed again and again.
  /// @returns its new number
  std::int32_t keep_only(std::int32_t state) {
    State kept = states_[static_cast<std::size_t>(state)];
    if (held() > std::min(16 * kept_, most_held / 4)) kept.stacks = keep_stacks(kept.stacks);
    states_.clear();
    steps_.clear();
    state_numbers_ = {};
    return number(kept.stacks, kept.partial);
  }

 private:
  using Kind = Grammar::Symbol::Kind;
  static constexpr std::int32_t finished = 0;  ///< the stack on which nothing is left
  static constexpr std::int32_t nothing = -1;  ///< no stack
  static constexpr std::int32_t unknown = -2;  ///< not computed yet

  /// A set of stacks. A leaf: those that read the symbol at `position` and then one of `left`. A
  /// fork: those of `left` and of `right`, whose positions lie in the lower and in the upper half
  /// of an aligned block of 2^block positions.
  struct Node {
    std::int32_t position = 0;  ///< of a fork: one in its block
    std::int32_t left = nothing, right = nothing;
    std::int32_t closed = unknown;  ///< the stacks that wait for characters which these become
    int block = 0;                  ///< of a leaf 0
    std::int32_t leaves = 1;
    std::uint64_t digest = 0;  ///< of the characters that are waited for
  };
  /// The beginning of a character: its bits so far, bytes to come, and what the next may be.
  struct Partial {
    char32_t bits = 0;
    std::uint8_t missing = 0, low = 0x80, high = 0xBF;
  };
  struct State {
    std::int32_t stacks = nothing;  ///< all wait for characters, or are finished
    Partial partial;
  };

  [[nodiscard]] const Node& node(std::int32_t set) const {
    return nodes_[static_cast<std::size_t>(set)];
  }
  [[nodiscard]] std::size_t held() const {
    return nodes_.size() + unions_.size() + known_after_.size();
  }

  std::int32_t step(std::int32_t from, std::uint8_t byte) {
    work_left_ += work_per_step;
    auto [stacks, partial] = states_[static_cast<std::size_t>(from)];
    if (!read(partial, byte)) return dead;
    const CharacterClass::Range range = reach(partial);
    const std::int32_t found = after(stacks, partial, range, range.digest());
    if (found == nothing) return dead;
    return number(found, partial.missing > 0 ? partial : Partial{});
  }
  /// Those of `set` that read a character, behind it; or that may read one that begins so.
  /// @param range the characters that it may be
  std::int32_t after(std::int32_t set, const Partial& partial, CharacterClass::Range range,
                     std::uint64_t digest) {
    const Node now = node(set);
    if ((now.digest & digest) == 0) return nothing;
    if (now.block == 0) {
      const CharacterClass& waited = grammar_->characters(grammar_->symbol(now.position).index);
      if (!waited.meets(range.first, range.last)) return nothing;
      return partial.missing > 0 ? set : closed(follow(now.position + 1, now.left));
    }
    const bool large = now.leaves > 16;  // else a look-up costs more than it saves
    const std::int32_t known = large ? known_after_.find(key(set, partial)) : nothing;
    if (known != nothing) return known;
    const std::int32_t left = after(now.left, partial, range, digest);
    const std::int32_t result = united(left, after(now.right, partial, range, digest));
    if (large && result != nothing) {
      work(1);
      known_after_.insert(key(set, partial), result);
    }
    return result;
  }
  static std::uint64_t key(std::int32_t set, const Partial& partial) {
    // The bits so far and the number of bytes to come say what the next byte may be.
    return static_cast<std::uint64_t>(set) << 32 |
           static_cast<std::uint64_t>(partial.missing) << 24 | partial.bits;
  }

  /// One more byte of a character. @returns whether UTF-8 has it there
  static bool read(Partial& partial, std::uint8_t byte) {
    if (partial.missing > 0) {
      if (byte < partial.low || byte > partial.high) return false;
      partial = {partial.bits << 6 | (byte & 0x3Fu),
                 static_cast<std::uint8_t>(partial.missing - 1)};
      return true;
    }
    if (byte < 0x80) {
      partial = {byte, 0};
    } else if (byte < 0xC2 || byte > 0xF4) {
      return false;
    } else if (byte < 0xE0) {
      partial = {byte & 0x1Fu, 1};
    } else if (byte < 0xF0) {
      partial = {byte & 0x0Fu, 2, static_cast<std::uint8_t>(byte == 0xE0 ? 0xA0 : 0x80),
                 static_cast<std::uint8_t>(byte == 0xED ? 0x9F : 0xBF)};
    } else {
      partial = {byte & 0x07u, 3, static_cast<std::uint8_t>(byte == 0xF0 ? 0x90 : 0x80),
                 static_cast<std::uint8_t>(byte == 0xF4 ? 0x8F : 0xBF)};
    }
    return true;
  }
  /// The characters that a beginning may become.
  static CharacterClass::Range reach(const Partial& partial) {
    if (partial.missing == 0) return {partial.bits, partial.bits};
    const unsigned rest = 6u * (partial.missing - 1u);
    const auto at = [&](std::uint8_t byte) { return (partial.bits << 6 | (byte & 0x3Fu)) << rest; };
    return {at(partial.low), at(partial.high) | ((char32_t{1} << rest) - 1)};
  }

  /// The stacks that read `position` and then one of `below`.
  std::int32_t follow(std::int32_t position, std::int32_t below) {
    const Grammar::Symbol& symbol = grammar_->symbol(position);
    if (symbol.kind == Kind::end) return below;
    const std::int32_t number =
        numbered({position, below},
                 static_cast<std::uint64_t>(position) << 32 | static_cast<std::uint32_t>(below));
    if (symbol.kind == Kind::characters) {
      Node& leaf = nodes_[static_cast<std::size_t>(number)];
      leaf.closed = number;
      leaf.digest = grammar_->characters(symbol.index).digest();
    }
    return number;
  }
  /// The stacks of both, whose blocks lie apart.
  std::int32_t fork(std::int32_t a, std::int32_t b) {
    if (node(a).position > node(b).position) std::swap(a, b);
    return numbered({node(a).position, a, b, unknown, common_block(node(a), node(b)),
                     node(a).leaves + node(b).leaves, node(a).digest | node(b).digest},
                    std::uint64_t{1} << 63 | static_cast<std::uint64_t>(a) << 32 |
                        static_cast<std::uint32_t>(b));
  }
  /// Equal nodes are one.
  std::int32_t numbered(const Node& made, std::uint64_t key) {
    const std::int32_t known = node_numbers_.find(key);
    if (known != NumberTable::none) return known;
    work(1);
    const auto number = static_cast<std::int32_t>(nodes_.size());
    node_numbers_.insert(key, number);
    nodes_.push_back(made);
    return number;
  }
  /// The block that both lie in, as Node::block.
  static int common_block(const Node& a, const Node& b) {
    const auto differ = static_cast<std::uint32_t>(a.position ^ b.position);
    return std::max({a.block, b.block, static_cast<int>(std::bit_width(differ))});
  }

  /// The stacks that begin `rule` and then go on as one of `below`, by its alternatives.
  std::vector<std::int32_t> beginnings(std::int32_t rule, std::int32_t below) {
    std::vector<std::int32_t> sets = grammar_->alternatives(rule);
    for (std::int32_t& set : sets) set = follow(set, below);
    return sets;
  }

  /// Replaces stacks that wait for a rule by those that wait for its beginnings, without recursion,
  /// for stacks may be deep. The grammar has no left recursion, so this ends.
  std::int32_t closed(std::int32_t set) {
    if (node(set).closed != unknown) return node(set).closed;
    std::vector<std::int32_t> waiting{set};
    while (!waiting.empty()) {
      const std::int32_t top = waiting.back();
      const Node now = node(top);
      if (now.closed != unknown) {
        waiting.pop_back();
        continue;
      }
      std::vector<std::int32_t> parts = now.block > 0
                                            ? std::vector{now.left, now.right}
                                            : beginnings(grammar_->symbol(now.position).index,
                                                         follow(now.position + 1, now.left));
      work(parts.size());
      const std::size_t before = waiting.size();
      for (const std::int32_t part : parts) {
        if (node(part).closed == unknown) waiting.push_back(part);
      }
      if (waiting.size() > before) continue;
      for (std::int32_t& part : parts) part = node(part).closed;
      const std::int32_t whole = united(std::move(parts));
      nodes_[static_cast<std::size_t>(top)].closed = whole;
    }
    return node(set).closed;
  }

  /// The stacks of all `sets`, of which there is one at least; neighbours first, because they share
  /// most.
  std::int32_t united(std::vector<std::int32_t> sets) {
    for (std::size_t apart = 1; apart < sets.size(); apart *= 2) {
      for (std::size_t i = 0; i + apart < sets.size(); i += 2 * apart) {
        sets[i] = united(sets[i], sets[i + apart]);
      }
    }
    return sets.front();
  }
  std::int32_t united(std::int32_t a, std::int32_t b) {
    if (const std::int32_t known = known_union(a, b); known != unknown) return known;
    std::vector<std::pair<std::int32_t, std::int32_t>> waiting{{a, b}};
    while (true) {
      const auto [x, y] = waiting.back();
      const std::int32_t known = known_union(x, y);
      if (known != unknown) {
        waiting.pop_back();
        if (waiting.empty()) return known;
        continue;
      }
      // At one position their tails are united, else what they have in either half of the block.
      const int block = common_block(node(x), node(y));
      const std::int32_t position = node(x).position;
      const auto [left, right] = halves(x, block);
      const auto [other_left, other_right] = halves(y, block);
      const std::int32_t lower = known_union(left, other_left);
      const std::int32_t upper = known_union(right, other_right);
      if (lower == unknown) waiting.emplace_back(left, other_left);
      if (upper == unknown) waiting.emplace_back(right, other_right);
      if (lower == unknown || upper == unknown) continue;
      work(1);
      unions_.insert(union_key(x, y), block == 0 ? follow(position, lower) : fork(lower, upper));
    }
  }
  /// The union where it is plain or was computed before, else `unknown`.
  std::int32_t known_union(std::int32_t a, std::int32_t b) {
    if (a == b || b == nothing) return a;
    if (a == nothing) return b;
    if (common_block(node(a), node(b)) > std::max(node(a).block, node(b).block)) return fork(a, b);
    const std::int32_t found = unions_.find(union_key(a, b));
    return found == NumberTable::none ? unknown : found;
  }
  static std::uint64_t union_key(std::int32_t a, std::int32_t b) {
    return static_cast<std::uint64_t>(std::min(a, b)) << 32 |
           static_cast<std::uint32_t>(std::max(a, b));
  }
  /// What of a set lies in the lower and in the upper half of a block around it.
  [[nodiscard]] std::pair<std::int32_t, std::int32_t> halves(std::int32_t set, int block) const {
    const Node& now = node(set);
    if (now.block == block) return {now.left, now.right};
    return (now.position >> (block - 1) & 1) != 0 ? std::pair(nothing, set)
                                                  : std::pair(set, nothing);
  }

  std::int32_t number(std::int32_t stacks, const Partial& partial) {
    const std::int32_t known = state_numbers_.find(key(stacks, partial));
    if (known != NumberTable::none) return known;
    if (states_.size() >= most_states) refuse();
    const auto number = static_cast<std::int32_t>(states_.size());
    state_numbers_.insert(key(stacks, partial), number);
    states_.push_back({stacks, partial});
    steps_.emplace_back().fill(unknown);
    return number;
  }

  /// Forgets what does not belong to `kept`, and what was computed.   @returns its new number
  std::int32_t keep_stacks(std::int32_t kept) {
    // A node's number is above those of its parts.
    std::vector<std::int32_t> numbers(nodes_.size(), nothing);
    const auto number_of = [&](std::int32_t set) -> std::int32_t& {
      return numbers[static_cast<std::size_t>(set)];
    };
    number_of(kept) = unknown;
    for (std::int32_t set = kept; set > finished; --set) {
      if (number_of(set) == nothing) continue;
      number_of(node(set).left) = unknown;
      if (node(set).block > 0) number_of(node(set).right) = unknown;
    }
    number_of(finished) = finished;
    GrammarMatcher fresh(grammar_);
    fresh.work_left_ = nodes_.size();  // paid for once already
    for (std::int32_t set = finished + 1; set <= kept; ++set) {
      if (number_of(set) == nothing) continue;
      const Node& old = node(set);
      number_of(set) = old.block > 0 ? fresh.fork(number_of(old.left), number_of(old.right))
                                     : fresh.follow(old.position, number_of(old.left));
    }
    nodes_ = std::move(fresh.nodes_);
    node_numbers_ = std::move(fresh.node_numbers_);
    unions_ = {};
    known_after_ = {};
    kept_ = nodes_.size();
    return number_of(kept);
  }

  void work(std::size_t units) {
    if (units > work_left_ || held() > most_held) refuse();
    work_left_ -= units;
  }
  [[noreturn]] static void refuse() {
    throw BackendError("ZIYA-545",
                       "grammar: too ambiguous, or nested too deeply: too many ways to read the "
                       "text so far");
  }

  std::shared_ptr<const Grammar> grammar_;
  std::vector<Node> nodes_;
  NumberTable node_numbers_, unions_, known_after_, state_numbers_;
  std::vector<State> states_;
  std::vector<std::array<std::int32_t, 256>> steps_;
  std::size_t kept_ = 1, work_left_ = most_work;
};

ZIYA_NAMESPACE_END
