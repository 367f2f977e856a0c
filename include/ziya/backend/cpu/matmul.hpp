// SPDX-License-Identifier: Apache-2.0
// Products on the CPU: threads take contiguous parts of the weights in turn and stream each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/backend/cpu/quantize/dequantise_row.hpp"
#include "ziya/backend/cpu/rms_norm.hpp"
#include "ziya/config.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/weight.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

/// x in 8 bits, and in fours where it is a few rows; null where no weight wants it.
struct QuantisedRows {
  const ActivationGroup* groups = nullptr;
  const ActivationFours* fours = nullptr;
};
/// The forms of x that the kernels of some weights read beside x itself: in 8 bits with one scale
/// per 32 columns for weights in blocks of 32, per 256 for all others; packed for floats, and for
/// bf16 where the table has a packing of its own; and scratch memory of every thread, if there are
/// several rows.
struct ActivationForms {
  QuantisedRows by_32, by_256;
  const float *packed = nullptr, *packed_bf16 = nullptr;
  float* scratch = nullptr;
};

inline MatmulArguments arguments_of(View<float> y, View<const float> x, const Weight<Cpu>& w,
                                    const ActivationForms& forms, std::int64_t thread) {
  const bool bf16 = w.dtype == DType::bf16 && forms.packed_bf16 != nullptr;
  const QuantisedRows& rows = activation_span(w.dtype) == 32 ? forms.by_32 : forms.by_256;
  return {w.dtype,
          w.data,
          w.columns,
          x.data(),
          x.row_stride(),
          x.rows(),
          y.data(),
          y.row_stride(),
          w.columns,
          w.row_scales,
          rows.groups,
          rows.fours,
          bf16 ? forms.packed_bf16 : forms.packed,
          forms.scratch == nullptr ? nullptr : forms.scratch + thread * matmul_scratch_floats};
}

/// More tokens than this are many: products are bound by arithmetic.
inline constexpr std::int64_t few_tokens = 48;
/// Of many tokens, so many outputs at a time: what is made of them next is then in the cache.
inline constexpr std::int64_t rows_at_a_time = 256;

/// y = x · w[first … last)ᵀ
inline void rows_of_product(const Context<Cpu>& ctx, View<float> y, View<const float> x,
                            const Weight<Cpu>& w, const ActivationForms& forms, std::int64_t thread,
                            std::int64_t first, std::int64_t last) {
  MatmulArguments arguments = arguments_of(y, x, w, forms, thread);
  arguments.weight = w.row(first);
  if (w.row_scales != nullptr) arguments.row_scales = w.row_scales + first;
  ctx.kernels().matmul(arguments, 0, last - first);
}

/// Parts of a weight are multiples of this many rows, as the kernels' tiles are.
inline std::int64_t matmul_grain(const Weight<Cpu>& w) { return is_plain_float(w.dtype) ? 16 : 32; }

/// body(n, thread, first, last) with parts of the rows of every weight n, which the threads take in
/// turn: one core of a machine that others share may be slower by a third, and memory rests while
/// the faster ones wait. Parts are long enough for what begins with each: streams through memory,
/// or panels of many tokens.
template <class F>
void share_rows(Context<Cpu>& ctx, std::int64_t tokens, std::span<const Weight<Cpu>* const> ws,
                F&& body) {
  constexpr std::int64_t least_bytes = 128 << 10;
  std::int64_t grain = 1, row_bytes = 1, blocks = 0;
  for (const Weight<Cpu>* w : ws) {
    grain = std::max(grain, matmul_grain(*w));
    row_bytes = std::max(row_bytes, bytes_of(w->dtype, w->columns));
  }
  const auto blocks_of = [&](const Weight<Cpu>& w) { return (w.rows + grain - 1) / grain; };
  for (const Weight<Cpu>* w : ws) blocks += blocks_of(*w);
  const std::int64_t rows = tokens > few_tokens ? rows_at_a_time : least_bytes / row_bytes;
  ctx.share_out(blocks, std::max<std::int64_t>(1, rows / grain),
                [&](std::int64_t thread, std::int64_t begin, std::int64_t end) {
                  for (std::size_t n = 0; n < ws.size(); ++n) {
                    const std::int64_t count = blocks_of(*ws[n]);
                    const std::int64_t first = std::max<std::int64_t>(begin, 0) * grain;
                    const std::int64_t last = std::min(std::min(end, count) * grain, ws[n]->rows);
                    if (first < last) body(n, thread, first, last);
                    begin -= count, end -= count;
                  }
                });
}

inline QuantisedRows quantised(Context<Cpu>& ctx, View<const float> x, int span) {
  const CpuKernels& kernels = ctx.kernels();
  const std::int64_t tokens = x.rows(), count = activation_groups(x.columns());
  auto* groups = ctx.workspace().take<ActivationGroup>({count, tokens}).data();
  auto* fours = tokens <= kernels.tokens_in_fours
                    ? ctx.workspace().take<ActivationFours>({count, tokens}).data()
                    : nullptr;
  ctx.parallel_for(tokens, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      kernels.quantise(groups + t, tokens, x.row(t), x.columns(), span,
                       fours == nullptr ? nullptr : fours + t);
    }
  });
  return {groups, fours};
}

/// x for products of floats; null if the table wants none of so few tokens.
inline const float* packed(Context<Cpu>& ctx, View<const float> x,
                           std::span<const TokenPacking* const> packings) {
  const TokenPacking* packing = nullptr;
  for (const TokenPacking* p : packings) {
    if (p != nullptr && x.rows() >= p->least_tokens) packing = p;
  }
  if (packing == nullptr) return nullptr;
  const std::int64_t tile = packing->tile, tiles = (x.rows() + tile - 1) / tile;
  const std::int64_t size = packing->floats(x.columns());
  float* result = ctx.workspace().take<float>({tiles, size}).data();
  ctx.parallel_for(tiles, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      packing->pack(result + i * size, x.row(i * tile), x.row_stride(),
                    std::min(tile, x.rows() - i * tile), x.columns());
    }
  });
  return result;
}

/// Every form that a weight wants, once for all of them, in memory of the caller's scope.
inline ActivationForms forms_of(Context<Cpu>& ctx, View<const float> x,
                                std::span<const Weight<Cpu>* const> ws) {
  ActivationForms forms;
  const CpuKernels& kernels = ctx.kernels();
  for (const Weight<Cpu>* w : ws) {
    if (w->dtype == DType::bf16 && kernels.bf16_packing != nullptr) {
      if (forms.packed_bf16 == nullptr) {
        forms.packed_bf16 = packed(ctx, x, {&kernels.bf16_packing, 1});
      }
    } else if (is_plain_float(w->dtype)) {
      if (forms.packed == nullptr) forms.packed = packed(ctx, x, kernels.packings);
    } else if (kernels.quantise != nullptr) {
      const int span = activation_span(w->dtype);
      QuantisedRows& rows = span == 32 ? forms.by_32 : forms.by_256;
      if (rows.groups == nullptr) rows = quantised(ctx, x, span);
    }
  }
  if (x.rows() > 1 && kernels.quantise != nullptr) {
    forms.scratch = ctx.workspace().take<float>({ctx.threads(), matmul_scratch_floats}).data();
  }
  return forms;
}

inline void matmul_many(Context<Cpu>& ctx, std::span<const View<float>> ys, View<const float> x,
                        std::span<const Weight<Cpu>* const> ws) {
  Workspace<Cpu>::Scope scope(ctx.workspace());
  const ActivationForms forms = forms_of(ctx, x, ws);
  share_rows(ctx, x.rows(), ws,
             [&](std::size_t n, std::int64_t thread, std::int64_t first, std::int64_t last) {
               ctx.kernels().matmul(arguments_of(ys[n], x, *ws[n], forms, thread), first, last);
             });
}

inline void matmul(Context<Cpu>& ctx, View<float> y, View<const float> x, const Weight<Cpu>& w) {
  const Weight<Cpu>* const weight = &w;
  matmul_many(ctx, {&y, 1}, x, {&weight, 1});
}

/// y += x · wᵀ, x in the forms that w wants.
inline void matmul_add(Context<Cpu>& ctx, View<float> y, View<const float> x, const Weight<Cpu>& w,
                       const ActivationForms& forms) {
  Workspace<Cpu>::Scope scope(ctx.workspace());
  const std::int64_t tokens = x.rows();
  // each thread in memory of its own, where that is less than the whole product
  const bool many = tokens > few_tokens && ctx.threads() * rows_at_a_time < w.rows;
  const std::int64_t most = many ? rows_at_a_time : w.rows;
  const CpuKernels& kernels = ctx.kernels();
  const View<float> products =
      ctx.workspace().take<float>({many ? ctx.threads() * tokens : tokens, most});
  const Weight<Cpu>* const weight = &w;
  share_rows(ctx, tokens, {&weight, 1},
             [&](std::size_t, std::int64_t thread, std::int64_t begin, std::int64_t end) {
               for (std::int64_t first = begin; first < end; first += most) {
                 const std::int64_t count = std::min(most, end - first);
                 const View<float> product =
                     many ? products.row_range(thread * tokens, tokens).column_range(0, count)
                          : products.column_range(first, count);
                 rows_of_product(ctx, product, x, w, forms, thread, first, first + count);
                 for (std::int64_t t = 0; t < tokens; ++t) {
                   kernels.add_scaled(y.row(t) + first, 1.0f, DType::f32,
                                      reinterpret_cast<const std::byte*>(product.row(t)), count);
                 }
               }
             });
}

inline void matmul_add(Context<Cpu>& ctx, View<float> y, View<const float> x,
                       const Weight<Cpu>& w) {
  Workspace<Cpu>::Scope scope(ctx.workspace());
  const Weight<Cpu>* const weight = &w;
  matmul_add(ctx, y, x, w, forms_of(ctx, x, {&weight, 1}));
}

inline void matmul_silu_mul(Context<Cpu>& ctx, View<float> y, View<const float> x,
                            const Weight<Cpu>& gate, const Weight<Cpu>& up) {
  Workspace<Cpu>::Scope scope(ctx.workspace());
  const View<float> u = ctx.workspace().take<float>({y.rows(), y.columns()});
  const CpuKernels& kernels = ctx.kernels();
  const Weight<Cpu>* const weights[] = {&gate, &up};
  const ActivationForms forms = forms_of(ctx, x, {weights, 2});
  share_rows(ctx, x.rows(), {weights, 1},
             [&](std::size_t, std::int64_t thread, std::int64_t first, std::int64_t last) {
               kernels.matmul(arguments_of(y, x, gate, forms, thread), first, last);
               kernels.matmul(arguments_of(u, x, up, forms, thread), first, last);
               for (std::int64_t t = 0; t < y.rows(); ++t) {
                 kernels.silu_mul(y.row(t) + first, y.row(t) + first, u.row(t) + first,
                                  last - first);
               }
             });
}

inline void norm_matmul_many(Context<Cpu>& ctx, std::span<const View<float>> ys,
                             View<const float> x, View<const float> norm, float eps,
                             std::span<const Weight<Cpu>* const> ws) {
  Workspace<Cpu>::Scope scope(ctx.workspace());
  const View<float> y = ctx.workspace().take<float>({x.rows(), x.columns()});
  rms_norm(ctx, y, x, norm, eps);
  matmul_many(ctx, ys, y, ws);
}

/// silu(x · gateᵀ) * (x · upᵀ) in 8 bits, a group of columns after the other, each rounded as soon
/// as it is there.
inline QuantisedRows quantised_silu_mul(Context<Cpu>& ctx, View<const float> x,
                                        const Weight<Cpu>& gate, const Weight<Cpu>& up, int span) {
  constexpr std::int64_t width = ActivationGroup::columns;
  const std::int64_t tokens = x.rows(), count = activation_groups(gate.rows);
  auto* groups = ctx.workspace().take<ActivationGroup>({count, tokens}).data();
  Workspace<Cpu>::Scope scope(ctx.workspace());
  const View<float> products = ctx.workspace().take<float>({2 * ctx.threads() * tokens, width});
  const Weight<Cpu>* const weights[] = {&gate, &up};
  const ActivationForms forms = forms_of(ctx, x, {weights, 2});
  const CpuKernels& kernels = ctx.kernels();
  ctx.share_out(count, 1, [&](std::int64_t thread, std::int64_t begin, std::int64_t end) {
    for (std::int64_t g = begin; g < end; ++g) {
      const std::int64_t first = g * width, columns = std::min(width, gate.rows - first);
      const View<float> y =
          products.row_range(2 * thread * tokens, tokens).column_range(0, columns);
      const View<float> u =
          products.row_range((2 * thread + 1) * tokens, tokens).column_range(0, columns);
      rows_of_product(ctx, y, x, gate, forms, thread, first, first + columns);
      rows_of_product(ctx, u, x, up, forms, thread, first, first + columns);
      for (std::int64_t t = 0; t < tokens; ++t) {
        kernels.silu_mul(y.row(t), y.row(t), u.row(t), columns);
        kernels.quantise(groups + g * tokens + t, tokens, y.row(t), columns, span, nullptr);
      }
    }
  });
  return {groups, nullptr};
}

inline void gated_mlp(Context<Cpu>& ctx, View<float> y, View<const float> x, View<const float> norm,
                      float eps, const Weight<Cpu>& gate, const Weight<Cpu>& up,
                      const Weight<Cpu>& down) {
  Workspace<Cpu>::Scope scope(ctx.workspace());
  const std::int64_t tokens = x.rows();
  const View<float> n = ctx.workspace().take<float>({tokens, x.columns()});
  rms_norm(ctx, n, x, norm, eps);
  // groups enough that all threads end together
  const bool many = tokens > few_tokens && activation_groups(gate.rows) >= 4 * ctx.threads();
  if (many && ctx.kernels().quantise != nullptr && !is_plain_float(down.dtype)) {
    const int span = activation_span(down.dtype);
    ActivationForms forms;
    (span == 32 ? forms.by_32 : forms.by_256) = quantised_silu_mul(ctx, n, gate, up, span);
    forms.scratch = ctx.workspace().take<float>({ctx.threads(), matmul_scratch_floats}).data();
    return matmul_add(ctx, y, View<const float>(nullptr, {tokens, gate.rows}), down, forms);
  }
  const View<float> product = ctx.workspace().take<float>({tokens, gate.rows});
  matmul_silu_mul(ctx, product, n, gate, up);
  matmul_add(ctx, y, product, down);
}

/// y[i] += factor · w[row, i]
inline void add_row_scaled(const CpuKernels& kernels, float* y, float factor, const Weight<Cpu>& w,
                           std::int64_t row) {
  if (is_plain_float(w.dtype)) {
    return kernels.add_scaled(y, factor, w.dtype, w.row(row), w.columns);
  }
  quantize::for_each_chunk(w.dtype, w.row(row), w.columns, w.row_scale(row),
                           [&](std::int64_t first, const float* values, std::int64_t count) {
                             kernels.add_scaled(y + first, factor, DType::f32,
                                                reinterpret_cast<const std::byte*>(values), count);
                           });
}

inline void matmul_backward(Context<Cpu>& ctx, View<float> dx, View<float> dw, View<const float> dy,
                            View<const float> x, const Weight<Cpu>& w) {
  const CpuKernels& kernels = ctx.kernels();
  if (!dx.empty()) {
    ctx.parallel_for(dy.rows(), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        std::memset(dx.row(t), 0, static_cast<std::size_t>(dx.columns()) * sizeof(float));
        for (std::int64_t o = 0; o < w.rows; ++o) {
          add_row_scaled(kernels, dx.row(t), dy.row(t)[o], w, o);
        }
      }
    });
  }
  if (!dw.empty()) {
    ctx.parallel_for(w.rows, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t o = begin; o < end; ++o) {
        for (std::int64_t t = 0; t < dy.rows(); ++t) {
          kernels.add_scaled(dw.row(o), dy.row(t)[o], DType::f32,
                             reinterpret_cast<const std::byte*>(x.row(t)), w.columns);
        }
      }
    });
  }
}

}  // namespace backend
ZIYA_NAMESPACE_END
