// SPDX-License-Identifier: Apache-2.0
// Sums of halves in the memory of the host, as far as its processor has instructions for them.
#pragma once

#include <cstddef>
#include <span>

#include "ziya/backend/cpu/isa.hpp"
#include "ziya/backend/cpu/x86/avx2_halves.hpp"
#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// out[i] = fp16(a[i] + b[i]), rounded once to nearest, ties to even; NaN as avx2::add_halves says.
/// @param out may be `a` or `b`   @returns how many elements, from the first on, that was done for:
/// none where the processor does not convert halves
inline std::size_t add_halves([[maybe_unused]] std::span<Half> out,
                              [[maybe_unused]] std::span<const Half> a,
                              [[maybe_unused]] std::span<const Half> b) {
#if ZIYA_X86
  static const bool available = is_available(Isa::avx2);
  if (available) return avx2::add_halves(out.data(), a.data(), b.data(), out.size());
#endif
  return 0;
}

}  // namespace ops
ZIYA_NAMESPACE_END
