// SPDX-License-Identifier: Apache-2.0
// Attention of many rows of one head with AMX: scores and sums of values as amx_floats.hpp makes
// products.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/amx_floats.hpp"
#include "ziya/backend/cpu/x86/avx512_vector.hpp"

ZIYA_NAMESPACE_BEGIN
namespace amx_floats {

inline constexpr std::int64_t block = AttentionTiles::block;

/// What the rows of one head keep from block to block of keys, in a thread's scratch memory.
struct RowsOfHead {
  std::int64_t width;        ///< of a head, whole pairs of tiles
  float *largest, *sums;     ///< (block) of the scores so far, of their exponentials
  float* values;             ///< (block, width) Σ e^(score − largest) value
  float* scores;             ///< (block, block)
  std::byte* queries;        ///< second operands, 16 rows every tiled_bytes(width, x_parts)
  std::byte* probabilities;  ///< first operands, 16 rows every tiled_bytes(block, x_parts)
  std::byte* operands;       ///< of keys as first operands, then of values as second ones
  std::byte* products;       ///< four tiles

  static std::int64_t padded(std::int64_t head_dim) { return (head_dim + 31) / 32 * 32; }
  static std::int64_t floats(std::int64_t head_dim) {
    const std::int64_t w = padded(head_dim), tiles = block / 16;
    return 2 * block + block * w + block * block +
           (tiles * (2 * tiled_bytes(w, 3) + tiled_bytes(block, 3)) + 4 * tile_bytes) / 4;
  }
  RowsOfHead(float* scratch, std::int64_t head_dim) : width(padded(head_dim)) {
    largest = scratch;
    sums = largest + block;
    values = sums + block;
    scores = values + block * width;
    queries = reinterpret_cast<std::byte*>(scores + block * block);
    probabilities = queries + block / 16 * tiled_bytes(width, 3);
    operands = probabilities + block / 16 * tiled_bytes(block, 3);
    products = operands + block / 16 * tiled_bytes(width, 3);
  }
};

inline void begin_rows(float* scratch, const float* q, std::int64_t q_stride, std::int64_t rows,
                       std::int64_t head_dim) {
  const RowsOfHead h(scratch, head_dim);
  std::fill_n(h.largest, block, -std::numeric_limits<float>::infinity());
  std::fill_n(h.sums, block + block * h.width, 0.0f);
  const std::int64_t apart = tiled_bytes(h.width, x_parts);
  for (std::int64_t t = 0; t < (rows + 31) / 32 * 32; t += 16) {
    pack(reinterpret_cast<float*>(h.queries + t / 16 * apart), q + t * q_stride, q_stride,
         std::clamp<std::int64_t>(rows - t, 0, 16), head_dim);
  }
}

/// scores[t][j] = q_t · key_j, zero for keys that are not there
template <class T>
ZIYA_TARGET_AMX inline void add_scores(const AttentionBlock& b, const RowsOfHead& h) {
  constexpr int parts = parts_of<T>;
  const std::int64_t steps = h.width / tile_columns, apart = tiled_bytes(h.width, parts);
  for (std::int64_t j = 0; j < (b.count + 31) / 32 * 32; ++j) {
    pack_row(h.operands + j / 16 * apart + j % 16 * 64,
             j < b.count ? reinterpret_cast<const T*>(b.keys[j]) : nullptr, b.head_dim);
  }
  for (std::int64_t t = 0; t < b.rows; t += 32) {
    const std::int64_t q_apart = tiled_bytes(h.width, x_parts);
    for (std::int64_t j = 0; j < b.count; j += 32) {
      add_products<parts, x_parts>({h.products, 64, tile_bytes, 2 * tile_bytes}, true,
                                   {h.operands + j / 16 * apart, apart},
                                   {h.queries + t / 16 * q_apart, q_apart}, steps);
      for (std::int64_t k = 0; k < 4; ++k) {
        store_outputs(h.scores + (t + k % 2 * 16) * block + j + k / 2 * 16, block, 16, 16,
                      h.products + k * tile_bytes);
      }
    }
  }
}

/// Row t of the scores ← e^(scale · score − largest), zeros beyond the keys that it sees.
ZIYA_TARGET_AVX512 inline void soften(const AttentionBlock& b, const RowsOfHead& h,
                                      std::int64_t t) {
  constexpr int vectors = block / lanes;
  const std::int64_t seen = std::clamp<std::int64_t>(b.seen[t], 0, b.count);
  float* row = h.scores + t * block;
  __m512 v[vectors], largest = set(-std::numeric_limits<float>::infinity());
#pragma GCC unroll 4
  for (int i = 0; i < vectors; ++i) {
    const __mmask16 there = mask(std::clamp<std::int64_t>(seen - i * lanes, 0, lanes));
    v[i] = _mm512_mask_mul_ps(set(-std::numeric_limits<float>::infinity()), there,
                              load(row + i * lanes), set(b.scale));
    largest = max(largest, v[i]);
  }
  const float block_largest = largest_lane(largest);
  if (seen > 0 && block_largest > h.largest[t]) {
    const float shrink = _mm512_cvtss_f32(exp(set(h.largest[t] - block_largest)));
    h.sums[t] *= shrink;
    float* values = h.values + t * h.width;
    for (std::int64_t i = 0; i < h.width; i += lanes) {
      store(values + i, multiply(load(values + i), set(shrink)));
    }
    h.largest[t] = block_largest;
  }
  __m512 total = zero();
#pragma GCC unroll 4
  for (int i = 0; i < vectors; ++i) {
    const __mmask16 there = mask(std::clamp<std::int64_t>(seen - i * lanes, 0, lanes));
    v[i] = _mm512_maskz_mov_ps(there, exp(subtract(v[i], set(h.largest[t]))));
    store(row + i * lanes, v[i]);
    total = add(total, v[i]);
  }
  h.sums[t] += sum(total);
}

/// values[t] += Σ_j scores[t][j] value_j
template <class T>
ZIYA_TARGET_AMX inline void add_values(const AttentionBlock& b, const RowsOfHead& h) {
  constexpr int parts = parts_of<T>;
  const std::int64_t steps = (b.count + tile_columns - 1) / tile_columns;
  const std::int64_t apart = steps * parts * tile_bytes, p_apart = steps * x_parts * tile_bytes;
  for (std::int64_t t = 0; t < (b.rows + 31) / 32 * 32; ++t) {
    pack_row(h.probabilities + t / 16 * p_apart + t % 16 * 64,
             t < b.rows ? h.scores + t * block : nullptr, steps * tile_columns);
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    for (std::int64_t l = 0; l < 16; ++l) {
      const std::int64_t j = step * tile_columns + l;
      const T* low = j < b.count ? reinterpret_cast<const T*>(b.values[j]) : nullptr;
      const T* high = j + 16 < b.count ? reinterpret_cast<const T*>(b.values[j + 16]) : nullptr;
      std::byte* to = h.operands + step * parts * tile_bytes + l * 64;
      for (std::int64_t i = 0; i < h.width; i += lanes, to += apart) {
        const std::int64_t there = std::clamp<std::int64_t>(b.head_dim - i, 0, lanes);
        const Split<parts> pair = split<parts>(low == nullptr ? zero() : load(low + i, there),
                                               high == nullptr ? zero() : load(high + i, there));
#pragma GCC unroll 3
        for (int p = 0; p < parts; ++p) _mm512_storeu_si512(to + p * tile_bytes, pair.part[p]);
      }
    }
  }
  const std::int64_t stride = h.width * static_cast<std::int64_t>(sizeof(float));
  for (std::int64_t t = 0; t < b.rows; t += 32) {
    for (std::int64_t i = 0; i < h.width; i += 32) {
      add_products<x_parts, parts>(
          {reinterpret_cast<std::byte*>(h.values + t * h.width + i), stride, 64, 16 * stride},
          false, {h.probabilities + t / 16 * p_apart, p_apart},
          {h.operands + i / 16 * apart, apart}, steps);
    }
  }
}

template <class T>
ZIYA_TARGET_AMX inline void add_block_of(const AttentionBlock& b, const RowsOfHead& h) {
  TileShapes shapes;
  shapes.set(16, 64);
  add_scores<T>(b, h);
  for (std::int64_t t = 0; t < b.rows; ++t) soften(b, h, t);
  add_values<T>(b, h);
  shapes.release();
}
inline void add_block(const AttentionBlock& b) {
  const RowsOfHead h(b.scratch, b.head_dim);
  if (b.dtype == DType::f16) return add_block_of<Half>(b, h);
  if (b.dtype == DType::bf16) return add_block_of<BFloat16>(b, h);
  add_block_of<float>(b, h);
}

inline void end_rows(float* scratch, float* out, std::int64_t out_stride, std::int64_t rows,
                     std::int64_t head_dim) {
  const RowsOfHead h(scratch, head_dim);
  for (std::int64_t t = 0; t < rows; ++t) {
    const float inverse = h.sums[t] != 0 ? 1.0f / h.sums[t] : 0.0f;
    for (std::int64_t i = 0; i < head_dim; ++i) {
      out[t * out_stride + i] = h.values[t * h.width + i] * inverse;
    }
  }
}

inline constexpr AttentionTiles attention_tiles{64, &RowsOfHead::floats, &begin_rows, &add_block,
                                                &end_rows};

}  // namespace amx_floats
ZIYA_NAMESPACE_END
#endif
