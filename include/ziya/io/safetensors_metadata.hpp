// SPDX-License-Identifier: Apache-2.0
// Fills in what is known only after the data of a safetensors file is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/safetensors.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN
namespace safetensors {

/// Replaces values of `__metadata__` in a file of SafetensorsWriter by others of the same length;
/// the place was reserved when the header was written. Running it again does no harm.
/// @throws ArgumentError ZIYA-642 when a value has no place of its length; IoError
inline void patch_metadata(const std::filesystem::path& path, const Metadata& values,
                           const WriteHooks& hooks = {}) {
  constexpr std::int64_t length_bytes = 8;
  std::string header;
  {
    const InputFile file(path);
    const auto bytes = header_bytes(file);
    if (!bytes) {
      throw ArgumentError("ZIYA-642", utf8_from_path(path) + ": is no safetensors file");
    }
    header = file.read_text(length_bytes, *bytes);
  }
  for (const auto& [key, value] : values) {
    const std::string before = json_quote(key) + ":\"";
    const std::size_t begin = header.find(before);
    std::size_t end = begin == std::string::npos ? header.size() : begin + before.size();
    while (end < header.size() && header[end] != '"') end += header[end] == '\\' ? 2 : 1;
    const std::string quoted = json_quote(value);
    if (end >= header.size() || end - begin - before.size() + 2 != quoted.size()) {
      throw ArgumentError("ZIYA-642", utf8_from_path(path) + ": \"" + key + "\" has no room of " +
                                          std::to_string(value.size()) + " bytes in the header");
    }
    header.replace(begin + before.size(), quoted.size() - 2, quoted, 1, quoted.size() - 2);
  }
  patch_file(path, length_bytes, header, hooks);
}

}  // namespace safetensors
ZIYA_NAMESPACE_END
