// SPDX-License-Identifier: Apache-2.0
// Saved sessions: every document that is accepted is written and read again.
#include "ziya/generate/session_file.hpp"

#include "fuzz/memory_file.hpp"

#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const fuzz::MemoryFile stored(data, size);
    const ziya::SessionFile file = ziya::SessionFile::read(stored.path());
    const ziya::SessionFile again = ziya::SessionFile::parse(file.text(), "fuzz");
    if (again.model != file.model || again.seed != file.seed ||
        again.conversation != file.conversation) {
      std::abort();
    }
  } catch (const ziya::Error&) {
  }
  return 0;
}
