// SPDX-License-Identifier: Apache-2.0
// Saved sessions: every document that is accepted is written and read again.
#include "ziya/generate/session_file.hpp"

#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const ziya::SessionFile file = ziya::SessionFile::parse(text, "fuzz");
    const ziya::SessionFile again = ziya::SessionFile::parse(file.text(), "fuzz");
    if (again.model != file.model || again.seed != file.seed ||
        again.conversation != file.conversation) {
      std::abort();
    }
  } catch (const ziya::Error&) {
  }
  return 0;
}
