// SPDX-License-Identifier: Apache-2.0
// Activations as whole numbers in digits of 8 bits, for the integer tensor cores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/panel.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// x = scale · n, |n| ≤ 127 · 256^(digits − 1), one scale per 256 columns; n = Σ digit_i
/// 256^(digits − 1 − i). A digit is a column of the tensor cores' second operand: with two, a lane
/// has all of a token and adds them up (`joined`); with three, for 32-bit activations, a token has
/// four columns.
template <class T, class Block>
class Digits {
 public:
  using Form = Panel<Block>;
  static constexpr bool joined = !std::is_same_v<T, float>;
  static constexpr int digits = joined ? 2 : 3, slots = joined ? 2 : 4, tokens_at_once = 8 / slots;
  static constexpr int values =
      joined ? 1 : 2;  ///< numbers of a lane per row: its tokens or digits
  static constexpr int units = 4 * Form::groups;  ///< lanes that a panel occupies
  static constexpr int chunk = 8 * Form::groups;  ///< bytes of a column for one t
  static constexpr int sums_per_panel = Form::steps * Form::groups;

  /// Shared memory for `panels` panels.
  __host__ __device__ static int bytes(int panels, int tokens) {
    const int sums = Form::minimum ? tokens * (joined ? 1 : slots) * sums_per_panel * 4 : 0;
    return panels * (4 * slots * tokens * chunk + sums + tokens * 4);
  }
  __device__ Digits(std::byte* memory, int panels, int tokens)
      : operands_(memory),
        sums_(reinterpret_cast<std::uint32_t*>(memory + panels * 4 * slots * tokens * chunk)),
        scales_(reinterpret_cast<float*>(memory + bytes(panels, tokens)) - panels * tokens),
        columns_(slots * tokens),
        sum_slots_(joined ? tokens : columns_),
        tokens_(tokens) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    own_ = t * columns_ + min(g, columns_ - 1);
#pragma unroll
    for (int i = 0; i < values; ++i) {
      own_sum_[i] = min(joined ? t : 2 * t + i, sum_slots_ - 1);
    }
    own_token_ = min(joined ? t : t / 2, tokens - 1);
  }

  /// Writes the digits of panels [begin, end), whose only reader is this warp.
  __device__ void fill(const T* x, std::int64_t stride, int columns, int begin, int end) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int token = 0; token < tokens_; ++token) {
      constexpr int at_once = 3;  // reads that are under way together
      for (int first = begin * units; first < end * units; first += 32 * at_once) {
        Elements loaded[at_once];
#pragma unroll
        for (int n = 0; n < at_once; ++n) {
          loaded[n] = elements(x + token * stride, columns, first + 32 * n + lane, end * units);
        }
#pragma unroll
        for (int n = 0; n < at_once; ++n) {
          if (first + 32 * n < end * units) {
            write(loaded[n], token, first + 32 * n + lane, end * units);
          }
        }
      }
    }
    __syncwarp();
  }

  /// The lane's bytes of groups 2 pair and 2 pair + 1: two words each.
  __device__ uint4 operand(int panel, int pair) const {
    return *reinterpret_cast<const uint4*>(operands_ + place(panel, own_, pair));
  }
  /// Σ n of the columns of a minimum, of which a panel has `sums_per_panel`: as an integer where
  /// scales are, else 2^below Σ n as a float.
  __device__ std::uint32_t sum(int panel, int index, int value) const {
    return sums_[(panel * sum_slots_ + own_sum_[value]) * sums_per_panel + index];
  }
  /// What turns integers of a panel into numbers, of the lane's token.
  __device__ float scale(int panel) const { return scales_[panel * tokens_ + own_token_]; }

 private:
  struct Elements {
    float at[8];
  };
  static constexpr int columns_per_panel = Form::columns;

  /// 16 bytes for two groups, so that eight neighbours lie in different banks.
  __device__ int place(int panel, int index, int pair) const {
    constexpr int pairs = Form::groups / 2;
    const int turned = pair ^ (index / (8 / pairs) % pairs);
    return (panel * 4 * columns_ + index) * chunk + turned * 16;
  }
  __device__ static Elements elements(const T* x, int columns, int unit, int end) {
    Elements result{};
    const int first = unit / 4 * 32;
    if (unit >= end || first >= columns) return result;
    constexpr int run = Form::run, wide = run < 16 / static_cast<int>(sizeof(T))
                                              ? run
                                              : 16 / static_cast<int>(sizeof(T));
#pragma unroll
    for (int e = 0; e < 8; e += wide) {
      const auto pack =
          *reinterpret_cast<const Pack<T, wide>*>(x + first + Form::column(0, unit % 4, e));
#pragma unroll
      for (int i = 0; i < wide; ++i) result.at[e + i] = widen(pack.at[i]);
    }
    return result;
  }
  __device__ void write(const Elements& v, int token, int unit, int end) {
    constexpr float most = digits == 2 ? 127.0f * 256 : 127.0f * 65536;
    unsigned bits = 0;  // of the greatest; of not a number where there is one
#pragma unroll
    for (const float value : v.at) bits = max(bits, __float_as_uint(value) & 0x7fffffffu);
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
      bits = max(bits, __shfl_xor_sync(~0u, bits, apart));
    }
    const float greatest = __uint_as_float(bits),
                inverse = greatest > 1e-30f ? most / greatest : 0.0f;
    const int panel = unit / units, group = unit / 4 % Form::groups, t = unit % 4;
    const bool present = unit < end;
    std::uint32_t words[slots][2] = {};
    int sums[Form::steps][digits] = {};
#pragma unroll
    for (int k = 0; k < 2; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int rest = __float2int_rn(v.at[Form::element_of(k, i)] * inverse);
#pragma unroll
        for (int digit = digits - 1; digit >= 0; --digit) {
          const int value = digit == 0 ? rest : static_cast<std::int8_t>(rest);
          words[digit][k] |= (static_cast<std::uint32_t>(value) & 255u) << (8 * i);
          sums[Form::element_of(k, i) / 4 % Form::steps][digit] += value;
          rest = (rest - value) >> 8;
        }
      }
    }
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
      if (present) {
        *reinterpret_cast<uint2*>(operands_ +
                                  place(panel, t * columns_ + slots * token + slot, group / 2) +
                                  group % 2 * 8) = make_uint2(words[slot][0], words[slot][1]);
      }
    }
    if constexpr (Form::minimum) {
#pragma unroll
      for (int step = 0; step < Form::steps; ++step) {
        if constexpr (joined) sums[step][0] = 256 * sums[step][0] + sums[step][1];
#pragma unroll
        for (int i = 0; i < (joined ? 1 : digits); ++i) {
          sums[step][i] += __shfl_xor_sync(~0u, sums[step][i], 1);
          sums[step][i] += __shfl_xor_sync(~0u, sums[step][i], 2);
        }
        if (t > 0 || !present) continue;
#pragma unroll
        for (int i = 0; i < (joined ? 1 : slots); ++i) {
          const int sum = i < digits ? sums[step][i < digits ? i : 0] : 0;
          const int slot = joined ? token : slots * token + i;
          sums_[(panel * sum_slots_ + slot) * sums_per_panel + Form::steps * group + step] =
              Form::Scales::integers
                  ? static_cast<std::uint32_t>(sum)
                  : __float_as_uint(static_cast<float>(sum) * static_cast<float>(1 << Form::below));
        }
      }
    }
    if (unit % units == 0 && present) {
      scales_[panel * tokens_ + token] = greatest / (most * static_cast<float>(1 << Form::below));
    }
  }

  std::byte* operands_;
  std::uint32_t* sums_;
  float* scales_;
  int columns_, sum_slots_, tokens_;
  int own_, own_sum_[values], own_token_;
};

}  // namespace cuda
ZIYA_NAMESPACE_END
