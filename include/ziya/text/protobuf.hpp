// SPDX-License-Identifier: Apache-2.0
// Walks over the fields of one protobuf message, checking every length.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"

ZIYA_NAMESPACE_BEGIN

/// The fields of a message in their order; messages inside are walked by a reader of their own.
/// Source: protobuf.dev/programming-guides/encoding
class ProtobufReader {
 public:
  /// @param source named in messages; it and `message` outlive the reader
  ProtobufReader(std::string_view message, const std::string& source)
      : message_(message), source_(source) {}

  /// Moves to the next field. @returns false at the end   @throws FormatError ZIYA-302
  bool next() {
    begin_ = at_;
    if (at_ == message_.size()) return false;
    const std::uint64_t key = read_varint();
    number_ = key >> 3;
    kind_ = static_cast<Kind>(key & 7);
    if (number_ == 0 || number_ > max_number) refuse("field number " + std::to_string(number_));
    switch (kind_) {
      case Kind::varint:
        value_ = read_varint();
        break;
      case Kind::fixed64:
        take(8);
        break;
      case Kind::fixed32:
        take(4);
        break;
      case Kind::bytes:
        take(read_varint());
        break;
      default:
        refuse("a field of kind " + std::to_string(key & 7));
    }
    return true;
  }

  [[nodiscard]] std::uint64_t number() const { return number_; }
  /// The value of an integer, boolean or enumeration.
  [[nodiscard]] std::uint64_t integer() const {
    expect(Kind::varint);
    return value_;
  }
  [[nodiscard]] float real() const {
    expect(Kind::fixed32);
    std::uint32_t bits = 0;
    for (std::size_t i = 4; i-- > 0;) bits = bits << 8 | static_cast<unsigned char>(bytes_[i]);
    return std::bit_cast<float>(bits);
  }
  /// The contents of a string, of bytes or of a message.
  [[nodiscard]] std::string_view bytes() const {
    expect(Kind::bytes);
    return bytes_;
  }
  /// The field as it stands, key included.
  [[nodiscard]] std::string_view whole() const { return message_.substr(begin_, at_ - begin_); }

 private:
  enum class Kind : std::uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };
  static constexpr std::uint64_t max_number = (1u << 29) - 1;

  void take(std::uint64_t size) {
    if (size > message_.size() - at_) {
      refuse("a field of " + std::to_string(size) + " bytes with " +
             std::to_string(message_.size() - at_) + " left");
    }
    bytes_ = message_.substr(at_, size);
    at_ += size;
  }

  std::uint64_t read_varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == message_.size()) refuse("a number that does not end");
      const auto byte = static_cast<unsigned char>(message_[at_++]);
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    refuse("a number of more than 64 bits");
  }

  void expect(Kind kind) const {
    if (kind_ != kind) {
      refuse("field " + std::to_string(number_) + " of kind " +
             std::to_string(static_cast<int>(kind_)) + ", expected " +
             std::to_string(static_cast<int>(kind)));
    }
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw FormatError("ZIYA-302", source_ + ": is no whole SentencePiece model: " + what +
                                      " at byte " + std::to_string(begin_) + " of " +
                                      std::to_string(message_.size()));
  }

  std::string_view message_;
  const std::string& source_;
  std::size_t begin_ = 0, at_ = 0;
  std::uint64_t number_ = 0, value_ = 0;
  Kind kind_ = Kind::varint;
  std::string_view bytes_;
};

inline void append_protobuf_varint(std::string& message, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) message += static_cast<char>(value | 0x80);
  message += static_cast<char>(value);
}

/// Appends field `number` holding `bytes` to `message`.
inline void append_protobuf_bytes(std::string& message, std::uint64_t number,
                                  std::string_view bytes) {
  append_protobuf_varint(message, number << 3 | 2);
  append_protobuf_varint(message, bytes.size());
  message += bytes;
}

/// The same holding an integer, a boolean or an enumeration.
inline void append_protobuf_integer(std::string& message, std::uint64_t number,
                                    std::uint64_t value) {
  append_protobuf_varint(message, number << 3);
  append_protobuf_varint(message, value);
}

/// The same holding a float.
inline void append_protobuf_real(std::string& message, std::uint64_t number, float value) {
  append_protobuf_varint(message, number << 3 | 5);
  const auto bits = std::bit_cast<std::uint32_t>(value);
  for (int i = 0; i < 4; ++i) message += static_cast<char>(bits >> (8 * i) & 0xff);
}

ZIYA_NAMESPACE_END
