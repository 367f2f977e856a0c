// SPDX-License-Identifier: Apache-2.0
// Rows rounded to 8-bit floats, and products of such rows.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/float8.hpp"
#include "ziya/backend/cuda/silu_mul.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Packs of rows as they are.
template <class T, int N>
struct RowPacks {
  static constexpr bool normed = false;
  const T* x;
  std::int64_t stride;
  __device__ Pack<T, N> operator()(std::int64_t row, int p) const {
    return *reinterpret_cast<const Pack<T, N>*>(x + row * stride + p * N);
  }
};
/// Packs of silu(gate) * up, rounded to T as `silu_mul` rounds them.
template <class T, int N>
struct GatedPacks {
  static constexpr bool normed = false;
  RowPacks<T, N> gate, up;
  __device__ Pack<T, N> operator()(std::int64_t row, int p) const {
    const Pack<T, N> g = gate(row, p), u = up(row, p);
    Pack<T, N> result;
#pragma unroll
    for (int i = 0; i < N; ++i) result.at[i] = narrow<T>(silu(widen(g.at[i])) * widen(u.at[i]));
    return result;
  }
};

/// Packs of rows that are normalised, to what `rms_norm` rounds them to.
template <class T, int N>
struct NormedPacks : RowPacks<T, N> {
  static constexpr bool normed = true;
  const float* weight;
  float eps;
  __device__ Pack<T, N> norm(const Pack<T, N>& x, int p, float scale) const {
    Pack<T, N> result;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      result.at[i] = narrow<T>(widen(x.at[i]) * scale * weight[p * N + i]);
    }
    return result;
  }
};

inline constexpr int float8_threads = 512;

/// scales[r] = max |x[r, ·]| / 448, to[r, i] = x[r, i] · (448 / max |x[r, ·]|) rounded to nearest,
/// ties to even; a block per row, which stays in registers between the two. NaN stays NaN, a row
/// with an infinity becomes NaN, and one of nothing above 1e-30 becomes zeros.
template <class T, int N, class Packs>
ZIYA_KERNEL void __launch_bounds__(float8_threads)
    round_rows(Packs packs, Float8* to, float* scales, std::int64_t columns) {
  constexpr int most = 4;  // packs of a thread in registers; what is beyond is made again
  const std::int64_t row = blockIdx.x;
  const int count = static_cast<int>(columns / N), threads = static_cast<int>(blockDim.x);
  const int first = static_cast<int>(threadIdx.x);
  release_next();
  wait_for_previous();
  Pack<T, N> kept[most];
#pragma unroll
  for (int k = 0; k < most; ++k) {
    if (first + k * threads < count) kept[k] = packs(row, first + k * threads);
  }
  const auto each = [&](auto&& f) {
#pragma unroll
    for (int k = 0; k < most; ++k) {
      if (first + k * threads < count) f(kept[k]);
    }
  };
  float scale = 1;
  const auto rest = [&](int p) {
    if constexpr (Packs::normed) {
      return packs.norm(packs(row, p), p, scale);
    } else {
      return packs(row, p);
    }
  };
  if constexpr (Packs::normed) {
    float squares = 0;
    const auto add = [&](const Pack<T, N>& pack) {
#pragma unroll
      for (int i = 0; i < N; ++i) squares += widen(pack.at[i]) * widen(pack.at[i]);
    };
    each(add);
    for (int p = first + most * threads; p < count; p += threads) add(packs(row, p));
    scale = rsqrtf(block_sum(squares) / static_cast<float>(columns) + packs.eps);
#pragma unroll
    for (int k = 0; k < most; ++k) {
      if (first + k * threads < count) kept[k] = packs.norm(kept[k], first + k * threads, scale);
    }
  }
  float largest = 0;
  const auto meet = [&](const Pack<T, N>& pack) {
#pragma unroll
    for (int i = 0; i < N; ++i) largest = fmaxf(largest, fabsf(widen(pack.at[i])));
  };
  each(meet);
  for (int p = first + most * threads; p < count; p += threads) meet(rest(p));
  largest = block_max(largest);
  const float inverse = largest > 1e-30f ? float8_largest / largest : 0.0f;
  const auto store = [&](int p, const Pack<T, N>& pack) {
    Pack<Float8, N> result;
    if constexpr (N == 1) {
      result.at[0] = narrow_pair(widen(pack.at[0]) * inverse, 0).at[0];
    } else {
#pragma unroll
      for (int i = 0; i < N; i += 2) {
        const Pack<Float8, 2> two =
            narrow_pair(widen(pack.at[i]) * inverse, widen(pack.at[i + 1]) * inverse);
        result.at[i] = two.at[0], result.at[i + 1] = two.at[1];
      }
    }
    *reinterpret_cast<Pack<Float8, N>*>(to + row * columns + p * N) = result;
  };
#pragma unroll
  for (int k = 0; k < most; ++k) {
    if (first + k * threads < count) store(first + k * threads, kept[k]);
  }
  for (int p = first + most * threads; p < count; p += threads) store(p, rest(p));
  if (threadIdx.x == 0) scales[row] = largest / float8_largest;
}

/// Threads of a block of `round_rows`.
inline unsigned threads_for(std::int64_t packs) {
  return static_cast<unsigned>(
      std::clamp<std::int64_t>((packs + 63) / 64 * 32, 32, float8_threads));
}

/// Rows in 8 bits, in scratch memory.
struct Float8Rows {
  Float8* values;
  float* scales;
  std::int64_t rows, columns;
};

template <class T, int N, class Packs>
ZIYA_HIDDEN Float8Rows rounded(Context<Cuda>& ctx, Packs packs, std::int64_t rows,
                               std::int64_t columns) {
  auto* values = ctx.workspace().template take<std::byte>({rows, columns}).data();
  const Float8Rows result{reinterpret_cast<Float8*>(values),
                          ctx.workspace().template take<float>({rows}).data(), rows, columns};
  launch(ctx, "float8", round_rows<T, N, Packs>, dim3(static_cast<unsigned>(rows)),
         dim3(threads_for(columns / N)), 0, packs, result.values, result.scales, columns);
  return result;
}

/// x in 8 bits, in memory of the caller's scope.
template <class T>
ZIYA_HIDDEN Float8Rows float8_rows(Context<Cuda>& ctx, View<const T, Cuda> x) {
  constexpr int wide = 16 / sizeof(T);
  if (whole_packs(x.data(), x.row_stride(), x.columns())) {
    return rounded<T, wide>(ctx, RowPacks<T, wide>{x.data(), x.row_stride()}, x.rows(),
                            x.columns());
  }
  return rounded<T, 1>(ctx, RowPacks<T, 1>{x.data(), x.row_stride()}, x.rows(), x.columns());
}
/// rms_norm(x) in 8 bits: `rms_norm`, then `float8_rows`.
template <class T>
ZIYA_HIDDEN Float8Rows float8_norm(Context<Cuda>& ctx, View<const T, Cuda> x,
                                   View<const float, Cuda> weight, float eps) {
  const auto run = [&](auto width) {
    constexpr int N = decltype(width)::value;
    return rounded<T, N>(ctx, NormedPacks<T, N>{{x.data(), x.row_stride()}, weight.data(), eps},
                         x.rows(), x.columns());
  };
  constexpr int wide = 16 / sizeof(T);
  return whole_packs(x.data(), x.row_stride(), x.columns())
             ? run(std::integral_constant<int, wide>{})
             : run(std::integral_constant<int, 1>{});
}
/// silu(gate) * up in 8 bits: `silu_mul`, then `float8_rows`.
template <class T>
ZIYA_HIDDEN Float8Rows float8_silu_mul(Context<Cuda>& ctx, View<const T, Cuda> gate,
                                       View<const T, Cuda> up) {
  const auto run = [&](auto width) {
    constexpr int N = decltype(width)::value;
    return rounded<T, N>(
        ctx, GatedPacks<T, N>{{gate.data(), gate.row_stride()}, {up.data(), up.row_stride()}},
        gate.rows(), gate.columns());
  };
  constexpr int wide = 16 / sizeof(T);
  const bool whole = whole_packs(gate.data(), gate.row_stride(), gate.columns()) &&
                     whole_packs(up.data(), up.row_stride(), up.columns());
  return whole ? run(std::integral_constant<int, wide>{}) : run(std::integral_constant<int, 1>{});
}

/// y = x · wᵀ (+ y) by the library.   @returns false where it has no such product
template <class Y>
ZIYA_HIDDEN bool float8_product(Context<Cuda>& ctx, View<Y, Cuda> y, const Float8Rows& x,
                                const Weight<Cuda>& w, bool add) {
  const Product shape{DType::f8_e4m3,
                      dtype_of<Y>,
                      add,
                      x.rows,
                      w.columns,
                      w.rows,
                      x.columns,
                      w.columns,
                      y.row_stride(),
                      alignment_of(x.values),
                      alignment_of(w.data),
                      alignment_of(y.data())};
  return ctx.products().run(ctx.stream(), shape, y.data(), x.values, w.data,
                            {x.scales, w.row_scales});
}

/// Several products with one x.   @returns whether the library has all of them
template <class T>
ZIYA_HIDDEN bool float8_products(Context<Cuda>& ctx, std::span<const View<T, Cuda>> ys,
                                 const Float8Rows& x, std::span<const Weight<Cuda>* const> ws) {
  for (std::size_t n = 0; n < ws.size(); ++n) {
    if (!float8_product<T>(ctx, ys[n], x, *ws[n], false)) return false;
  }
  return true;
}

}  // namespace cuda
namespace backend {

template <class Device>
Weight<Device> float8_on(const Weight<Cpu>& weight, Staging<Device>& staging) {
  static_assert(std::is_same_v<Device, Cuda>);
  int device = 0, capability = 0;
  cuda::check(cudaGetDevice(&device), "float8");
  cuda::check(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device),
              "float8");
  if (capability < 9) {
    throw BackendError("ZIYA-157", "fp8: GPU " + std::to_string(device) +
                                       " has compute capability " + std::to_string(capability) +
                                       ", 9 or more is needed; load the model as q8_0 or as it is");
  }
  struct Memory {
    Tensor<std::byte, Cuda> values;
    Tensor<float, Cuda> scales;
  };
  const std::int64_t rows = weight.rows, columns = weight.columns, row_bytes = weight.row_bytes();
  auto memory = std::make_shared<Memory>(
      Memory{Tensor<std::byte, Cuda>(Shape{rows * columns}), Tensor<float, Cuda>(Shape{rows})});
  auto* values = reinterpret_cast<cuda::Float8*>(memory->values.data());
  float* scales = memory->scales.data();
  cuda::with_stored(weight.dtype, [&](auto element) {
    using W = decltype(element);
    const auto order = [=](const std::byte* stored, std::size_t begin, std::size_t bytes,
                           cudaStream_t stream) {
      const auto* from = reinterpret_cast<const W*>(stored);
      const std::int64_t first = static_cast<std::int64_t>(begin) / row_bytes;
      const auto count = static_cast<unsigned>(static_cast<std::int64_t>(bytes) / row_bytes);
      const auto run = [&](auto width) {
        constexpr int N = decltype(width)::value;
        using Packs = cuda::RowPacks<W, N>;
        cuda::round_rows<W, N, Packs><<<count, cuda::threads_for(columns / N), 0, stream>>>(
            Packs{from, columns}, values + first * columns, scales + first, columns);
      };
      if (cuda::whole_packs(from, columns, columns)) {
        run(std::integral_constant<int, 16 / sizeof(W)>{});
      } else {
        run(std::integral_constant<int, 1>{});
      }
      cuda::check(cudaGetLastError(), "float8");
    };
    if (weight.bytes() != 0) {
      staging.copy_in_order(weight.data, static_cast<std::size_t>(weight.bytes()),
                            static_cast<std::size_t>(row_bytes), order, weight.owner);
    }
  });
  const auto* data = reinterpret_cast<const std::byte*>(values);
  return {DType::f8_e4m3, rows, columns, data, std::move(memory), scales};
}

}  // namespace backend
ZIYA_NAMESPACE_END
