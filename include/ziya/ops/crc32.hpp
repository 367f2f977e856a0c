// SPDX-License-Identifier: Apache-2.0
// CRC-32 of bytes in the memory of the host, as fast as its processor can.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ziya/backend/cpu/x86/clmul_crc32.hpp"
#include "ziya/config.hpp"
#include "ziya/core/crc32.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// The same as ziya::crc32.
inline std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t crc = 0) {
#if ZIYA_X86
  static const bool available = __builtin_cpu_supports("pclmul") != 0;
  if (available && bytes.size() >= 64) return clmul::crc32(bytes, crc);
#endif
  return ziya::crc32(bytes, crc);
}

}  // namespace ops
ZIYA_NAMESPACE_END
