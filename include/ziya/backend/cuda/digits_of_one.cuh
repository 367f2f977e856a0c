// SPDX-License-Identifier: Apache-2.0
// The digits of one token beside four scales at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/digits.cuh"
#include "ziya/backend/cuda/mma.cuh"
#include "ziya/backend/cuda/panel.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// One token has two digits, so two of the operand's eight columns: with zeros elsewhere, the
/// digits of four scales' columns have a pair each. So four products add up in one sum without
/// mixing, and a lane applies one scale of four: its sums are over the t-th of each four scales,
/// and a row's is that of its four lanes.
template <class T, class Block>
class DigitsOfOne : public Digits<T, Block, 1> {
 public:
  using Base = Digits<T, Block, 1>;
  using typename Base::Form, typename Base::Sums;
  static_assert(Base::joined);
  static constexpr int tokens_at_once = 1, band_slots = 1;
  static constexpr int sets = Form::groups * Form::steps / 4;  ///< of four scales
  /// Whether quants stay where they lie in their bytes: which is one place for a lane's scales, so
  /// that its sums are a power of two too great until the end.
  static constexpr bool in_place = Form::in_place;
  /// Whether something is subtracted from sums: of a table the negative numbers, of 3 bits in place
  /// what is missing.
  static constexpr bool two_sided = Form::table || (in_place && Form::high_bits == 1);

  using Base::Base;

  /// The lane's words of the second operand, of a scale in each set.
  struct Ahead {
    std::uint32_t words[sets][2 / Form::steps];
  };
  __device__ void fetch(Ahead& ahead, int panel) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const int step = g / 2, group = step / Form::steps;  // of the first set
    const unsigned first = this->place(panel, 4 * (g % 2) + t, group / 2) + group % 2 * 8;
#pragma unroll
    for (int set = 0; set < sets; ++set) {
      // Pairs of groups are 16 bytes apart, in an order that exclusive or keeps.
      const auto* from = reinterpret_cast<const std::uint32_t*>(
          this->operands_ + (first ^ set * Base::pairs / sets * 16));
      if constexpr (Form::steps == 1) {
        const uint2 both = *reinterpret_cast<const uint2*>(from);
        ahead.words[set][0] = both.x;
        ahead.words[set][1] = both.y;
      } else {
        ahead.words[set][0] = from[step % 2];
      }
    }
  }

  /// Adds the lane's part of w · x of a panel to `sums`.
  __device__ void add(Sums& sums, const Panel<Block>& w, const Ahead& x, int panel) const {
    constexpr bool integers = Form::Scales::integers, sign = Form::offset > 0 && !in_place;
    float panel_sums[2] = {};
    int c[4], scaled[4] = {};       // as the tensor cores leave them
    [[maybe_unused]] int minus[4];  // what is left to be subtracted from c
#pragma unroll
    for (int group = 0; group < Form::groups; ++group) {
      unsigned a[4];
      [[maybe_unused]] unsigned less[4];
      operands(a, less, w, group);
      constexpr int of_set = 4 / Form::steps;
      const int own = static_cast<int>(threadIdx.x) % 32 / 8;  // the scale of the lane's column
      unsigned b[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int step = group % of_set * Form::steps + k * (Form::steps - 1);
        b[k] = own == step ? x.words[group / of_set][k * (2 - Form::steps)] : 0u;
      }
      const auto multiply = [&](int(&sums)[4], const unsigned(&w)[4]) {
        if (group % of_set == 0) {
          multiply_bytes<sign>(sums, w, b[0], b[1]);
        } else {
          add_bytes<sign>(sums, w, b[0], b[1]);
        }
      };
      multiply(c, a);
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
          panel_sums[r] = w.scales.own_scale(r) * static_cast<float>(value);
        }
      }
      if constexpr (Base::float_sums) {
        const float sum = this->sums_[panel * Form::groups + static_cast<int>(threadIdx.x) % 4];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          panel_sums[r] = fmaf(-w.scales.own_min(r), sum, panel_sums[r]);
        }
      }
    }
    if constexpr (integers) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        panel_sums[r] = w.scales.factor(r) * value_of(scaled, r);
      }
    }
    if constexpr (Base::integer_sums) {
      int minima[4];
      this->minima(minima, w, panel);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        panel_sums[r] =
            fmaf(-w.scales.min_factor(r) * static_cast<float>(1 << (in_place ? 0 : Form::below)),
                 value_of(minima, r), panel_sums[r]);
      }
    }
    const float scale = this->scales_[panel];
#pragma unroll
    for (int r = 0; r < 2; ++r) sums[r][0] = fmaf(scale, panel_sums[r], sums[r][0]);
  }

  /// A lane has the sum of row g or of row g + 8 in the end.
  __device__ static void keep(BandSums<band_slots>& to, const Sums& sums, int lane) {
    const bool second = lane % 2 != 0;
    const float unit = in_place ? static_cast<float>(1 << Form::below) /
                                      static_cast<float>(1 << Form::field_at(lane % 4))
                                : 1.0f;
    float sum = (second ? sums[1][0] : sums[0][0]) * unit;
    sum += __shfl_xor_sync(~0u, (second ? sums[0][0] : sums[1][0]) * unit, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (lane % 4 < 2) to[lane / 4 + 8 * (lane % 2)][0] = sum;
  }
  __device__ static float kept(const BandSums<band_slots>& from, int row, int) {
    return from[row][0];
  }

 private:
  /// Both rows of a group as first operands; of a table's numbers in two, of which one is
  /// subtracted.
  __device__ static void operands(unsigned (&a)[4], [[maybe_unused]] unsigned (&minus)[4],
                                  const Panel<Block>& w, int group) {
    if constexpr (!Form::table && !in_place) {
      Base::byte_operand(a, w, group);
    } else {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        std::uint32_t words[2], less[2] = {};
        if constexpr (Form::table) {
          w.integer_sides(words, less, r, group);
        } else {
          w.fields(words, r, group);
          if constexpr (two_sided) w.missing(less, r, group);
        }
#pragma unroll
        for (int k = 0; k < 2; ++k) a[2 * k + r] = words[k], minus[2 * k + r] = less[k];
      }
    }
  }
  __device__ static float value_of(const int (&digits)[4], int r) {
    return fmaf(256.0f, static_cast<float>(digits[2 * r]), static_cast<float>(digits[2 * r + 1]));
  }
  /// Σ min · x by digits, for the lanes with t = 0; the others have zeros.
  __device__ void minima(int (&sums)[4], const Panel<Block>& w, int panel) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    uint2 b = make_uint2(0, 0);
    if (lane < 8) {
      b = *reinterpret_cast<const uint2*>(reinterpret_cast<const std::byte*>(this->sums_) +
                                          this->sum_place(panel, lane));
    }
    unsigned a[2];
    w.scales.integer_minima(a, lane % 4);
    int high[4];
    multiply_half_bytes<false>(high, a[0], a[1], b.x);
    multiply_half_bytes<false>(sums, a[0], a[1], b.y);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += 128 * high[i];
  }
};

}  // namespace cuda
ZIYA_NAMESPACE_END
