// SPDX-License-Identifier: Apache-2.0
// Every macro of the library: version, ABI namespace, CUDA switches, instruction-set attributes.
#pragma once

#define ZIYA_VERSION_MAJOR 0
#define ZIYA_VERSION_MINOR 1
#define ZIYA_VERSION_PATCH 0
#define ZIYA_VERSION "0.1.0"

// Whether the program uses the CUDA backend; must be the same in every translation unit.
#ifndef ZIYA_WITH_CUDA
#define ZIYA_WITH_CUDA 0
#endif

// The inline namespace carries version and CUDA switch: translation units that disagree fail to
// link instead of corrupting memory.
#if ZIYA_WITH_CUDA
#define ZIYA_ABI_NAMESPACE v0_1_cuda
#else
#define ZIYA_ABI_NAMESPACE v0_1
#endif
// clang-format off
#define ZIYA_NAMESPACE_BEGIN namespace ziya { inline namespace ZIYA_ABI_NAMESPACE {
#define ZIYA_NAMESPACE_END } }
// clang-format on

// Spelling of functions that also run on the device; never changes a signature.
#if defined(__CUDACC__)
#define ZIYA_HD __host__ __device__
// A kernel, or a host function that launches one and belongs to its translation unit.
#define ZIYA_HIDDEN __attribute__((visibility("hidden")))
#define ZIYA_KERNEL ZIYA_HIDDEN __global__
#else
#define ZIYA_HD
#endif

// Whether the program links ziya::compiled or ziya::cuda, which hold the library's long functions:
// what is declared, and then defined between `#if ZIYA_DEFINITIONS` and `#endif`, and templates
// with an `extern template`. The program then does not compile them; that is all that changes.
#ifndef ZIYA_COMPILED
#define ZIYA_COMPILED 0
#endif
#if !ZIYA_COMPILED
#define ZIYA_DEFINITIONS 1
#define ZIYA_INLINE inline
#elif defined(ZIYA_COMPILING)  // instances.cpp, which makes them
#define ZIYA_DEFINITIONS 1
#define ZIYA_INLINE
#else
#define ZIYA_DEFINITIONS 0
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define ZIYA_X86 1
#else
#define ZIYA_X86 0
#endif

// One attribute per run-time path: the function uses these instructions whatever flags the program
// was compiled with. Such functions live under backend/cpu/x86/ and hold no lambdas.
#define ZIYA_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define ZIYA_TARGET_CLMUL __attribute__((target("pclmul")))
#define ZIYA_AVX512_INSTRUCTIONS                                 \
  "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi," \
  "avx512vnni,avx512bf16,gfni"
#define ZIYA_TARGET_AVX512 __attribute__((target(ZIYA_AVX512_INSTRUCTIONS)))
#define ZIYA_TARGET_AMX \
  __attribute__((target(ZIYA_AVX512_INSTRUCTIONS ",amx-tile,amx-int8,amx-bf16")))
