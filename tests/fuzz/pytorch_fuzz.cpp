// SPDX-License-Identifier: Apache-2.0
// PyTorch files: the archive, its pickle and its storages; and the format before 1.6.
#include "ziya/io/pytorch.hpp"

#include "fuzz/read_all.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::read_all(data, size);
  const fuzz::MemoryFile memory(data, size);
  try {
    const ziya::InputFile file(memory.path());
    for (const auto& entry : ziya::zip::read_directory(file)) {
      if (entry.bytes <= (1 << 20)) static_cast<void>(ziya::zip::intact(file, entry));
    }
  } catch (const ziya::Error&) {
  }
  return 0;
}
