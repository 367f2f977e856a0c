// SPDX-License-Identifier: Apache-2.0
// Activations as whole numbers in digits of 8 bits, for the integer tensor cores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/mma.cuh"
#include "ziya/backend/cuda/panel.cuh"
#include "ziya/backend/cuda/panel_stream.cuh"
#include "ziya/backend/cuda/row_norm.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// x = scale · n, |n| ≤ 127 · 256^(digits − 1), one scale per 256 columns; n = Σ digit_i
/// 256^(digits − 1 − i). A digit is a column of the tensor cores' second operand: with two, a lane
/// has all of a token and adds them up (`joined`); with three, for 32-bit activations, a token has
/// four columns.
/// @tparam Tokens how many there are, where that is known
template <class T, class Block, int Tokens = 0>
class Digits {
 public:
  using Form = Panel<Block>;
  static constexpr bool joined = !std::is_same_v<T, float>;
  static constexpr int digits = joined ? 2 : 3, slots = joined ? 2 : 4, tokens_at_once = 8 / slots;
  static constexpr int values =
      joined ? 1 : 2;  ///< numbers of a lane per row: its tokens or digits
  using Sums = float[2][values];
  static constexpr int band_slots = values * 4;   ///< numbers that are kept of a row and warp
  static constexpr int units = 4 * Form::groups;  ///< lanes that a panel occupies
  static constexpr int chunk = 8 * Form::groups;  ///< bytes of a column for one t
  /// Minima want sums of digits over their columns: of one number where they are floats, of 16
  /// columns of an operand where they are integers.
  static constexpr bool float_sums = Form::minimum && !Form::Scales::integers,
                        integer_sums = Form::minimum && Form::Scales::integers;

  /// Shared memory for `panels` panels.
  __host__ __device__ static int bytes(int panels, int tokens) {
    const int sums = float_sums     ? tokens * (joined ? 1 : slots) * Form::groups * 4
                     : integer_sums ? tokens * slots * 32
                                    : 0;
    return panels * (4 * slots * tokens * chunk + sums + tokens * 4);
  }
  __device__ Digits(std::byte* memory, int panels, int tokens)
      : operands_(memory),
        sums_(reinterpret_cast<float*>(memory + panels * 4 * slots * tokens * chunk)),
        scales_(reinterpret_cast<float*>(memory + bytes(panels, tokens)) - panels * tokens),
        panels_(panels),
        tokens_(tokens) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    own_ = 4 * min(g, slots * tokens - 1) + t;
  }

  /// Behind what it has in shared memory.
  [[nodiscard]] __device__ std::byte* end() const {
    return reinterpret_cast<std::byte*>(scales_ + panels_ * tokens());
  }

  struct Elements {
    float at[8];
  };
  /// The weight of a norm for what a lane fills first, so that it may be under way before x is
  /// there.
  __device__ Elements factors(const float* norm, int columns, int begin, int end) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return norm == nullptr ? Elements{}
                           : elements(norm, columns, begin * units + lane, end * units);
  }
  /// Writes the digits of panels [begin, end), whose only reader is this warp.
  /// @param first of `factors`   @param spans sums of squares of the tokens' spans, with a norm
  /// @param asked called once x is asked for, before it is waited for
  template <class Asked>
  __device__ void fill(const MatvecArguments<T, std::byte>& a, int begin, int end,
                       const Elements& first, const float* spans, const Asked& asked) {
    const int lane = static_cast<int>(threadIdx.x) % 32, columns = static_cast<int>(a.columns);
#pragma unroll 1  // code that runs once is waited for
    for (int token = 0; token < tokens(); ++token) {
      const T* x = a.x + token * a.x_stride;
      Elements next = elements(x, columns, begin * units + lane, end * units), norm = first;
      if (token == 0) asked();
      const float inverse =
          a.norm == nullptr ? 1 : inverse_rms(spans + token * norm_spans(columns), columns, a.eps);
#pragma unroll 1
      for (int unit = begin * units + lane; unit - lane < end * units; unit += 32) {
        Elements now = next;
        next = elements(x, columns, unit + 32, end * units);
        if (a.norm != nullptr) {
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            now.at[i] = widen(normalised<T>(now.at[i], inverse, norm.at[i]));
          }
          norm = elements(a.norm, columns, unit + 32, end * units);
        }
        write(now, token, unit, end * units);
      }
    }
    __syncwarp();
  }

  /// What a lane has of x beside a panel: bytes of two groups at a time, two words each.
  struct Ahead {
    uint4 pairs[Form::groups / 2];
  };
  __device__ void fetch(Ahead& ahead, int panel) const {
#pragma unroll
    for (int pair = 0; pair < pairs; ++pair) {
      ahead.pairs[pair] = *reinterpret_cast<const uint4*>(operands_ + place(panel, own_, pair));
    }
  }

  /// Adds w · x of a panel to `sums`: integers of a group exactly, those of a super-block too.
  __device__ void add(Sums& sums, const Panel<Block>& w, const Ahead& x, int panel) const {
    constexpr bool integers = Form::Scales::integers, sign = Form::offset > 0;
    float panel_sums[2][values] = {};
    int scaled[4] = {}, minima[4] = {};  // as the tensor cores leave them
#pragma unroll
    for (int group = 0; group < Form::groups; ++group) {
      const uint4 pair = x.pairs[group / 2];
      const unsigned b[2] = {group % 2 == 0 ? pair.x : pair.z, group % 2 == 0 ? pair.y : pair.w};
      unsigned a[4];
      byte_operand(a, w, group);
      if constexpr (Form::scaled_bytes) {
        add_bytes(scaled, a, b[0], b[1]);
      } else {
#pragma unroll
        for (int step = 0; step < Form::steps; ++step) {
          int c[4];
          if constexpr (Form::steps == 1) {
            multiply_bytes<sign>(c, a, b[0], b[1]);
          } else {
            multiply_half_bytes<sign>(c, a[2 * step], a[2 * step + 1], b[step]);
          }
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            if constexpr (integers) {
              const int scale = w.scales.integer(r, 2 * group + step);
              scaled[2 * r] += scale * c[2 * r];
              scaled[2 * r + 1] += scale * c[2 * r + 1];
            } else {
              const float scale = w.scales.scale(r, 2 * group);
#pragma unroll
              for (int i = 0; i < values; ++i) {
                const int value = joined ? 256 * c[2 * r] + c[2 * r + 1] : c[2 * r + i];
                panel_sums[r][i] = fmaf(scale, static_cast<float>(value), panel_sums[r][i]);
              }
            }
          }
        }
      }
      if constexpr (float_sums) {
#pragma unroll
        for (int i = 0; i < values; ++i) {
          const float sum = this->sum(panel, group, i);
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            panel_sums[r][i] = fmaf(-w.scales.min(r, 2 * group), sum, panel_sums[r][i]);
          }
        }
      }
    }
    if constexpr (integer_sums) {
      const uint2 b = *reinterpret_cast<const uint2*>(reinterpret_cast<const std::byte*>(sums_) +
                                                      sum_place(panel, own_));
      unsigned a[2];
      w.scales.integer_minima(a, static_cast<int>(threadIdx.x) % 4);
      int high[4];
      multiply_half_bytes<false>(high, a[0], a[1], b.x);
      multiply_half_bytes<false>(minima, a[0], a[1], b.y);
#pragma unroll
      for (int i = 0; i < 4; ++i) minima[i] += 128 * high[i];
    }
    const float scale = this->scale(panel);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int i = 0; i < values; ++i) {
        if constexpr (integers) {
          const auto value = [&](const int(&c)[4]) {
            return joined ? fmaf(256.0f, static_cast<float>(c[2 * r]),
                                 static_cast<float>(c[2 * r + 1]))
                          : static_cast<float>(c[2 * r + i]);
          };
          panel_sums[r][i] = w.scales.factor(r) * value(scaled);
          if constexpr (Form::minimum) {
            panel_sums[r][i] = fmaf(-w.scales.min_factor(r) * static_cast<float>(1 << Form::below),
                                    value(minima), panel_sums[r][i]);
          }
        }
        sums[r][i] = fmaf(scale, panel_sums[r][i], sums[r][i]);
      }
    }
  }

  /// Puts the sums of a warp where they are added up, and what is there of a row and token.
  __device__ static void keep(BandSums<band_slots>& to, const Sums& sums, int lane) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int i = 0; i < values; ++i) {
        to[lane / 4 + 8 * r][values * (lane % 4) + i] = sums[r][i];
      }
    }
  }
  __device__ static float kept(const BandSums<band_slots>& from, int row, int token) {
    if constexpr (joined) return from[row][token];
    const float* at = &from[row][4 * token];
    return fmaf(65536.0f, at[0], fmaf(256.0f, at[1], at[2]));
  }

 protected:
  static constexpr int pairs = Form::groups / 2;

  /// Both rows of a group as the first operand of bytes: quants, times their scales where that
  /// fits.
  __device__ static void byte_operand(unsigned (&a)[4], const Panel<Block>& w, int group) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      std::uint32_t words[2];
      if constexpr (Form::scaled_bytes) {
        w.scaled_integers(words, r, group);
      } else {
        w.integers(words, r, group);
      }
      a[r] = words[0], a[2 + r] = words[1];
    }
  }

  [[nodiscard]] __device__ int tokens() const { return Tokens > 0 ? Tokens : tokens_; }
  /// What turns integers of a panel into numbers, of the lane's token.
  __device__ float scale(int panel) const {
    const int t = static_cast<int>(threadIdx.x) % 4;
    return scales_[panel * tokens() + min(joined ? t : t / 2, tokens() - 1)];
  }
  /// 2^below Σ n of a group.
  __device__ float sum(int panel, int group, int value) const {
    const int t = static_cast<int>(threadIdx.x) % 4,
              of_panel = joined ? tokens() : slots * tokens();
    const int slot = min(joined ? t : 2 * t + value, of_panel - 1);
    return sums_[(panel * of_panel + slot) * Form::groups + group];
  }

  /// 16 bytes for two groups, so that eight neighbours lie in different banks.
  __device__ unsigned place(unsigned panel, unsigned index, unsigned pair) const {
    const unsigned turned = pair ^ (index / (8 / pairs) % pairs);
    return (panel * 4 * slots * static_cast<unsigned>(tokens()) + index) * chunk + turned * 16;
  }
  /// Of a row in any type.
  template <class E>
  __device__ static Elements elements(const E* x, int columns, unsigned unit, unsigned end) {
    Elements result{};
    const unsigned first = unit / 4 * 32;
    if (unit >= end || first >= static_cast<unsigned>(columns)) return result;
    constexpr int run = Form::run, wide = run < 16 / static_cast<int>(sizeof(E))
                                              ? run
                                              : 16 / static_cast<int>(sizeof(E));
#pragma unroll
    for (int e = 0; e < 8; e += wide) {
      const auto pack = *reinterpret_cast<const Pack<E, wide>*>(
          x + first + Form::column(0, static_cast<int>(unit % 4), e));
#pragma unroll
      for (int i = 0; i < wide; ++i) result.at[e + i] = widen(pack.at[i]);
    }
    return result;
  }
  /// Bytes `byte` of four numbers.
  __device__ static std::uint32_t bytes_of_four(const std::uint32_t (&n)[4], int byte) {
    const auto choose = static_cast<unsigned>(byte | (4 + byte) << 4);
    return __byte_perm(__byte_perm(n[0], n[1], choose), __byte_perm(n[2], n[3], choose), 0x5410);
  }
  __device__ void write(const Elements& v, int token, unsigned unit, unsigned end) {
    constexpr float most = digits == 2 ? 127.0f * 256 : 127.0f * 65536;
    unsigned bits = 0;  // of the greatest; of not a number where there is one
#pragma unroll
    for (const float value : v.at) bits = max(bits, __float_as_uint(value) & 0x7fffffffu);
    bits = __reduce_max_sync(~0u, bits);
    const float greatest = __uint_as_float(bits),
                inverse = greatest > 1e-30f ? most / greatest : 0.0f;
    const unsigned panel = unit / units, group = unit / 4 % Form::groups, t = unit % 4;
    const bool present = unit < end;
    std::uint32_t words[slots][2] = {};
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
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
      if (present) {
        *reinterpret_cast<uint2*>(
            operands_ + place(panel, 4 * (slots * token + slot) + t, group / 2) + group % 2 * 8) =
            make_uint2(words[slot][0], words[slot][1]);
      }
    }
    if constexpr (float_sums) {
      int sums[digits];
#pragma unroll
      for (int i = 0; i < digits; ++i) {
        sums[i] = __dp4a(static_cast<int>(words[i][0]), 0x01010101,
                         __dp4a(static_cast<int>(words[i][1]), 0x01010101, 0));
      }
      if constexpr (joined) sums[0] = 256 * sums[0] + sums[1];
#pragma unroll
      for (int i = 0; i < (joined ? 1 : digits); ++i) {
        sums[i] += __shfl_xor_sync(~0u, sums[i], 1);
        sums[i] += __shfl_xor_sync(~0u, sums[i], 2);
      }
      if (t == 0 && present) {
        constexpr int of_token = joined ? 1 : slots;
#pragma unroll
        for (int i = 0; i < of_token; ++i) {
          const int sum = i < digits ? sums[i < digits ? i : 0] : 0;
          sums_[((panel * tokens() + token) * of_token + i) * Form::groups + group] =
              static_cast<float>(sum) * static_cast<float>(1 << Form::below);
        }
      }
    }
    if constexpr (integer_sums) write_sums(words, panel, token, unit, present);
    if (unit % units == 0 && present) {
      constexpr auto of_one = static_cast<float>(Form::Scales::unit << Form::below);
      scales_[panel * tokens() + token] = greatest * (1 / (most * of_one));
    }
  }

  /// Sums of digits over the columns of each minimum, in two bytes: 128 high + low.
  __device__ void write_sums(const std::uint32_t (&words)[slots][2], int panel, int token,
                             unsigned unit, bool present) {
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
#pragma unroll
      for (int step = 0; step < Form::steps; ++step) {
        int sum = __dp4a(static_cast<int>(words[slot][step]), 0x01010101, 0);
        if (Form::steps == 1) sum = __dp4a(static_cast<int>(words[slot][1]), 0x01010101, sum);
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (unit % 4 > 0 || !present) continue;
        const int high = (sum + 64) >> 7, k = Form::steps * (unit / 4 % Form::groups) + step;
        auto* to = reinterpret_cast<std::int8_t*>(sums_) +
                   sum_place(panel, 4 * (slots * token + slot) + k / 4) + k % 4;
        to[0] = static_cast<std::int8_t>(high);
        to[4] = static_cast<std::int8_t>(sum - 128 * high);
      }
    }
  }
  __device__ int sum_place(int panel, int index) const {
    return (panel * 4 * slots * tokens() + index) * 8;
  }

  std::byte* operands_;
  float* sums_;
  float* scales_;
  int panels_, tokens_;
  int own_;
};

}  // namespace cuda
ZIYA_NAMESPACE_END
