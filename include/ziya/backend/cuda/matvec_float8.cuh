// SPDX-License-Identifier: Apache-2.0
// Products of 8-bit floats with up to sixteen tokens: a block per 8 or 16 rows of the weight, which
// is read once, in order.
#pragma once

#include <algorithm>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/mma.cuh"
#include "ziya/backend/cuda/silu_mul.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int float8_tokens = 16;  // at most

/// The lower or the upper two of four 8-bit floats as an operand of type T; exact.
template <class T>
__device__ inline unsigned operand(unsigned four, int upper) {
  const auto pair = static_cast<__nv_fp8x2_storage_t>(four >> 16 * upper);
  const __half2 halves(__nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3));
  if constexpr (std::is_same_v<T, Half>) {
    return *reinterpret_cast<const unsigned*>(&halves);
  } else {
    const float2 wide = __half22float2(halves);
    const __nv_bfloat162 narrow = __floats2bfloat162_rn(wide.x, wide.y);
    return *reinterpret_cast<const unsigned*>(&narrow);
  }
}

/// y[t, o] = scale[o] Σ_i x[t, i] w[o, i] by `multiply`: rows of the weight are those of its first
/// operand, tokens the columns of the second one. Warps take steps of columns in turns. Lane 4 g +
/// t holds columns 16 t … 16 t + 15 of a step in rows g and g + 8 of the weight and in tokens g and
/// g + 8 (with two `Tiles`): which of these columns are one in the operands is the same for both,
/// and so does not matter.
/// @tparam Halves up to four tokens, in bands of 8 rows, of which there are more to share out:
/// steps are twice as wide, rows 8 to 15 of the operand are the same rows in the second half of a
/// step, and the second half of x are columns 4 to 7; of the result only what belongs together is
/// taken
template <class T, int Tiles, bool Gated, bool Halves, int Warps, int Ahead>
ZIYA_KERNEL void __launch_bounds__(32 * Warps) matvec_float8(MatvecArguments<T, Float8> a) {
  static_assert(Tiles == 1 || !Halves);
  constexpr int weights = Gated ? 2 : 1, band_rows = Halves ? 8 : 16, span = Halves ? 128 : 64;
  constexpr int most_tokens = Halves ? 4 : 8 * Tiles;
  __shared__ float sums[weights][Warps][8 * Tiles][16];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4;
  const auto bands = [](std::int64_t rows) { return (rows + band_rows - 1) / band_rows; };
  std::int64_t band = blockIdx.x;
  int index = 0;
  while (index + 1 < matvec_parts && band >= bands(a.parts[index].rows)) {
    band -= bands(a.parts[index++].rows);
  }
  const auto part = a.parts[index];
  const auto columns = static_cast<int>(a.columns), steps = (columns + span - 1) / span;
  const unsigned* from[weights][2];  // four columns each
#pragma unroll
  for (int r = 0; r < 2; ++r) {  // rows beyond the last are it once more, for nobody
    const std::int64_t row = min(band * band_rows + g + (Halves ? 0 : 8 * r), part.rows - 1);
    const std::int64_t at = row * a.columns + 16 * t + (Halves ? 64 * r : 0);
    from[0][r] = reinterpret_cast<const unsigned*>(part.w + at);
    if constexpr (Gated) from[1][r] = reinterpret_cast<const unsigned*>(a.up + at);
  }
  Pack<unsigned> now[Ahead][weights][2];
  const auto fetch = [&](Pack<unsigned>(&to)[weights][2], int step) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool present = span * step + 16 * t + (Halves ? 64 * r : 0) < columns;
#pragma unroll
      for (int n = 0; n < weights; ++n) {
        to[n][r] = present ? load_once(from[n][r] + span / 4 * step) : Pack<unsigned>{};
      }
    }
  };
#pragma unroll
  for (int k = 0; k < Ahead; ++k) fetch(now[k], warp + k * Warps);
  release_next();
  wait_for_previous();

  float c[weights][Tiles][4] = {};
  for (int first = warp; first < steps; first += Ahead * Warps) {
#pragma unroll
    for (int k = 0; k < Ahead; ++k) {
      const int step = first + k * Warps;
      if (step >= steps) break;
      Pack<unsigned> use[weights][2];
#pragma unroll
      for (int n = 0; n < weights; ++n) use[n][0] = now[k][n][0], use[n][1] = now[k][n][1];
      fetch(now[k], step + Ahead * Warps);
      const int column = span * step + 16 * t + (Halves ? 64 * (g / 4) : 0);
      uint4 x[Tiles][2];
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) {
        const int token = Halves ? g % 4 : 8 * tile + g;
        x[tile][0] = x[tile][1] = uint4{};
        if (token < a.tokens && column < columns) {
          const auto* row = reinterpret_cast<const uint4*>(a.x + token * a.x_stride + column);
          x[tile][0] = row[0], x[tile][1] = row[1];
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int n = 0; n < weights; ++n) {
          const unsigned upper = use[n][0].at[j], lower = use[n][1].at[j];
          const unsigned rows[4] = {operand<T>(upper, 0), operand<T>(lower, 0),
                                    operand<T>(upper, 1), operand<T>(lower, 1)};
#pragma unroll
          for (int tile = 0; tile < Tiles; ++tile) {
            const uint4& four = x[tile][j / 2];
            if (j % 2 == 0) {
              multiply<T>(c[n][tile], rows, four.x, four.y);
            } else {
              multiply<T>(c[n][tile], rows, four.z, four.w);
            }
          }
        }
      }
    }
  }
#pragma unroll
  for (int n = 0; n < weights; ++n) {
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[n][warp][8 * tile + 2 * t + i % 2][g + i / 2 * 8] = c[n][tile][i];
      }
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < most_tokens * band_rows; i += 32 * Warps) {
    const int token = i / band_rows, r = i % band_rows;
    const std::int64_t row = band * band_rows + r;
    if (token >= a.tokens || row >= part.rows) continue;
    float total[weights] = {};
#pragma unroll
    for (int w = 0; w < Warps; ++w) {
#pragma unroll
      for (int n = 0; n < weights; ++n) {
        total[n] += sums[n][w][token][r];
        if constexpr (Halves) total[n] += sums[n][w][token + 4][r + 8];
      }
    }
    float sum = total[0] * part.scales[row];
    if constexpr (Gated) sum = silu(sum) * (total[1] * a.up_scales[row]);
    finish_row(a, part, row, token, sum);
  }
}

/// At most `float8_tokens` tokens of 16 bits with weights of whole packs.
template <class T>
ZIYA_HIDDEN void run_float8(Context<Cuda>& ctx, const MatvecArguments<T, Float8>& a) {
  const auto run = [&](auto kernel, int band_rows, int warps) {
    unsigned bands = 0;
    for (const auto& part : a.parts) bands += blocks_for(part.rows, band_rows);
    launch(ctx, "matmul", kernel, dim3(bands), dim3(32 * static_cast<unsigned>(warps)), 0, a);
  };
  const bool gated = a.up != nullptr;
  if (a.tokens <= 4) {
    gated ? run(matvec_float8<T, 1, true, true, 8, 1>, 8, 8)
          : run(matvec_float8<T, 1, false, true, 8, 2>, 8, 8);
  } else if (a.tokens <= 8) {
    gated ? run(matvec_float8<T, 1, true, false, 8, 1>, 16, 8)
          : run(matvec_float8<T, 1, false, false, 8, 3>, 16, 8);
  } else {
    gated ? run(matvec_float8<T, 2, true, false, 8, 2>, 16, 8)
          : run(matvec_float8<T, 2, false, false, 8, 2>, 16, 8);
  }
}

}  // namespace cuda
ZIYA_NAMESPACE_END
