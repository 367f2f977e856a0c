// SPDX-License-Identifier: Apache-2.0
// safetensors files.
#include "ziya/io/safetensors.hpp"

#include "fuzz/read_all.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::read_all(data, size);
  return 0;
}
