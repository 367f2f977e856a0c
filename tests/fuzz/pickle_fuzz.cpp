// SPDX-License-Identifier: Apache-2.0
// Pickles alone, with storages of 4 KiB under any name.
#include "ziya/io/pickle.hpp"

#include "fuzz/memory_file.hpp"
#include "ziya/io/pytorch.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::MemoryFile memory(data, size);
  try {
    const ziya::InputFile file(memory.path());
    ziya::pickle::Input input(file, 0, file.size());
    ziya::pickle::Machine machine(input);
    const auto root = machine.run();
    for (const auto& entry :
         ziya::pytorch::detail::place_all("fuzz", machine, root, [](const auto&) {
           return ziya::pytorch::detail::Span{64, 4096};
         })) {
      if (entry.offset < 64 || entry.bytes() > (1 << 20)) __builtin_trap();
      std::int64_t last = entry.offset;  // of the last element
      const auto extents = entry.shape.extents();
      const auto strides = entry.contiguous() ? ziya::row_major_strides(extents) : entry.strides;
      for (std::size_t i = 0; i < extents.size(); ++i) {
        last += (extents[i] - 1) * strides[i] * entry.item_bytes();
      }
      if (entry.shape.elements() != 0 && last + entry.item_bytes() > 64 + 4096) __builtin_trap();
    }
  } catch (const ziya::Error&) {
  }
  return 0;
}
