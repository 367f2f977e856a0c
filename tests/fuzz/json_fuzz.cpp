// SPDX-License-Identifier: Apache-2.0
// JSON as configs and indices hold it.
#include "ziya/io/json.hpp"

#include "fuzz/memory_file.hpp"
#include "ziya/model/llama_config.hpp"

namespace {

/// A member as a T, or the library's refusal.
template <class T>
void get(const nlohmann::json& json, const std::string& key) {
  try {
    static_cast<void>(ziya::json_get<T>(json, key, "fuzz"));
    if (!ziya::json_is<T>(json.at(key))) __builtin_trap();
  } catch (const ziya::FormatError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const fuzz::MemoryFile file(data, size);
    const auto json = ziya::read_json_file(file.path(), {.bytes = 1 << 20, .values = 4096});
    for (const auto& [key, value] : ziya::json_members(json)) {
      if (ziya::json_find(json, key) != &value) __builtin_trap();
      get<bool>(json, key);
      get<std::int64_t>(json, key);
      get<double>(json, key);
      get<std::string>(json, key);
      static_cast<void>(ziya::json_quote(key));
    }
  } catch (const ziya::Error&) {
  }
  try {
    ziya::parse_llama_shape(text, "fuzz");
  } catch (const ziya::Error&) {
  }
  return 0;
}
