// SPDX-License-Identifier: Apache-2.0
// The instruction sets that kernels exist for, and which of them this machine has.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"

#if ZIYA_X86
#include <cpuid.h>
#endif

ZIYA_NAMESPACE_BEGIN

/// Paths through the kernels, slowest first. `eigen` and `baseline` run everywhere.
enum class Isa { eigen, baseline, avx2, avx512 };

constexpr std::string_view name(Isa isa) {
  switch (isa) {
    case Isa::eigen:
      return "eigen";
    case Isa::baseline:
      return "baseline";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  return "";
}

constexpr std::optional<Isa> isa_from_name(std::string_view text) {
  for (const Isa isa : {Isa::eigen, Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (name(isa) == text) return isa;
  }
  return std::nullopt;
}

#if ZIYA_X86
/// CPUID leaf 1, ECX bit 29; clang 14's __builtin_cpu_supports does not know the name.
inline bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 29 & 1u) != 0;
}
#endif

/// Whether processor and operating system support every instruction of the path.
inline bool is_available(Isa isa) {
#if ZIYA_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512bf16");
  }
#endif
  return isa == Isa::eigen || isa == Isa::baseline;
}

inline std::vector<Isa> available_isas() {
  std::vector<Isa> result;
  for (const Isa isa : {Isa::eigen, Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (is_available(isa)) result.push_back(isa);
  }
  return result;
}

inline Isa best_isa() { return available_isas().back(); }

ZIYA_NAMESPACE_END
