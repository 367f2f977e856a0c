// SPDX-License-Identifier: Apache-2.0
// The digits of one token beside four scales at a time.
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

/// One token has two digits, so two of the operand's eight columns: with zeros elsewhere, the
/// digits of four scales' columns have a pair each. So four products add up in one sum without
/// mixing, and a lane applies one scale of four: its sums are over the t-th of each four scales,
/// and a row's is that of its four lanes. 256 columns at a time, whose x stays in registers while
/// a warp goes from band to band.
template <class T, class Block>
class DigitsOfOne {
 public:
  using Form = Panel<Block>;
  using Words = DigitWords<T, Block>;
  struct Sums {
    float at[2];
  };
  using Stream = TurnStream<T, Block, 0>;
  static_assert(Words::joined);
  static constexpr int tokens_at_once = 1, band_slots = 1;
  static constexpr int panels = Stream::of_turn, groups = panels * Form::groups;
  static constexpr int of_set = 4 / Form::steps;  ///< groups of four scales
  static constexpr int sets = groups / of_set;
  /// Whether quants stay where they lie in their bytes: which is one place for a lane's scales, so
  /// that its sums are a power of two too great until the end.
  static constexpr bool in_place = Form::in_place;
  /// Whether what is subtracted from quants is a number that sums begin with.
  static constexpr bool biased = in_place && Form::offset > 0 && Form::high_bits == 0;
  /// Whether something is subtracted from sums: of a table the negative numbers, of 3 bits in place
  /// what is missing.
  static constexpr bool two_sided = Form::table || (in_place && Form::high_bits == 1);
  static constexpr bool float_sums = Form::float_minima, integer_sums = Form::integer_minima;
  static_assert(!(biased || float_sums) || of_set == Form::groups);  // one set in a panel
  /// Shared memory through which the lanes of a warp give each other digits.
  static constexpr int exchange = 512 + (integer_sums ? 64 : 0);
  static constexpr int bytes_of_warp = Stream::ring + exchange;

  __device__ DigitsOfOne(std::byte* memory, int warp, int, int) : own_(memory + warp * exchange) {}

  /// Asks for the norm's weight of the first turn, so that it may be under way before x is there.
  __device__ void prepare(const MatvecArguments<T, std::byte>& a, const Stream& stream) {
    if (a.norm != nullptr)
      factors_ = Words::widened(Words::raw(a.norm, static_cast<int>(a.columns), stream, 0));
  }
  /// Makes the digits of the first turn. Asks the stream for its last stage once x is asked for,
  /// before that is waited for.   @param squares where the warp's part of Σ x² goes, with a norm
  __device__ void fill(const MatvecArguments<T, std::byte>& a, Stream& stream, float* squares) {
    next_ = Words::raw(a.x, static_cast<int>(a.columns), stream, 0);
    stream.fill();
    make(a, stream, 0, factors_, squares);
  }
  /// Has the digits of a turn.
  __device__ void turn_to(const MatvecArguments<T, std::byte>& a, const Stream& stream, int turn,
                          float* squares) {
    if (turn == made_) return;
    make(a, stream, turn,
         a.norm == nullptr
             ? Elements{}
             : Words::widened(Words::raw(a.norm, static_cast<int>(a.columns), stream, turn)),
         squares);
  }

  /// Adds the lane's part of w · x of a panel, the n-th of a turn, to `sums`, but for the scale of
  /// x.
  __device__ void add(Sums& sums, const Form& w, int n) const {
    constexpr bool integers = Form::Scales::integers, sign = Form::offset > 0 && !in_place;
    int c[4], scaled[4] = {};       // as the tensor cores leave them
    [[maybe_unused]] int minus[4];  // what is left to be subtracted from c
#pragma unroll
    for (int group = 0; group < Form::groups; ++group) {
      unsigned a[4];
      [[maybe_unused]] unsigned less[4];
      operands(a, less, w, group);
      const auto& b = x_.words[n * Form::groups + group];
      const auto multiply = [&](int(&sums)[4], const unsigned(&w)[4]) {
        if (group % of_set == 0) {
          multiply_bytes<sign>(sums, w, b[0], b[1]);
        } else {
          add_bytes<sign>(sums, w, b[0], b[1]);
        }
      };
      if constexpr (biased) {
        if (group % of_set == 0) {
#pragma unroll
          for (int i = 0; i < 4; ++i) c[i] = x_.first[n][i % 2];
        }
        add_bytes<sign>(c, a, b[0], b[1]);
      } else {
        multiply(c, a);
      }
      if constexpr (two_sided) multiply(minus, less);
      if (group % of_set != of_set - 1) continue;
      const int set = group / of_set;
      if constexpr (two_sided) {
        const int times = Form::table ? 1 : Form::missing_times(set);
#pragma unroll
        for (int i = 0; i < 4; ++i) c[i] -= times * minus[i];
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if constexpr (integers) {
          const int scale = w.scales.own_integer(r, set);
          scaled[2 * r] += scale * c[2 * r];
          scaled[2 * r + 1] += scale * c[2 * r + 1];
        } else {
          const int value = 256 * c[2 * r] + c[2 * r + 1];
          sums.at[r] = fmaf(w.scales.own_scale(r), static_cast<float>(value), sums.at[r]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (integers)
        sums.at[r] = fmaf(w.scales.factor(r), value_of(scaled, r), sums.at[r]);
      if constexpr (float_sums) sums.at[r] = fmaf(-w.scales.own_min(r), x_.sums[n], sums.at[r]);
    }
    if constexpr (integer_sums) {
      int minima[4];
      add_minima(minima, w);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        sums.at[r] =
            fmaf(-w.scales.min_factor(r) * static_cast<float>(1 << (in_place ? 0 : Form::below)),
                 value_of(minima, r), sums.at[r]);
      }
    }
  }

  /// A lane has the sum of row g or of row g + 8 in the end.
  /// @param more whether it is added to what is there
  __device__ void keep(BandSums<band_slots>& to, const Sums& sums, bool more) const {
    const bool second = lane() % 2 != 0;
    float sum = (second ? sums.at[1] : sums.at[0]) * x_.scale;
    sum += __shfl_xor_sync(~0u, (second ? sums.at[0] : sums.at[1]) * x_.scale, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    float& kept = to[lane() / 4 + 8 * (lane() % 2)][0];
    if (lane() % 4 < 2) kept = more ? kept + sum : sum;
  }
  __device__ static float kept(const BandSums<band_slots>& from, int row, int) {
    return from[row][0];
  }

 private:
  using Elements = typename Words::Elements;

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }

  /// What a lane has of x in 256 columns.
  struct Columns {
    unsigned words[groups][2];            ///< second operands
    int first[biased ? panels : 1][2];    ///< what sums begin with
    float sums[float_sums ? panels : 1];  ///< of x, for minima
    uint2 minima;                         ///< the operand of integer minima
    float scale;
  };
  /// Those of a turn, of which `next_` has x, and with a norm Σ x² until there.
  __device__ void make(const MatvecArguments<T, std::byte>& a, const Stream& stream, int turn,
                       const Elements& factors, float* squares) {
    Elements v = Words::widened(next_);
    made_ = turn;
    if (stream.turns > 1) {
      next_ = Words::raw(a.x, static_cast<int>(a.columns), stream,
                         turn + 1 == stream.turns ? 0 : turn + 1);
    }
    if (a.norm != nullptr) {
      float sum = 0;
#pragma unroll
      for (float& value : v.at) sum = fmaf(value, value, sum);
      sum = warp_sum(sum);
      if (lane() == 0) *squares = turn == 0 ? sum : *squares + sum;
#pragma unroll
      for (int i = 0; i < 8; ++i) v.at[i] *= factors.at[i];
    }
    const Words words(v);
    hold(words);
    const int place = Form::field_at(lane() % 4);
    x_.scale =
        words.scale() * (in_place ? __int_as_float((127 + Form::below - place) << 23) : 1.0f);
    if constexpr (biased || float_sums) {
#pragma unroll
      for (int panel = 0; panel < panels; ++panel) {
        const auto sums = digit_sums(panel);
        if constexpr (biased) {
          x_.first[panel][0] = -(Form::offset << place) * sums.x;
          x_.first[panel][1] = -(Form::offset << place) * sums.y;
        } else {
          x_.sums[panel] = static_cast<float>(256 * sums.x + sums.y) *
                           static_cast<float>(1 << (in_place ? place : Form::below));
        }
      }
    }
  }
  /// Gives each lane its second operands of the warp's digits.
  __device__ void hold(const Words& words) {
    const int g = lane() / 4, t = lane() % 4;
    const int own = g / 2;  // the scale of the lane's column
    __syncwarp();
    reinterpret_cast<uint4*>(own_)[lane()] =
        make_uint4(words.words[0][0], words.words[0][1], words.words[1][0], words.words[1][1]);
    if constexpr (integer_sums) words.store_sums(own_ + 512, g);
    __syncwarp();
#pragma unroll
    for (int set = 0; set < sets; ++set) {
      const int step = set * 4 + own;
      const auto* from = reinterpret_cast<const unsigned*>(
          own_ + (step / Form::steps * 4 + t) * 16 + g % 2 * 8 + step % Form::steps * 4);
      unsigned there[2 / Form::steps];
      if constexpr (Form::steps == 1) {
        const uint2 both = *reinterpret_cast<const uint2*>(from);
        there[0] = both.x, there[1] = both.y;
      } else {
        there[0] = *from;
      }
#pragma unroll
      for (int n = 0; n < of_set; ++n) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          unsigned& word = x_.words[set * of_set + n][k];
          word = own == n * Form::steps + k * (Form::steps - 1) ? there[k * (2 - Form::steps)] : 0u;
          asm volatile("" : "+r"(word));  // else it is chosen again for every band
        }
      }
    }
    if constexpr (integer_sums) {
      x_.minima = make_uint2(0, 0);
      if (lane() < 8) x_.minima = reinterpret_cast<const uint2*>(own_ + 512)[lane()];
    }
  }
  /// Sums of both digits of a panel over the columns of the lane's scale: a product with ones.
  __device__ int2 digit_sums(int panel) const {
    constexpr unsigned ones[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
    int sums[4] = {};
#pragma unroll
    for (int group = 0; group < Form::groups; ++group) {
      const auto& b = x_.words[panel * Form::groups + group];
      add_bytes(sums, ones, b[0], b[1]);
    }
    return make_int2(sums[0], sums[1]);
  }

  /// Both rows of a group as first operands; of a table's numbers in two, of which one is
  /// subtracted.
  __device__ static void operands(unsigned (&a)[4], [[maybe_unused]] unsigned (&minus)[4],
                                  const Panel<Block>& w, int group) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      std::uint32_t words[2], less[2] = {};
      if constexpr (Form::table) {
        w.integer_sides(words, less, r, group);
      } else if constexpr (in_place) {
        w.fields(words, r, group);
        if constexpr (two_sided) w.missing(less, r, group);
      } else {
        w.integers(words, r, group);
      }
#pragma unroll
      for (int k = 0; k < 2; ++k) a[2 * k + r] = words[k], minus[2 * k + r] = less[k];
    }
  }
  __device__ static float value_of(const int (&digits)[4], int r) {
    return fmaf(256.0f, static_cast<float>(digits[2 * r]), static_cast<float>(digits[2 * r + 1]));
  }
  /// Σ min · x by digits, for the lanes with t = 0; the others have zeros.
  __device__ void add_minima(int (&sums)[4], const Form& w) const {
    unsigned a[2];
    w.scales.integer_minima(a, static_cast<int>(threadIdx.x) % 4);
    int high[4];
    multiply_half_bytes<false>(high, a[0], a[1], x_.minima.x);
    multiply_half_bytes<false>(sums, a[0], a[1], x_.minima.y);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += 128 * high[i];
  }

  std::byte* const own_;
  typename Words::template Raw<T> next_;  ///< x of the columns that are made next
  Elements factors_{};                    ///< of the norm, for the first ones
  Columns x_;
  int made_ = 0;  ///< the turn whose columns these are
};

}  // namespace cuda
ZIYA_NAMESPACE_END
