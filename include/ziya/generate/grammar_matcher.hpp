// SPDX-License-Identifier: Apache-2.0
// Reads bytes against a grammar: a nondeterministic automaton with stacks, made deterministic as
// far as it is visited.
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/grammar.hpp"

ZIYA_NAMESPACE_BEGIN

/// A state is the set of all stacks that the bytes so far may have led to, and the beginning of a
/// character whose last byte has not come; states are numbered as they are found, and the step from
/// a state by a byte is computed once. A stack is a symbol that waits to be read and what follows
/// it; stacks share their tails, and a rule that ends an alternative leaves nothing behind, so that
/// lists of any length stay in few states.
class GrammarMatcher {
 public:
  static constexpr std::int32_t dead = -1;
  static constexpr std::size_t most_states = 1 << 15;
  static constexpr std::size_t most_stacks = 1 << 14;  ///< of one state
  static constexpr std::size_t most_held = 1 << 22;    ///< stacks of all states

  GrammarMatcher() = default;
  explicit GrammarMatcher(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)) {}

  [[nodiscard]] const std::shared_ptr<const Grammar>& grammar() const { return grammar_; }

  /// The state before the first byte. @throws BackendError as `next`
  std::int32_t start() {
    State state;
    std::vector<std::int32_t> work;
    for (const std::int32_t alternative : grammar_->alternatives(0)) {
      enter(follow(alternative, none), work, state);
    }
    return close(std::move(work), std::move(state));
  }

  /// The state after one more byte, or `dead` when no text of the grammar goes on so.
  /// @throws BackendError ZIYA-545 for a grammar so ambiguous that its states have no end
  std::int32_t next(std::int32_t state, std::uint8_t byte) {
    const std::int32_t known = steps_[static_cast<std::size_t>(state)][byte];
    if (known != unknown) return known;
    const std::int32_t found = step(state, byte);
    return steps_[static_cast<std::size_t>(state)][byte] = found;
  }

  /// Whether the bytes so far are a whole text of the grammar.
  [[nodiscard]] bool may_end(std::int32_t state) const {
    return states_[static_cast<std::size_t>(state)].whole;
  }

  /// Whether so much was visited that forgetting it is due.
  [[nodiscard]] bool crowded() const {
    return states_.size() > most_states / 8 || nodes_.size() > most_states || held_ > most_held / 4;
  }
  /// Forgets all states but one.   @returns its new number
  std::int32_t keep_only(std::int32_t state) {
    GrammarMatcher fresh(grammar_);
    const State& old = states_[static_cast<std::size_t>(state)];
    State kept{{}, old.partial, old.whole};
    std::vector<std::int32_t> adopted(nodes_.size(), unknown);
    for (const std::int32_t stack : old.stacks) {
      kept.stacks.push_back(fresh.adopt(*this, stack, adopted));
    }
    std::sort(kept.stacks.begin(), kept.stacks.end());
    const std::int32_t result = fresh.number(std::move(kept));
    *this = std::move(fresh);
    return result;
  }

 private:
  using Kind = Grammar::Symbol::Kind;
  static constexpr std::int32_t none = -1;     ///< nothing follows: the text may end
  static constexpr std::int32_t unknown = -2;  ///< a step that nobody took yet

  /// A stack: the symbol to be read, and the stack that follows the end of its alternative.
  struct Node {
    std::int32_t position = 0, below = none;
  };
  /// The beginning of a character: its bits so far, bytes to come, and what the next may be.
  struct Partial {
    char32_t bits = 0;
    std::uint8_t missing = 0, low = 0x80, high = 0xBF;
    friend auto operator<=>(const Partial&, const Partial&) = default;
  };
  struct State {
    std::vector<std::int32_t> stacks;  ///< nodes that wait for characters, ascending
    Partial partial;
    bool whole = false;
    bool operator<(const State& other) const {
      if (stacks != other.stacks) return stacks < other.stacks;
      return partial != other.partial ? partial < other.partial : whole < other.whole;
    }
  };

  std::int32_t step(std::int32_t from, std::uint8_t byte) {
    Partial partial = states_[static_cast<std::size_t>(from)].partial;
    if (!read(partial, byte)) return dead;
    const std::vector<std::int32_t> stacks = states_[static_cast<std::size_t>(from)].stacks;
    State state;
    if (partial.missing > 0) {
      const auto [first, last] = reach(partial);
      for (const std::int32_t stack : stacks) {
        if (waiting_for(stack).meets(first, last)) state.stacks.push_back(stack);
      }
      state.partial = partial;
      return state.stacks.empty() ? dead : number(std::move(state));
    }
    std::vector<std::int32_t> work;
    for (const std::int32_t stack : stacks) {
      if (!waiting_for(stack).meets(partial.bits, partial.bits)) continue;
      const Node node = nodes_[static_cast<std::size_t>(stack)];
      enter(follow(node.position + 1, node.below), work, state);
    }
    return close(std::move(work), std::move(state));
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
  /// The first and the last character that a beginning may become.
  static std::pair<char32_t, char32_t> reach(const Partial& partial) {
    const unsigned rest = 6u * (partial.missing - 1u);
    const auto at = [&](std::uint8_t byte) { return (partial.bits << 6 | (byte & 0x3Fu)) << rest; };
    return {at(partial.low), at(partial.high) | ((char32_t{1} << rest) - 1)};
  }

  [[nodiscard]] const CharacterClass& waiting_for(std::int32_t stack) const {
    const Node& node = nodes_[static_cast<std::size_t>(stack)];
    return grammar_->characters(grammar_->symbol(node.position).index);
  }

  /// The stack that reads `position` and then `below`.
  std::int32_t follow(std::int32_t position, std::int32_t below) {
    if (grammar_->symbol(position).kind == Kind::end) return below;
    const auto key = static_cast<std::uint64_t>(position) << 32 | static_cast<std::uint32_t>(below);
    const auto [found, inserted] =
        node_numbers_.try_emplace(key, static_cast<std::int32_t>(nodes_.size()));
    if (inserted) nodes_.push_back({position, below});
    if (nodes_.size() > 16 * most_states) refuse();
    return found->second;
  }
  static void enter(std::int32_t stack, std::vector<std::int32_t>& work, State& state) {
    if (stack == none) {
      state.whole = true;
    } else {
      work.push_back(stack);
    }
  }

  /// Replaces stacks that wait for a rule by those that wait for its beginnings. The grammar has no
  /// left recursion, so this ends.
  std::int32_t close(std::vector<std::int32_t> work, State state) {
    std::vector<std::int32_t> seen_nodes;
    seen_.resize(nodes_.size(), false);
    std::size_t seen_count = 0;
    while (!work.empty()) {
      const std::int32_t stack = work.back();
      work.pop_back();
      seen_.resize(nodes_.size(), false);
      if (seen_[static_cast<std::size_t>(stack)]) continue;
      seen_[static_cast<std::size_t>(stack)] = true;
      seen_nodes.push_back(stack);
      if (++seen_count > most_stacks) refuse();
      const Node node = nodes_[static_cast<std::size_t>(stack)];
      const Grammar::Symbol& symbol = grammar_->symbol(node.position);
      if (symbol.kind == Kind::characters) {
        state.stacks.push_back(stack);
        continue;
      }
      const std::int32_t after = follow(node.position + 1, node.below);
      for (const std::int32_t alternative : grammar_->alternatives(symbol.index)) {
        enter(follow(alternative, after), work, state);
      }
    }
    for (const std::int32_t stack : seen_nodes) seen_[static_cast<std::size_t>(stack)] = false;
    if (state.stacks.empty() && !state.whole) return dead;
    std::sort(state.stacks.begin(), state.stacks.end());
    return number(std::move(state));
  }

  std::int32_t number(State state) {
    const auto [found, inserted] =
        numbers_.emplace(std::move(state), static_cast<std::int32_t>(states_.size()));
    if (inserted) {
      held_ += found->first.stacks.size();
      if (states_.size() >= most_states || held_ > most_held) refuse();
      states_.push_back(found->first);
      steps_.emplace_back().fill(unknown);
    }
    return found->second;
  }

  /// The same stack, of another matcher; `adopted` holds those that came before, because stacks
  /// share their tails.
  std::int32_t adopt(const GrammarMatcher& other, std::int32_t stack,
                     std::vector<std::int32_t>& adopted) {
    std::vector<std::int32_t> path;
    for (; stack != none && adopted[static_cast<std::size_t>(stack)] == unknown;
         stack = other.nodes_[static_cast<std::size_t>(stack)].below) {
      path.push_back(stack);
    }
    std::int32_t result = stack == none ? none : adopted[static_cast<std::size_t>(stack)];
    for (; !path.empty(); path.pop_back()) {
      const auto node = static_cast<std::size_t>(path.back());
      adopted[node] = result = follow(other.nodes_[node].position, result);
    }
    return result;
  }

  [[noreturn]] static void refuse() {
    throw BackendError("ZIYA-545",
                       "grammar: too ambiguous, or nested too deeply: too many ways to read the "
                       "text so far");
  }

  std::shared_ptr<const Grammar> grammar_;
  std::vector<Node> nodes_;
  std::unordered_map<std::uint64_t, std::int32_t> node_numbers_;
  std::vector<bool> seen_;
  std::vector<State> states_;
  std::size_t held_ = 0;
  std::map<State, std::int32_t> numbers_;
  std::vector<std::array<std::int32_t, 256>> steps_;
};

ZIYA_NAMESPACE_END
