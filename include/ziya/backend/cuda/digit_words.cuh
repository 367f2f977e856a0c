// SPDX-License-Identifier: Apache-2.0
// Activations as whole numbers in digits of 8 bits, eight at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/panel.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// x = scale · n, |n| ≤ 127 · 256^(digits − 1), one scale per 256 columns, of which a lane has
/// eight: a unit, of which four share a group of 32 columns; n = Σ digit_i 256^(digits − 1 − i).
/// With two digits a lane of the tensor cores has both and adds them up (`joined`); with three, for
/// 32-bit activations, a token has four columns of the operand.
template <class T, class Block>
struct DigitWords {
  using Form = Panel<Block>;
  static constexpr bool joined = !std::is_same_v<T, float>;
  static constexpr int digits = joined ? 2 : 3, slots = joined ? 2 : 4;
  static constexpr float most = digits == 2 ? 127.0f * 256 : 127.0f * 65536;
  /// What a scale is divided by for what integers of a panel count.
  static constexpr auto of_one = static_cast<float>(Form::Scales::unit << Form::below);

  /// A unit of a row as it lies there: words, as halves of them would be waited for.
  template <class E>
  struct Raw {
    std::uint32_t words[2 * sizeof(E)];
  };
  /// The lane's unit of a row in 256 columns, those of a stream's turn; zeros behind the last one.
  template <class E, class Stream>
  __device__ static Raw<E> raw(const E* row, int columns, const Stream& stream, int turn) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int first = stream.column(turn, lane / 4), t = lane % 4;
    constexpr int run = Form::run * static_cast<int>(sizeof(E)) / 4, wide = run < 4 ? run : 4;
    Raw<E> result{};
    if (first >= columns) return result;
#pragma unroll
    for (int w = 0; w < static_cast<int>(2 * sizeof(E)); w += wide) {
      const int e = w * 4 / static_cast<int>(sizeof(E));
      const auto pack =
          *reinterpret_cast<const Pack<std::uint32_t, wide>*>(row + first + Form::column(0, t, e));
#pragma unroll
      for (int i = 0; i < wide; ++i) result.words[w + i] = pack.at[i];
    }
    return result;
  }

  struct Elements {
    float at[8];
  };
  template <class E>
  __device__ static Elements widened(const Raw<E>& raw) {
    Elements result;
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if constexpr (sizeof(E) == 2) {
        result.at[e] = widen(E{static_cast<std::uint16_t>(raw.words[e / 2] >> (e % 2 * 16))});
      } else {
        result.at[e] = __uint_as_float(raw.words[e]);
      }
    }
    return result;
  }

  std::uint32_t words[slots][2] = {};  ///< of each digit, in the order of `Panel::integers`
  float greatest;                      ///< |x| of the warp's units, or not a number

  __device__ explicit DigitWords(const Elements& v) {
    unsigned bits = 0;  // of the greatest; of not a number where there is one
#pragma unroll
    for (const float value : v.at) bits = max(bits, __float_as_uint(value) & 0x7fffffffu);
    bits = __reduce_max_sync(~0u, bits);
    greatest = __uint_as_float(bits);
    // The quick division knows no divisors from 2^126 on.
    const float inverse = greatest > 1e-30f ? __fdividef(most / 4, greatest / 4) : 0.0f;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      // n + 128 (+ 128 · 256): its bytes are the digits, all but the first with another sign.
      std::uint32_t n[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float value = v.at[Form::element_of(k, i)];
        n[i] = joined ? __float_as_uint(fmaf(value, inverse, 0x1.8p23f + 128))
                      : static_cast<std::uint32_t>(__float2int_rn(value * inverse) + 0x8080);
      }
#pragma unroll
      for (int digit = 0; digit < digits; ++digit) {
        words[digit][k] = bytes_of_four(n, digits - 1 - digit) ^ (digit == 0 ? 0u : 0x80808080u);
      }
    }
  }
  [[nodiscard]] __device__ float scale() const { return greatest * (1 / (most * of_one)); }

  /// Writes sums of digits over the columns of the minima that belong to the lane's group, the
  /// k-th ones of a panel, each in two bytes: 128 high + low. Four minima of a slot are 8 bytes,
  /// a slot 32.
  __device__ void store_sums(std::byte* to, int group) const {
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
#pragma unroll
      for (int step = 0; step < Form::steps; ++step) {
        int sum = __dp4a(static_cast<int>(words[slot][step]), 0x01010101, 0);
        if (Form::steps == 1) sum = __dp4a(static_cast<int>(words[slot][1]), 0x01010101, sum);
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (threadIdx.x % 4 > 0) continue;
        const int high = (sum + 64) >> 7, k = Form::steps * group + step;
        auto* at = reinterpret_cast<std::int8_t*>(to) + slot * 32 + k / 4 * 8 + k % 4;
        at[0] = static_cast<std::int8_t>(high);
        at[4] = static_cast<std::int8_t>(sum - 128 * high);
      }
    }
  }

 private:
  /// Bytes `byte` of four numbers.
  __device__ static std::uint32_t bytes_of_four(const std::uint32_t (&n)[4], int byte) {
    const unsigned even = byte / 2 == 0 ? 0x5410u : 0x7632u;  // halves of two numbers at a time
    return __byte_perm(__byte_perm(n[0], n[1], even), __byte_perm(n[2], n[3], even),
                       byte % 2 == 0 ? 0x6420u : 0x7531u);
  }
};

}  // namespace cuda
ZIYA_NAMESPACE_END
