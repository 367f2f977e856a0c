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

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// What a block of a product by digits has; no warps where x does not fit beside the rings.
struct DigitPlan {
  int warps = 0, bytes = 0;  ///< of shared memory
  int room = 0;   ///< bands whose sums are kept until they are added up, so that warps seldom meet
  int turns = 0;  ///< of `TurnStream`
  Shares panels, bands;  ///< of a band by warps; of all bands by blocks
};

/// The digits of a few tokens in shared memory. A digit is a column of the tensor cores' second
/// operand.
template <class T, class Block>
class Digits {
 public:
  using Form = Panel<Block>;
  using Words = DigitWords<T, Block>;
  using Elements = typename Words::Elements;
  static constexpr bool joined = Words::joined;
  static constexpr int slots = Words::slots, tokens_at_once = 8 / slots;
  static constexpr int values =
      joined ? 1 : 2;  ///< numbers of a lane per row: its tokens or digits
  using Sums = float[2][values];
  using Stream = PanelStream<T, Block>;
  static constexpr int band_slots = values * 4;   ///< numbers that are kept of a row and warp
  static constexpr int units = 4 * Form::groups;  ///< lanes that a panel occupies
  static constexpr int chunk = 8 * Form::groups;  ///< bytes of a column for one t
  static constexpr bool float_sums = Form::float_minima, integer_sums = Form::integer_minima;

  /// Shared memory for `panels` panels.
  __host__ __device__ static int bytes(int panels, int tokens) {
    const int sums = float_sums     ? tokens * (joined ? 1 : slots) * Form::groups * 4
                     : integer_sums ? tokens * slots * 32
                                    : 0;
    return panels * (4 * slots * tokens * chunk + sums + tokens * 4);
  }
  static constexpr int bytes_of_warp = panel_ring<Block>;
  __device__ Digits(std::byte* memory, int, int panels, int tokens)
      : operands_(memory),
        sums_(reinterpret_cast<float*>(memory + panels * 4 * slots * tokens * chunk)),
        scales_(reinterpret_cast<float*>(memory + bytes(panels, tokens)) - panels * tokens),
        panels_(panels),
        tokens_(tokens) {
    const int g = lane() / 4, t = lane() % 4;
    own_ = 4 * min(g, slots * tokens - 1) + t;
  }

  __device__ static Stream stream(const MatvecArguments<T, std::byte>& a, std::byte* rings,
                                  int warp, const DigitPlan& plan) {
    return {a, rings + warp * panel_ring<Block>, warp, plan.panels};
  }
  /// Behind what it has in shared memory.
  [[nodiscard]] __device__ std::byte* end(int) const {
    return reinterpret_cast<std::byte*>(scales_ + panels_ * tokens_);
  }

  /// Asks for the weight of the norm of what a lane fills first, so that it may be under way before
  /// x is there.
  __device__ void prepare(const MatvecArguments<T, std::byte>& a, const Stream& stream) {
    if (a.norm == nullptr) return;
    factors_ = elements(a.norm, static_cast<int>(a.columns), stream.begin * units + lane(),
                        stream.end * units);
  }
  /// Writes the digits of the warp's panels, whose only reader it is, and with a norm its part of
  /// tokens' Σ x², `stride` apart. Asks the stream for its last stage once x is asked for, before
  /// that is waited for.
  __device__ void fill(const MatvecArguments<T, std::byte>& a, Stream& stream, float* squares,
                       int stride) {
    const unsigned begin = stream.begin * units + lane(), end = stream.end * units;
    const auto columns = static_cast<int>(a.columns);
#pragma unroll 1  // code that runs once is waited for
    for (int token = 0; token < tokens_; ++token) {
      const T* x = a.x + token * a.x_stride;
      Elements next = elements(x, columns, begin, end), norm = factors_;
      if (token == 0) stream.fill();
      float sum = 0;
#pragma unroll 1
      for (unsigned unit = begin; unit - lane() < end; unit += 32) {
        Elements now = next;
        next = elements(x, columns, unit + 32, end);
        if (a.norm != nullptr) {
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            sum = fmaf(now.at[i], now.at[i], sum);
            now.at[i] *= norm.at[i];
          }
          norm = elements(a.norm, columns, unit + 32, end);
        }
        write(now, token, unit, end);
      }
      if (a.norm == nullptr) continue;
      sum = warp_sum(sum);
      if (lane() == 0) squares[token * stride] = sum;
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

  /// Takes `count` bands and puts the warp's sums where they are added up, `stride` apart.
  __device__ void take_bands(const MatvecArguments<T, std::byte>&, Stream& stream,
                             BandSums<band_slots>* to, int stride, int count, float*) {
    for (int k = 0; k < count; ++k) {
      Sums sums = {};
      for (int panel = stream.begin; panel < stream.end; ++panel) {
        Ahead ahead;
        fetch(ahead, panel);
        Form now;
        stream.take(now);
        add(sums, now, ahead, panel);
      }
      keep(to[k * stride], sums);
    }
  }

  /// Puts the sums of a warp where they are added up, and what is there of a row and token.
  __device__ static void keep(BandSums<band_slots>& to, const Sums& sums) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int i = 0; i < values; ++i) {
        to[lane() / 4 + 8 * r][values * (lane() % 4) + i] = sums[r][i];
      }
    }
  }
  __device__ static float kept(const BandSums<band_slots>& from, int row, int token) {
    if constexpr (joined) return from[row][token];
    const float* at = &from[row][4 * token];
    return fmaf(65536.0f, at[0], fmaf(256.0f, at[1], at[2]));
  }

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

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }

  static constexpr int pairs = Form::groups / 2;

  /// What turns integers of a panel into numbers, of the lane's token.
  __device__ float scale(int panel) const {
    const int t = static_cast<int>(threadIdx.x) % 4;
    return scales_[panel * tokens_ + min(joined ? t : t / 2, tokens_ - 1)];
  }
  /// 2^below Σ n of a group.
  __device__ float sum(int panel, int group, int value) const {
    const int t = static_cast<int>(threadIdx.x) % 4, of_panel = joined ? tokens_ : slots * tokens_;
    const int slot = min(joined ? t : 2 * t + value, of_panel - 1);
    return sums_[(panel * of_panel + slot) * Form::groups + group];
  }

  /// 16 bytes for two groups, so that eight neighbours lie in different banks.
  __device__ unsigned place(unsigned panel, unsigned index, unsigned pair) const {
    const unsigned turned = pair ^ (index / (8 / pairs) % pairs);
    return (panel * 4 * slots * static_cast<unsigned>(tokens_) + index) * chunk + turned * 16;
  }
  /// Of a row in any type.
  template <class E>
  __device__ static Elements elements(const E* x, int columns, unsigned unit, unsigned end) {
    return Words::widened(Words::raw(x, columns, unit, end));
  }
  __device__ void write(const Elements& v, int token, unsigned unit, unsigned end) {
    constexpr int digits = Words::digits;
    const unsigned panel = unit / units, group = unit / 4 % Form::groups, t = unit % 4;
    const bool present = unit < end;
    const Words of_unit(v);
    const auto& words = of_unit.words;
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
          sums_[((panel * tokens_ + token) * of_token + i) * Form::groups + group] =
              static_cast<float>(sum) * static_cast<float>(1 << Form::below);
        }
      }
    }
    if constexpr (integer_sums) {
      static_assert(units == 32);  // present or not with all of its warp
      if (present) {
        of_unit.store_sums(
            reinterpret_cast<std::byte*>(sums_) + sum_place(panel, 4 * slots * token),
            static_cast<int>(group));
      }
    }
    if (unit % units == 0 && present) scales_[panel * tokens_ + token] = of_unit.scale();
  }
  __device__ int sum_place(int panel, int index) const {
    return (panel * 4 * slots * tokens_ + index) * 8;
  }

  std::byte* operands_;
  float* sums_;
  float* scales_;
  int panels_, tokens_;
  int own_;
  Elements factors_{};  ///< of the norm, for what the lane fills first
};

}  // namespace cuda
ZIYA_NAMESPACE_END
