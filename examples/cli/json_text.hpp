// SPDX-License-Identifier: Apache-2.0
// JSON that is printed, its members in the order they are added.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/text/utf8.hpp"

namespace cli {

/// A quoted string; bytes that are no UTF-8 become U+FFFD, as JSON cannot hold them.
inline std::string json_text(std::string_view text) {
  constexpr const char* digits = "0123456789abcdef";
  std::string result = "\"";
  for (const char c : ziya::replace_invalid_utf8(text)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      result += {'\\', c};
    } else if (c == '\n') {
      result += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      result += {'\\', 'u', '0', '0', digits[byte >> 4], digits[byte & 15]};
    } else {
      result += c;
    }
  }
  return result + '"';
}

inline std::string json_text(std::int64_t number) { return std::to_string(number); }

template <class T>
std::string json_text(const std::vector<T>& values) {
  std::string result;
  for (const T& value : values) result += (result.empty() ? "" : ", ") + json_text(value);
  return "[" + result + "]";
}

/// {"key": value, …}
class JsonObject {
 public:
  template <class T>
  JsonObject& add(std::string_view key, const T& value) {
    return add_raw(key, json_text(value));
  }
  /// @param value JSON as it is
  JsonObject& add_raw(std::string_view key, const std::string& value) {
    members_ += (members_.empty() ? "" : ", ") + json_text(key) + ": " + value;
    return *this;
  }
  [[nodiscard]] std::string line() const { return "{" + members_ + "}\n"; }

 private:
  std::string members_;
};

}  // namespace cli
