// SPDX-License-Identifier: Apache-2.0
// Looks through the bytes of a SentencePiece model before the SentencePiece library trusts them.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/text/protobuf.hpp"

ZIYA_NAMESPACE_BEGIN

/// A `tokenizer.model` (protobuf message ModelProto of sentencepiece_model.proto), checked. The
/// library aborts, overruns or prints on some malformed models; those are refused here.
/// Field numbers: sentencepiece_model.proto of SentencePiece 0.1.97
class SentencePieceModel {
 public:
  enum class PieceType { normal = 1, unknown, control, user_defined, unused, byte };
  struct Piece {
    std::string text;
    PieceType type = PieceType::normal;
    float score = 0;
  };

  static constexpr std::int64_t max_bytes = std::int64_t{64} << 20;
  static constexpr std::size_t max_pieces = std::size_t{1} << 20;
  /// The library recurses once per character of a piece that is marked unused.
  static constexpr std::size_t max_piece_bytes = 4096;

  /// @param source named in messages
  /// @throws FormatError ZIYA-302 when malformed, ConfigError ZIYA-304 when unsupported
  SentencePieceModel(std::string bytes, std::string source)
      : bytes_(std::move(bytes)), source_(std::move(source)) {
    if (bytes_.empty()) refuse("is empty");
    if (static_cast<std::int64_t>(bytes_.size()) > max_bytes) refuse("is larger than 64 MiB");
    for (ProtobufReader fields(bytes_, source_); fields.next();) {
      if (fields.number() == 1) read_piece(fields.bytes());
      if (fields.number() == 2) read_trainer(fields.bytes());
      if (fields.number() == 3) read_normalizer(fields.bytes(), false);
      if (fields.number() == 5) read_normalizer(fields.bytes(), true);
    }
    if (pieces_.empty()) refuse("holds no pieces; it is not a SentencePiece model");
  }

  [[nodiscard]] const std::vector<Piece>& pieces() const { return pieces_; }
  [[nodiscard]] const std::string& source() const { return source_; }
  /// Whether encoding puts a space in front of the text (LLaMA: yes).
  [[nodiscard]] bool add_dummy_prefix() const { return add_dummy_prefix_; }
  /// Whether encoding joins runs of spaces and drops them at the ends (LLaMA: no).
  [[nodiscard]] bool remove_extra_whitespaces() const { return remove_extra_whitespaces_; }

  /// The model for the library. Self-test samples are left out, because the library prints when
  /// one fails; user-defined pieces for which `as_text` holds become unused, so that text that
  /// spells them is split like any other text.
  [[nodiscard]] std::string serialize(
      const std::function<bool(const Piece&)>& as_text = nullptr) const {
    std::string result;
    result.reserve(bytes_.size());
    std::size_t index = 0;
    for (ProtobufReader fields(bytes_, source_); fields.next();) {
      if (fields.number() == 4) continue;
      if (fields.number() != 1) {
        result += fields.whole();
        continue;
      }
      const Piece& piece = pieces_[index++];
      const bool neutral = as_text && piece.type == PieceType::user_defined && as_text(piece);
      // The last value of a field counts, so appending overrides.
      append_protobuf_bytes(result, 1, std::string(fields.bytes()) + (neutral ? "\x18\x05" : ""));
    }
    return result;
  }

  /// All that is not pieces nor self-test samples: how the model was trained, how it normalises.
  [[nodiscard]] std::string settings() const {
    std::string result;
    for (ProtobufReader fields(bytes_, source_); fields.next();) {
      if (fields.number() != 1 && fields.number() != 4) result += fields.whole();
    }
    return result;
  }

  /// The message of a model with these pieces and settings.
  [[nodiscard]] static std::string assemble(const std::vector<Piece>& pieces,
                                            std::string_view settings) {
    std::string result, message;
    for (const Piece& piece : pieces) {
      message.clear();
      append_protobuf_bytes(message, 1, piece.text);
      append_protobuf_real(message, 2, piece.score);
      if (piece.type != PieceType::normal) {
        append_protobuf_integer(message, 3, static_cast<std::uint64_t>(piece.type));
      }
      append_protobuf_bytes(result, 1, message);
    }
    result += settings;
    return result;
  }

 private:
  void read_piece(std::string_view message) {
    Piece piece;
    for (ProtobufReader fields(message, source_); fields.next();) {
      if (fields.number() == 1) piece.text = fields.bytes();
      if (fields.number() == 2) {
        piece.score = fields.real();
        if (!std::isfinite(piece.score)) refuse_piece("a score of NaN");
      }
      if (fields.number() == 3) {
        const std::uint64_t type = fields.integer();
        if (type < 1 || type > 6) refuse_piece("type " + std::to_string(type));
        piece.type = static_cast<PieceType>(type);
      }
    }
    if (piece.text.empty()) refuse_piece("no text");
    if (piece.text.size() > max_piece_bytes) {
      refuse_piece(std::to_string(piece.text.size()) + " bytes");
    }
    if (piece.text.find('\0') != std::string::npos) refuse_piece("a zero byte");
    if (pieces_.size() == max_pieces) refuse("holds more than 1048576 pieces");
    pieces_.push_back(std::move(piece));
  }

  void read_trainer(std::string_view message) const {
    for (ProtobufReader fields(message, source_); fields.next();) {
      if (fields.number() == 3 && (fields.integer() < 1 || fields.integer() > 4)) {
        refuse("names an unknown kind of model, " + std::to_string(fields.integer()));
      }
      if (fields.number() == 24 && fields.integer() != 0) {
        unsupported("treat_whitespace_as_suffix");
      }
    }
  }

  void read_normalizer(std::string_view message, bool denormalizer) {
    for (ProtobufReader fields(message, source_); fields.next();) {
      if (fields.number() == 2 && !fields.bytes().empty()) {
        if (denormalizer) unsupported("a denormalizer");
        check_rules(fields.bytes());
      }
      if (denormalizer) continue;
      if (fields.number() == 3) add_dummy_prefix_ = fields.integer() != 0;
      if (fields.number() == 4) remove_extra_whitespaces_ = fields.integer() != 0;
    }
  }

  /// Normalisation rules: size of a double array, the double array (darts-clone), and the texts
  /// its values point at, each ended by a zero byte. The library follows them unchecked.
  void check_rules(std::string_view rules) const {
    const auto word = [&](std::size_t byte) {
      std::uint32_t value = 0;
      for (std::size_t i = 4; i-- > 0;) {
        value = value << 8 | static_cast<unsigned char>(rules[byte + i]);
      }
      return value;
    };
    const auto broken = [&] { refuse("its normalisation rules are broken"); };
    if (rules.size() < 5 || rules.back() != '\0') broken();
    const std::size_t array_bytes = word(0);
    if (array_bytes == 0 || array_bytes % 1024 != 0 || array_bytes >= rules.size() - 4) broken();
    const std::size_t units = array_bytes / 4, text_bytes = rules.size() - 4 - array_bytes;
    const auto unit = [&](std::size_t index) { return word(4 + 4 * index); };
    for (std::size_t i = 0; i < units; ++i) {
      const bool is_value = unit(i) >> 31 != 0;
      if (is_value && i != 0) continue;  // the search stops before it
      // Byte c leads from unit i to unit i ^ offset ^ c: inside when the whole block of 256 is.
      const std::size_t offset = std::size_t{unit(i) >> 10} << ((unit(i) & 0x200) >> 6);
      const std::size_t next = i ^ offset;
      if ((next | 0xFF) >= units) broken();
      const bool ends_a_key = (unit(i) >> 8 & 1) != 0;
      if (ends_a_key && (unit(next) & 0x7FFFFFFF) >= text_bytes) broken();
    }
  }

  [[noreturn]] void refuse(const std::string& why) const {
    throw FormatError("ZIYA-302", source_ + ": " + why);
  }
  [[noreturn]] void refuse_piece(const std::string& what) const {
    refuse("piece " + std::to_string(pieces_.size()) + " has " + what);
  }
  [[noreturn]] void unsupported(const std::string& what) const {
    throw ConfigError("ZIYA-304", source_ + ": asks for " + what + ", which is not supported");
  }

  std::string bytes_;
  std::string source_;
  std::vector<Piece> pieces_;
  bool add_dummy_prefix_ = true;  // the format's defaults
  bool remove_extra_whitespaces_ = true;
};

ZIYA_NAMESPACE_END
