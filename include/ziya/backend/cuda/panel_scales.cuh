// SPDX-License-Identifier: Apache-2.0
// Scales and minima within a panel of quantised weights: of rows g and g + 8 for lanes 4 g … 4 g
// + 3.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/stored_blocks.cuh"
#include "ziya/core/blocks.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

using Words = Pack<std::uint32_t>;

__device__ inline Words load_words(const std::byte* from) {
  return *reinterpret_cast<const Words*>(from);
}
__device__ inline float half_at(std::uint32_t word, int high) {
  return widen(Half{static_cast<std::uint16_t>(high ? word >> 16 : word)});
}
__device__ inline int byte_at(std::uint32_t word, int index) {
  return static_cast<int>(__byte_perm(word, 0u, 0x4440u | static_cast<unsigned>(index)));
}
/// 2^23 + byte `index` of a word.
__device__ inline float biased_byte(std::uint32_t word, int index) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u | static_cast<unsigned>(index)));
}

// Each has: bytes of one row; `load`; `scale` of columns [16 step, 16 step + 16) of row g + 8 r;
// where there are minima, `min` of columns [32 group, …); and `store`, given block(r, i), the i-th
// block of a row or null. Scales that are integers times a factor of the row's block give them as
// `integer`, `integer_min`, `factor` and `min_factor`.

/// One 16-bit scale per 32 columns.
struct HalfScales {
  static constexpr bool integers = false;
  static constexpr int row_bytes = 8;
  Words words;

  __device__ void load(const std::byte* from, int g) { words = load_words(from + g * 16); }
  __device__ float scale(int r, int step) const {
    return half_at(words.at[2 * r + step / 4], step / 2 % 2);
  }
  __device__ float min(int, int) const { return 0; }
  template <class GetBlock>
  __device__ static void store(std::byte* to, int g, const GetBlock& block) {
    auto* halves = reinterpret_cast<std::uint16_t*>(to + g * 16);
    for (int i = 0; i < 8; ++i) {
      const auto* b = block(i / 4, i % 4);
      halves[i] = b == nullptr ? std::uint16_t{0} : b->d.bits;
    }
  }
};

/// One 16-bit scale and one addend per 32 columns.
struct HalfPairScales {
  static constexpr bool integers = false;
  static constexpr int row_bytes = 16;
  Words words[2];

  __device__ void load(const std::byte* from, int g) {
    for (int r = 0; r < 2; ++r) words[r] = load_words(from + (2 * g + r) * 16);
  }
  __device__ float scale(int r, int step) const { return half_at(words[r].at[step / 2], 0); }
  __device__ float min(int r, int group) const { return -half_at(words[r].at[group], 1); }
  template <class GetBlock>
  __device__ static void store(std::byte* to, int g, const GetBlock& block) {
    auto* pairs = reinterpret_cast<std::uint32_t*>(to + g * 32);
    for (int i = 0; i < 8; ++i) {
      const auto* b = block(i / 4, i % 4);
      pairs[i] = b == nullptr ? 0u : b->d.bits | static_cast<std::uint32_t>(b->m.bits) << 16;
    }
  }
};

/// d · scale and dmin · min per 32 columns, scale and min of 6 bits. Three words hold the fields
/// 0 … 3 (scales), 4 … 7, 8 … 11 (minima) in the lower bits of their bytes; their upper bits, in
/// pairs, are the fields 12 … 15.
struct SixBitScales {
  static constexpr bool integers = true;
  static constexpr int row_bytes = 16;
  std::uint32_t fields[2][4];
  float d[2], dmin[2];

  __device__ void load(const std::byte* from, int g) {
    for (int r = 0; r < 2; ++r) {
      const Words w = load_words(from + (2 * g + r) * 16);
      for (int i = 0; i < 4; ++i) fields[r][i] = w.at[i];
    }
  }
  /// Done when the words have arrived.
  __device__ void open() {
    for (int r = 0; r < 2; ++r) {
      std::uint32_t(&f)[4] = fields[r];
      d[r] = half_at(f[0], 0);
      dmin[r] = half_at(f[0], 1);
      const std::uint32_t last =
          (f[1] >> 6 & 0x03030303u) | (f[2] >> 4 & 0x0c0c0c0cu) | (f[3] >> 2 & 0x30303030u);
      f[0] = f[1] & 0x3f3f3f3fu;
      f[1] = f[2] & 0x3f3f3f3fu;
      f[2] = f[3] & 0x3f3f3f3fu;
      f[3] = last;
    }
  }
  __device__ int integer(int r, int step) const {
    return byte_at(fields[r][step / 8], step / 2 % 4);
  }
  __device__ int integer_min(int r, int group) const {
    return byte_at(fields[r][2 + group / 4], group % 4);
  }
  __device__ float factor(int r) const { return d[r]; }
  __device__ float min_factor(int r) const { return dmin[r]; }
  // (2^23 + v) d − 2^23 d: exact before the one rounding, which v d does not need.
  __device__ float scale(int r, int step) const {
    return fmaf(biased_byte(fields[r][step / 8], step / 2 % 4), d[r], -0x1p23f * d[r]);
  }
  __device__ float min(int r, int group) const {
    return fmaf(biased_byte(fields[r][2 + group / 4], group % 4), dmin[r], -0x1p23f * dmin[r]);
  }
  template <class GetBlock>
  __device__ static void store(std::byte* to, int g, const GetBlock& block) {
    for (int r = 0; r < 2; ++r) {
      auto* words = reinterpret_cast<std::uint32_t*>(to + (2 * g + r) * 16);
      const auto* b = block(r, 0);
      for (int i = 0; i < 4; ++i) words[i] = 0;
      if (b == nullptr) continue;
      words[0] = b->d.bits | static_cast<std::uint32_t>(b->dmin.bits) << 16;
      for (int i = 0; i < 12; ++i) {
        const int v = i < 8 ? six_bit_scale(b->scales, i) : six_bit_min(b->scales, i - 8);
        words[1 + i / 4] |= static_cast<std::uint32_t>(v) << (i % 4 * 8);
      }
      for (int i = 0; i < 4; ++i) {
        const auto v = static_cast<std::uint32_t>(six_bit_min(b->scales, i + 4));
        for (int part = 0; part < 3; ++part) {
          words[1 + part] |= (v >> (2 * part) & 3u) << (i * 8 + 6);
        }
      }
    }
  }
};

/// d · scale per 16 columns, scale of 8 bits.
struct ByteScales {
  static constexpr bool integers = true;
  static constexpr int row_bytes = 18;
  Words words[2];
  std::uint32_t d;

  __device__ void load(const std::byte* from, int g) {
    for (int r = 0; r < 2; ++r) words[r] = load_words(from + (2 * g + r) * 16);
    d = reinterpret_cast<const std::uint32_t*>(from + 256)[g];
  }
  __device__ int integer(int r, int step) const {
    return byte_at(words[r].at[step / 4], step % 4) - 128;
  }
  __device__ float factor(int r) const { return half_at(d, r); }
  __device__ float scale(int r, int step) const {
    return (biased_byte(words[r].at[step / 4], step % 4) - (0x1p23f + 128)) * half_at(d, r);
  }
  __device__ float min(int, int) const { return 0; }
  template <class GetBlock>
  __device__ static void store(std::byte* to, int g, const GetBlock& block) {
    for (int r = 0; r < 2; ++r) {
      const auto* b = block(r, 0);
      auto* scales = reinterpret_cast<std::uint8_t*>(to + (2 * g + r) * 16);
      for (int i = 0; i < 16; ++i) {
        scales[i] = static_cast<std::uint8_t>((b == nullptr ? 0 : b->scales[i]) + 128);
      }
      reinterpret_cast<std::uint16_t*>(to + 256)[2 * g + r] =
          b == nullptr ? std::uint16_t{0} : b->d.bits;
    }
  }
};

}  // namespace cuda
ZIYA_NAMESPACE_END
