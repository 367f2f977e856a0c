// SPDX-License-Identifier: Apache-2.0
// Which kernel or library call a product becomes.
#pragma once

#include <algorithm>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/matmul.hpp"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/silu_mul.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

template <class T, class W>
ZIYA_KERNEL void convert_elements(T* to, const W* from, std::int64_t count) {
  wait_for_previous();
  release_next();
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    to[i] = narrow<T>(widen(from[i]));
  }
}

/// Types that the matrix × vector kernels read beside activations of type T.
template <class T>
constexpr bool reads(DType dtype) {
  return dtype == dtype_of<T> || std::is_same_v<T, float>;
}

/// f(W{}) for the types of `reads<T>`.
template <class T, class F>
ZIYA_HIDDEN void with_readable(DType dtype, F&& f) {
  if constexpr (std::is_same_v<T, float>) {
    with_stored(dtype, f);
  } else {
    f(T{});
  }
}

template <class T, class W, class Y>
ZIYA_HIDDEN MatvecArguments<T, W> matvec_arguments(View<Y, Cuda> y, View<const T, Cuda> x,
                                                   const Weight<Cuda>& w) {
  MatvecArguments<T, W> a{};
  a.parts[0] = {reinterpret_cast<const W*>(w.data), y.data(), y.row_stride(), w.rows};
  a.x = x.data();
  a.x_stride = x.row_stride();
  a.columns = w.columns;
  a.tokens = x.rows();
  a.y_float = std::is_same_v<Y, float>;
  return a;
}

/// Rows of `w` in type T, in scratch memory.
template <class T>
ZIYA_HIDDEN Weight<Cuda> converted(Context<Cuda>& ctx, const Weight<Cuda>& w) {
  const auto memory = ctx.workspace().template take<T>(Shape{w.rows, w.columns});
  with_stored(w.dtype, [&](auto element) {
    using W = decltype(element);
    const std::int64_t count = w.rows * w.columns;
    launch(ctx, "convert", convert_elements<T, W>,
           dim3(static_cast<unsigned>(std::min<std::int64_t>(blocks_for(count, 256), 8192))),
           dim3(256), 0, memory.data(), reinterpret_cast<const W*>(w.data), count);
  });
  return {dtype_of<T>, w.rows, w.columns, reinterpret_cast<const std::byte*>(memory.data()),
          nullptr};
}

inline constexpr std::int64_t converted_elements = std::int64_t{1} << 26;  // at a time

template <class T, class Y>
ZIYA_HIDDEN void product(Context<Cuda>& ctx, View<Y, Cuda> y, View<const T, Cuda> x,
                         const Weight<Cuda>& w, bool add) {
  if (x.rows() == 0 || w.rows == 0) return;
  if (!reads<T>(w.dtype) || (w.dtype != dtype_of<T> && x.rows() > matvec_tokens)) {
    const std::int64_t part = std::max<std::int64_t>(1, converted_elements / w.columns);
    for (std::int64_t begin = 0; begin < w.rows; begin += part) {
      Workspace<Cuda>::Scope scope(ctx.workspace());
      const std::int64_t rows = std::min(part, w.rows - begin);
      const Weight<Cuda> piece{w.dtype, rows, w.columns, w.row(begin), nullptr};
      product<T, Y>(ctx, y.column_range(begin, rows), x, converted<T>(ctx, piece), add);
    }
    return;
  }
  if (x.rows() > matvec_tokens) {
    const Product shape{dtype_of<T>,
                        dtype_of<Y>,
                        add,
                        x.rows(),
                        w.columns,
                        w.rows,
                        x.row_stride(),
                        w.columns,
                        y.row_stride(),
                        alignment_of(x.data()),
                        alignment_of(w.data),
                        alignment_of(y.data())};
    if (ctx.products().run(ctx.stream(), shape, y.data(), x.data(), w.data)) return;
  }
  with_readable<T>(w.dtype, [&](auto element) {
    auto a = matvec_arguments<T, decltype(element), Y>(y, x, w);
    a.add = add;
    run_matvec(ctx, a);
  });
}

}  // namespace cuda
namespace backend {

template <class T, class Y>
void matmul(Context<Cuda>& ctx, View<Y, Cuda> y, View<const T, Cuda> x, const Weight<Cuda>& w) {
  cuda::product<T, Y>(ctx, y, x, w, false);
}

template <class T>
void matmul_add(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x, const Weight<Cuda>& w) {
  cuda::product<T, T>(ctx, y, x, w, true);
}

template <class T>
void matmul_many(Context<Cuda>& ctx, std::span<const View<T, Cuda>> ys, View<const T, Cuda> x,
                 std::span<const Weight<Cuda>* const> ws) {
  const auto alike = [&](const Weight<Cuda>* w) { return w->dtype == ws[0]->dtype; };
  if (ws.size() <= cuda::matvec_parts && x.rows() >= 1 && x.rows() <= cuda::matvec_tokens &&
      std::all_of(ws.begin(), ws.end(), alike) && cuda::reads<T>(ws[0]->dtype)) {
    bool done = false;
    cuda::with_readable<T>(ws[0]->dtype, [&](auto element) {
      using W = decltype(element);
      auto a = cuda::matvec_arguments<T, W, T>(ys[0], x, *ws[0]);
      for (std::size_t n = 1; n < ws.size(); ++n) {
        a.parts[n] = {reinterpret_cast<const W*>(ws[n]->data), ys[n].data(), ys[n].row_stride(),
                      ws[n]->rows};
      }
      if (!cuda::packs_fit(a)) return;
      cuda::run_matvec(ctx, a);
      done = true;
    });
    if (done) return;
  }
  for (std::size_t n = 0; n < ws.size(); ++n) cuda::product<T, T>(ctx, ys[n], x, *ws[n], false);
}

template <class T>
void matmul_silu_mul(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x,
                     const Weight<Cuda>& gate, const Weight<Cuda>& up) {
  if (gate.dtype == up.dtype && cuda::reads<T>(gate.dtype) && x.rows() >= 1 &&
      x.rows() <= cuda::matvec_tokens) {
    bool done = false;
    cuda::with_readable<T>(gate.dtype, [&](auto element) {
      using W = decltype(element);
      auto a = cuda::matvec_arguments<T, W, T>(y, x, gate);
      a.up = reinterpret_cast<const W*>(up.data);
      if (!cuda::packs_fit(a)) return;
      cuda::run_matvec(ctx, a);
      done = true;
    });
    if (done) return;
  }
  Workspace<Cuda>::Scope scope(ctx.workspace());
  const View<T, Cuda> product = ctx.workspace().template take<T>({y.rows(), y.columns()});
  cuda::product<T, T>(ctx, y, x, gate, false);
  cuda::product<T, T>(ctx, product, x, up, false);
  silu_mul<T>(ctx, y, y, product);
}

}  // namespace backend
ZIYA_NAMESPACE_END
