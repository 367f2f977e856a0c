// SPDX-License-Identifier: Apache-2.0
// What the JSON files beside a tokenizer.model say: tokens besides its pieces, special tokens, ids.
#pragma once

#include <array>
#include <charconv>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/json.hpp"
#include "ziya/text/added_tokens.hpp"
#include "ziya/text/tokenizer_documents.hpp"

ZIYA_NAMESPACE_BEGIN

/// The pieces of the SentencePiece model, as far as the documents lean on them.
struct PieceIndex {
  std::int32_t count = 0;
  std::function<std::optional<std::int32_t>(std::string_view)> find;
  std::string bos, eos, unk;  ///< the model's own special pieces; empty where it has none
};

/// The documents, read and checked against the pieces.
///
/// Two generations of Transformers read them differently, and a token keeps both answers. Up to
/// 4.33 ("legacy") a token spelled as a plain string strips both sides, except that bos, eos, unk
/// and pad in tokenizer_config.json strip nothing. From 4.34 on ("newer") a plain string strips
/// nothing, and `added_tokens_decoder` in tokenizer_config.json decides where it names the token.
/// In both, special_tokens_map.json overrules tokenizer_config.json (4.36 does not read it beside
/// an `added_tokens_decoder`, where the two say the same). Source: transformers 4.33.3 and 4.36.2,
/// tokenization_utils_base.py, `_from_pretrained`
class TokenizerConfig {
 public:
  /// @throws FormatError ZIYA-303 when the documents contradict each other or the pieces,
  /// ZIYA-231 for a member of a wrong kind, ConfigError ZIYA-304 for what is not supported
  TokenizerConfig(const TokenizerDocuments& documents, const PieceIndex& pieces) {
    const TokenizerDocument& config = documents.tokenizer_config;
    add_bos_ = json_get<bool>(config.json, "add_bos_token", config.name, true);
    add_eos_ = json_get<bool>(config.json, "add_eos_token", config.name, false);
    clean_up_spaces_ =
        json_get<bool>(config.json, "clean_up_tokenization_spaces", config.name, false);
    if (const auto* own = config.find("sp_model_kwargs"); own != nullptr && !own->empty()) {
      throw ConfigError("ZIYA-304", config.name +
                                        ": sp_model_kwargs is not empty; sampling while encoding "
                                        "is not supported");
    }
    read_decoder(config);
    read_added_tokens(documents.added_tokens);
    read_special_tokens(config, true);
    read_special_tokens(documents.special_tokens_map, false);
    default_special(bos_key, pieces.bos);
    default_special(eos_key, pieces.eos);
    default_special(unk_key, pieces.unk);
    mark_special_tokens();
    give_ids(documents.added_tokens, pieces);
  }

  /// Tokens with their ids, ascending. A token that is a piece has the piece's id; the others
  /// follow the pieces without a gap; special tokens that no file numbers come last, as in the
  /// reference.
  [[nodiscard]] const std::vector<AddedToken>& tokens() const { return tokens_; }
  [[nodiscard]] bool add_bos() const { return add_bos_; }
  [[nodiscard]] bool add_eos() const { return add_eos_; }
  [[nodiscard]] bool clean_up_spaces() const { return clean_up_spaces_; }

  /// The id of "bos_token", "pad_token", …, if there is such a token.
  [[nodiscard]] std::optional<std::int32_t> special_id(std::string_view key) const {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (key != keys[i] || special_[i].content.empty()) continue;
      for (const AddedToken& token : tokens_) {
        if (token.content == special_[i].content) return token.id;
      }
    }
    return std::nullopt;
  }

 private:
  /// A special token and whether its spelling carries flags under the legacy rule.
  struct Special : TokenSpelling {
    bool flagged = false;
  };
  // In the reference's order, which decides between spellings and numbers the unnumbered.
  static constexpr std::array keys = {"bos_token", "eos_token", "unk_token", "sep_token",
                                      "pad_token", "cls_token", "mask_token"};
  static constexpr std::size_t bos_key = 0, eos_key = 1, unk_key = 2;  // places in keys
  static constexpr std::size_t max_tokens = std::size_t{1} << 20;

  void read_decoder(const TokenizerDocument& config) {
    const nlohmann::json* decoder = config.find("added_tokens_decoder");
    if (decoder == nullptr) return;
    if (!decoder->is_object()) config.refuse("added_tokens_decoder is no object");
    for (const auto& [key, value] : json_members(*decoder)) {
      std::int32_t id = -1;
      const char* end = key.data() + key.size();
      const auto parsed = std::from_chars(key.data(), end, id);
      if (parsed.ec != std::errc() || parsed.ptr != end || std::to_string(id) != key) {
        config.refuse("added_tokens_decoder has the id \"" + key + "\"");
      }
      const TokenSpelling spelling = TokenSpelling::read(value, config);
      AddedToken& added = number(spelling.content, id, config);
      added.special = spelling.special;
      added.single_word = spelling.single_word;
      added.newer = spelling.strips;
      added.legacy = spelling.special ? spelling.strips : Stripping{true, true};
      decided_.insert(spelling.content);
    }
  }

  void read_added_tokens(const TokenizerDocument& added) {
    if (!added.json.is_object()) return;
    for (const auto& [content, value] : json_members(added.json)) {
      const auto id = json_get<std::int32_t>(added.json, content, added.name);
      number(content, id, added);
    }
  }

  void read_special_tokens(const TokenizerDocument& document, bool is_config) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::string_view key = keys[i];
      const nlohmann::json* value = document.find(keys[i]);
      if (value == nullptr) continue;
      Special token{TokenSpelling::read(*value, document)};
      // Old conversions spell "" where they mean the tokenizer's own.
      if (token.content.empty()) continue;
      const bool of_llama = key != "sep_token" && key != "cls_token" && key != "mask_token";
      token.flagged = !token.plain || (is_config && of_llama);
      special_[i] = token;
    }
    const nlohmann::json* list = document.find("additional_special_tokens");
    if (list == nullptr) return;
    if (!list->is_array()) document.refuse("additional_special_tokens is no list");
    for (const nlohmann::json& value : *list) {
      Special token{TokenSpelling::read(value, document)};
      if (token.content.empty()) document.refuse("additional_special_tokens has an empty token");
      token.flagged = !token.plain;
      additional_.push_back(std::move(token));
    }
  }

  /// What LlamaTokenizer's constructor defaults to; such a token strips nothing.
  void default_special(std::size_t key, const std::string& content) {
    if (content.empty() || !special_[key].content.empty()) return;
    special_[key].content = content;
    special_[key].flagged = true;
  }

  void mark_special_tokens() {
    const auto mark = [&](const Special& spelling) {
      AddedToken& token = find_or_add(spelling.content);
      if (spelling.flagged) {
        token.legacy = spelling.strips;  // the last spelling with flags decides
      } else if (!token.special) {
        token.legacy = {true, true};
      }
      if (decided_.insert(spelling.content).second) {  // the first one decides
        token.newer = spelling.strips;
        token.single_word = spelling.single_word;
      }
      token.special = true;
    };
    for (const Special& spelling : special_) {
      if (!spelling.content.empty()) mark(spelling);
    }
    for (const Special& spelling : additional_) mark(spelling);
  }

  void give_ids(const TokenizerDocument& document, const PieceIndex& pieces) {
    const auto refuse = [&](const AddedToken& token, const std::string& why) {
      document.refuse("the added token \"" + token.content + "\" with id " +
                      std::to_string(token.id) + " " + why);
    };
    std::vector<AddedToken> numbered, unnumbered;
    for (AddedToken& token : std::exchange(tokens_, {})) {
      if (const auto piece = pieces.find(token.content)) {
        if (token.id >= 0 && token.id != *piece) {
          refuse(token, "is piece " + std::to_string(*piece) + " of tokenizer.model");
        }
        token.id = *piece;
      } else if (token.id >= 0 && token.id < pieces.count) {
        refuse(token, "takes the id of a piece; tokenizer.model has " +
                          std::to_string(pieces.count) + " pieces");
      } else if (token.id < 0 && token.content == special_[unk_key].content) {
        continue;  // nothing stands for unknown text but the model's own piece
      }
      (token.id < 0 ? unnumbered : numbered).push_back(std::move(token));
    }
    std::map<std::int32_t, std::size_t> in_order;
    for (std::size_t i = 0; i < numbered.size(); ++i) in_order[numbered[i].id] = i;
    for (const auto& [id, place] : in_order) tokens_.push_back(std::move(numbered[place]));
    std::int32_t next = pieces.count;
    for (const AddedToken& token : tokens_) {
      if (token.id < pieces.count) continue;
      if (token.id != next) refuse(token, "leaves a gap, expected id " + std::to_string(next));
      ++next;
    }
    for (AddedToken& token : unnumbered) {
      token.id = next++;
      tokens_.push_back(std::move(token));
    }
  }

  AddedToken& find_or_add(const std::string& content) {
    const auto [found, fresh] = index_.emplace(content, tokens_.size());
    if (fresh) {
      AddedToken token;
      token.content = content;
      tokens_.push_back(std::move(token));
    }
    return tokens_[found->second];
  }

  AddedToken& number(const std::string& content, std::int32_t id,
                     const TokenizerDocument& document) {
    const std::string name = "the token \"" + content + "\"";
    if (content.empty()) document.refuse("has an empty token");
    if (id < 0) document.refuse(name + " has the id " + std::to_string(id));
    if (tokens_.size() >= max_tokens) document.refuse("has more than 1048576 tokens");
    AddedToken& token = find_or_add(content);
    if (token.id >= 0 && token.id != id) {
      document.refuse(name + " has the id " + std::to_string(id) + " here and " +
                      std::to_string(token.id) + " in another place");
    }
    const auto place = static_cast<std::size_t>(&token - tokens_.data());
    const auto owner = by_id_.find(id);
    if (owner != by_id_.end() && owner->second != place) {
      document.refuse("the id " + std::to_string(id) + " belongs to \"" + content + "\" and to \"" +
                      tokens_[owner->second].content + "\"");
    }
    by_id_[id] = place;
    if (token.id < 0) token.legacy = {true, true};
    token.id = id;
    return token;
  }

  bool add_bos_ = true, add_eos_ = false, clean_up_spaces_ = false;
  std::vector<AddedToken> tokens_;
  std::map<std::string, std::size_t, std::less<>> index_;  // content → place, until ids are given
  std::map<std::int32_t, std::size_t> by_id_;              // → place, until ids are given
  std::set<std::string> decided_;                          // tokens whose newer flags are known
  std::array<Special, keys.size()> special_;               // of keys; an empty one is not there
  std::vector<Special> additional_;
};

ZIYA_NAMESPACE_END
