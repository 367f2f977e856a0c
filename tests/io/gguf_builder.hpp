// SPDX-License-Identifier: Apache-2.0
// GGUF files byte by byte, right and wrong, written out from the format's specification.
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace test {

/// `size` little-endian bytes of a number.
inline std::string le(std::uint64_t number, int size) {
  std::string bytes;
  for (int i = 0; i < size; ++i) bytes += static_cast<char>(number >> (8 * i) & 0xff);
  return bytes;
}
inline std::string u32(std::uint64_t number) { return le(number, 4); }
inline std::string u64(std::uint64_t number) { return le(number, 8); }
inline std::string f32(float number) { return u32(std::bit_cast<std::uint32_t>(number)); }
inline std::string text(std::string_view characters) {
  return u64(characters.size()) + std::string(characters);
}
inline std::string key_u32(std::string_view key, std::uint64_t number) {
  return text(key) + u32(4) + u32(number);
}
inline std::string key_f32(std::string_view key, float number) {
  return text(key) + u32(6) + f32(number);
}
inline std::string key_bool(std::string_view key, bool value) {
  return text(key) + u32(7) + le(value, 1);
}
inline std::string key_text(std::string_view key, std::string_view value) {
  return text(key) + u32(8) + text(value);
}
inline std::string key_array(std::string_view key, std::uint64_t element,
                             const std::vector<std::string>& elements) {
  std::string bytes = text(key) + u32(9) + u32(element) + u64(elements.size());
  for (const std::string& one : elements) bytes += one;
  return bytes;
}

/// A tensor's entry; `dims` fastest first, as the file has them.
inline std::string tensor(std::string_view name, const std::vector<std::uint64_t>& dims,
                          std::uint64_t type, std::uint64_t offset) {
  std::string bytes = text(name) + u32(dims.size());
  for (const std::uint64_t dim : dims) bytes += u64(dim);
  return bytes + u32(type) + u64(offset);
}

struct GgufFile {
  std::vector<std::string> keys, tensors;
  std::string data;
  std::uint64_t version = 3, alignment = 32;

  [[nodiscard]] std::string bytes() const {
    std::string out = "GGUF" + u32(version) + u64(tensors.size()) + u64(keys.size());
    for (const std::string& key : keys) out += key;
    for (const std::string& entry : tensors) out += entry;
    out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
    return out + data;
  }
};

}  // namespace test
