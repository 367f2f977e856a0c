// SPDX-License-Identifier: Apache-2.0
// From the vocabulary in a GGUF file's metadata to the tokenizer files of a Hugging Face folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/gguf_metadata.hpp"
#include "ziya/io/json.hpp"
#include "ziya/text/protobuf.hpp"
#include "ziya/text/sentencepiece_model.hpp"
#include "ziya/text/utf8.hpp"

ZIYA_NAMESPACE_BEGIN

namespace gguf {

/// Files beside tokenizer.model whose text our own files record under "ziya.tokenizer." + name,
/// because GGUF's keys cannot say how an added token strips its neighbours.
inline constexpr const char* tokenizer_documents[] = {"added_tokens.json", "tokenizer_config.json",
                                                      "special_tokens_map.json"};
inline constexpr std::string_view recorded = "ziya.tokenizer.";

/// The name of a padding row's token: "[PAD39410]".
inline bool is_padding(std::string_view token) {
  if (!token.starts_with("[PAD") || !token.ends_with("]")) return false;
  return token.substr(4, token.size() - 5).find_first_not_of("0123456789") ==
         std::string_view::npos;
}

/// Reads `tokenizer.ggml.*`.
///
/// Tokens up to the last one that is neither padding nor an added token are the pieces of the
/// SentencePiece model; tokens of type user-defined or control behind them are the added tokens;
/// unused tokens named "[PAD…]" at the end stand for padding rows of the embedding and are no
/// tokens at all. The model is LLaMA's: byte-pair merges by score, bytes for what no piece spells,
/// no normalisation, a space in front unless `tokenizer.ggml.add_space_prefix` is false. Files that
/// this library wrote record the model's own settings and the JSON files, and give them back.
class VocabularyReader {
 public:
  /// @throws ConfigError ZIYA-257 for a vocabulary of another kind, FormatError ZIYA-258, ZIYA-252
  explicit VocabularyReader(const Metadata& metadata) : metadata_(metadata) {
    const auto model = metadata.text("tokenizer.ggml.model");
    if (!model) refuse("has no vocabulary (tokenizer.ggml.model)");
    if (*model != "llama") {
      throw ConfigError("ZIYA-257", metadata.source() + ": tokenizer.ggml.model is \"" +
                                        model->substr(0, 40) +
                                        "\", only \"llama\" (SentencePiece) is supported");
    }
    read_tokens();
    find_parts();
  }

  /// By file name: "tokenizer.model" and the JSON files.
  [[nodiscard]] std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> files;
    std::vector<Piece> pieces;
    for (std::size_t i = 0; i < pieces_; ++i) pieces.push_back(Piece(tokens_[i]));
    const auto own = metadata_.bytes("ziya.tokenizer.sentencepiece");
    files["tokenizer.model"] = SentencePieceModel::assemble(pieces, own ? *own : settings());
    if (own) {
      for (const char* document : tokenizer_documents) {
        if (const auto text = metadata_.text(std::string(recorded) + document)) {
          files[document] = *text;
        }
      }
      return files;
    }
    add_documents(files);
    return files;
  }

 private:
  using Piece = SentencePieceModel::Piece;
  using PieceType = SentencePieceModel::PieceType;

  [[noreturn]] void refuse(const std::string& why) const {
    throw FormatError("ZIYA-258", metadata_.source() + ": " + why);
  }

  void read_tokens() {
    auto texts = metadata_.texts("tokenizer.ggml.tokens");
    const auto scores = metadata_.floats("tokenizer.ggml.scores");
    const auto types = metadata_.integers("tokenizer.ggml.token_type");
    if (!texts || !scores || !types) {
      refuse("the vocabulary needs tokenizer.ggml.tokens, scores and token_type");
    }
    if (texts->size() != scores->size() || texts->size() != types->size()) {
      refuse("the vocabulary has " + std::to_string(texts->size()) + " tokens, " +
             std::to_string(scores->size()) + " scores and " + std::to_string(types->size()) +
             " types");
    }
    if (texts->size() > SentencePieceModel::max_pieces) refuse("has more than 1048576 tokens");
    for (std::size_t i = 0; i < texts->size(); ++i) {
      const std::int64_t type = (*types)[i];
      if (type < 1 || type > 6) {
        refuse("token " + std::to_string(i) + " has the unknown type " + std::to_string(type));
      }
      // The format numbers types as SentencePiece does.
      tokens_.push_back({std::move((*texts)[i]), static_cast<PieceType>(type), (*scores)[i]});
    }
  }

  void find_parts() {
    end_ = tokens_.size();
    const auto recorded_pieces = metadata_.integer("ziya.tokenizer.pieces");
    if (recorded_pieces) {
      if (*recorded_pieces < 1 || *recorded_pieces > static_cast<std::int64_t>(end_)) {
        refuse("ziya.tokenizer.pieces is " + std::to_string(*recorded_pieces) + " of " +
               std::to_string(end_) + " tokens");
      }
      pieces_ = static_cast<std::size_t>(*recorded_pieces);
      return;
    }
    const auto last = [&] { return tokens_[end_ - 1]; };
    while (end_ > 0 && last().type == PieceType::unused && is_padding(last().text)) --end_;
    pieces_ = end_;
    const auto is_added = [&](const Piece& token) {
      return token.type == PieceType::user_defined || token.type == PieceType::control;
    };
    while (pieces_ > 0 && is_added(tokens_[pieces_ - 1])) --pieces_;
    if (pieces_ == 0) refuse("the vocabulary holds no pieces");
  }

  /// The id under `tokenizer.ggml.<key>_token_id`; −1 where there is none (or 2^32 − 1).
  [[nodiscard]] std::int64_t special(const std::string& key) const {
    const std::string name = "tokenizer.ggml." + key + "_token_id";
    const std::int64_t id = metadata_.integer(name).value_or(-1);
    if (id < 0 || id == 0xffffffff) return -1;
    if (id >= static_cast<std::int64_t>(end_)) {
      refuse(name + " is " + std::to_string(id) + " of " + std::to_string(end_) + " tokens");
    }
    return id;
  }
  [[nodiscard]] const std::string& text_of(std::int64_t id) const {
    return tokens_[static_cast<std::size_t>(id)].text;
  }

  /// Field numbers: sentencepiece_model.proto of SentencePiece 0.1.97
  [[nodiscard]] std::string settings() const {
    std::string trainer, normalizer, result;
    bool has_bytes = false;
    for (const Piece& token : tokens_) has_bytes = has_bytes || token.type == PieceType::byte;
    append_protobuf_integer(trainer, 3, 2);           // model_type: BPE
    append_protobuf_integer(trainer, 35, has_bytes);  // byte_fallback
    struct SpecialPiece {
      std::uint64_t field;
      const char *key, *usual;
    };
    constexpr SpecialPiece pieces[] = {
        {45, "unknown", "<unk>"}, {46, "bos", "<s>"}, {47, "eos", "</s>"}};
    for (const auto& [field, key, usual] : pieces) {
      const std::int64_t id = special(key);
      append_protobuf_bytes(trainer, field, id >= 0 ? text_of(id) : usual);
    }
    append_protobuf_bytes(normalizer, 1, "identity");
    if (const auto rules = metadata_.bytes("tokenizer.ggml.precompiled_charsmap")) {
      append_protobuf_bytes(normalizer, 2, *rules);
    }
    const auto flag = [&](const char* key, bool fallback) {
      return metadata_.boolean(std::string("tokenizer.ggml.") + key).value_or(fallback);
    };
    append_protobuf_integer(normalizer, 3, flag("add_space_prefix", true));
    append_protobuf_integer(normalizer, 4, flag("remove_extra_whitespaces", false));
    append_protobuf_bytes(result, 2, trainer);
    append_protobuf_bytes(result, 3, normalizer);
    return result;
  }

  /// What the keys say, as the files of a folder would say it.
  void add_documents(std::map<std::string, std::string>& files) const {
    nlohmann::json added = json_object(), specials = json_object();
    nlohmann::json additional = json_array();
    const auto token = [](const std::string& content) {
      nlohmann::json result;
      result["content"] = content;
      for (const char* flag : {"lstrip", "normalized", "rstrip", "single_word"}) {
        result[flag] = false;
      }
      return result;
    };
    for (std::size_t i = pieces_; i < end_; ++i) {
      const std::string& text = tokens_[i].text;
      if (!is_valid_utf8(text)) refuse("token " + std::to_string(i) + " is not UTF-8");
      if (added.contains(text)) refuse("token " + std::to_string(i) + " is there twice: " + text);
      added[text] = i;
      if (tokens_[i].type == PieceType::control) additional.push_back(token(text));
    }
    const std::pair<const char*, const char*> keys[] = {{"bos", "bos_token"},
                                                        {"eos", "eos_token"},
                                                        {"unknown", "unk_token"},
                                                        {"padding", "pad_token"}};
    for (const auto& [key, name] : keys) {
      const std::int64_t id = special(key);
      if (id < 0) continue;
      if (!is_valid_utf8(text_of(id))) refuse("token " + std::to_string(id) + " is not UTF-8");
      specials[name] = token(text_of(id));
    }
    if (!additional.empty()) specials["additional_special_tokens"] = additional;
    const auto flag = [&](const char* key, bool fallback) {
      return metadata_.boolean(std::string("tokenizer.ggml.") + key).value_or(fallback);
    };
    nlohmann::json config;
    config["add_bos_token"] = flag("add_bos_token", true);
    config["add_eos_token"] = flag("add_eos_token", false);
    config["clean_up_tokenization_spaces"] = false;
    config["tokenizer_class"] = std::string("LlamaTokenizer");
    if (!added.empty()) files["added_tokens.json"] = added.dump(2) + "\n";
    files["special_tokens_map.json"] = specials.dump(2) + "\n";
    files["tokenizer_config.json"] = config.dump(2) + "\n";
  }

  const Metadata& metadata_;
  std::vector<Piece> tokens_;
  std::size_t pieces_ = 0;  // tokens in front are pieces
  std::size_t end_ = 0;     // tokens behind are padding
};

/// The tokenizer files that the vocabulary of a GGUF file stands for, by name.
/// @throws ConfigError ZIYA-257, FormatError ZIYA-252, ZIYA-258
inline std::map<std::string, std::string> tokenizer_files(const Metadata& metadata) {
  return VocabularyReader(metadata).files();
}

}  // namespace gguf

ZIYA_NAMESPACE_END
