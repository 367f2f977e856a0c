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

/// Paths through the kernels, slowest first. `eigen` and `baseline` run everywhere; `amx` is avx512
/// whose products of several tokens go through tiles: with quantised weights to the same bits, with
/// floats, and in attention, from 64 tokens on and within 1e-5. Where has_fast_bf16(), `avx512`
/// rounds activations to bf16 beside weights in bf16; no other path does.
enum class Isa { eigen, baseline, avx2, avx512, amx };

inline constexpr Isa all_isas[] = {Isa::eigen, Isa::baseline, Isa::avx2, Isa::avx512, Isa::amx};

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
    case Isa::amx:
      return "amx";
  }
  return "";
}

constexpr std::optional<Isa> isa_from_name(std::string_view text) {
  for (const Isa isa : all_isas) {
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

/// Whether dot products of bf16 have twice the rate of 32-bit floats: on AMD's processors (measured
/// on Zen 5); on Intel's they have half of it (Sapphire Rapids). CPUID leaf 0, EBX: "Auth".
inline bool has_fast_bf16() {
  static const bool result = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(0, &a, &b, &c, &d) != 0 && b == 0x68747541;
  }();
  return result;
}

/// Whether the processor multiplies tiles of bf16 and bytes (CPUID leaf 7, EDX bits 22, 24, 25), the
/// operating system keeps tiles (XCR0 bits 17 and 18), and this process may have them: Linux gives
/// them to processes that have asked by arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA), which is done
/// once.
inline bool has_amx() {
#if defined(__linux__) && defined(__x86_64__)
  static const bool result = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d >> 22 & 13u) != 13) return false;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c >> 27 & 1u) == 0) return false;  // OSXSAVE
    unsigned low = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(d) : "c"(0));
    constexpr unsigned tiles = 3u << 17;  // XTILECFG, XTILEDATA
    if ((low & tiles) != tiles) return false;
    constexpr long arch_prctl = 158, request_permission = 0x1023, tile_data = 18;
    long status = arch_prctl;
    asm volatile("syscall"
                 : "+a"(status)
                 : "D"(request_permission), "S"(tile_data)
                 : "rcx", "r11", "memory");
    return status == 0;
  }();
  return result;
#else
  return false;
#endif
}
#endif

/// Whether processor and operating system support every instruction of the path.
inline bool is_available(Isa isa) {
#if ZIYA_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::amx) return is_available(Isa::avx512) && has_amx();
  if (isa == Isa::avx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("gfni");
  }
#endif
  return isa == Isa::eigen || isa == Isa::baseline;
}

inline std::vector<Isa> available_isas() {
  std::vector<Isa> result;
  for (const Isa isa : all_isas) {
    if (is_available(isa)) result.push_back(isa);
  }
  return result;
}

inline Isa best_isa() { return available_isas().back(); }

ZIYA_NAMESPACE_END
