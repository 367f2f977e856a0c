// SPDX-License-Identifier: Apache-2.0
// A tokenizer.model: what is let through to the SentencePiece library must not harm it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "ziya/text/sentencepiece_encoder.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string bytes(reinterpret_cast<const char*>(data), size);
    const ziya::SentencePieceModel model(bytes, "model");
    const ziya::SentencePieceModel again(
        ziya::SentencePieceModel::assemble(model.pieces(), model.settings()), model.source());
    if (again.pieces().size() != model.pieces().size() ||
        again.add_dummy_prefix() != model.add_dummy_prefix() ||
        again.remove_extra_whitespaces() != model.remove_extra_whitespaces()) {
      std::abort();
    }
    for (const bool as_text : {false, true}) {
      const auto all = [&](const ziya::SentencePieceModel::Piece&) { return as_text; };
      const ziya::SentencePieceEncoder encoder(model.serialize(all), "model");
      std::vector<std::int32_t> ids;
      encoder.encode("a ab  aba 你好\xFF\xE4<bot>x\n\xE2\x96\x81", ids);
      for (const std::int32_t id : ids) {
        if (id < 0 || id >= encoder.size()) std::abort();
        (void)encoder.piece(id);
      }
      (void)encoder.decode(ids);
      (void)encoder.find("ab");
    }
  } catch (const ziya::Error&) {
  }
  return 0;
}
