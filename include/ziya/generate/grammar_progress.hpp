// SPDX-License-Identifier: Apache-2.0
// How far an answer has come in a grammar, and which tokens go on from there.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/generate/constraint_vocabulary.hpp"
#include "ziya/generate/grammar.hpp"
#include "ziya/generate/grammar_matcher.hpp"

ZIYA_NAMESPACE_BEGIN

/// A set of token ids.
class TokenSet {
 public:
  explicit TokenSet(std::size_t size) : bits_((size + 63) / 64) {}
  void insert(std::int32_t id) {
    bits_[static_cast<std::size_t>(id) / 64] |= std::uint64_t{1} << (id % 64);
    empty_ = false;
  }
  [[nodiscard]] bool contains(std::int32_t id) const {
    const auto word = static_cast<std::size_t>(id) / 64;
    return word < bits_.size() && (bits_[word] >> (id % 64) & 1) != 0;
  }
  [[nodiscard]] bool empty() const { return empty_; }

 private:
  std::vector<std::uint64_t> bits_;
  bool empty_ = true;
};

/// Belongs to one sequence. What it says depends on the answer alone: given another one, it goes
/// back to where both part, so that tokens may be taken back.
class GrammarProgress {
 public:
  /// Reads what is new in `answer`.
  /// @param vocabulary outlives the next call of `allowed`
  /// @param continues whether the answer continues the prompt's text
  /// @returns whether a text of the grammar begins so
  bool read(const std::shared_ptr<const Grammar>& grammar, const ConstraintVocabulary& vocabulary,
            std::span<const std::int32_t> answer, bool continues) {
    if (matcher_.grammar() != grammar) {
      matcher_ = GrammarMatcher(grammar);
      forget_masks();
      restart();
    }
    const bool goes_on =
        ids_.size() <= answer.size() && std::equal(ids_.begin(), ids_.end(), answer.begin());
    if (!goes_on) restart();
    for (const std::int32_t id : answer.subspan(ids_.size())) {
      const auto& bytes = vocabulary.at(ids_.empty() && !continues).bytes;
      ids_.push_back(id);
      if (state_ == GrammarMatcher::dead) continue;
      if (id < 0 || static_cast<std::size_t>(id) >= bytes.size() ||
          bytes[static_cast<std::size_t>(id)].empty()) {
        state_ = GrammarMatcher::dead;
        continue;
      }
      for (const char byte : bytes[static_cast<std::size_t>(id)]) {
        state_ = matcher_.next(state_, static_cast<std::uint8_t>(byte));
        if (state_ == GrammarMatcher::dead) break;
      }
    }
    position_ = &vocabulary.at(ids_.empty() && !continues);
    return state_ != GrammarMatcher::dead;
  }

  /// Whether what was read is a whole text of the grammar.
  [[nodiscard]] bool may_end() const {
    return state_ != GrammarMatcher::dead && matcher_.may_end(state_);
  }

  /// The tokens that a text of the grammar goes on with, until the next call.
  /// @pre `read` returned true
  const TokenSet& allowed() {
    if (matcher_.crowded() || masks_.size() >= most_masks) {
      state_ = matcher_.keep_only(state_);
      forget_masks();
    }
    const std::int32_t key = 2 * state_ + (ids_.empty() ? 1 : 0);
    const auto known = places_.find(key);
    if (known != places_.end()) return masks_[known->second];
    masks_.push_back(reachable());
    places_[key] = masks_.size() - 1;
    return masks_.back();
  }

 private:
  static constexpr std::size_t most_masks = 512;

  void forget_masks() {
    masks_.clear();
    places_.clear();
  }
  void restart() {
    ids_.clear();
    state_ = matcher_.start();
  }
  /// Walks the vocabulary and the grammar side by side.
  TokenSet reachable() {
    TokenSet set(position_->bytes.size());
    // Node, state; both signed, as the matcher has pairs of these.
    std::vector<std::pair<std::int32_t, std::int32_t>> work{{0, state_}};
    while (!work.empty()) {
      const auto [at, state] = work.back();
      const auto node = static_cast<std::uint32_t>(at);
      work.pop_back();
      for (const std::int32_t id : position_->trie.tokens(node)) set.insert(id);
      for (const TokenTrie::Edge& edge : position_->trie.edges(node)) {
        const auto child = static_cast<std::int32_t>(edge.node);
        const std::int32_t next = matcher_.next(state, edge.byte);
        if (next != GrammarMatcher::dead) work.emplace_back(child, next);
      }
    }
    return set;
  }

  GrammarMatcher matcher_;
  std::int32_t state_ = GrammarMatcher::dead;
  std::vector<std::int32_t> ids_;
  const ConstraintVocabulary::Position* position_ = nullptr;
  std::vector<TokenSet> masks_;
  std::map<std::int32_t, std::size_t> places_;  // in masks_, by state and whether an answer begins
};

ZIYA_NAMESPACE_END
