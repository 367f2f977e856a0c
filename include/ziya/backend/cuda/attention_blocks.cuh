// SPDX-License-Identifier: Apache-2.0
// A row's query against keys in blocks, and sums of values in blocks, with few instructions for
// each quant: the first by products of bytes, the second by the tensor cores.
#pragma once

#include "ziya/backend/cuda/cached_blocks.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/mma.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int row_threads = 512;

/// Eight numbers of a thread as whole numbers of 21 bits and a sign times `step`, 2⁻²⁰ of the
/// largest of `Lanes` threads, in digits of 8 bits whose products with quants are sums of integers.
template <int Lanes>
struct QueryDigits {
  unsigned low[2], middle[2], high[2];
  float step;

  QueryDigits() = default;
  __device__ QueryDigits(const float* x, bool present) {
    int largest = 0;
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (present) largest = max(largest, __float_as_int(x[e]) & 0x7fffffff);
    }
#pragma unroll
    for (int apart = Lanes / 2; apart > 0; apart /= 2) {
      largest = max(largest, __shfl_xor_sync(~0u, largest, apart));
    }
    step = __int_as_float(largest) * 0x1p-20f;  // of NaN and infinity what makes every product NaN
    const float inverse = largest > 0 ? __fdividef(1.0f, step) : 0.0f;
#pragma unroll
    for (int word = 0; word < 2; ++word) {
      low[word] = middle[word] = high[word] = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int whole = present ? __float2int_rn(x[4 * word + e] * inverse) : 0;
        low[word] |= (whole & 255) << 8 * e;
        middle[word] |= (whole >> 8 & 255) << 8 * e;
        high[word] |= (whole >> 16 & 255) << 8 * e;
      }
    }
  }
  __device__ float dot(const uint2& quants) const {
    int sums[3] = {};
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sums[0]) : "r"(low[0]), "r"(quants.x));
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sums[1]) : "r"(middle[0]), "r"(quants.x));
    asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(sums[2]) : "r"(high[0]), "r"(quants.x));
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sums[0]) : "r"(low[1]), "r"(quants.y));
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sums[1]) : "r"(middle[1]), "r"(quants.y));
    asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(sums[2]) : "r"(high[1]), "r"(quants.y));
    return static_cast<float>(sums[2] * 65536 + sums[1] * 256 + sums[0]) * step;
  }
};

/// Scales of a part's keys, `KeyScales` for each: a thread fetches one or two and later puts them
/// where all can read them. (Each thread with its own, compilers put them aside in memory, and so
/// waited for them when they had just been asked for.)
template <int KeyScales>
struct PartScales {
  static constexpr int each = split_keys * KeyScales / row_threads;
  Half at[each];

  __device__ void fetch(const CachedHead<Quant>* rows, int present, int head_dim) {
#pragma unroll
    for (int n = 0; n < each; ++n) {
      const int index = n * row_threads + static_cast<int>(threadIdx.x);
      const int key = index / KeyScales, element = index % KeyScales * block_quants;
      at[n] = key < present && element < head_dim ? load_scale(rows[key], element) : Half{};
    }
  }
  __device__ void publish(Half* scales) const {
#pragma unroll
    for (int n = 0; n < each; ++n) {
      scales[n * row_threads + static_cast<int>(threadIdx.x)] = at[n];
    }
  }
};

template <>
struct PartScales<0> {};

/// Values of eight keys that a warp holds: lane 4 g + t has, of keys 2 t and 2 t + 1, elements 16 g
/// … 16 g + 15 of every 128.
template <int KeyScales>
struct ValueBlocks {
  using Bits = uint4;
  static constexpr int passes = KeyScales / 4, keys_each = 2;
  Bits bits[keys_each][passes];
  PartScales<KeyScales> scales;

  static __device__ int key(int n) {
    const int thread = static_cast<int>(threadIdx.x);
    return thread / 32 * 8 + thread % 4 * 2 + n;
  }
  static __device__ int element(int pass) {
    return pass * 128 + static_cast<int>(threadIdx.x) % 32 / 4 * 16;
  }

  /// Two bytes, 128 more than quants, as f16: the last ones of 1024.
  static __device__ unsigned numbers(unsigned bytes, unsigned which) {
    const unsigned raised = __byte_perm(bytes, 0x64646464u, which), less = 0xe480e480u;  // −1152
    unsigned result;
    asm("add.f16x2 %0, %1, %2;" : "=r"(result) : "r"(raised), "r"(less));
    return result;
  }

  /// to[i] = Σ weight × value over the warp's keys, by tensor cores: their first operand is quants
  /// as f16; the second, weights times scales in two parts of f16, two columns for each block of
  /// the 128 elements, of which a row needs its own.
  /// @param weights not negative; where 0, a key need not have been fetched
  /// @param scale_rows of the thread's keys
  __device__ void sum(float* to, const float (&weights)[keys_each],
                      const Half* const (&scale_rows)[keys_each], int head_dim) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) {
      const int at = element(pass);
      float w[keys_each];
#pragma unroll
      for (int n = 0; n < keys_each; ++n) {
        w[n] = weights[n] > 0 && at < head_dim
                   ? weights[n] * widen(scale_rows[n][at / block_quants])
                   : 0.0f;
      }
      // Times a power of two that makes the largest of the warp 1 to 2.
      const unsigned largest =
          __reduce_max_sync(~0u, max(__float_as_uint(w[0]), __float_as_uint(w[1])));
      const unsigned exponent = largest & 0x7f800000u;
      const float up = __uint_as_float(0x7f000000u - exponent), down = __uint_as_float(exponent);
      const __half2 upper = __floats2half2_rn(w[0] * up, w[1] * up);
      const float2 kept = __half22float2(upper);
      const __half2 lower = __floats2half2_rn(w[0] * up - kept.x, w[1] * up - kept.y);
      const auto b0 = reinterpret_cast<const unsigned&>(upper);
      const auto b1 = reinterpret_cast<const unsigned&>(lower);
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        const auto word_of = [&](int n) {
          return reinterpret_cast<const unsigned*>(&bits[n][pass])[word] ^ 0x80808080u;
        };
        Pack<float, 4> sums;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const unsigned both = __byte_perm(word_of(0), word_of(1), half == 0 ? 0x5140 : 0x7362);
          const unsigned even = numbers(both, 0x4140), odd = numbers(both, 0x4342);
          float c[4];
          multiply_first<Half>(c, {even, odd, even, odd}, b0, b1);
          sums.at[2 * half] = c[0] * down;
          sums.at[2 * half + 1] = c[2] * down;
        }
        if (lane % 4 == lane / 8 && at < head_dim) {
          *reinterpret_cast<Pack<float, 4>*>(to + at + 4 * word) = sums;
        }
      }
    }
  }
};

}  // namespace cuda
ZIYA_NAMESPACE_END
