// SPDX-License-Identifier: Apache-2.0
// Tokens that a text is split at before SentencePiece sees it, found by their spelling.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/text/whitespace.hpp"

ZIYA_NAMESPACE_BEGIN

/// Whether a token eats the white space on its left and on its right.
struct Stripping {
  bool left = false;
  bool right = false;
  friend bool operator==(const Stripping&, const Stripping&) = default;
};

/// An added token (`<human>`) or a special token (`</s>`).
struct AddedToken {
  std::string content;
  std::int32_t id = -1;
  bool special = false;
  bool single_word = false;  ///< newer rule only: a token only where spaces or the ends surround it
  Stripping legacy;          ///< under the rule of Transformers 4.29–4.33
  Stripping newer;           ///< under the rule of Transformers 4.36
};

enum class SplitRule { legacy, newer };

/// The tokens of one tokenizer. Immutable after construction.
class AddedTokens {
 public:
  /// A stretch of text, with the token it is, if it is one.
  struct Segment {
    std::string text;
    const AddedToken* token = nullptr;
  };

  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      by_content_[tokens_[i].content] = i;
      by_id_[tokens_[i].id] = i;
      ++lengths_[static_cast<std::int32_t>(tokens_[i].content.size())];
      opens_[static_cast<unsigned char>(tokens_[i].content.front())] = true;
    }
  }

  [[nodiscard]] const std::vector<AddedToken>& tokens() const { return tokens_; }
  [[nodiscard]] const AddedToken* find(std::string_view content) const {
    const auto found = by_content_.find(content);
    return found == by_content_.end() ? nullptr : &tokens_[found->second];
  }
  [[nodiscard]] const AddedToken* find(std::int32_t id) const {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : &tokens_[found->second];
  }

  /// Cuts `text` at the tokens in it, leftmost first and longest first, and strips the neighbours
  /// of each token. Segments that end up empty are left out.
  ///
  /// Step for step what the slow tokenizers do, on a list that changes while it is walked: a token
  /// that is itself white space can be stripped away by its neighbour.
  [[nodiscard]] std::vector<Segment> split(std::string_view text, SplitRule rule) const {
    std::vector<std::string> parts = cut(text);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const AddedToken* token = find(parts[i]);
      if (token == nullptr) continue;
      std::string* left = i > 0 && !parts[i - 1].empty() ? &parts[i - 1] : nullptr;
      std::string* right = i + 1 < parts.size() && !parts[i + 1].empty() ? &parts[i + 1] : nullptr;
      const Stripping strips = rule == SplitRule::legacy ? token->legacy : token->newer;
      // The reference looks at both neighbours as they were before stripping.
      const bool joined_left = left != nullptr && left->back() != ' ';
      const bool joined_right = right != nullptr && right->front() != ' ';
      if (strips.right && right != nullptr)
        right->erase(0, right->size() - strip_left(*right).size());
      if (strips.left && left != nullptr) left->resize(strip_right(*left).size());
      if (rule == SplitRule::newer && token->single_word) {
        if (joined_left) {
          *left += std::exchange(parts[i], {});
        } else if (joined_right) {
          *right = std::exchange(parts[i], {}) + *right;
        }
      }
    }
    std::vector<Segment> segments;
    for (std::string& part : parts) {
      if (part.empty()) continue;
      const AddedToken* token = find(part);
      segments.push_back({std::move(part), token});
    }
    return segments;
  }

 private:
  [[nodiscard]] std::vector<std::string> cut(std::string_view text) const {
    std::vector<std::string> parts;
    std::size_t begin = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t length = token_length_at(text.substr(at));
      if (length == 0) {
        ++at;
        continue;
      }
      if (at > begin) parts.push_back(std::string(text.substr(begin, at - begin)));
      parts.push_back(std::string(text.substr(at, length)));
      begin = at += length;
    }
    if (begin < text.size()) parts.push_back(std::string(text.substr(begin)));
    return parts;
  }

  /// Bytes of the longest token that `text` begins with, 0 when it begins with none.
  [[nodiscard]] std::size_t token_length_at(std::string_view text) const {
    if (!opens_[static_cast<unsigned char>(text.front())]) return 0;
    for (auto each = lengths_.rbegin(); each != lengths_.rend(); ++each) {
      const auto length = static_cast<std::size_t>(each->first);
      if (length <= text.size() && find(text.substr(0, length)) != nullptr) return length;
    }
    return 0;
  }

  std::vector<AddedToken> tokens_;
  std::map<std::string, std::size_t, std::less<>> by_content_;
  std::map<std::int32_t, std::size_t> by_id_;
  std::map<std::int32_t, std::size_t> lengths_;  // bytes of a token → how many have so many
  std::array<bool, 256> opens_{};
};

ZIYA_NAMESPACE_END
