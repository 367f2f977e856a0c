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
/// Four of eight bytes, by fields of 4 bits of `choice`: three bits choose, the fourth one asks for
/// the sign of the chosen byte in all its bits.
__device__ inline std::uint32_t choose_bytes(std::uint32_t first, std::uint32_t second,
                                             std::uint32_t choice) {
  std::uint32_t result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(first), "r"(second), "r"(choice));
  return result;
}
__device__ inline int byte_at(std::uint32_t word, int index) {
  return static_cast<int>(choose_bytes(word, 0, 0x4440u | static_cast<unsigned>(index)));
}
/// With its sign.
__device__ inline int signed_byte_at(std::uint32_t word, int index) {
  return static_cast<int>(choose_bytes(word, 0, 0x8880u + static_cast<unsigned>(index) * 0x1111u));
}
/// 1024 + byte as a pair of 16 bits, twice the same or of two bytes in a row.
__device__ inline __half2 biased_pair(std::uint32_t word, unsigned index, unsigned second) {
  const std::uint32_t bits = __byte_perm(word, 0x64646464u, 0x4040u | index | second << 8);
  return *reinterpret_cast<const __half2*>(&bits);
}
/// (pair − bias) · factor, exact for powers of two.
__device__ inline __half2 unbiased(__half2 pair, float bias, float factor) {
  return __hfma2(pair, __float2half2_rn(factor), __float2half2_rn(-bias * factor));
}
/// Bytes 2 (t % 2) and the next one in the same way, as an operand of the tensor cores.
__device__ inline unsigned unbiased_bytes(std::uint32_t word, int t, float bias, float factor) {
  const auto first = static_cast<unsigned>(t % 2 * 2);
  const __half2 both = unbiased(biased_pair(word, first, first + 1), bias, factor);
  return *reinterpret_cast<const unsigned*>(&both);
}
/// 2^23 + byte `index` of a word.
__device__ inline float biased_byte(std::uint32_t word, int index) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u | static_cast<unsigned>(index)));
}

// Each has: bytes of one row; `load`, and `open` where something is left to do when what it loads
// has arrived; `scale`, and where there are minima `min`, of columns [16 step, 16 step + 16) of row
// g + 8 r; and `store`, given block(r, i), the i-th block of a row or null. Scales that are
// integers times a factor of the row's block give them as `integer`, `factor` and `min_factor`, all
// integers `unit` times greater. `integer_minima` are those of a lane as the first operand of an
// integer product of 16 columns, of which one is a minimum; `offsets` the same in 16 bits, or
// scales where there are no minima. `pair` is the integer times a power of two, twice, `whole` a
// float of it. What belongs to the t-th of four columns' scales in a row is also `own_integer`,
// `own_scale` and `own_min`.

/// One 16-bit scale per 32 columns.
struct HalfScales {
  static constexpr bool integers = false, small = false;
  static constexpr int row_bytes = 8, unit = 1;
  Words words;
  Half own[2];  ///< scales of columns 32 t … 32 t + 31

  __device__ void load(const std::byte* from, int g) {
    words = load_words(from + g * 16);
    const int t = static_cast<int>(threadIdx.x) % 4;
    for (int r = 0; r < 2; ++r) own[r] = reinterpret_cast<const Half*>(from)[8 * g + 4 * r + t];
  }
  __device__ float own_scale(int r) const { return widen(own[r]); }
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
  static constexpr bool integers = false, small = false;
  static constexpr int row_bytes = 16, unit = 1;
  Words words[2];
  std::uint32_t own[2];  ///< those of columns 32 t … 32 t + 31

  __device__ void load(const std::byte* from, int g) {
    const int t = static_cast<int>(threadIdx.x) % 4;
    for (int r = 0; r < 2; ++r) {
      words[r] = load_words(from + (2 * g + r) * 16);
      own[r] = reinterpret_cast<const std::uint32_t*>(from)[8 * g + 4 * r + t];
    }
  }
  __device__ float own_scale(int r) const { return half_at(own[r], 0); }
  __device__ float own_min(int r) const { return -half_at(own[r], 1); }
  __device__ float scale(int r, int step) const { return half_at(words[r].at[step / 2], 0); }
  __device__ float min(int r, int step) const { return -half_at(words[r].at[step / 2], 1); }
  template <class GetBlock>
  __device__ static void store(std::byte* to, int g, const GetBlock& block) {
    auto* pairs = reinterpret_cast<std::uint32_t*>(to + g * 32);
    for (int i = 0; i < 8; ++i) {
      const auto* b = block(i / 4, i % 4);
      pairs[i] = b == nullptr ? 0u : b->d.bits | static_cast<std::uint32_t>(b->m.bits) << 16;
    }
  }
};

// Sixteen fields of 6 bits in three words: 0 … 3, 4 … 7, 8 … 11 in the upper bits of their bytes;
// their lower bits, in pairs, are the fields 12 … 15.

/// To the upper bits of a byte each: four times the fields, with their signs if they have some.
__device__ inline void open_fields(std::uint32_t (&to)[4], const std::uint32_t (&from)[3]) {
#pragma unroll
  for (int i = 0; i < 3; ++i) to[i] = from[i] & 0xfcfcfcfcu;
  to[3] =
      (from[0] << 2 & 0x0c0c0c0cu) | (from[1] << 4 & 0x30303030u) | (from[2] << 6 & 0xc0c0c0c0u);
}
__device__ inline void store_field(std::uint32_t (&to)[3], int i, int field) {
  const auto v = static_cast<std::uint32_t>(field);
  if (i < 12) {
    to[i / 4] |= (v & 63u) << (i % 4 * 8 + 2);
  } else {
    for (int part = 0; part < 3; ++part) to[part] |= (v >> (2 * part) & 3u) << (i % 4 * 8);
  }
}
__device__ inline float signed_float(std::uint32_t word, int index) {
  return biased_byte(word ^ 0x80808080u, index) - (0x1p23f + 128);
}
/// (2^23 + v) d − 2^23 d: exact before the one rounding, which v d does not need.
__device__ inline float times(std::uint32_t word, int index, float d) {
  return fmaf(biased_byte(word, index), d, -0x1p23f * d);
}

/// d · scale and dmin · min per 32 columns, scale (fields 0 … 7) and min (8 … 15) of 6 bits.
struct SixBitPairScales {
  static constexpr bool integers = true, small = true;
  static constexpr int row_bytes = 16, unit = 4;
  std::uint32_t fields[2][4];
  float d[2], dmin[2];

  __device__ void load(const std::byte* from, int g) {
    for (int r = 0; r < 2; ++r) {
      const Words w = load_words(from + (2 * g + r) * 16);
      for (int i = 0; i < 4; ++i) fields[r][i] = w.at[i];
    }
  }
  __device__ void open() {
    for (int r = 0; r < 2; ++r) {
      d[r] = half_at(fields[r][0], 0);
      dmin[r] = half_at(fields[r][0], 1);
      const std::uint32_t packed[3] = {fields[r][1], fields[r][2], fields[r][3]};
      open_fields(fields[r], packed);
    }
  }
  __device__ int integer(int r, int step) const {
    return byte_at(fields[r][step / 8], step / 2 % 4);
  }
  __device__ int own_integer(int r, int set) const {
    return byte_at(fields[r][set], static_cast<int>(threadIdx.x) % 4);
  }
  __device__ void integer_minima(unsigned (&a)[2], int t) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) a[r] = t > 1 ? 0u : t == 0 ? fields[r][2] : fields[r][3];
  }
  __device__ __half2 pair(int r, int step, float factor) const {
    return unbiased(biased_pair(fields[r][step / 8], step / 2 % 4, step / 2 % 4), 1024,
                    factor / unit);
  }
  __device__ void offsets(unsigned (&a)[4], int t) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      a[r] = unbiased_bytes(t < 2 ? fields[r][2] : fields[r][3], t, 1024, 1.0f / unit);
      a[2 + r] = 0;
    }
  }
  __device__ float factor(int r) const { return d[r]; }
  __device__ float min_factor(int r) const { return dmin[r]; }
  __device__ float scale(int r, int step) const {
    return times(fields[r][step / 8], step / 2 % 4, d[r] / unit);
  }
  __device__ float min(int r, int step) const {
    return times(fields[r][2 + step / 8], step / 2 % 4, dmin[r] / unit);
  }
  template <class GetBlock>
  __device__ static void store(std::byte* to, int g, const GetBlock& block) {
    for (int r = 0; r < 2; ++r) {
      auto* words = reinterpret_cast<std::uint32_t*>(to + (2 * g + r) * 16);
      const auto* b = block(r, 0);
      std::uint32_t packed[3] = {};
      for (int i = 0; i < 16 && b != nullptr; ++i) {
        store_field(packed, i, i < 8 ? six_bit_scale(b->scales, i) : six_bit_min(b->scales, i - 8));
      }
      words[0] = b == nullptr ? 0u : b->d.bits | static_cast<std::uint32_t>(b->dmin.bits) << 16;
      for (int i = 0; i < 3; ++i) words[1 + i] = packed[i];
    }
  }
};

/// d · scale per 16 columns, scale of 6 bits with a sign.
struct SixBitScales {
  static constexpr bool integers = true, small = true;
  static constexpr int row_bytes = 14, unit = 4;
  std::uint32_t fields[2][4];
  std::uint32_t d;

  __device__ void load(const std::byte* from, int g) {
    for (int i = 0; i < 3; ++i) {  // three words of row g, then of row g + 8
      const uint2 two = reinterpret_cast<const uint2*>(from)[3 * g + i];
      fields[2 * i / 3][2 * i % 3] = two.x;
      fields[(2 * i + 1) / 3][(2 * i + 1) % 3] = two.y;
    }
    d = reinterpret_cast<const std::uint32_t*>(from + 192)[g];
  }
  __device__ void open() {
    for (int r = 0; r < 2; ++r) {
      const std::uint32_t packed[3] = {fields[r][0], fields[r][1], fields[r][2]};
      open_fields(fields[r], packed);
    }
  }
  __device__ int integer(int r, int step) const {
    return signed_byte_at(fields[r][step / 4], step % 4);
  }
  __device__ int own_integer(int r, int set) const {
    return signed_byte_at(fields[r][set], static_cast<int>(threadIdx.x) % 4);
  }
  __device__ __half2 pair(int r, int step, float factor) const {
    return unbiased(biased_pair(fields[r][step / 4] ^ 0x80808080u, step % 4, step % 4), 1152,
                    factor / unit);
  }
  __device__ float factor(int r) const { return half_at(d, r); }
  __device__ float scale(int r, int step) const {
    return signed_float(fields[r][step / 4], step % 4) * (half_at(d, r) / unit);
  }
  __device__ float min(int, int) const { return 0; }
  template <class GetBlock>
  __device__ static void store(std::byte* to, int g, const GetBlock& block) {
    for (int r = 0; r < 2; ++r) {
      const auto* b = block(r, 0);
      std::uint32_t packed[3] = {};
      for (int i = 0; i < 16 && b != nullptr; ++i) {
        store_field(packed, i, step_scale(b->scales, i) - 32);
      }
      for (int i = 0; i < 3; ++i)
        reinterpret_cast<std::uint32_t*>(to)[6 * g + 3 * r + i] = packed[i];
      reinterpret_cast<std::uint16_t*>(to + 192)[2 * g + r] =
          b == nullptr ? std::uint16_t{0} : b->d.bits;
    }
  }
};

/// d · scale and dmin · min per 16 columns, scale and min of 4 bits.
struct FourBitScales {
  static constexpr bool integers = true, small = true;
  static constexpr int row_bytes = 20, unit = 1;
  Words words[2];        ///< minima and scales
  std::uint32_t own[2];  ///< the lane's word of each
  uint2 d;               ///< d and dmin of both rows

  __device__ void load(const std::byte* from, int g) {
    const int t = static_cast<int>(threadIdx.x) % 4;
    for (int r = 0; r < 2; ++r) {
      words[r] = load_words(from + (2 * g + r) * 16);
      own[r] = *reinterpret_cast<const std::uint32_t*>(from + (2 * g + r) * 16 + 4 * t);
    }
    d = reinterpret_cast<const uint2*>(from + 256)[g];
  }
  __device__ int integer(int r, int step) const { return byte_at(scales(r, step), step % 4); }
  __device__ int own_integer(int r, int set) const {
    return byte_at(words[r].at[set] & 0x0f0f0f0fu, static_cast<int>(threadIdx.x) % 4);
  }
  __device__ void integer_minima(unsigned (&a)[2], int) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) a[r] = own[r] >> 4 & 0x0f0f0f0fu;
  }
  __device__ __half2 pair(int r, int step, float factor) const {
    return unbiased(biased_pair(scales(r, step), step % 4, step % 4), 1024, factor);
  }
  __device__ void offsets(unsigned (&a)[4], int t) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = i % 2, step = 8 * (i / 2);
      a[i] = unbiased_bytes(t < 2 ? minima(r, step) : minima(r, step + 4), t, 1024, 1);
    }
  }
  __device__ float factor(int r) const { return half_at(r == 0 ? d.x : d.y, 0); }
  __device__ float min_factor(int r) const { return half_at(r == 0 ? d.x : d.y, 1); }
  __device__ float scale(int r, int step) const {
    return times(scales(r, step), step % 4, factor(r));
  }
  __device__ float min(int r, int step) const {
    return times(minima(r, step), step % 4, min_factor(r));
  }
  template <class GetBlock>
  __device__ static void store(std::byte* to, int g, const GetBlock& block) {
    for (int r = 0; r < 2; ++r) {
      const auto* b = block(r, 0);
      auto* scales = reinterpret_cast<std::uint8_t*>(to + (2 * g + r) * 16);
      for (int i = 0; i < 16; ++i) scales[i] = b == nullptr ? std::uint8_t{0} : b->scales[i];
      reinterpret_cast<std::uint32_t*>(to + 256)[2 * g + r] =
          b == nullptr ? 0u : b->d.bits | static_cast<std::uint32_t>(b->dmin.bits) << 16;
    }
  }

 private:
  __device__ std::uint32_t scales(int r, int step) const {
    return words[r].at[step / 4] & 0x0f0f0f0fu;
  }
  __device__ std::uint32_t minima(int r, int step) const {
    return words[r].at[step / 4] >> 4 & 0x0f0f0f0fu;
  }
};

/// d · scale per 16 columns, scale of 8 bits.
struct ByteScales {
  static constexpr bool integers = true, small = false;
  static constexpr int row_bytes = 18, unit = 1;
  Words words[2];
  std::uint32_t d;

  __device__ void load(const std::byte* from, int g) {
    for (int r = 0; r < 2; ++r) words[r] = load_words(from + (2 * g + r) * 16);
    d = reinterpret_cast<const std::uint32_t*>(from + 256)[g];
  }
  __device__ int integer(int r, int step) const {
    return signed_byte_at(words[r].at[step / 4], step % 4);
  }
  __device__ int own_integer(int r, int set) const {
    return signed_byte_at(words[r].at[set], static_cast<int>(threadIdx.x) % 4);
  }
  __device__ void offsets(unsigned (&a)[4], int t) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = i % 2, word = i / 2 * 2;
      a[i] = unbiased_bytes((t < 2 ? words[r].at[word] : words[r].at[word + 1]) ^ 0x80808080u, t,
                            1152, 1);
    }
  }
  __device__ float factor(int r) const { return half_at(d, r); }
  __device__ float whole(int r, int step) const {
    return signed_float(words[r].at[step / 4], step % 4);
  }
  __device__ float scale(int r, int step) const { return whole(r, step) * half_at(d, r); }
  __device__ float min(int, int) const { return 0; }
  template <class GetBlock>
  __device__ static void store(std::byte* to, int g, const GetBlock& block) {
    for (int r = 0; r < 2; ++r) {
      const auto* b = block(r, 0);
      auto* scales = reinterpret_cast<std::uint8_t*>(to + (2 * g + r) * 16);
      for (int i = 0; i < 16; ++i) {
        scales[i] = static_cast<std::uint8_t>(b == nullptr ? 0 : b->scales[i]);
      }
      reinterpret_cast<std::uint16_t*>(to + 256)[2 * g + r] =
          b == nullptr ? std::uint16_t{0} : b->d.bits;
    }
  }
};

}  // namespace cuda
ZIYA_NAMESPACE_END
