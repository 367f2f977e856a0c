// SPDX-License-Identifier: Apache-2.0
// Digits of a few tokens, for the integer tensor cores.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/digit_words.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/mma.cuh"
#include "ziya/backend/cuda/panel.cuh"
#include "ziya/backend/cuda/panel_stream.cuh"
#include "ziya/backend/cuda/turn_stream.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// The digits of a few tokens, each a column of the tensor cores' second operand; 256 columns of x
/// at a time, which stay in registers while a warp goes from band to band.
template <class T, class Block>
class Digits {
 public:
  using Form = Panel<Block>;
  using Words = DigitWords<T, Block>;
  using Stream = TurnStream<T, Block, 2>;
  static constexpr bool joined = Words::joined;
  static constexpr int slots = Words::slots, tokens_at_once = 8 / slots;
  static constexpr int values =
      joined ? 1 : 2;  ///< numbers of a lane per row: its tokens or digits
  static constexpr int band_slots = values * 4;  ///< numbers that are kept of a row and warp
  static constexpr int panels = Stream::of_turn, groups = panels * Form::groups;
  static constexpr bool float_sums = Form::float_minima, integer_sums = Form::integer_minima;
  struct Sums {
    float at[2 * values];
  };
  /// Shared memory through which the lanes of a warp give each other a token's digits.
  static constexpr int of_digits = 256 * slots;
  static constexpr int of_sums = integer_sums ? 32 * slots : float_sums ? 16 * values * groups : 0;
  static constexpr int exchange = of_digits + of_sums;
  static constexpr int bytes_of_warp = Stream::ring + exchange;

  __device__ Digits(std::byte* memory, int warp, int warps, int tokens)
      : own_(memory + warp * exchange), stride_(warps), tokens_(tokens) {}

  /// Asks for the norm's weight of the first turn, so that it may be under way before x is there.
  __device__ void prepare(const MatvecArguments<T, std::byte>& a, const Stream& stream) {
    if (a.norm != nullptr)
      factors_ = Words::widened(Words::raw(a.norm, static_cast<int>(a.columns), stream, 0));
  }
  /// Makes the digits of the first turn. Asks the stream for its last stage once x is asked for,
  /// before that is waited for.   @param squares where the warp's part of tokens' Σ x² goes
  __device__ void fill(const MatvecArguments<T, std::byte>& a, Stream& stream, float* squares) {
    Rows rows;
    ask(rows, a, stream, 0);
    stream.fill();
    make(rows, a, 0, factors_, squares);
  }
  /// Has the digits of a turn.
  __device__ void turn_to(const MatvecArguments<T, std::byte>& a, const Stream& stream, int turn,
                          float* squares) {
    if (turn == made_) return;
    Rows rows;
    ask(rows, a, stream, turn);
    make(rows, a, turn,
         a.norm == nullptr
             ? Elements{}
             : Words::widened(Words::raw(a.norm, static_cast<int>(a.columns), stream, turn)),
         squares);
  }

  /// Adds w · x of a panel, the n-th of a turn, to `sums`, but for the scales of x: integers of a
  /// group exactly, those of a super-block too.
  __device__ void add(Sums& sums, const Form& w, int n) const {
    constexpr bool integers = Form::Scales::integers, sign = Form::offset > 0;
    int scaled[4] = {};  // as the tensor cores leave them
#pragma unroll
    for (int group = 0; group < Form::groups; ++group) {
      unsigned a[4];
      byte_operand(a, w, group);
      const uint2 b = x_.words[n * Form::groups + group];
      if constexpr (Form::scaled_bytes) {
        add_bytes(scaled, a, b.x, b.y);
      } else {
#pragma unroll
        for (int step = 0; step < Form::steps; ++step) {
          int c[4];
          if constexpr (Form::steps == 1) {
            multiply_bytes<sign>(c, a, b.x, b.y);
          } else {
            multiply_half_bytes<sign>(c, a[2 * step], a[2 * step + 1], step == 0 ? b.x : b.y);
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
                float& sum = sums.at[values * r + i];
                sum = fmaf(scale, static_cast<float>(value), sum);
              }
            }
          }
        }
      }
    }
    if constexpr (float_sums) {
#pragma unroll
      for (int i = 0; i < values; ++i) {
        const auto of_x = *reinterpret_cast<const Pack<float, Form::groups>*>(sum_of_x(i, n));
#pragma unroll
        for (int group = 0; group < Form::groups; ++group) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            float& sum = sums.at[values * r + i];
            sum = fmaf(-w.scales.min(r, 2 * group), of_x.at[group], sum);
          }
        }
      }
    }
    if constexpr (integers) add_integers(sums, w, scaled);
  }

  /// Puts the sums of a warp where they are added up.
  /// @param more whether they are added to what is there
  __device__ void keep(BandSums<band_slots>& to, const Sums& sums, bool more) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int i = 0; i < values; ++i) {
        const float sum = sums.at[values * r + i] * x_.scale;
        float& kept = to[lane() / 4 + 8 * r][values * (lane() % 4) + i];
        kept = more ? kept + sum : sum;
      }
    }
  }
  __device__ static float kept(const BandSums<band_slots>& from, int row, int token) {
    if constexpr (joined) return from[row][token];
    const float* at = &from[row][4 * token];
    return fmaf(65536.0f, at[0], fmaf(256.0f, at[1], at[2]));
  }

 private:
  using Elements = typename Words::Elements;
  struct Rows {  ///< what a lane has of tokens' x
    typename Words::template Raw<T> of[tokens_at_once];
  };
  /// What a lane has of x in 256 columns.
  struct Columns {
    uint2 words[groups] = {};  ///< second operands
    uint2 minima = {};         ///< the operand of integer minima
    float scale = 0;           ///< of the lane's token
  };

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ void ask(Rows& rows, const MatvecArguments<T, std::byte>& a, const Stream& stream,
                      int turn) const {
#pragma unroll
    for (int token = 0; token < tokens_at_once; ++token) {
      if (token < tokens_) {
        rows.of[token] =
            Words::raw(a.x + token * a.x_stride, static_cast<int>(a.columns), stream, turn);
      }
    }
  }
  /// The digits of a turn, and with a norm Σ x² until there.
  __device__ void make(Rows& rows, const MatvecArguments<T, std::byte>& a, int turn,
                       const Elements& factors, float* squares) {
    made_ = turn;
#pragma unroll 1  // code that runs once is waited for
    for (int token = 0; token < tokens_; ++token) {
      Elements v = Words::widened(rows.of[0]);
#pragma unroll
      for (int next = 1; next < tokens_at_once; ++next) rows.of[next - 1] = rows.of[next];
      if (a.norm != nullptr) {
        float sum = 0;
#pragma unroll
        for (float& value : v.at) sum = fmaf(value, value, sum);
        sum = warp_sum(sum);
        float& square = squares[token * stride_];
        if (lane() == 0) square = turn == 0 ? sum : square + sum;
#pragma unroll
        for (int i = 0; i < 8; ++i) v.at[i] *= factors.at[i];
      }
      hold(Words(v), token);
    }
    if constexpr (float_sums) sum_digits();
  }
  /// Gives each lane its second operands of a token's digits.
  __device__ void hold(const Words& words, int token) {
    const int g = lane() / 4, t = lane() % 4;
    __syncwarp();
    auto* const to = reinterpret_cast<uint2*>(own_) + lane() * slots;
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
      to[slot] = make_uint2(words.words[slot][0], words.words[slot][1]);
    }
    if constexpr (integer_sums) words.store_sums(own_ + of_digits, g);
    __syncwarp();
    if (token == g / slots) {
#pragma unroll
      for (int group = 0; group < groups; ++group) {
        x_.words[group] = reinterpret_cast<const uint2*>(own_)[(4 * group + t) * slots + g % slots];
      }
      if constexpr (integer_sums) {
        x_.minima = reinterpret_cast<const uint2*>(own_ + of_digits)[g % slots * 4 + t];
      }
    }
    if (token == 2 * t / slots) x_.scale = words.scale();
  }
  /// Σ x of the groups of the n-th panel of a turn, of a lane's token or digit.
  [[nodiscard]] __device__ float* sum_of_x(int value, int n) const {
    return reinterpret_cast<float*>(own_ + of_digits) +
           ((lane() % 4 * values + value) * panels + n) * Form::groups;
  }
  /// Makes these, by products with ones.
  __device__ void sum_digits() {
    constexpr unsigned ones[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
    __syncwarp();
#pragma unroll
    for (int group = 0; group < groups; ++group) {
      int c[4];
      multiply_bytes<false>(c, ones, x_.words[group].x, x_.words[group].y);
#pragma unroll
      for (int i = 0; i < values; ++i) {
        const float sum = static_cast<float>(joined ? 256 * c[0] + c[1] : c[i]) *
                          static_cast<float>(1 << Form::below);
        if (lane() < 4) sum_of_x(i, 0)[group] = sum;
      }
    }
    __syncwarp();
  }

  /// What a panel with scales in integers adds to sums.   @param scaled Σ scale · quant · x
  __device__ void add_integers(Sums& sums, const Form& w, const int (&scaled)[4]) const {
    const auto value_of = [](const int(&c)[4], int r, int i) {
      return joined ? fmaf(256.0f, static_cast<float>(c[2 * r]), static_cast<float>(c[2 * r + 1]))
                    : static_cast<float>(c[2 * r + i]);
    };
    [[maybe_unused]] int minima[4];
    if constexpr (integer_sums) {
      unsigned a[2];
      w.scales.integer_minima(a, lane() % 4);
      int high[4];
      multiply_half_bytes<false>(high, a[0], a[1], x_.minima.x);
      multiply_half_bytes<false>(minima, a[0], a[1], x_.minima.y);
#pragma unroll
      for (int i = 0; i < 4; ++i) minima[i] += 128 * high[i];
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int i = 0; i < values; ++i) {
        float& sum = sums.at[values * r + i];
        sum = fmaf(w.scales.factor(r), value_of(scaled, r, i), sum);
        if constexpr (integer_sums) {
          sum = fmaf(-w.scales.min_factor(r) * static_cast<float>(1 << Form::below),
                     value_of(minima, r, i), sum);
        }
      }
    }
  }
  /// Both rows of a group as the first operand: quants, times their scales where that fits.
  __device__ static void byte_operand(unsigned (&a)[4], const Form& w, int group) {
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

  std::byte* const own_;
  const int stride_, tokens_;
  Elements factors_{};  ///< of the norm, for the first turn
  Columns x_;
  int made_ = 0;  ///< the turn whose columns these are
};

}  // namespace cuda
ZIYA_NAMESPACE_END
