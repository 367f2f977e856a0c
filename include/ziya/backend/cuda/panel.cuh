// SPDX-License-Identifier: Apache-2.0
// Quantised weights, 16 rows × 128 or 256 columns at a time, as operands of the tensor cores.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/panel_formats.cuh"
#include "ziya/backend/cuda/panel_scales.cuh"
#include "ziya/backend/cuda/panels.hpp"
#include "ziya/backend/cuda/stored_blocks.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// The lane 4 g + t has, of each group of 32 columns of rows g and g + 8, eight elements e: columns
/// 8 t + e, or 16 (e / 4) + 4 t + e % 4 where scales belong to 16 columns.
template <class Block>
struct Panel : FormatOf<Block> {
  using Format = FormatOf<Block>;
  using Format::high_bits, Format::low_bits, Format::minimum, Format::offset, Format::run,
      Format::table, Format::scaled_bytes;
  using Scales = typename Format::Scales;
  static constexpr bool super = sizeof(Block) > 64;
  static constexpr int elements = super ? 256 : 32, columns = super ? 256 : 128;
  static constexpr int groups = columns / 32, blocks = columns / elements;
  static constexpr int steps = run == 8 ? 1 : 2;  // scales of a group and row
  /// Whether a word has elements 0 … 3 of two groups and the next one elements 4 … 7, so that a
  /// scale's quants lie in one place of their bytes; else it has all eight of a group.
  static constexpr bool paired = low_bits == 4 && high_bits == 0 && !table;
  /// Minima want sums of x over their columns: of one number where they are floats, of 16 columns
  /// of an operand where they are integers.
  static constexpr bool float_minima = minimum && !Scales::integers,
                        integer_minima = minimum && Scales::integers;
  static constexpr int words = groups * low_bits / 4;  // per row and lane
  static constexpr int high_words = groups * high_bits / 4;
  static constexpr int high_at = 256 * words, scales_at = high_at + 256 * high_words;
  static constexpr int bytes = 16 * blocks * static_cast<int>(sizeof(Block));
  static_assert(bytes == scales_at + 16 * Scales::row_bytes);

  Words low[words / 2];
  std::uint32_t high[high_words == 0 ? 1 : 2 * high_words];
  Scales scales;

  __device__ static int column(int group, int t, int e) {
    return 32 * group + (run == 8 ? 8 * t + e : 16 * (e / 4) + 4 * t + e % 4);
  }

  __device__ void load(const std::byte* from, int lane) {
#pragma unroll
    for (int c = 0; c < words / 2; ++c) low[c] = load_words(from + (c * 32 + lane) * 16);
    if constexpr (high_words == 1) {
      const uint2 both = reinterpret_cast<const uint2*>(from + high_at)[lane];
      high[0] = both.x;
      high[1] = both.y;
    } else if constexpr (high_words > 1) {
#pragma unroll
      for (int c = 0; c < high_words / 2; ++c) {
        const Words four = load_words(from + high_at + (c * 32 + lane) * 16);
#pragma unroll
        for (int i = 0; i < 4; ++i) high[4 * c + i] = four.at[i];
      }
    }
    scales.load(from + scales_at, lane / 4);
  }
  /// What depends on loaded values and is needed once.
  __device__ void open() {
    if constexpr (requires { scales.open(); }) scales.open();
  }

  /// Pairs of q − offset of elements (0, 1), (2, 3), (4, 5), (6, 7), exact in T.
  template <class T>
  __device__ void unpack(std::uint32_t (&out)[4], int r, int group) const {
    if constexpr (low_bits == 8) {
#pragma unroll
      for (int i = 0; i < 2; ++i) bytes_to<T>(out[2 * i], out[2 * i + 1], low_word(r, group, i));
    } else if constexpr (table) {
      std::uint32_t even_odd[2];
      integers(even_odd, r, group);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        bytes_to<T>(out[2 * i], out[2 * i + 1],
                    __byte_perm(even_odd[0], even_odd[1], i == 0 ? 0x6240 : 0x7351) ^ 0x80808080u);
      }
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if constexpr (low_bits == 4 && high_bits == 0 && std::is_same_v<T, Half>) {
          // 1024 + q, or 1024 + 16 q: no shift for half of them.
          const std::uint32_t word = low_word(r, group, j / 2);
          const std::uint32_t shifted = j % 2 == 0 ? word : word >> 8;
          if (low_place(group, j / 2) == 0) {
            out[j] = minus<T>(and_or(shifted, 0x000f000fu, 0x64006400u), 0x6400u + offset);
          } else {
            out[j] = sixteenth(and_or(shifted, 0x00f000f0u, 0x64006400u));
          }
        } else {
          constexpr std::uint32_t one = std::is_same_v<T, Half> ? 0x6400u : 0x4300u;
          out[j] = minus<T>(biased<one>(j, r, group), one + offset);
        }
      }
    }
  }

  /// What `scaled_pairs` and `small_pairs` are to be multiplied with.
  static constexpr float pair_unit = 0x1p24f;
  /// Pairs of (q - offset) times their integer scale, in the order of `unpack`, as multiples of
  /// 2^-24: quants stay where they lie in their words, which makes numbers of 16 bits without an
  /// exponent of them; the scale takes back how far up that is.
  __device__ void scaled_pairs(std::uint32_t (&out)[4], int r, int group) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int step = 2 * group + (steps == 1 ? 0 : j / 2), at = low_place(group, j / 2);
      const auto q = as<__half2>(in_word(j, r, group));
      const __half2 scale = scales.pair(r, step, 1.0f / static_cast<float>(1 << at));
      const __half2 w = offset == 0 ? __hmul2(q, scale)
                                    : __hfma2(q, scale, scales.pair(r, step, -offset / pair_unit));
      out[j] = *reinterpret_cast<const std::uint32_t*>(&w);
    }
  }

  /// Pairs of q, in the order of `unpack`, as multiples of 2^-24.
  __device__ void small_pairs(std::uint32_t (&out)[4], int r, int group) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) out[j] = biased<0>(j, r, group);
  }

  /// Weights rounded to f16 as the first operand of two products of 16 columns of a group, as
  /// `multiply` has it.
  __device__ void operands(unsigned (&out)[2][4], int group) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      std::uint32_t pairs[4];
      unpack<Half>(pairs, r, group);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int step = 2 * group + (steps == 1 ? 0 : j / 2);
        const float scale = scales.scale(r, step), min = minimum ? -scales.min(r, step) : 0.0f;
        const __half2 q = as<__half2>(pairs[j]);
        __half2 w;
        if constexpr (super && minimum) {  // 16 bits do not hold the scale
          w = __floats2half2_rn(fmaf(__low2float(q), scale, min),
                                fmaf(__high2float(q), scale, min));
        } else if constexpr (minimum) {
          w = __hfma2(q, __float2half2_rn(scale), __float2half2_rn(min));
        } else {
          w = __hmul2(q, __float2half2_rn(scale));
        }
        out[j / 2][j % 2 * 2 + r] = *reinterpret_cast<const std::uint32_t*>(&w);
      }
    }
  }

  /// Bits of a byte below an integer that `integers` gives.
  static constexpr int below = table || scaled_bytes ? 0 : 8 - low_bits - high_bits;
  /// The element in byte `i` of word k of `integers`.
  __device__ static constexpr int element_of(int k, int i) {
    if (low_bits == 8) return 4 * k + i;
    if (table) return i % 2 * 4 + i / 2 * 2 + k;
    return 4 * k + i % 2 * 2 + i / 2;
  }
  /// (q − offset) 2^below, with a sign where there is an offset: it is half of what q can be. Or
  /// the table's numbers.
  __device__ void integers(std::uint32_t (&out)[2], int r, int group) const {
    constexpr std::uint32_t sign = offset > 0 ? 0x80808080u : 0u;
    if constexpr (low_bits == 8) {
#pragma unroll
      for (int k = 0; k < 2; ++k) out[k] = low_word(r, group, k) ^ sign;
    } else if constexpr (table) {
      // Four bits choose one of eight bytes twice, and then which of the two.
      const std::uint32_t word = low_word(r, group, 0), index = word & 0x77777777u,
                          choice = and_or(word >> 1, 0x44444444u, 0x32103210u);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const std::uint32_t negative = choose_bytes(0xbfad9881u, 0xf6eaddcfu, index >> (16 * k));
        const std::uint32_t positive = choose_bytes(0x26190d01u, 0x71594535u, index >> (16 * k));
        out[k] = choose_bytes(negative, positive, choice >> (16 * k));
      }
    } else {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        out[k] = and_xor(shifted(low_word(r, group, k), below - low_place(group, k)),
                         (ones(low_bits) << below) * 0x01010101u, sign);
        if constexpr (high_bits > 0) {
          constexpr int at = 8 - high_bits;
          out[k] = and_xor(shifted(high_word(r, group), at - place(high_bits, group, k)),
                           (ones(high_bits) << at) * 0x01010101u, out[k]);
        }
      }
    }
  }

  /// Whether the quants of the t-th of each four scales lie in one place of their bytes, at bit
  /// `field_at(t)`.
  static constexpr bool in_place = low_bits == 2 || low_bits == 8 || paired;
  __device__ static constexpr int field_at(int t) {
    return low_bits == 8 ? 0 : paired ? t % 2 * 4 : t * 2;
  }
  /// q where it lies in its word: times 2 to the power of its place there.
  __device__ void fields(std::uint32_t (&out)[2], int r, int group) const {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      out[k] = low_word(r, group, k) & (ones(low_bits) * 0x01010101u) << low_place(group, k);
    }
  }
  /// Ones where the one high bit of q is missing, where that lies in its word.
  __device__ void missing(std::uint32_t (&out)[2], int r, int group) const {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      out[k] = ~high_word(r, group) & 0x01010101u << place(high_bits, group, k);
    }
  }
  /// What these count beside `fields`, in the set-th of four scales' columns: bits of every other
  /// set lie one place higher.
  __device__ static constexpr int missing_times(int set) { return 4 >> set % 2; }
  /// The table's numbers as a difference, of whose sides one is zero: less than half of the work.
  __device__ void integer_sides(std::uint32_t (&positive)[2], std::uint32_t (&negative)[2], int r,
                                int group) const {
    // Numbers below 128 have zeros for signs: what the other half of the table would have given.
    const std::uint32_t word = low_word(r, group, 0), flipped = word ^ 0x88888888u;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      positive[k] = choose_bytes(0x26190d01u, 0x71594535u, flipped >> (16 * k));
      negative[k] = choose_bytes(0x4153687fu, 0x0a162331u, word >> (16 * k));
    }
  }

  /// q times its scale, in the order of `integers`, where that fits into bytes.
  __device__ void scaled_integers(std::uint32_t (&out)[2], int r, int group) const {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const std::uint32_t q =
          low_word(r, group, k) >> low_place(group, k) & ones(low_bits) * 0x01010101u;
      out[k] = q * static_cast<std::uint32_t>(scales.integer(r, 2 * group + k));
    }
  }

  /// The lane's eight elements of a group as floats, rounded once at most.
  __device__ void values(float (&out)[8], int r, int group) const {
    std::uint32_t pairs[4];
    unpack<BFloat16>(pairs, r, group);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const std::uint32_t bits = e % 2 == 0 ? pairs[e / 2] << 16 : pairs[e / 2] & 0xffff0000u;
      const int step = 2 * group + (steps == 1 ? 0 : e / 4);
      const float scale = scales.scale(r, step), min = minimum ? scales.min(r, step) : 0.0f;
      out[e] = fmaf(__uint_as_float(bits), scale, -min);
    }
  }

  /// Writes the lane's part of a panel from block(r, i), the i-th block of row g + 8 r or null.
  template <class GetBlock>
  __device__ static void store(std::byte* to, int lane, const GetBlock& block) {
    std::uint32_t low_words[2 * words] = {}, high_bits_of[2 * high_words + 1] = {};
    for (int r = 0; r < 2; ++r) {
      for (int group = 0; group < groups; ++group) {
        const Block* b = block(r, 32 * group / elements);
        for (int e = 0; e < 8; ++e) {
          const int in_block = column(group, lane % 4, e) % elements;
          const auto q = static_cast<std::uint32_t>(b == nullptr ? offset : quant_of(*b, in_block));
          const int byte = e % 2 * 16 + e / 2 % 2 * 8;
          if constexpr (low_bits == 8) {
            low_words[r * words + 2 * group + e / 4] |= q << (e % 4 * 8);
          } else {
            low_words[r * words + low_index(group, e / 4)] |= (q & ones(low_bits))
                                                              << (low_place(group, e / 4) + byte);
          }
          if constexpr (high_bits > 0) {
            high_bits_of[r * high_words + group * high_bits / 4] |=
                (q >> low_bits) << (place(high_bits, group, e / 4) + byte);
          }
        }
      }
    }
    for (int i = 0; i < 2 * words; ++i) {
      word_at(to, (i / 4 * 32 + lane) * 16 + i % 4 * 4) = low_words[i];
    }
    constexpr int wide = high_words == 1 ? 2 : 4;
    for (int i = 0; i < 2 * high_words; ++i) {
      word_at(to, high_at + (i / wide * 32 + lane) * wide * 4 + i % wide * 4) = high_bits_of[i];
    }
    if (lane % 4 == 0) Scales::store(to + scales_at, lane / 4, block);
  }

 private:
  // Fields of less than 8 bits: bytes 0 … 3 of a word belong to elements 4 k, 4 k + 2, 4 k + 1 and
  // 4 k + 3 of one or more groups, first those of k = 0, then those of k = 1. Single bits lie as
  // pairs do, those of two groups in the lower ones, those of the next two in the upper ones.
  __device__ static constexpr int place(int bits, int group, int k) {
    return bits == 1 ? 2 * (group % 2 * 2 + k) + group / 2 % 2
                     : bits * (group % (4 / bits) * 2 + k);
  }
  __device__ static constexpr std::uint32_t ones(int bits) { return (1u << bits) - 1; }
  __device__ static constexpr int low_index(int group, int k) {
    return paired ? group / 2 * 2 + k : low_bits == 8 ? 2 * group + k : group * low_bits / 4;
  }
  __device__ static constexpr int low_place(int group, int k) {
    if constexpr (low_bits == 8) return 0;
    return paired ? group % 2 * 4 : place(low_bits, group, k);
  }
  __device__ std::uint32_t low_word(int r, int group, int k) const {
    const int index = r * words + low_index(group, k);
    return low[index / 4].at[index % 4];
  }
  __device__ std::uint32_t high_word(int r, int group) const {
    return high[r * high_words + group * high_bits / 4];
  }
  /// q of elements 2 j and 2 j + 1 of fields of less than 8 bits, each in the lower bits of `One`.
  template <std::uint32_t One>
  __device__ std::uint32_t biased(int j, int r, int group) const {
    const int byte = j % 2 * 8;
    std::uint32_t q = and_or(low_word(r, group, j / 2) >> (low_place(group, j / 2) + byte),
                             ones(low_bits) * 0x00010001u, One * 0x00010001u);
    if constexpr (high_bits > 0) {
      q = and_or(shifted(high_word(r, group), low_bits - place(high_bits, group, j / 2) - byte),
                 (ones(high_bits) << low_bits) * 0x00010001u, q);
    }
    return q;
  }
  /// The same where they lie: their lower bits at `low_place`.
  __device__ std::uint32_t in_word(int j, int r, int group) const {
    const int at = low_place(group, j / 2), byte = j % 2 * 8;
    std::uint32_t q = low_word(r, group, j / 2) >> byte & ones(low_bits) * 0x00010001u << at;
    if constexpr (high_bits > 0) {
      q = and_or(
          shifted(high_word(r, group), at + low_bits - place(high_bits, group, j / 2) - byte),
          ones(high_bits) * 0x00010001u << (at + low_bits), q);
    }
    return q;
  }
  __device__ static std::uint32_t& word_at(std::byte* to, int offset_in_bytes) {
    return *reinterpret_cast<std::uint32_t*>(to + offset_in_bytes);
  }
  /// (a & b) | c in one instruction, which two constants in a row keep the compiler from.
  __device__ static std::uint32_t and_or(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    std::uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
  }
  /// (a & b) ^ c
  __device__ static std::uint32_t and_xor(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    std::uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
  }
  __device__ static std::uint32_t shifted(std::uint32_t word, int left) {
    return left >= 0 ? word << left : word >> -left;
  }
  template <class Pair>
  __device__ static Pair as(std::uint32_t bits) {
    return *reinterpret_cast<const Pair*>(&bits);
  }
  template <class T>
  __device__ static std::uint32_t minus(std::uint32_t pair, std::uint32_t subtrahend) {
    if constexpr (std::is_same_v<T, Half>) {
      const __half2 result = __hsub2(as<__half2>(pair), as<__half2>(subtrahend * 0x00010001u));
      return *reinterpret_cast<const std::uint32_t*>(&result);
    } else {
      const __nv_bfloat162 result =
          __hsub2(as<__nv_bfloat162>(pair), as<__nv_bfloat162>(subtrahend * 0x00010001u));
      return *reinterpret_cast<const std::uint32_t*>(&result);
    }
  }
  /// (1024 + 16 q) / 16 − 64 − offset.
  __device__ static std::uint32_t sixteenth(std::uint32_t pair) {
    constexpr std::uint32_t addend = 0xd400u + (offset << 4);  // −(64 + offset), offset below 64
    const __half2 result =
        __hfma2(as<__half2>(pair), as<__half2>(0x2c002c00u), as<__half2>(addend * 0x00010001u));
    return *reinterpret_cast<const std::uint32_t*>(&result);
  }
  /// Four bytes minus 128 as two pairs.
  template <class T>
  __device__ static void bytes_to(std::uint32_t& first, std::uint32_t& second, std::uint32_t word) {
    if constexpr (std::is_same_v<T, Half>) {
      first = minus<T>(__byte_perm(word, 0x64646464u, 0x4140), 0x6480u);
      second = minus<T>(__byte_perm(word, 0x64646464u, 0x4342), 0x6480u);
    } else {
      std::uint32_t wide[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        wide[i] = __float_as_uint(biased_byte(word, i) - (0x1p23f + 128));
      }
      first = __byte_perm(wide[0], wide[1], 0x7632);  // 8 bits: the lower halves are zeros
      second = __byte_perm(wide[2], wide[3], 0x7632);
    }
  }
};

}  // namespace cuda
ZIYA_NAMESPACE_END
