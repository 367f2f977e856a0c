// SPDX-License-Identifier: Apache-2.0
// From the tokenizer files of a Hugging Face folder to the vocabulary in a GGUF file's metadata.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/gguf_metadata.hpp"
#include "ziya/text/gguf_vocabulary.hpp"
#include "ziya/text/sentencepiece_model.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

namespace gguf {

/// Sets `tokenizer.ggml.*` and what those keys cannot say under `ziya.tokenizer.*`.
///
/// Tokens are the pieces, then the added tokens (special ones as control, others as user-defined
/// tokens), then "[PADn]" of type unused for every further row of the embedding, as llama.cpp's
/// own converter has it: there must be as many tokens as rows.
/// @param files contents by name: "tokenizer.model" and the JSON files beside it
/// @param rows of the embedding
/// @throws IoError ZIYA-301 without a tokenizer.model, what Tokenizer::load refuses, ConfigError
/// ZIYA-525 when there are more tokens than rows
inline void set_vocabulary(Metadata& metadata, const std::map<std::string, std::string>& files,
                           std::int64_t rows) {
  using PieceType = SentencePieceModel::PieceType;
  const std::string& source = metadata.source();
  const Tokenizer tokenizer = Tokenizer::from_files(files, source);
  const SentencePieceModel model(files.at("tokenizer.model"), source);
  if (tokenizer.vocabulary_size() > rows) {
    throw ConfigError(
        "ZIYA-525", source + ": the tokenizer has " + std::to_string(tokenizer.vocabulary_size()) +
                        " tokens, but the embedding only " + std::to_string(rows) + " rows");
  }
  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<std::int32_t> types;
  const auto add = [&](std::string text, float score, PieceType type) {
    texts.push_back(std::move(text));
    scores.push_back(score);
    types.push_back(static_cast<std::int32_t>(type));
  };
  constexpr float added_score = -1000.0f, padding_score = -10000.0f;
  for (const auto& piece : model.pieces()) add(piece.text, piece.score, piece.type);
  for (auto id = static_cast<std::int32_t>(texts.size()); id < tokenizer.vocabulary_size(); ++id) {
    add(tokenizer.piece(id), added_score,
        tokenizer.is_special(id) ? PieceType::control : PieceType::user_defined);
  }
  for (auto id = static_cast<std::int64_t>(texts.size()); id < rows; ++id) {
    add("[PAD" + std::to_string(id) + "]", padding_score, PieceType::unused);
  }
  metadata.set_text("tokenizer.ggml.model", "llama");
  metadata.set_text("tokenizer.ggml.pre", "default");
  metadata.set_texts("tokenizer.ggml.tokens", texts);
  metadata.set_floats("tokenizer.ggml.scores", scores);
  metadata.set_i32s("tokenizer.ggml.token_type", types);
  const auto set_id = [&](const char* key, std::int32_t id) {
    if (id >= 0) metadata.set_u32(key, id);
  };
  set_id("tokenizer.ggml.bos_token_id", tokenizer.bos_id());
  set_id("tokenizer.ggml.eos_token_id", tokenizer.eos_id());
  set_id("tokenizer.ggml.unknown_token_id", tokenizer.unk_id());
  set_id("tokenizer.ggml.padding_token_id", tokenizer.pad_id().value_or(-1));
  metadata.set_bool("tokenizer.ggml.add_bos_token", tokenizer.adds_bos());
  metadata.set_bool("tokenizer.ggml.add_eos_token", tokenizer.adds_eos());
  metadata.set_bool("tokenizer.ggml.add_space_prefix", model.add_dummy_prefix());
  metadata.set_bool("tokenizer.ggml.remove_extra_whitespaces", model.remove_extra_whitespaces());
  metadata.set_u32("ziya.tokenizer.pieces", static_cast<std::int64_t>(model.pieces().size()));
  metadata.set_bytes("ziya.tokenizer.sentencepiece", model.settings());
  for (const char* document : tokenizer_documents) {
    if (const auto found = files.find(document); found != files.end()) {
      metadata.set_text(std::string(recorded) + document, found->second);
    }
  }
}

}  // namespace gguf

ZIYA_NAMESPACE_END
