// SPDX-License-Identifier: Apache-2.0
// What each token of a vocabulary adds to a text, in bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/generate/token_trie.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

/// Immutable, made once per tokenizer, shared by all constraints. A token adds the bytes that
/// decoding gives for it, so a byte-fallback token adds one byte; special and added tokens are
/// marks, not text, and add nothing. Where an answer begins, decoding drops the space in front of
/// the first word: there, tokens add something else.
class ConstraintVocabulary {
 public:
  struct Position {
    explicit Position(std::vector<std::string> texts) : bytes(std::move(texts)), trie(bytes) {}
    std::vector<std::string> bytes;  ///< index = id; empty: adds nothing
    TokenTrie trie;
  };

  explicit ConstraintVocabulary(const Tokenizer& tokenizer)
      : first_(texts(tokenizer, true)), later_(texts(tokenizer, false)) {}
  /// @param bytes index = id; the same everywhere
  explicit ConstraintVocabulary(const std::vector<std::string>& bytes)
      : first_(bytes), later_(bytes) {}

  [[nodiscard]] std::size_t size() const { return later_.bytes.size(); }
  /// @param first whether the answer begins here and does not continue the prompt's text
  [[nodiscard]] const Position& at(bool first) const { return first ? first_ : later_; }

 private:
  static std::vector<std::string> texts(const Tokenizer& tokenizer, bool first) {
    std::vector<std::string> result(static_cast<std::size_t>(tokenizer.vocabulary_size()));
    for (std::int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
      if (tokenizer.is_special(id) || tokenizer.is_added(id)) continue;
      Tokenizer::DecodeState state{first};
      tokenizer.decode_one(result[static_cast<std::size_t>(id)], state, id);
    }
    return result;
  }

  Position first_, later_;
};

ZIYA_NAMESPACE_END
