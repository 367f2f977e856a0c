// SPDX-License-Identifier: Apache-2.0
// Prompt templates as people write them, and what they make of a question.
#include "ziya/text/prompt_template.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace {

/// LLaMA's first 259 pieces and 26 letters; "<human>" and "<bot>" are added.
ziya::Tokenizer tokenizer() {
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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ziya::Tokenizer tokens = tokenizer();
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto made = ziya::PromptTemplate::parse(text, "fuzz");
    std::vector<std::int32_t> ids = made.start_ids(tokens);
    const bool fits = made.fits(tokens);
    try {
      for (const bool first : {true, false}) {
        for (const std::int32_t id : made.query_ids(tokens, " a question ", first)) {
          ids.push_back(id);
        }
      }
      for (const std::int32_t id : made.query_ids(tokens, "b", true, "own")) ids.push_back(id);
      for (const std::int32_t id : made.answer_ids(tokens, " an answer ")) ids.push_back(id);
      for (const std::int32_t id : made.closing_ids(tokens)) ids.push_back(id);
    } catch (const ziya::ArgumentError&) {
      if (fits) std::abort();  // refused although the tokenizer has all of its tokens
    }
    for (const std::int32_t id : ids) {
      if (!tokens.contains(id)) std::abort();
    }
  } catch (const ziya::Error&) {
  }
  return 0;
}
