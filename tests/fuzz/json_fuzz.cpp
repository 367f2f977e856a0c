// SPDX-License-Identifier: Apache-2.0
// JSON as configs and indices hold it.
#include "ziya/io/json.hpp"

#include "ziya/model/llama_config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const auto json = ziya::parse_json(text, "fuzz");
    if (json.is_object()) {
      for (const auto& [key, value] : json.items()) {
        if (ziya::json_is<std::int64_t>(value)) ziya::json_get<std::int64_t>(json, key, "fuzz");
        if (ziya::json_is<double>(value)) ziya::json_get<double>(json, key, "fuzz");
        ziya::json_quote(key);
      }
    }
  } catch (const ziya::Error&) {
  }
  try {
    ziya::parse_llama_shape(text, "fuzz");
  } catch (const ziya::Error&) {
  }
  return 0;
}
