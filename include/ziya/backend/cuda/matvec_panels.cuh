// SPDX-License-Identifier: Apache-2.0
// Products of a few tokens with quantised weights on the tensor cores: a block per 16 rows, its
// warps share the columns.
#pragma once

#include <algorithm>
#include <type_traits>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/matvec_digits.cuh"
#include "ziya/backend/cuda/mma.cuh"
#include "ziya/backend/cuda/panel.cuh"
#include "ziya/backend/cuda/panel_products.cuh"
#include "ziya/backend/cuda/panel_stream.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int panel_warps = 20;  // that a multiprocessor should have room for

/// What the tensor cores multiply with: activations as they are; those of 32 bits as three of 8,
/// hi + mid + lo, so that nothing is lost.
template <class T>
using Operand = std::conditional_t<std::is_same_v<T, Half>, Half, BFloat16>;
template <class T>
inline constexpr int operand_parts = std::is_same_v<T, float> ? 3 : 1;
/// Tokens in `Sets` operands of 8 columns.
template <class T, int Sets>
inline constexpr int panel_tokens = 8 * Sets / operand_parts<T>;

/// The lane's elements of a group of 32 columns, pairs of e = 0 … 7, from where its first one lies.
template <class T, class Block>
__device__ inline void load_operand(std::uint32_t (&out)[4], const T* from, int part) {
  constexpr int run = Panel<Block>::run;  // adjacent columns
  if constexpr (!std::is_same_v<T, float>) {
    if constexpr (run == 8) {
      const auto all = *reinterpret_cast<const uint4*>(from);
      out[0] = all.x, out[1] = all.y, out[2] = all.z, out[3] = all.w;
    } else {
      const auto first = *reinterpret_cast<const uint2*>(from);
      const auto second = *reinterpret_cast<const uint2*>(from + 16);
      out[0] = first.x, out[1] = first.y, out[2] = second.x, out[3] = second.y;
    }
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto four = *reinterpret_cast<const Pack<float>*>(from + half * (run == 8 ? 4 : 16));
      std::uint32_t bits[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float rest = four.at[i];
        for (int n = 0; n < part; ++n) rest -= widen(narrow<BFloat16>(rest));
        bits[i] = narrow<BFloat16>(rest).bits;
      }
      out[2 * half] = bits[0] | bits[1] << 16;
      out[2 * half + 1] = bits[2] | bits[3] << 16;
    }
  }
}

/// y = x · wᵀ for several weights, one after another; gated: of `up` too.
template <class T, class Block, int Sets>
ZIYA_KERNEL void __launch_bounds__(32 * panel_warps)
    matvec_panels(MatvecArguments<T, std::byte> a, Shares shares) {
  using Form = Panel<Block>;
  using N = Operand<T>;
  constexpr int parts = operand_parts<T>, slots = 8 * Sets;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4, warps = static_cast<int>(blockDim.x) / 32;
  extern __shared__ __align__(16) std::byte shared[];
  PanelStream<T, Block> stream(a, shared + warp * panel_ring<Block>, warp, shares);
  // Two buffers in turn: when sums of a band are written, those of the last but one have been read.
  auto* const buffers = reinterpret_cast<BandSums<slots>*>(shared + warps * panel_ring<Block>);
  auto* partial = buffers;
  stream.start();
  release_next();
  wait_for_previous();

  const auto tokens = static_cast<int>(a.tokens), columns = static_cast<int>(a.columns);
  // Where there is no token, another one's numbers fill columns of the product that nobody reads;
  // where there is no column, the weights are zeros.
  const T* x[Sets];
#pragma unroll
  for (int s = 0; s < Sets; ++s) {
    x[s] = a.x + min((8 * s + g) / parts, tokens - 1) * a.x_stride + Form::run * t;
  }
  for (int band = static_cast<int>(blockIdx.x); band < stream.bands;
       band += static_cast<int>(gridDim.x)) {
    for (int weight = 0; weight < stream.weights; ++weight) {
      float sums[Sets][4] = {};
      for (int panel = stream.begin; panel < stream.end; ++panel) {
        const int last = columns - 32 - panel * Form::columns;
        const auto load = [&](std::uint32_t(&operand)[4], int group, int s) {
          const T* first = x[s] + panel * Form::columns;
          load_operand<T, Block>(operand, first + min(32 * group, last), (8 * s + g) % parts);
        };
        constexpr int ahead = 4;  // groups whose operands are on their way, of few tokens
        std::uint32_t few[ahead][4];
        if constexpr (Sets == 1) {
#pragma unroll
          for (int group = 0; group < ahead; ++group) load(few[group], group, 0);
        }
        Form now;
        stream.take(now);
#pragma unroll
        for (int group = 0; group < Form::groups; ++group) {
          std::uint32_t operand[Sets][4];
#pragma unroll
          for (int s = 0; s < Sets; ++s) {
            if constexpr (Sets == 1) {
#pragma unroll
              for (int i = 0; i < 4; ++i) operand[s][i] = few[group % ahead][i];
              if (group + ahead < Form::groups) load(few[group % ahead], group + ahead, 0);
            } else {
              load(operand[s], group, s);
            }
          }
          std::uint32_t rows[2][4];
          now.template unpack<N>(rows[0], 0, group);
          now.template unpack<N>(rows[1], 1, group);
#pragma unroll
          for (int s = 0; s < Sets; ++s) {
            float c[4];
#pragma unroll
            for (int step = 0; step < 2; ++step) {
              const unsigned w[4] = {rows[0][2 * step], rows[1][2 * step], rows[0][2 * step + 1],
                                     rows[1][2 * step + 1]};
              if (step == 0 || Form::steps == 2) {
                multiply_first<N>(c, w, operand[s][2 * step], operand[s][2 * step + 1]);
              } else {
                multiply<N>(c, w, operand[s][2 * step], operand[s][2 * step + 1]);
              }
              if (step == 0 && Form::steps == 1) continue;  // both steps share their scales
#pragma unroll
              for (int i = 0; i < 4; ++i) {
                sums[s][i] = fmaf(now.scales.scale(i / 2, 2 * group + step), c[i], sums[s][i]);
              }
              if constexpr (Form::minimum) {
                constexpr unsigned one = std::is_same_v<N, Half> ? 0x3c003c00u : 0x3f803f80u;
                const unsigned ones[4] = {one, one, one, one};
                float x_sums[4];
                multiply_first<N>(x_sums, ones, operand[s][2 * step], operand[s][2 * step + 1]);
                if (Form::steps == 1) multiply<N>(x_sums, ones, operand[s][0], operand[s][1]);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                  sums[s][i] =
                      fmaf(-now.scales.min(i / 2, 2 * group + step), x_sums[i], sums[s][i]);
                }
              }
            }
          }
        }
      }

#pragma unroll
      for (int s = 0; s < Sets; ++s) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          partial[weight * warps + warp][g + i / 2 * 8][8 * s + 2 * t + i % 2] = sums[s][i];
        }
      }
    }
    __syncthreads();
    finish_band(a, band, warps, [&](int first, int row, int token) {
      float sum = 0;
      for (int n = first; n < first + warps; ++n) {
        for (int p = 0; p < parts; ++p) sum += partial[n][row][token * parts + p];
      }
      return sum;
    });
    partial = partial == buffers ? buffers + stream.weights * warps : buffers;
  }
}

template <class T, class Block, int Sets>
ZIYA_HIDDEN void launch_panels(Context<Cuda>& ctx, const MatvecArguments<T, std::byte>& a) {
  const int weights = a.up == nullptr ? 1 : 2;
  const std::int64_t panels = (a.columns + Panel<Block>::columns - 1) / Panel<Block>::columns;
  const int per_warp =
      panel_ring<Block> + 2 * weights * 8 * Sets * 16 * static_cast<int>(sizeof(float));
  // Measured on an H100: two blocks of up to ten warps on a multiprocessor for the K types, three
  // of seven or eight for the others.
  constexpr int wanted = Panel<Block>::super ? 10 : 8;
  const int most = std::min(wanted, ctx.shared_memory() / per_warp);
  const int warps = panel_sharing(panels, std::min(wanted == 10 ? 8 : 7, most), most);
  const auto kernel = matvec_panels<T, Block, Sets>;
  const int bytes = warps * per_warp;
  const int resident =
      ctx.resident_blocks(reinterpret_cast<const void*>(kernel), 32 * warps, bytes);
  const std::int64_t blocks =
      std::min<std::int64_t>(bands_in(a), std::int64_t{ctx.multiprocessors()} * resident);
  launch(ctx, "matmul", kernel, dim3(static_cast<unsigned>(blocks)),
         dim3(static_cast<unsigned>(32 * warps)), static_cast<std::size_t>(bytes), a,
         shares_of(panels, warps));
}

/// Any number of tokens, `panel_tokens` at a time.
template <class T>
ZIYA_HIDDEN void run_panels(Context<Cuda>& ctx, DType dtype, MatvecArguments<T, std::byte> a) {
  const std::int64_t tokens = a.tokens;
  with_panels(dtype, [&](auto block) {
    using Block = decltype(block);
    const DigitPlan plan = digit_plan<T, Block>(ctx, a);
    if (plan.warps > 0) return launch_digits<T, Block>(ctx, a, plan);
    if constexpr (std::is_same_v<T, Half>) {
      if (takes_panel_products(ctx, dtype, a.tokens) && a.up == nullptr) {
        return run_panel_products<Block>(ctx, a);
      }
    }
    for (std::int64_t done = 0; done < tokens;) {
      const std::int64_t left = tokens - done;
      const bool few = left <= 2 * panel_tokens<T, 1>;  // quicker in two passes of few than in one
      a.tokens = std::min<std::int64_t>(left, few ? panel_tokens<T, 1> : panel_tokens<T, 4>);
      few ? launch_panels<T, Block, 1>(ctx, a) : launch_panels<T, Block, 4>(ctx, a);
      done += a.tokens;
      a.x += a.tokens * a.x_stride;
      for (auto& part : a.parts) {
        if (part.y == nullptr) continue;
        const std::size_t size = a.y_float ? sizeof(float) : sizeof(T);
        part.y = static_cast<std::byte*>(part.y) +
                 static_cast<std::size_t>(a.tokens * part.y_stride) * size;
      }
    }
  });
}

}  // namespace cuda
ZIYA_NAMESPACE_END
