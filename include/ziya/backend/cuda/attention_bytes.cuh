// SPDX-License-Identifier: Apache-2.0
// A row's query against keys in blocks of 8-bit numbers, and sums of such values: operands of
// products of bytes on the tensor cores, 32 keys of a warp at a time.
#pragma once

#include <cstdint>

#include "ziya/backend/cuda/cached_blocks.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/mma.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Numbers that meet bytes are whole numbers of so many pairs of 8-bit digits: of two digits beside
/// 16-bit activations, whose own rounding is greater, and of four beside 32 bits.
template <class T>
inline constexpr int digit_pairs = sizeof(T) == 2 ? 1 : 2;

/// What the columns of two digits of a product of bytes say together: the first pair and, 2¹⁶ times
/// as much, the second.
template <int Pairs>
__device__ inline float joined(const int (&c)[Pairs][4], int first) {
  float value = static_cast<float>(c[0][first + 1] * 256 + c[0][first]);
  if constexpr (Pairs == 2) {
    value = fmaf(static_cast<float>(c[1][first + 1] * 256 + c[1][first]), 65536.0f, value);
  }
  return value;
}

/// 128 elements of a query as second operands of four products. Lane 4 g + t has, of the columns of
/// block g / 2, digit g % 2 of each pair: zeros where the other operand's lanes hold other blocks.
template <int Pairs>
struct QueryBytes {
  static constexpr float largest = Pairs == 1 ? 32512.0f : 0x1p23f;
  unsigned b[Pairs][4][2];

  /// @param inverse `largest` over the greatest of all elements
  __device__ void make(const float* query, float inverse) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const bool own = t / 2 == g / 2 % 2;
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const float4 four = reinterpret_cast<const float4*>(query)[16 * (g / 4) + 4 * t + word];
      const float x[4] = {four.x, four.y, four.z, four.w};
      unsigned digits[2 * Pairs] = {};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int whole = __float2int_rn(x[e] * inverse);
#pragma unroll
        for (int d = 0; d < 2 * Pairs; ++d) {
          const int digit = static_cast<std::int8_t>(whole);
          digits[d] |= (static_cast<unsigned>(digit) & 255u) << 8 * e;
          whole = (whole - digit) >> 8;
        }
      }
#pragma unroll
      for (int p = 0; p < Pairs; ++p) {
        const unsigned bits = own ? digits[2 * p + g % 2] : 0u;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          b[p][2 * half + word / 2][word % 2] = g / 4 == half ? bits : 0u;
        }
      }
    }
  }
};

/// Where a cache has its blocks, of all heads and tokens. Blocks past a head's `each` are not
/// there: whoever asks for some of their bytes gets others, whoever asks for their scale 0.
struct StoredBlocks {
  const std::byte *quants, *scales;
  int each;  ///< blocks of a head

  /// Where the bytes behind byte `at` of block 0 and those of its head are; +32 for every block.
  __device__ const std::byte* bytes(int at) const {
    return quants + (at < block_quants * each ? at : 0);
  }
  __device__ static uint4 load(const std::byte* at, unsigned block) {
    return __ldcg(reinterpret_cast<const uint4*>(at + std::int64_t{block} * block_quants));
  }
  __device__ CachedHead<Quant> head(unsigned block) const {
    const std::int64_t first = block;
    return {reinterpret_cast<Quant*>(const_cast<std::byte*>(quants + first * block_quants)),
            reinterpret_cast<Half*>(const_cast<std::byte*>(scales + first * 2))};
  }
  __device__ std::uint16_t scale(unsigned block, int i) const {
    if (i >= each) return 0;
    return __ldcg(reinterpret_cast<const std::uint16_t*>(scales + std::int64_t{block} * 2) + i);
  }
};

/// A key or a value in shared memory, zeros past its head.
template <int Passes>
struct NewBlocks {
  alignas(16) Quant quants[128 * Passes];
  std::uint16_t scales[4 * Passes];

  __device__ uint4 load(int byte) const { return *reinterpret_cast<const uint4*>(quants + byte); }
};

/// The key of a warp's 32 whose place and score a lane has.
__device__ inline int lane_key() {
  return static_cast<int>(threadIdx.x) % 32 / 4 + static_cast<int>(threadIdx.x) % 4 * 8;
}

/// 32 keys of a warp: lane 4 g + t has, of every 64 bytes of keys g, g + 8, g + 16 and g + 24,
/// those from 16 t on.
template <int Passes>
struct KeyBytes {
  uint4 words[Passes][4][2];
  std::uint16_t scales[Passes][4];

  /// @param first block of the lane's key
  __device__ void fetch(const StoredBlocks& from, unsigned first) {
    const int lane = static_cast<int>(threadIdx.x) % 32, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned block = __shfl_sync(~0u, first, lane - t + i);
#pragma unroll
      for (int p = 0; p < Passes; ++p) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          words[p][i][half] = from.load(from.bytes(128 * p + 64 * half + 16 * t), block);
        }
        scales[p][i] = from.scale(block, 4 * p + t);
      }
    }
  }
  /// Takes key `index` of the 32 from shared memory.
  __device__ void put(const NewBlocks<Passes>& from, int index) {
    const int lane = static_cast<int>(threadIdx.x) % 32, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (index != lane / 4 + 8 * i) continue;
#pragma unroll
      for (int p = 0; p < Passes; ++p) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          words[p][i][half] = from.load(128 * p + 64 * half + 16 * t);
        }
        scales[p][i] = from.scales[4 * p + t];
      }
    }
  }
  /// @returns the product of the query, over its step, and the lane's key
  template <int Pairs>
  __device__ float meet(const QueryBytes<Pairs> (&query)[Passes]) const {
    float sums[4] = {};
#pragma unroll
    for (int p = 0; p < Passes; ++p) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        int c[Pairs][4] = {};
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          const uint4 &low = words[p][i][m / 2], &high = words[p][i + 1][m / 2];
          const unsigned a[4] = {m % 2 == 0 ? low.x : low.z, m % 2 == 0 ? high.x : high.z,
                                 m % 2 == 0 ? low.y : low.w, m % 2 == 0 ? high.y : high.w};
#pragma unroll
          for (int pair = 0; pair < Pairs; ++pair) {
            add_bytes<true, true>(c[pair], a, query[p].b[pair][m][0], query[p].b[pair][m][1]);
          }
        }
        sums[i] = fmaf(joined(c, 0), widen(Half{scales[p][i]}), sums[i]);
        sums[i + 1] = fmaf(joined(c, 2), widen(Half{scales[p][i + 1]}), sums[i + 1]);
      }
    }
    // Of four neighbours, whose sums are of four blocks of the same keys, each gets the whole of
    // one.
    const bool odd = threadIdx.x % 2 != 0, upper = threadIdx.x % 4 >= 2;
    float low = odd ? sums[1] : sums[0], high = odd ? sums[3] : sums[2];
    low += __shfl_xor_sync(~0u, odd ? sums[0] : sums[1], 1);
    high += __shfl_xor_sync(~0u, odd ? sums[2] : sums[3], 1);
    return (upper ? high : low) + __shfl_xor_sync(~0u, upper ? low : high, 2);
  }
};

/// A warp's weights times scales of values as digits: row 2 b + d of a pair is digit d of block b.
using WeightDigits = std::uint8_t[8][32];

/// 32 values of a warp: lane 4 g + t has, of every 128 bytes of values 8 t … 8 t + 7, those from 16
/// g on, and the scales of the lane's own.
template <int Passes>
struct ValueBytes {
  uint4 words[Passes][8];
  std::uint16_t scales[Passes][4];

  /// @param first block of the lane's value
  __device__ void fetch(const StoredBlocks& from, unsigned first) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int p = 0; p < Passes; ++p) {
#pragma unroll
      for (int b = 0; b < 4; ++b) scales[p][b] = from.scale(first, 4 * p + b);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const unsigned block = __shfl_sync(~0u, first, 4 * i + t);
#pragma unroll
      for (int p = 0; p < Passes; ++p) {
        words[p][i] = from.load(from.bytes(128 * p + 16 * g), block);
      }
    }
  }
  /// Takes value `index` of the 32 from shared memory.
  __device__ void put(const NewBlocks<Passes>& from, int index) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (index != 8 * t + i) continue;
#pragma unroll
      for (int p = 0; p < Passes; ++p) words[p][i] = from.load(128 * p + 16 * g);
    }
    if (lane_key() != index) return;
#pragma unroll
    for (int p = 0; p < Passes; ++p) {
#pragma unroll
      for (int b = 0; b < 4; ++b) scales[p][b] = from.scales[4 * p + b];
    }
  }
  /// to[i] = Σ weight × value over the warp's keys.
  /// @param weight of the lane's value, not negative
  template <int Pairs>
  __device__ void sum(float* to, WeightDigits (&digits)[Passes][Pairs], float weight) const {
    constexpr unsigned bits = Pairs == 1 ? 16 : 24, raised = (bits - 1) << 23;
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    float down[Passes];
#pragma unroll
    for (int p = 0; p < Passes; ++p) {
      float w[4];
      unsigned greatest = 0;
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        w[b] = weight > 0 ? weight * widen(Half{scales[p][b]}) : 0.0f;
        greatest = max(greatest, __float_as_uint(w[b]));
      }
      // Times a power of two that makes the greatest of the warp one of `bits` bits.
      const unsigned exponent = max(__reduce_max_sync(~0u, greatest) & 0x7f800000u, raised);
      const float up = __uint_as_float(0x7f000000u - exponent + raised);
      down[p] = __uint_as_float(exponent == 0x7f800000u ? exponent + 1 : exponent - raised);
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        const unsigned whole = min(__float2uint_rn(w[b] * up), (1u << bits) - 1);
#pragma unroll
        for (int d = 0; d < 2 * Pairs; ++d) {
          digits[p][d / 2][2 * b + d % 2][lane_key()] = static_cast<std::uint8_t>(whole >> 8 * d);
        }
      }
    }
    __syncwarp();
#pragma unroll
    for (int p = 0; p < Passes; ++p) {
      uint2 b[Pairs];
#pragma unroll
      for (int pair = 0; pair < Pairs; ++pair) {
        b[pair] = *reinterpret_cast<const uint2*>(&digits[p][pair][g][8 * t]);
      }
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        unsigned first[4], second[4];  // an element of four values each
        transpose(first, p, 0, word);
        transpose(second, p, 4, word);
        float four[4];
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          int c[Pairs][4] = {};
#pragma unroll
          for (int pair = 0; pair < Pairs; ++pair) {
            add_bytes<true, false>(c[pair], {first[e], first[e + 1], second[e], second[e + 1]},
                                   b[pair].x, b[pair].y);
          }
          four[e] = joined(c, 0) * down[p], four[e + 1] = joined(c, 2) * down[p];
        }
        if (t == g / 2) {  // the columns of the block that rows of g belong to
          *reinterpret_cast<float4*>(to + 128 * p + 16 * g + 4 * word) = {four[0], four[1], four[2],
                                                                          four[3]};
        }
      }
    }
  }

 private:
  __device__ void transpose(unsigned (&to)[4], int pass, int from, int word) const {
    unsigned x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4& w = words[pass][from + i];
      x[i] = word == 0 ? w.x : word == 1 ? w.y : word == 2 ? w.z : w.w;
    }
    const unsigned low[2] = {__byte_perm(x[0], x[1], 0x5140), __byte_perm(x[2], x[3], 0x5140)};
    const unsigned high[2] = {__byte_perm(x[0], x[1], 0x7362), __byte_perm(x[2], x[3], 0x7362)};
    to[0] = __byte_perm(low[0], low[1], 0x5410), to[1] = __byte_perm(low[0], low[1], 0x7632);
    to[2] = __byte_perm(high[0], high[1], 0x5410), to[3] = __byte_perm(high[0], high[1], 0x7632);
  }
};

}  // namespace cuda
ZIYA_NAMESPACE_END
