// SPDX-License-Identifier: Apache-2.0
// The metadata of a GGUF file: keys with typed values, in their order.
#pragma once

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"

ZIYA_NAMESPACE_BEGIN

namespace gguf {

/// Types of values, by the format's numbers.
enum class ValueType : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  text,
  array,
  u64,
  i64,
  f64
};
inline constexpr std::uint32_t value_type_count = 13;

/// Bytes of one number; 0 for texts and arrays.
constexpr std::size_t bytes_of(ValueType type) {
  constexpr std::size_t sizes[value_type_count] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return sizes[static_cast<std::size_t>(type)];
}

constexpr std::string_view name(ValueType type) {
  constexpr std::string_view names[value_type_count] = {"u8",  "i8",  "u16",  "i16",    "u32",
                                                        "i32", "f32", "bool", "string", "array",
                                                        "u64", "i64", "f64"};
  return names[static_cast<std::size_t>(type)];
}

/// The number whose little-endian bytes stand at `bytes`.
template <class T>
T load_number(const char* bytes) {
  std::uint64_t bits = 0;
  for (std::size_t i = sizeof(T); i-- > 0;) bits = bits << 8 | static_cast<unsigned char>(bytes[i]);
  if constexpr (std::is_floating_point_v<T>) {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    const auto narrowed = static_cast<Bits>(bits);
    T value;
    std::memcpy(&value, &narrowed, sizeof value);
    return value;
  } else {
    return static_cast<T>(bits);
  }
}

/// Appends the little-endian bytes of a number.
template <class T>
void append_number(std::string& out, T value) {
  std::uint64_t bits = 0;
  if constexpr (std::is_floating_point_v<T>) {
    std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t> same;
    std::memcpy(&same, &value, sizeof value);
    bits = same;
  } else {
    bits = static_cast<std::uint64_t>(value);
  }
  for (std::size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>(bits >> (8 * i) & 0xff);
}

/// Appends a text as the format stores it: 8 bytes of length, then its bytes.
inline void append_text(std::string& out, std::string_view text) {
  append_number(out, static_cast<std::uint64_t>(text.size()));
  out += text;
}

/// One value. `bytes` is what the file holds: the number, the characters of a text, or the elements
/// of an array one after the other.
struct Value {
  ValueType type = ValueType::u32;
  ValueType element = ValueType::u32;  ///< of an array
  std::uint64_t count = 0;             ///< elements of an array
  std::string bytes;
};

/// Keys are unique. Reading a key gives nothing where it is absent and refuses a value of another
/// kind; any width of integer will do where an integer is asked for.
class Metadata {
 public:
  /// @param source named in messages, usually the file
  explicit Metadata(std::string source = "GGUF") : source_(std::move(source)) {}

  [[nodiscard]] const std::string& source() const { return source_; }
  [[nodiscard]] const std::vector<std::pair<std::string, Value>>& entries() const {
    return entries_;
  }
  [[nodiscard]] const Value* find(std::string_view key) const {
    const auto found = places_.find(key);
    return found == places_.end() ? nullptr : &entries_[found->second].second;
  }

  /// Adds a key or replaces its value. @returns false when it was there before
  bool set(std::string_view key, Value value) {
    const auto place = places_.find(key);
    const bool fresh = place == places_.end();
    if (fresh) {
      places_[std::string(key)] = entries_.size();
      entries_.emplace_back(std::string(key), std::move(value));
    } else {
      entries_[place->second].second = std::move(value);
    }
    return fresh;
  }
  void set_u32(std::string_view key, std::int64_t number) {
    set_number(key, ValueType::u32, static_cast<std::uint32_t>(number));
  }
  void set_f32(std::string_view key, double number) {
    set_number(key, ValueType::f32, static_cast<float>(number));
  }
  void set_bool(std::string_view key, bool value) {
    set_number(key, ValueType::boolean, std::uint8_t{value});
  }
  void set_text(std::string_view key, std::string text) {
    set(key, {ValueType::text, ValueType::u8, 0, std::move(text)});
  }
  void set_texts(std::string_view key, const std::vector<std::string>& texts) {
    Value value{ValueType::array, ValueType::text, texts.size(), {}};
    for (const std::string& text : texts) append_text(value.bytes, text);
    set(key, std::move(value));
  }
  void set_floats(std::string_view key, const std::vector<float>& numbers) {
    Value value{ValueType::array, ValueType::f32, numbers.size(), {}};
    for (const float number : numbers) append_number(value.bytes, number);
    set(key, std::move(value));
  }
  void set_i32s(std::string_view key, const std::vector<std::int32_t>& numbers) {
    Value value{ValueType::array, ValueType::i32, numbers.size(), {}};
    for (const std::int32_t number : numbers) append_number(value.bytes, number);
    set(key, std::move(value));
  }
  void set_bytes(std::string_view key, std::string bytes) {
    const std::size_t count = bytes.size();
    set(key, {ValueType::array, ValueType::u8, count, std::move(bytes)});
  }

  /// @throws FormatError ZIYA-252 for a value of another kind, here and below
  [[nodiscard]] std::optional<std::int64_t> integer(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!is_integer(value->type)) refuse(key, *value, "an integer");
    const std::int64_t number = integer_at(value->type, value->bytes.data());
    if (value->type == ValueType::u64 && number < 0) refuse(key, *value, "a smaller integer");
    return number;
  }
  /// A 32-bit float becomes the double nearest to its shortest decimal form: 1e-5, not
  /// 9.99999975e-6.
  [[nodiscard]] std::optional<double> real(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->type == ValueType::f64) return load_number<double>(value->bytes.data());
    if (value->type != ValueType::f32) refuse(key, *value, "a number with a fraction");
    return as_double(load_number<float>(value->bytes.data()));
  }
  [[nodiscard]] std::optional<bool> boolean(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->type != ValueType::boolean) refuse(key, *value, "true or false");
    return value->bytes[0] != 0;
  }
  [[nodiscard]] std::optional<std::string> text(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->type != ValueType::text) refuse(key, *value, "a string");
    return value->bytes;
  }
  [[nodiscard]] std::optional<std::vector<std::string>> texts(std::string_view key) const {
    const Value* value = find_array(key, "strings");
    if (value == nullptr) return std::nullopt;
    if (value->element != ValueType::text) refuse(key, *value, "an array of strings");
    std::vector<std::string> result;
    for (std::size_t at = 0; at < value->bytes.size();) {
      const auto size = static_cast<std::size_t>(load_number<std::uint64_t>(&value->bytes[at]));
      result.push_back(value->bytes.substr(at + 8, size));
      at += 8 + size;
    }
    return result;
  }
  [[nodiscard]] std::optional<std::vector<float>> floats(std::string_view key) const {
    const Value* value = find_array(key, "f32 numbers");
    if (value == nullptr) return std::nullopt;
    if (value->element != ValueType::f32) refuse(key, *value, "an array of f32 numbers");
    std::vector<float> result;
    for (std::size_t at = 0; at < value->bytes.size(); at += 4) {
      result.push_back(load_number<float>(&value->bytes[at]));
    }
    return result;
  }
  [[nodiscard]] std::optional<std::vector<std::int64_t>> integers(std::string_view key) const {
    const Value* value = find_array(key, "integers");
    if (value == nullptr) return std::nullopt;
    if (!is_integer(value->element)) refuse(key, *value, "an array of integers");
    std::vector<std::int64_t> result;
    for (std::size_t at = 0; at < value->bytes.size(); at += bytes_of(value->element)) {
      result.push_back(integer_at(value->element, &value->bytes[at]));
    }
    return result;
  }
  /// The elements of an array of u8 or i8.
  [[nodiscard]] std::optional<std::string> bytes(std::string_view key) const {
    const Value* value = find_array(key, "bytes");
    if (value == nullptr) return std::nullopt;
    if (value->element != ValueType::u8 && value->element != ValueType::i8) {
      refuse(key, *value, "an array of bytes");
    }
    return value->bytes;
  }

 private:
  template <class T>
  void set_number(std::string_view key, ValueType type, T number) {
    Value value{type, ValueType::u8, 0, {}};
    append_number(value.bytes, number);
    set(key, std::move(value));
  }
  static bool is_integer(ValueType type) {
    return bytes_of(type) != 0 && type != ValueType::f32 && type != ValueType::f64 &&
           type != ValueType::boolean;
  }
  static std::int64_t integer_at(ValueType type, const char* bytes) {
    switch (type) {
      case ValueType::u8:
        return load_number<std::uint8_t>(bytes);
      case ValueType::i8:
        return load_number<std::int8_t>(bytes);
      case ValueType::u16:
        return load_number<std::uint16_t>(bytes);
      case ValueType::i16:
        return load_number<std::int16_t>(bytes);
      case ValueType::u32:
        return load_number<std::uint32_t>(bytes);
      case ValueType::i32:
        return load_number<std::int32_t>(bytes);
      default:
        return load_number<std::int64_t>(bytes);
    }
  }
  static double as_double(float number) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, number).ptr;
    double result = number;
    if (std::isfinite(number)) std::from_chars(text, end, result);
    return result;
  }
  [[nodiscard]] const Value* find_array(std::string_view key, const std::string& of) const {
    const Value* value = find(key);
    if (value != nullptr && value->type != ValueType::array)
      refuse(key, *value, "an array of " + of);
    return value;
  }
  [[noreturn]] void refuse(std::string_view key, const Value& value,
                           const std::string& expected) const {
    std::string found(name(value.type));
    if (value.type == ValueType::array) found += " of " + std::string(name(value.element));
    throw FormatError(
        "ZIYA-252", source_ + ": " + std::string(key) + " is " + found + ", expected " + expected);
  }

  std::string source_;
  std::vector<std::pair<std::string, Value>> entries_;
  std::map<std::string, std::size_t, std::less<>> places_;
};

}  // namespace gguf

ZIYA_NAMESPACE_END
