// SPDX-License-Identifier: Apache-2.0
// A tokenizer that is made in memory, for what needs one beside the bytes of a fuzzer.
#pragma once

#include <string>
#include <vector>

#include "ziya/text/sentencepiece_model.hpp"
#include "ziya/text/tokenizer.hpp"

namespace fuzz {

/// LLaMA's first 259 pieces and 26 letters; "<human>" and "<bot>" are added.
inline ziya::Tokenizer small_tokenizer() {
  using PieceType = ziya::SentencePieceModel::PieceType;
  std::vector<ziya::SentencePieceModel::Piece> pieces{
      {"<unk>", PieceType::unknown}, {"<s>", PieceType::control}, {"</s>", PieceType::control}};
  for (int byte = 0; byte < 256; ++byte) {
    constexpr const char* digits = "0123456789ABCDEF";
    pieces.push_back(
        {std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">", PieceType::byte});
  }
  for (char letter = 'a'; letter <= 'z'; ++letter) {
    pieces.push_back({std::string(1, letter)});
  }
  std::string trainer, settings;
  ziya::append_protobuf_integer(trainer, 3, 2);   // model type: BPE
  ziya::append_protobuf_integer(trainer, 35, 1);  // byte fallback
  ziya::append_protobuf_bytes(settings, 2, trainer);
  return ziya::Tokenizer::from_files(
      {{"tokenizer.model", ziya::SentencePieceModel::assemble(pieces, settings)},
       {"added_tokens.json", R"({"<human>": 285, "<bot>": 286})"}},
      "fuzz");
}

}  // namespace fuzz
