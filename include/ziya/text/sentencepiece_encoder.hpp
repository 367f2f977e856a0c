// SPDX-License-Identifier: Apache-2.0
// The SentencePiece library behind a small door: text to piece ids, and what each piece is.
#pragma once

#include <sentencepiece_processor.h>

#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/text/sentencepiece_model.hpp"

ZIYA_NAMESPACE_BEGIN

/// A loaded SentencePiece model. Immutable; const methods may run in several threads.
class SentencePieceEncoder {
 public:
  /// The library counts characters in `int`, and normalising may triple them.
  static constexpr std::size_t max_text_bytes = std::size_t{256} << 20;

  /// @param model bytes from `SentencePieceModel::serialize`   @param source named in messages
  /// @throws FormatError ZIYA-302 when the library refuses the model
  SentencePieceEncoder(const std::string& model, const std::string& source) {
    std::string why;
    try {
      const auto status = processor_.LoadFromSerializedProto(model);
      if (status.ok()) return;
      why = status.message();
    } catch (const std::exception& error) {
      why = error.what();
    }
    throw FormatError("ZIYA-302", source + ": the SentencePiece library refuses it: " + why);
  }
  SentencePieceEncoder(const SentencePieceEncoder&) = delete;
  SentencePieceEncoder& operator=(const SentencePieceEncoder&) = delete;

  /// Appends the ids of `text` (any bytes) to `ids`.
  /// @throws ArgumentError ZIYA-311 when the text is too long, ZIYA-313 when the library fails
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const {
    if (text.size() > max_text_bytes) {
      throw ArgumentError("ZIYA-311", "tokenizer: a text of " + std::to_string(text.size()) +
                                          " bytes, expected at most " +
                                          std::to_string(max_text_bytes));
    }
    std::vector<int> pieces;
    check(processor_.Encode(text, &pieces), "encoding");
    for (const int piece : pieces) ids.push_back(piece);
  }

  /// The text as the library decodes it: no control pieces, `▁` in front dropped, U+FFFD for bytes
  /// that are not UTF-8. Every id is inside [0, size()).
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const {
    std::string text;
    if (ids.empty()) return text;
    check(processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text), "decoding");
    return text;
  }

  [[nodiscard]] std::int32_t size() const { return processor_.GetPieceSize(); }
  [[nodiscard]] std::string piece(std::int32_t id) const { return processor_.IdToPiece(id); }
  [[nodiscard]] bool is_control(std::int32_t id) const { return processor_.IsControl(id); }
  [[nodiscard]] bool is_unknown(std::int32_t id) const { return processor_.IsUnknown(id); }
  [[nodiscard]] bool is_byte(std::int32_t id) const { return processor_.IsByte(id); }

  /// The id of the piece spelled exactly so.
  [[nodiscard]] std::optional<std::int32_t> find(std::string_view piece) const {
    const int id = processor_.PieceToId(piece);
    if (id < 0 || processor_.IdToPiece(id) != piece) return std::nullopt;
    return id;
  }

  /// The model's own special pieces; −1 where it has none.
  [[nodiscard]] std::int32_t bos_id() const { return processor_.bos_id(); }
  [[nodiscard]] std::int32_t eos_id() const { return processor_.eos_id(); }
  [[nodiscard]] std::int32_t unk_id() const { return processor_.unk_id(); }

 private:
  static void check(const sentencepiece::util::Status& status, const std::string& what) {
    if (status.ok()) return;
    throw FormatError("ZIYA-313", "tokenizer: " + what +
                                      " failed in the SentencePiece library: " + status.message());
  }

  sentencepiece::SentencePieceProcessor processor_;
};

ZIYA_NAMESPACE_END
