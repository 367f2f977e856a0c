// SPDX-License-Identifier: Apache-2.0
// Up to 8 or 16 tokens beside a panel of 256 columns, on the 16-bit tensor cores.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/mma.cuh"
#include "ziya/backend/cuda/panel.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// The columns of x that belong to a panel as they lie in shared memory, in the order in which its
/// lanes have them: `Sets` second operands of eight tokens. What is subtracted from quants, minima
/// or an offset, meets means of 16 or 32 columns instead, two numbers of 16 bits each, hi + lo.
template <class Block, int Sets>
struct PanelRows {
  using Form = Panel<Block>;
  /// Whether quants times their scales are whole numbers of at most 11 bits, so that a panel has
  /// one factor in the end, and an offset is subtracted before.
  static constexpr bool exact = Form::exact_products, means = Form::minimum || !exact;
  static_assert(Form::super && (exact || Form::steps == 2));
  static constexpr int tokens = 8 * Sets, chunk = 16 * Form::groups, means_at = 4 * tokens * chunk;
  static constexpr int bytes = means_at + (means ? 64 * tokens : 0);
  static constexpr int scales = Form::steps * Form::groups;  ///< of a row, and means: 8 or 16
  static constexpr float columns_of_mean = 32;               ///< or more than there are
  static constexpr float lo_times = 2048;                    ///< lo is kept so many times greater

  /// Of a lane 4 g + t = index % 32: 16 bytes for a group, so that eight neighbours lie in
  /// different banks.
  __device__ static int place(int index, int group) {
    return index * chunk + (group ^ (index / (8 / Form::groups) % Form::groups)) * 16;
  }

  /// Adds w · x to sums of rows g and g + 8, tokens 2 t and 2 t + 1 of each set.
  __device__ static void add(float (&sums)[4 * Sets], const Panel<Block>& w, const std::byte* x) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float of_panel[Sets][4] = {};
#pragma unroll
    for (int group = 0; group < Form::groups; ++group) {
      std::uint32_t rows[2][4];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if constexpr (exact) {
          w.scaled_pairs(rows[r], r, group);
        } else {
          w.small_pairs(rows[r], r, group);
        }
      }
#pragma unroll
      for (int s = 0; s < Sets; ++s) {
        const uint4 b = *reinterpret_cast<const uint4*>(x + place(32 * s + lane, group));
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          const unsigned a[4] = {rows[0][2 * step], rows[1][2 * step], rows[0][2 * step + 1],
                                 rows[1][2 * step + 1]};
          const unsigned b0 = step == 0 ? b.x : b.z, b1 = step == 0 ? b.y : b.w;
          if constexpr (exact) {
            multiply<Half>(of_panel[s], a, b0, b1);
          } else {
            float c[4];
            multiply_first<Half>(c, a, b0, b1);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              of_panel[s][i] = fmaf(w.scales.whole(i / 2, 2 * group + step), c[i], of_panel[s][i]);
            }
          }
        }
      }
    }
    unsigned m[4];
    if constexpr (means) w.scales.offsets(m, lane % 4);
#pragma unroll
    for (int s = 0; s < Sets; ++s) {
      float hi[4] = {}, lo[4] = {};
      if constexpr (means) {
        const uint4 b = *reinterpret_cast<const uint4*>(x + means_at + (32 * s + lane) * 16);
        multiply<Half>(hi, m, b.x, b.y);
        multiply<Half>(lo, m, b.z, b.w);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& sum = sums[4 * s + i];
        sum = fmaf(w.scales.factor(i / 2) * Form::pair_unit, of_panel[s][i], sum);
        if constexpr (means) {
          sum = fmaf(of_means(w, i / 2), fmaf(lo[i], 1.0f / lo_times, hi[i]), sum);
        }
      }
    }
  }

 private:
  /// What products with means are multiplied with.
  __device__ static float of_means(const Panel<Block>& w, int r) {
    if constexpr (Form::minimum) {
      return w.scales.min_factor(r) * -columns_of_mean;
    } else {
      return w.scales.factor(r) * (-Form::offset * columns_of_mean);
    }
  }
};

/// x as `PanelRows` wants it, panel after panel; zeros where there is none. Grid: panels. A thread
/// per token, group and lane t.
template <class Block, int Sets>
ZIYA_KERNEL void make_panel_rows(std::byte* y, const Half* x, std::int64_t x_stride, int tokens,
                                 int columns) {
  using Rows = PanelRows<Block, Sets>;
  using Form = Panel<Block>;
  release_next();
  wait_for_previous();
  std::byte* const to = y + std::int64_t{blockIdx.x} * Rows::bytes;
  const int i = static_cast<int>(threadIdx.x), t = i % 4, group = i / 4 % Form::groups;
  const int token = i / (4 * Form::groups);
  const int first = static_cast<int>(blockIdx.x) * Form::columns + 32 * group;
  uint4 v{};
  if (token < tokens && first < columns) {
    const Half* from = x + token * x_stride + first + Form::column(0, t, 0);
    if constexpr (Form::run == 8) {
      v = *reinterpret_cast<const uint4*>(from);
    } else {
      const auto a = *reinterpret_cast<const uint2*>(from);
      const auto b = *reinterpret_cast<const uint2*>(from + 16);
      v = {a.x, a.y, b.x, b.y};
    }
  }
  *reinterpret_cast<uint4*>(to + Rows::place(4 * token + t, group)) = v;
  if constexpr (Rows::means) {
    const std::uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
    float sums[2] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float& sum = sums[Form::steps == 1 ? 0 : k / 2];
      sum += half_at(pairs[k], 0) + half_at(pairs[k], 1);
    }
#pragma unroll
    for (int step = 0; step < Form::steps; ++step) {
      float mean = sums[step] / Rows::columns_of_mean;
      mean += __shfl_xor_sync(~0u, mean, 1);
      mean += __shfl_xor_sync(~0u, mean, 2);
      const Half hi = narrow<Half>(mean), lo = narrow<Half>((mean - widen(hi)) * Rows::lo_times);
      // Columns 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of the operand; beside what is zero, zeros.
      for (int k = Form::steps * group + step; t == 0 && k < 16; k += Rows::scales) {
        auto* own =
            reinterpret_cast<std::uint16_t*>(to + Rows::means_at + (4 * token + k % 8 / 2) * 16) +
            k / 8 * 2 + k % 2;
        own[0] = k < Rows::scales ? hi.bits : std::uint16_t{0};
        own[4] = k < Rows::scales ? lo.bits : std::uint16_t{0};
      }
    }
  }
}

}  // namespace cuda
ZIYA_NAMESPACE_END
