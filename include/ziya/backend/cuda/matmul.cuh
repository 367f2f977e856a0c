// SPDX-License-Identifier: Apache-2.0
// Which kernel or library call a product becomes.
#pragma once

#include <algorithm>
#include <array>

#include "ziya/backend/cuda/dequantise.cuh"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/float8.cuh"
#include "ziya/backend/cuda/gemm.cuh"
#include "ziya/backend/cuda/matmul.hpp"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/matvec_float8.cuh"
#include "ziya/backend/cuda/matvec_panels.cuh"
#include "ziya/backend/cuda/matvec_stream.cuh"
#include "ziya/backend/cuda/rms_norm.cuh"
#include "ziya/backend/cuda/silu_mul.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// Types that the matrix × vector kernels read beside activations of type T.
template <class T>
constexpr bool reads(DType dtype) {
  return dtype == dtype_of<T> || dtype == DType::f8_e4m3 ||
         (std::is_same_v<T, float> && is_plain_float(dtype));
}

/// f(W{}) for the types of `reads<T>`.
template <class T, class F>
ZIYA_HIDDEN void with_readable(DType dtype, F&& f) {
  if (dtype == DType::f8_e4m3) return f(Float8{});
  if constexpr (std::is_same_v<T, float>) {
    with_stored(dtype, f);
  } else {
    f(T{});
  }
}

/// Tokens that share a pass over weights which are read as they are.
template <class T>
constexpr std::int64_t streamed_tokens(DType dtype) {
  return dtype == DType::f8_e4m3 && sizeof(T) == 2 ? float8_tokens : matvec_tokens;
}
template <class T, class W>
ZIYA_HIDDEN void stream(Context<Cuda>& ctx, const MatvecArguments<T, W>& a) {
  if constexpr (std::is_same_v<W, Float8> && sizeof(T) == 2) {
    packs_fit(a) ? run_float8(ctx, a) : run_matvec_any(ctx, a);
  } else {
    if constexpr (std::is_same_v<W, T> && sizeof(T) == 2) {
      if (stream_takes(ctx, a)) return run_stream(ctx, a);
    }
    run_matvec(ctx, a);
  }
}

template <class T, class W, class Y>
ZIYA_HIDDEN MatvecArguments<T, W> matvec_arguments(View<Y, Cuda> y, View<const T, Cuda> x,
                                                   const Weight<Cuda>& w) {
  MatvecArguments<T, W> a{};
  a.parts[0] = {reinterpret_cast<const W*>(w.data), y.data(), y.row_stride(), w.rows, w.row_scales};
  a.x = x.data();
  a.x_stride = x.row_stride();
  a.columns = w.columns;
  a.tokens = x.rows();
  a.y_float = std::is_same_v<Y, float>;
  return a;
}

/// Products of so many tokens with quantised weights do without the library where there are no
/// warpgroups: two passes, one where unpacking takes longest (measured on an H100 with 16-bit
/// activations).
template <class T>
constexpr std::int64_t panel_token_limit(DType dtype) {
  const bool slow = sizeof(T) == 2 && info(dtype).block_elements == 256;
  return panel_tokens<T, 4> * (slow ? 1 : 2);
}

/// Whether the kernels for weights in panels take all of `ws` with `x`.
template <class T>
ZIYA_HIDDEN bool panels_take(const Context<Cuda>& ctx, View<const T, Cuda> x,
                             std::span<const Weight<Cuda>* const> ws) {
  if (!is_quantised(ws[0]->dtype)) return false;
  for (const Weight<Cuda>* w : ws) {
    if (w->dtype != ws[0]->dtype) return false;
  }
  if (!whole_packs(x.data(), x.rows() > 1 ? x.row_stride() : 0, x.columns())) return false;
  return x.rows() <= panel_token_limit<T>(ws[0]->dtype) ||
         (std::is_same_v<T, Half> && takes_panel_products(ctx, ws[0]->dtype, x.rows()));
}

template <class T, class W>
ZIYA_HIDDEN MatvecArguments<T, W> many_arguments(std::span<const View<T, Cuda>> ys,
                                                 View<const T, Cuda> x,
                                                 std::span<const Weight<Cuda>* const> ws) {
  auto a = matvec_arguments<T, W, T>(ys[0], x, *ws[0]);
  for (std::size_t n = 1; n < ws.size(); ++n) {
    a.parts[n] = {reinterpret_cast<const W*>(ws[n]->data), ys[n].data(), ys[n].row_stride(),
                  ws[n]->rows, ws[n]->row_scales};
  }
  return a;
}
template <class T, class W>
ZIYA_HIDDEN MatvecArguments<T, W> gated_arguments(View<T, Cuda> y, View<const T, Cuda> x,
                                                  const Weight<Cuda>& gate,
                                                  const Weight<Cuda>& up) {
  auto a = matvec_arguments<T, W, T>(y, x, gate);
  a.up = reinterpret_cast<const W*>(up.data);
  a.up_scales = up.row_scales;
  return a;
}
/// Does the products `a` of the normalised x with `ws`, if they are those of a few tokens in
/// digits.
template <class T>
ZIYA_HIDDEN bool digits_take(Context<Cuda>& ctx, MatvecArguments<T, std::byte> a,
                             View<const T, Cuda> x, std::span<const Weight<Cuda>* const> ws,
                             View<const float, Cuda> norm, float eps) {
  if (x.rows() == 0 || !panels_take<T>(ctx, x, ws) || alignment_of(norm.data()) < 16) return false;
  a.norm = norm.data();
  a.eps = eps;
  bool taken = false;
  with_panels(ws[0]->dtype, [&](auto block) {
    const DigitPlan plan = digit_plan<T, decltype(block)>(ctx, a);
    taken = plan.warps > 0;
    if (taken) launch_digits<T, decltype(block)>(ctx, a, plan);
  });
  return taken;
}

/// Does the products `a` of the normalised x with `ws`, if x is one token and all is in 16 bits.
template <class T>
ZIYA_HIDDEN bool rows_take(Context<Cuda>& ctx, MatvecArguments<T, T> a,
                           std::span<const Weight<Cuda>* const> ws, View<const float, Cuda> norm,
                           float eps) {
  if constexpr (sizeof(T) == 2) {
    for (const Weight<Cuda>* w : ws) {
      if (w->dtype != dtype_of<T>) return false;
    }
    a.norm = norm.data();
    a.eps = eps;
    if (!stream_takes(ctx, a)) return false;
    run_stream(ctx, a);
    return true;
  }
  return false;
}

/// Whether products of so many tokens with these weights are made of 8-bit floats on both sides.
template <class T>
ZIYA_HIDDEN bool float8_takes(std::int64_t tokens, std::span<const Weight<Cuda>* const> ws) {
  return tokens > streamed_tokens<T>(DType::f8_e4m3) &&
         std::all_of(ws.begin(), ws.end(),
                     [](const Weight<Cuda>* w) { return w->dtype == DType::f8_e4m3; });
}

inline constexpr std::int64_t converted_elements = std::int64_t{1} << 26;  // at a time

/// f(begin, rows of all `ws` from there in type T, in scratch memory) for parts that cover all
/// rows, of which all have the same number.
template <class T, std::size_t N, class F>
ZIYA_HIDDEN void in_converted_parts(Context<Cuda>& ctx,
                                    const std::array<const Weight<Cuda>*, N>& ws, F&& f) {
  const std::int64_t all = ws[0]->rows, columns = ws[0]->columns;
  const std::int64_t parts = static_cast<std::int64_t>(N) * all * columns / converted_elements + 1;
  const std::int64_t most = ((all + parts - 1) / parts + panel_rows - 1) / panel_rows * panel_rows;
  for (std::int64_t begin = 0; begin < all; begin += most) {
    typename Workspace<Cuda>::Scope scope(ctx.workspace());
    const std::int64_t rows = std::min(most, all - begin);
    std::array<Weight<Cuda>, N> made;
    for (std::size_t n = 0; n < N; ++n) {
      const auto memory = ctx.workspace().template take<T>(Shape{rows, columns});
      backend::dequantise<T>(ctx, memory, rows_of(*ws[n], begin, rows));
      made[n] = {dtype_of<T>, rows, columns, reinterpret_cast<const std::byte*>(memory.data()),
                 nullptr};
    }
    f(begin, made);
  }
}
/// Whether so many tokens meet this weight in type T, which it is not stored in.
template <class T>
ZIYA_HIDDEN bool converts(std::int64_t tokens, const Weight<Cuda>& w) {
  return !reads<T>(w.dtype) || (w.dtype != dtype_of<T> && tokens > streamed_tokens<T>(w.dtype));
}

template <class T, class Y>
ZIYA_HIDDEN void product(Context<Cuda>& ctx, View<Y, Cuda> y, View<const T, Cuda> x,
                         const Weight<Cuda>& w, bool add, bool made = false) {
  if (x.rows() == 0 || w.rows == 0) return;
  const Weight<Cuda>* const weights[] = {&w};
  if (panels_take<T>(ctx, x, weights)) {
    auto a = matvec_arguments<T, std::byte, Y>(y, x, w);
    a.add = add;
    return run_panels<T>(ctx, w.dtype, a);
  }
  if (float8_takes<T>(x.rows(), weights)) {
    Workspace<Cuda>::Scope scope(ctx.workspace());
    if (float8_product<Y>(ctx, y, float8_rows<T>(ctx, x), w, add)) return;
  }
  if (converts<T>(x.rows(), w)) {
    return in_converted_parts<T>(
        ctx, std::array{&w}, [&](std::int64_t begin, const std::array<Weight<Cuda>, 1>& part) {
          product<T, Y>(ctx, y.column_range(begin, part[0].rows), x, part[0], add, true);
        });
  }
  if (x.rows() > streamed_tokens<T>(w.dtype)) {
    if constexpr (std::is_same_v<T, Y>) {
      const View<T, Cuda> ys[] = {y};
      if (add ? run_gemm<GemmResult::added, T>(ctx, ys, x, weights)
              : run_gemm<GemmResult::stored, T>(ctx, ys, x, weights)) {
        return;
      }
    }
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
    a.made = made;
    stream(ctx, a);
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
  if (!ws.empty() && ws.size() <= cuda::matvec_parts && x.rows() >= 1 &&
      cuda::panels_take<T>(ctx, x, ws)) {
    return cuda::run_panels<T>(ctx, ws[0]->dtype, cuda::many_arguments<T, std::byte>(ys, x, ws));
  }
  const auto alike = [&](const Weight<Cuda>* w) { return w->dtype == ws[0]->dtype; };
  if (!ws.empty() && ws.size() <= cuda::matvec_parts && x.rows() >= 1 &&
      x.rows() <= cuda::streamed_tokens<T>(ws[0]->dtype) &&
      std::all_of(ws.begin(), ws.end(), alike) && cuda::reads<T>(ws[0]->dtype)) {
    bool done = false;
    cuda::with_readable<T>(ws[0]->dtype, [&](auto element) {
      using W = decltype(element);
      const auto a = cuda::many_arguments<T, W>(ys, x, ws);
      if (!cuda::packs_fit(a)) return;
      cuda::stream(ctx, a);
      done = true;
    });
    if (done) return;
  }
  if (cuda::float8_takes<T>(x.rows(), ws)) {
    Workspace<Cuda>::Scope scope(ctx.workspace());
    if (cuda::float8_products<T>(ctx, ys, cuda::float8_rows<T>(ctx, x), ws)) return;
  }
  if (cuda::run_gemm<cuda::GemmResult::stored, T>(ctx, ys, x, ws)) return;
  for (std::size_t n = 0; n < ws.size(); ++n) cuda::product<T, T>(ctx, ys[n], x, *ws[n], false);
}

template <class T>
void matmul_silu_mul(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x,
                     const Weight<Cuda>& gate, const Weight<Cuda>& up) {
  const Weight<Cuda>* const both[] = {&gate, &up};
  if (x.rows() >= 1 && cuda::panels_take<T>(ctx, x, both)) {
    if (std::is_same_v<T, Half> && cuda::takes_panel_products(ctx, gate.dtype, x.rows())) {
      Workspace<Cuda>::Scope scope(ctx.workspace());
      const View<T, Cuda> product = ctx.workspace().template take<T>({y.rows(), y.columns()});
      const std::array<View<T, Cuda>, 2> ys{y, product};
      matmul_many<T>(ctx, ys, x, both);
      return silu_mul<T>(ctx, y, y, product);
    }
    return cuda::run_panels<T>(ctx, gate.dtype,
                               cuda::gated_arguments<T, std::byte>(y, x, gate, up));
  }
  if (gate.dtype == up.dtype && cuda::reads<T>(gate.dtype) && x.rows() >= 1 &&
      x.rows() <= cuda::streamed_tokens<T>(gate.dtype)) {
    bool done = false;
    cuda::with_readable<T>(gate.dtype, [&](auto element) {
      using W = decltype(element);
      const auto a = cuda::gated_arguments<T, W>(y, x, gate, up);
      if (!cuda::packs_fit(a)) return;
      cuda::stream(ctx, a);
      done = true;
    });
    if (done) return;
  }
  const auto converted = [&](const Weight<Cuda>& w) {  // as `product` has it
    const Weight<Cuda>* const one[] = {&w};
    return x.rows() > cuda::streamed_tokens<T>(dtype_of<T>) && cuda::converts<T>(x.rows(), w) &&
           !cuda::panels_take<T>(ctx, x, one) && !cuda::float8_takes<T>(x.rows(), one);
  };
  if (converted(gate) && converted(up)) {
    return cuda::in_converted_parts<T>(
        ctx, std::array{&gate, &up},
        [&](std::int64_t begin, const std::array<Weight<Cuda>, 2>& part) {
          matmul_silu_mul<T>(ctx, y.column_range(begin, part[0].rows), x, part[0], part[1]);
        });
  }
  const View<T, Cuda> only[] = {y};
  if (cuda::run_gemm<cuda::GemmResult::gated, T>(ctx, only, x, both)) return;
  Workspace<Cuda>::Scope scope(ctx.workspace());
  const View<T, Cuda> product = ctx.workspace().template take<T>({y.rows(), y.columns()});
  const std::array<View<T, Cuda>, 2> ys{y, product};
  matmul_many<T>(ctx, ys, x, both);
  silu_mul<T>(ctx, y, y, product);
}

template <class T>
void norm_matmul_many(Context<Cuda>& ctx, std::span<const View<T, Cuda>> ys, View<const T, Cuda> x,
                      View<const float, Cuda> norm, float eps,
                      std::span<const Weight<Cuda>* const> ws) {
  if (!ws.empty() && ws.size() <= cuda::matvec_parts &&
      (cuda::digits_take<T>(ctx, cuda::many_arguments<T, std::byte>(ys, x, ws), x, ws, norm, eps) ||
       cuda::rows_take<T>(ctx, cuda::many_arguments<T, T>(ys, x, ws), ws, norm, eps))) {
    return;
  }
  Workspace<Cuda>::Scope scope(ctx.workspace());
  if (cuda::float8_takes<T>(x.rows(), ws) &&
      cuda::float8_products<T>(ctx, ys, cuda::float8_norm<T>(ctx, x, norm, eps), ws)) {
    return;
  }
  const View<T, Cuda> y = ctx.workspace().template take<T>({x.rows(), x.columns()});
  rms_norm<T>(ctx, y, x, norm, eps);
  matmul_many<T>(ctx, ys, y, ws);
}

template <class T>
void gated_mlp(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x,
               View<const float, Cuda> norm, float eps, const Weight<Cuda>& gate,
               const Weight<Cuda>& up, const Weight<Cuda>& down) {
  Workspace<Cuda>::Scope scope(ctx.workspace());
  const Weight<Cuda>* const all[] = {&gate, &up, &down};
  const View<T, Cuda> g = ctx.workspace().template take<T>({x.rows(), gate.rows});
  if (cuda::float8_takes<T>(x.rows(), all)) {
    const std::array<View<T, Cuda>, 2> ys{g, ctx.workspace().template take<T>(g.shape())};
    const auto rows = cuda::float8_norm<T>(ctx, x, norm, eps);
    if (cuda::float8_products<T>(ctx, ys, rows, std::span(all).first(2)) &&
        cuda::float8_product<T>(ctx, y, cuda::float8_silu_mul<T>(ctx, g, ys[1]), down, true)) {
      return;
    }
  }
  const auto both = std::span(all).first(2);
  if (!cuda::digits_take<T>(ctx, cuda::gated_arguments<T, std::byte>(g, x, gate, up), x, both, norm,
                            eps) &&
      !cuda::rows_take<T>(ctx, cuda::gated_arguments<T, T>(g, x, gate, up), both, norm, eps)) {
    const View<T, Cuda> n = ctx.workspace().template take<T>({x.rows(), x.columns()});
    rms_norm<T>(ctx, n, x, norm, eps);
    matmul_silu_mul<T>(ctx, g, n, gate, up);
  }
  cuda::product<T, T>(ctx, y, g, down, true);
}

}  // namespace backend
ZIYA_NAMESPACE_END
