// SPDX-License-Identifier: Apache-2.0
// Prompt templates as people write them.
#include <cstdint>
#include <string_view>

#include "ziya/text/prompt_template.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    static_cast<void>(ziya::PromptTemplate::parse(text, "fuzz"));
  } catch (const ziya::Error&) {
  }
  return 0;
}
