// SPDX-License-Identifier: Apache-2.0
// Text to ids and back: SentencePiece pieces, added tokens, and the rules of the reference.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/text/added_tokens.hpp"
#include "ziya/text/reference_decode.hpp"
#include "ziya/text/sentencepiece_encoder.hpp"
#include "ziya/text/sentencepiece_model.hpp"
#include "ziya/text/tokenizer_config.hpp"
#if ZIYA_DEFINITIONS
#include "ziya/io/gguf.hpp"
#include "ziya/io/gguf_shards.hpp"
#include "ziya/text/gguf_vocabulary.hpp"
#endif

ZIYA_NAMESPACE_BEGIN

/// How text is read.
/// - `legacy`: as the slow tokenizer of Transformers 4.29–4.33, with which Ziya was trained. The
///   text is cut at added and special tokens, white space beside a token goes where the token
///   strips it (a plain-string token strips both sides), and every stretch between is encoded on
///   its own, each with its own leading space.
/// - `transformers`: the same as of 4.36 (slow, legacy=True), where plain-string tokens strip
///   nothing.
/// - `plain`: no token is recognised, `</s>` is four characters: for text nobody vouches for.
enum class TokenizerMode { legacy, transformers, plain };

struct EncodeOptions {
  TokenizerMode mode = TokenizerMode::legacy;
  std::optional<bool> add_bos = {};  ///< unset: as tokenizer_config.json says, else true
  std::optional<bool> add_eos = {};  ///< unset: as tokenizer_config.json says, else false
};

struct DecodeOptions {
  bool skip_special = false;  ///< leave out special tokens (`<s>`, `</s>`, …)
  /// The reference's `batch_decode`: spaces around added tokens, U+FFFD for broken bytes.
  bool spaces_around_added = false;
  /// The ids go on from others: the space in front of the first word is real, not the one that
  /// encoding put there. Without effect on `spaces_around_added`.
  bool continues = false;
};

/// A LLaMA tokenizer: `tokenizer.model` and the added tokens beside it.
/// Immutable; copies share everything; const methods may run in several threads.
class Tokenizer {
 public:
  using Mode = TokenizerMode;
  using EncodeOptions = ziya::EncodeOptions;
  using DecodeOptions = ziya::DecodeOptions;

  /// Where a decode stands between two ids: whether the space that encoding puts in front of a text
  /// may still come.
  struct DecodeState {
    bool at_start = true;
  };

  /// @param path a model folder, or the tokenizer.model in one, or a GGUF file, or a folder with
  /// one and no tokenizer.model; `~` and hub caches are understood. Only the tokenizer's own files
  /// need to be there.
  /// @throws IoError ZIYA-301 when there is no tokenizer.model, FormatError ZIYA-234 when it is a
  /// Git-LFS pointer, ZIYA-302 and ZIYA-303, ConfigError ZIYA-304
  static Tokenizer load(const std::filesystem::path& path);

  /// The same from contents by file name: "tokenizer.model" and the JSON files that would lie
  /// beside it. @param source named in messages
  static Tokenizer from_files(const std::map<std::string, std::string>& files,
                              const std::string& source);

  /// The ids of `text` (any bytes; those that are not UTF-8 become U+FFFD).
  /// @throws ArgumentError ZIYA-311 for a text over 256 MiB, ZIYA-312 when bos or eos is asked for
  /// and there is none
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text,
                                                 const EncodeOptions& options = {}) const;

  /// The text of `ids`: the exact bytes of their pieces joined, `▁` being a space. Only the one
  /// space that encoding puts in front of a text is left out, as SentencePiece's own decoder does:
  /// the first piece that is not special loses a leading `▁`. Bytes need not be UTF-8.
  /// @throws ArgumentError ZIYA-310 for an id that the tokenizer does not have
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids,
                                   const DecodeOptions& options = {}) const;

  /// Appends the bytes of one id to `text`; `state` starts as `DecodeState{}` and goes from id to
  /// id. The bytes of all ids, joined, are `decode` of them.
  /// @throws ArgumentError ZIYA-310
  void decode_one(std::string& text, DecodeState& state, std::int32_t id,
                  bool skip_special = false) const;

  /// Ids are 0 … vocabulary_size() − 1, added tokens included. The model's embedding may have more
  /// rows; those are padding.
  [[nodiscard]] std::int32_t vocabulary_size() const { return state_->vocabulary_size; }
  [[nodiscard]] bool contains(std::int32_t id) const { return id >= 0 && id < vocabulary_size(); }
  /// Whether the id lies behind the pieces of tokenizer.model.
  [[nodiscard]] bool is_added(std::int32_t id) const {
    return contains(id) && id >= state_->encoder.size();
  }
  /// bos, eos, unk, pad, additional special tokens, and the model's control pieces.
  [[nodiscard]] bool is_special(std::int32_t id) const {
    if (!contains(id)) return false;
    if (const AddedToken* token = state_->added.find(id); token != nullptr && token->special) {
      return true;
    }
    return !is_added(id) && (state_->encoder.is_control(id) || state_->encoder.is_unknown(id));
  }

  /// Whether encoding adds bos and eos when nothing else is asked for.
  [[nodiscard]] bool adds_bos() const { return state_->add_bos; }
  [[nodiscard]] bool adds_eos() const { return state_->add_eos; }

  /// −1 where the tokenizer has none.
  [[nodiscard]] std::int32_t bos_id() const { return state_->bos; }
  [[nodiscard]] std::int32_t eos_id() const { return state_->eos; }
  [[nodiscard]] std::int32_t unk_id() const { return state_->unk; }
  [[nodiscard]] std::optional<std::int32_t> pad_id() const { return state_->pad; }

  /// The id spelled exactly so: an added token's content or a piece (`▁` for a space).
  [[nodiscard]] std::optional<std::int32_t> id_of(std::string_view token) const {
    if (const AddedToken* added = state_->added.find(token)) return added->id;
    return state_->encoder.find(token);
  }
  /// The spelling of an id. @throws ArgumentError ZIYA-310
  [[nodiscard]] std::string piece(std::int32_t id) const {
    check(id);
    if (const AddedToken* token = state_->added.find(id)) return token->content;
    return state_->encoder.piece(id);
  }

 private:
  static constexpr std::string_view space = "\xE2\x96\x81";  // ▁, U+2581

  struct State {
    State(const SentencePieceModel& model, const TokenizerDocuments& documents)
        : encoder(model.serialize(), model.source()) {
      const auto own = [&](std::int32_t id) { return id < 0 ? "" : encoder.piece(id); };
      const TokenizerConfig config(
          documents,
          {encoder.size(), [this](std::string_view piece) { return encoder.find(piece); },
           own(encoder.bos_id()), own(encoder.eos_id()), own(encoder.unk_id())});
      added = AddedTokens(config.tokens());
      add_bos = config.add_bos();
      add_eos = config.add_eos();
      clean_up_spaces = config.clean_up_spaces();
      bos = config.special_id("bos_token").value_or(-1);
      eos = config.special_id("eos_token").value_or(-1);
      unk = config.special_id("unk_token").value_or(encoder.unk_id());
      pad = config.special_id("pad_token");
      vocabulary_size = encoder.size();
      if (!config.tokens().empty()) {
        vocabulary_size = std::max(vocabulary_size, config.tokens().back().id + 1);
      }
      remove_extra_whitespaces = model.remove_extra_whitespaces();
      drops_leading_space = model.add_dummy_prefix() || remove_extra_whitespaces;
      // A token that SentencePiece itself would recognise needs a second model for plain text.
      const auto is_token = [&](const SentencePieceModel::Piece& piece) {
        return piece.type == SentencePieceModel::PieceType::user_defined &&
               added.find(piece.text) != nullptr;
      };
      bool has_token = false;
      for (const auto& piece : model.pieces()) has_token = has_token || is_token(piece);
      if (has_token) {
        plain = std::make_unique<SentencePieceEncoder>(model.serialize(is_token), model.source());
      }
    }

    SentencePieceEncoder encoder;
    std::unique_ptr<SentencePieceEncoder> plain;  // null: `encoder` serves
    AddedTokens added;
    bool add_bos = true, add_eos = false, clean_up_spaces = false;
    bool drops_leading_space = true, remove_extra_whitespaces = false;
    std::int32_t bos = -1, eos = -1, unk = -1, vocabulary_size = 0;
    std::optional<std::int32_t> pad;
  };

  Tokenizer(const SentencePieceModel& model, const TokenizerDocuments& documents)
      : state_(std::make_shared<const State>(model, documents)) {}

  void append(std::vector<std::int32_t>& ids, std::string_view text, Mode mode) const {
    if (mode == Mode::plain) {
      (state_->plain ? *state_->plain : state_->encoder).encode(text, ids);
      return;
    }
    const SplitRule rule = mode == Mode::legacy ? SplitRule::legacy : SplitRule::newer;
    for (const AddedTokens::Segment& segment : state_->added.split(text, rule)) {
      if (segment.token != nullptr) {
        ids.push_back(segment.token->id);
      } else {
        state_->encoder.encode(segment.text, ids);
      }
    }
  }

  static void append_spaced(std::string& text, std::string_view piece) {
    for (std::size_t found; (found = piece.find(space)) != std::string_view::npos;) {
      text += piece.substr(0, found);
      text += ' ';
      piece.remove_prefix(found + space.size());
    }
    text += piece;
  }

  void check(std::int32_t id) const {
    if (contains(id)) return;
    throw ArgumentError("ZIYA-310", "tokenizer: id " + std::to_string(id) +
                                        " is outside its vocabulary of " +
                                        std::to_string(vocabulary_size()) + " tokens");
  }

  static std::int32_t need(std::int32_t id, const std::string& name) {
    if (id < 0) throw ArgumentError("ZIYA-312", "tokenizer: has no " + name + " token to add");
    return id;
  }

  [[noreturn]] static void refuse_missing(const std::filesystem::path& folder) {
    std::error_code ignored;
    const std::string name = utf8_from_path(folder);
    std::string message = name + ": has no tokenizer.model";
    if (std::filesystem::exists(folder / "tokenizer.json", ignored)) {
      message += "; there is a tokenizer.json, which is not read";
    }
    throw IoError("ZIYA-301", message +
                                  ". The SentencePiece model is needed: it lies beside the "
                                  "original weights and in the delta's folder; copy it here");
  }

  std::shared_ptr<const State> state_;
};

#if ZIYA_DEFINITIONS
ZIYA_INLINE Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  const std::filesystem::path found = resolve_model_path(path);
  std::error_code ignored;
  const bool is_folder = std::filesystem::is_directory(found, ignored);
  const std::filesystem::path model = is_folder ? found / "tokenizer.model" : found;
  const auto weights =
      is_folder && !std::filesystem::exists(model, ignored) ? gguf::find_in_folder(found) : model;
  if (gguf::is_gguf(weights)) {
    const gguf::Contents contents = gguf::read_contents(InputFile(weights));
    return from_files(gguf::tokenizer_files(contents.metadata), contents.metadata.source());
  }
  if (!std::filesystem::exists(model, ignored)) refuse_missing(found);
  std::string bytes = read_text_file(model, SentencePieceModel::max_bytes);
  refuse_lfs_pointer(bytes, utf8_from_path(model));
  return Tokenizer(SentencePieceModel(std::move(bytes), utf8_from_path(model)),
                   TokenizerDocuments::read(model.parent_path()));
}

ZIYA_INLINE Tokenizer Tokenizer::from_files(const std::map<std::string, std::string>& files,
                                            const std::string& source) {
  const auto model = files.find("tokenizer.model");
  if (model == files.end()) refuse_missing(path_from_utf8(source));
  return Tokenizer(SentencePieceModel(model->second, source + ": tokenizer.model"),
                   TokenizerDocuments::parse(files, source));
}

ZIYA_INLINE std::vector<std::int32_t> Tokenizer::encode(std::string_view text,
                                                        const EncodeOptions& options) const {
  std::vector<std::int32_t> ids;
  if (options.add_bos.value_or(state_->add_bos)) ids.push_back(need(state_->bos, "bos"));
  append(ids, text, options.mode);
  if (options.add_eos.value_or(state_->add_eos)) ids.push_back(need(state_->eos, "eos"));
  return ids;
}

ZIYA_INLINE std::string Tokenizer::decode(std::span<const std::int32_t> ids,
                                          const DecodeOptions& options) const {
  for (const std::int32_t id : ids) check(id);
  std::string text;
  if (options.spaces_around_added) {
    text = reference_decode(state_->encoder, state_->added, ids, options.skip_special);
    return state_->clean_up_spaces ? clean_up_spaces(std::move(text)) : text;
  }
  DecodeState state{!options.continues};
  for (const std::int32_t id : ids) decode_one(text, state, id, options.skip_special);
  return text;
}

ZIYA_INLINE void Tokenizer::decode_one(std::string& text, DecodeState& state, std::int32_t id,
                                       bool skip_special) const {
  check(id);
  const SentencePieceEncoder& encoder = state_->encoder;
  const bool unknown = id < encoder.size() && encoder.is_unknown(id);
  if (is_special(id)) {
    if (unknown) state.at_start = false;
    if (!skip_special) text += piece(id);
    return;
  }
  if (is_added(id)) {
    state.at_start = false;
    text += piece(id);
    return;
  }
  std::string bytes = encoder.piece(id);
  if (encoder.is_byte(id)) {
    text += static_cast<char>(std::stoi(bytes.substr(3, 2), nullptr, 16));
    state.at_start = false;
    return;
  }
  std::string_view rest = bytes;
  bool took_space = false;
  if (state.at_start && state_->drops_leading_space && rest.starts_with(space)) {
    rest.remove_prefix(space.size());
    took_space = !state_->remove_extra_whitespaces;
  }
  state.at_start = state.at_start && rest.empty() && !took_space;
  append_spaced(text, rest);
}
#endif

ZIYA_NAMESPACE_END
