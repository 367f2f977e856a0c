// SPDX-License-Identifier: Apache-2.0
// A JSON schema: it is refused, or becomes a grammar that the parser of grammars reads.
#include <cstdlib>
#include <string>
#include <string_view>

#include "ziya/generate/json_schema.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string rules =
        ziya::JsonSchema::notation({reinterpret_cast<const char*>(data), size});
    static_cast<void>(ziya::GrammarParser::parse(rules));
  } catch (const ziya::Error& error) {
    if (error.id() == "ZIYA-540") std::abort();  // the notation itself is never wrong
  }
  return 0;
}
