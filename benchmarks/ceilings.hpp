// SPDX-License-Identifier: Apache-2.0
// What the machine can do at best: bytes read and 32-bit multiply-adds per second.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "ziya/ziya.hpp"

#if ZIYA_X86
#include <immintrin.h>
#endif

namespace ceilings {

/// Keeps a result from being optimised away.
template <class T>
inline void keep(const T& value) {
  asm volatile("" : : "r,m"(value) : "memory");
}

inline double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// XOR of `bytes` bytes (a multiple of 512), in eight chains.
inline std::uint64_t read_plain(const std::byte* memory, std::int64_t bytes) {
  std::uint64_t chains[8] = {}, words[8];
  for (std::int64_t i = 0; i < bytes; i += 64) {
    std::memcpy(words, memory + i, 64);
    for (int c = 0; c < 8; ++c) chains[c] ^= words[c];
  }
  for (int c = 1; c < 8; ++c) chains[0] ^= chains[c];
  return chains[0];
}

/// Multiply-adds of `rounds` rounds, in 16 chains of 16 lanes: 256 per round.
inline float multiply_add_plain(std::int64_t rounds) {
  float sums[256];
  for (int l = 0; l < 256; ++l) sums[l] = static_cast<float>(l);
  for (std::int64_t i = 0; i < rounds; ++i) {
    for (int l = 0; l < 256; ++l) sums[l] = sums[l] * 0.999f + 0.001f;
    keep(sums);
  }
  return sums[0];
}

#if ZIYA_X86
// The pragmas keep the chains in registers at -O2 too; the chains start apart, or they become one.
template <int Streams>
ZIYA_TARGET_AVX512 inline std::uint64_t read_avx512(const std::byte* memory, std::int64_t bytes) {
  constexpr int lines = 8 / Streams;
  __m512i chains[8];
#pragma GCC unroll 16
  for (int c = 0; c < 8; ++c) chains[c] = _mm512_setzero_si512();
  for (std::int64_t i = 0; i < bytes / Streams; i += lines * 64) {
#pragma GCC unroll 16
    for (int c = 0; c < 8; ++c) {
      const std::byte* p = memory + c / lines * (bytes / Streams) + i + c % lines * 64;
      chains[c] = _mm512_xor_si512(chains[c], _mm512_loadu_si512(p));
    }
  }
#pragma GCC unroll 16
  for (int c = 1; c < 8; ++c) chains[0] = _mm512_xor_si512(chains[0], chains[c]);
  alignas(64) std::uint64_t words[8];
  _mm512_store_si512(words, chains[0]);
#pragma GCC unroll 16
  for (int w = 1; w < 8; ++w) words[0] ^= words[w];
  return words[0];
}
ZIYA_TARGET_AVX2 inline std::uint64_t read_avx2(const std::byte* memory, std::int64_t bytes) {
  __m256i chains[8];
#pragma GCC unroll 16
  for (int c = 0; c < 8; ++c) chains[c] = _mm256_setzero_si256();
  for (std::int64_t i = 0; i < bytes; i += 256) {
#pragma GCC unroll 16
    for (int c = 0; c < 8; ++c) {
      const auto* p = reinterpret_cast<const __m256i*>(memory + i + c * 32);
      chains[c] = _mm256_xor_si256(chains[c], _mm256_loadu_si256(p));
    }
  }
#pragma GCC unroll 16
  for (int c = 1; c < 8; ++c) chains[0] = _mm256_xor_si256(chains[0], chains[c]);
  alignas(32) std::uint64_t words[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words), chains[0]);
  return words[0] ^ words[1] ^ words[2] ^ words[3];
}
ZIYA_TARGET_AVX512 inline float multiply_add_avx512(std::int64_t rounds) {
  __m512 sums[16];
#pragma GCC unroll 16
  for (int c = 0; c < 16; ++c) sums[c] = _mm512_set1_ps(static_cast<float>(c));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < 16; ++c) sums[c] = _mm512_fmadd_ps(sums[c], a, b);
  }
  __m512 total = sums[0];
#pragma GCC unroll 16
  for (int c = 1; c < 16; ++c) total = _mm512_add_ps(total, sums[c]);
  return _mm512_cvtss_f32(total);
}
ZIYA_TARGET_AVX2 inline float multiply_add_avx2(std::int64_t rounds) {
  __m256 sums[8];
#pragma GCC unroll 16
  for (int c = 0; c < 8; ++c) sums[c] = _mm256_set1_ps(static_cast<float>(c));
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (std::int64_t i = 0; i < 4 * rounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < 8; ++c) sums[c] = _mm256_fmadd_ps(sums[c], a, b);
  }
  __m256 total = sums[0];
#pragma GCC unroll 16
  for (int c = 1; c < 8; ++c) total = _mm256_add_ps(total, sums[c]);
  return _mm256_cvtss_f32(total);
}
#endif

/// Reads in one stream or in four.
inline std::uint64_t read(ziya::Isa isa, int streams, const std::byte* memory, std::int64_t bytes) {
#if ZIYA_X86
  if (isa >= ziya::Isa::avx512) {
    return streams == 1 ? read_avx512<1>(memory, bytes) : read_avx512<4>(memory, bytes);
  }
  if (isa == ziya::Isa::avx2) return read_avx2(memory, bytes);
#endif
  (void)isa, (void)streams;
  return read_plain(memory, bytes);
}

inline float multiply_add(ziya::Isa isa, std::int64_t rounds) {
#if ZIYA_X86
  if (isa >= ziya::Isa::avx512) return multiply_add_avx512(rounds);
  if (isa == ziya::Isa::avx2) return multiply_add_avx2(rounds);
#endif
  (void)isa;
  return multiply_add_plain(rounds);
}

/// Read-only memory large enough that no cache helps, and passes over it.
class ReadBandwidth {
 public:
  explicit ReadBandwidth(ziya::Context<ziya::Cpu>& ctx, std::int64_t bytes = std::int64_t{1} << 30)
      : memory_(ziya::Shape{bytes / 4096 * 4096}) {
    std::memset(memory_.data(), 1, static_cast<std::size_t>(memory_.elements()));
    // Whether a thread reads faster in one stream or in four differs between machines.
    std::vector<double> one, four;
    for (int i = 0; i < 5; ++i) {
      one.push_back(pass(ctx, 1));
      four.push_back(pass(ctx, 4));
    }
    streams_ = median(one) < median(four) ? 4 : 1;
  }

  /// Bytes per second of one pass; every thread of the context reads one contiguous part.
  double pass(ziya::Context<ziya::Cpu>& ctx) const { return pass(ctx, streams_); }

 private:
  double pass(ziya::Context<ziya::Cpu>& ctx, int streams) const {
    const auto begin = std::chrono::steady_clock::now();
    ctx.parallel_for(
        memory_.elements(),
        [&](std::int64_t first, std::int64_t last) {
          keep(read(ziya::best_isa(), streams, memory_.data() + first, last - first));
        },
        4096);
    return static_cast<double>(memory_.elements()) / seconds_since(begin);
  }

  ziya::Tensor<std::byte> memory_;
  int streams_ = 1;
};

/// 32-bit floating-point operations per second (two per multiply-add) of all threads in `passes`
/// short passes; the best, because nothing but interference makes one slower.
inline double multiply_add_rate(ziya::Context<ziya::Cpu>& ctx, int passes = 7) {
  constexpr std::int64_t rounds = 500'000;
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    ctx.parallel_for(ctx.threads(), [&](std::int64_t, std::int64_t) {
      keep(multiply_add(ziya::best_isa(), rounds));
    });
    best =
        std::max(best, 512.0 * static_cast<double>(rounds * ctx.threads()) / seconds_since(begin));
  }
  return best;
}

}  // namespace ceilings
