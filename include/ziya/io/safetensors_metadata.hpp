// SPDX-License-Identifier: Apache-2.0
// Fills in what is known only after the data of a safetensors file is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/platform.hpp"
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
    const std::size_t end =
        begin == std::string::npos ? begin : header.find('"', begin + before.size());
    const std::string quoted = json_quote(value);
    if (end == std::string::npos || end - begin - before.size() + 2 != quoted.size()) {
      throw ArgumentError("ZIYA-642", utf8_from_path(path) + ": \"" + key + "\" has no room of " +
                                          std::to_string(value.size()) + " bytes in the header");
    }
    header.replace(begin + before.size(), quoted.size() - 2, quoted, 1, quoted.size() - 2);
  }
  const auto fail = [&](const char* what) {
    const std::string reason = platform::last_error();
    throw IoError("ZIYA-206", utf8_from_path(path) + ": " + what + ": " + reason);
  };
  platform::Descriptor file = platform::open_for_patching(path, length_bytes);
  if (!file.valid()) fail("cannot be opened for writing");
  for (std::span<const char> rest = header; !rest.empty();) {
    const auto n = hooks.write(file.get(), rest.data(), rest.size());
    if (n < 0 && platform::interrupted()) continue;
    if (n == 0) platform::set_disk_full_error();
    if (n <= 0) fail("writing failed in the header");
    rest = rest.subspan(static_cast<std::size_t>(n));
  }
  if (hooks.sync(file.get()) != 0) fail("cannot be brought to the disk");
  if (!file.close()) fail("cannot be closed");
}

}  // namespace safetensors
ZIYA_NAMESPACE_END
