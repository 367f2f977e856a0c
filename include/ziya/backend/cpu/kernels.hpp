// SPDX-License-Identifier: Apache-2.0
// The inner loops of the CPU backend as a table of pointers, one table per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cpu/activations.hpp"
#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN

/// Operands of one product: y[t · y_stride + r] = Σ_i x[t · x_stride + i] · w[r, i].
struct MatmulArguments {
  DType dtype;              ///< of w: f32, f16, bf16, i8 with row_scales, or a quantised type
  const std::byte* weight;  ///< (rows, columns), row-major
  std::int64_t columns;     ///< length of the sum
  const float* x;           ///< (tokens, columns); null where `groups` is enough
  std::int64_t x_stride;    ///< in floats
  std::int64_t tokens;
  float* y;
  std::int64_t y_stride;                 ///< in floats
  std::int64_t weight_stride = columns;  ///< from row to row of w, in elements
  const float* row_scales = nullptr;     ///< (rows) factors of w, of i8 only
  /// (activation_groups(columns), tokens): x in 8 bits, in spans of activation_span(dtype), for a
  /// table that quantises
  const ActivationGroup* groups = nullptr;
  /// (activation_groups(columns), tokens): the same in fours, of the table's `tokens_in_fours` or
  /// fewer; or null
  const ActivationFours* fours = nullptr;
  /// tiles of x as the table's packing for the type and so many tokens makes them; or null
  const float* packed = nullptr;
  /// (matmul_scratch_floats) of the calling thread; not null beside `packed` of several tokens or
  /// many `groups`
  float* scratch = nullptr;
};

/// Room for what a thread keeps in its second-level cache during a product of several tokens.
inline constexpr std::int64_t matmul_scratch_floats = 320 * 1024;

/// How rows of x are laid out for products of floats with `least_tokens` of them or more.
struct TokenPacking {
  std::int64_t least_tokens;
  std::int64_t tile;                             ///< rows that are packed together, at most
  std::int64_t (*floats)(std::int64_t columns);  ///< room of a tile
  /// `tokens` ≤ tile rows of x
  void (*pack)(float* packed, const float* x, std::int64_t x_stride, std::int64_t tokens,
               std::int64_t columns);
};

/// Operands of one weighted sum: y[t · y_stride + i] += Σ_j weights[t · weights_stride + j] ·
/// values[j · values_stride + i], j in order.
struct WeightedSumArguments {
  DType dtype;                 ///< of values: f32, f16 or bf16
  const std::byte* values;     ///< (count, width)
  std::int64_t values_stride;  ///< in elements
  std::int64_t count, width;
  const float* weights;         ///< (rows, count)
  std::int64_t weights_stride;  ///< in floats
  std::int64_t rows;
  float* y;               ///< (rows, width)
  std::int64_t y_stride;  ///< in floats
};

/// Rows of one head against some of their keys and values, at most AttentionTiles::block of each.
struct AttentionBlock {
  DType dtype;  ///< of keys and values: f32, f16 or bf16
  std::int64_t head_dim, rows, count;
  const std::byte *const *keys, *const *values;  ///< (count) rows of head_dim elements
  const std::int64_t* seen;  ///< (rows) so many of the keys a row sees; none if not positive
  float scale;
  float* scratch;
};
/// out = Σ_j softmax_j(scale · q · key(j)) value(j) for many rows of a head at once: begin, add
/// block after block, end, with the same scratch memory. A row does not depend on the rows beside
/// it.
struct AttentionTiles {
  static constexpr std::int64_t block = 64;
  std::int64_t least_rows;  ///< adjacent rows of one sequence in a call, for which it pays
  std::int64_t (*scratch_floats)(std::int64_t head_dim);
  void (*begin)(float* scratch, const float* q, std::int64_t q_stride, std::int64_t rows,
                std::int64_t head_dim);
  void (*add)(const AttentionBlock& block);
  void (*end)(float* scratch, float* out, std::int64_t out_stride, std::int64_t rows,
              std::int64_t head_dim);
};

/// Every sum runs in an order that depends on the table and the stored type alone, never on the
/// number of threads, and on the number of rows only by the packing of products of floats.
struct CpuKernels {
  /// Outputs [begin, end) of all tokens. Weights of other types than f32, f16 and bf16 meet
  /// `groups` where the table has `quantise`, x itself where it has not.
  void (*matmul)(const MatmulArguments& arguments, std::int64_t begin, std::int64_t end);
  /// Σ_i a[i] · b[i], b stored as `dtype`; f32, f16 and bf16 only.
  float (*dot)(const float* a, DType dtype, const std::byte* b, std::int64_t count);
  /// y[i] += factor · x[i], x stored as `dtype`; f32, f16 and bf16 only.
  void (*add_scaled)(float* y, float factor, DType dtype, const std::byte* x, std::int64_t count);
  /// The same as add_scaled value by value.
  void (*add_weighted)(const WeightedSumArguments& arguments);
  /// values[i] ← scale · values[i]; returns the largest of them, −∞ of none.
  float (*scale_and_find_largest)(float* values, float scale, std::int64_t count);
  /// values[i] ← e^(values[i] − shift); returns their sum.
  float (*exp_sum)(float* values, float shift, std::int64_t count);
  /// y[i] = gate[i] / (1 + e^(−gate[i])) · up[i]
  void (*silu_mul)(float* y, const float* gate, const float* up, std::int64_t count);
  /// One row of activations in 8 bits, its groups `stride` apart, a scale per `span` columns, and
  /// in fours, as far apart, where that is not null; else values may lie in the order in which the
  /// table's `matmul` reads many tokens. Or null.
  void (*quantise)(ActivationGroup* groups, std::int64_t stride, const float* x,
                   std::int64_t columns, int span, ActivationFours* fours);
  /// y[i] = x[i], x stored as q8_0: `count` elements, whole blocks, exactly.
  void (*dequantise)(float* y, const std::byte* x, std::int64_t count);
  /// y[i] = to_half(x[i])
  void (*to_halves)(Half* y, const float* x, std::int64_t count);
  /// Up to so many tokens have fours: they may meet quantised weights as these lie in memory.
  std::int64_t tokens_in_fours = 0;
  /// For several tokens, and for many, whose sums are near those of fewer but not the same bits; or
  /// null.
  const TokenPacking* packings[2] = {nullptr, nullptr};
  /// In place of those for weights in bf16, where a table multiplies activations in bf16; or null.
  const TokenPacking* bf16_packing = nullptr;
  const AttentionTiles* attention = nullptr;  ///< or null
};

/// Reads the bytes of a stored type as its elements: visit(dtype, bytes, f) calls f(const W*).
template <class F>
decltype(auto) with_elements(DType dtype, const std::byte* bytes, F&& f) {
  if (dtype == DType::f16) return f(reinterpret_cast<const Half*>(bytes));
  if (dtype == DType::bf16) return f(reinterpret_cast<const BFloat16*>(bytes));
  return f(reinterpret_cast<const float*>(bytes));
}

ZIYA_NAMESPACE_END
