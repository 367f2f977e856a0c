// SPDX-License-Identifier: Apache-2.0
// attention on the CPU: one (row, head) at a time, keys in blocks of 64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/config.hpp"
#include "ziya/core/attention_rows.hpp"
#include "ziya/core/paged_cache.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

inline constexpr std::int64_t attention_block = 64;

/// out = Σ_j softmax_j(scale · q · key(j)) value(j), j < count, blocks of keys in order with a
/// running maximum and sum. `key(j)` and `value(j)` give the bytes of one head of one token.
template <class Key, class Value>
inline void attend(const CpuKernels& kernels, float* out, const float* q, std::int64_t head_dim,
                   std::int64_t count, float scale, DType dtype, Key&& key, Value&& value) {
  float scores[attention_block];
  float largest = -std::numeric_limits<float>::infinity(), sum = 0;
  std::memset(out, 0, static_cast<std::size_t>(head_dim) * sizeof(float));
  for (std::int64_t begin = 0; begin < count; begin += attention_block) {
    const std::int64_t n = std::min(attention_block, count - begin);
    for (std::int64_t j = 0; j < n; ++j) {
      scores[j] = scale * kernels.dot(q, dtype, key(begin + j), head_dim);
    }
    const float block_largest = *std::max_element(scores, scores + n);
    if (block_largest > largest) {
      const float shrink = std::exp(largest - block_largest);
      sum *= shrink;
      for (std::int64_t i = 0; i < head_dim; ++i) out[i] *= shrink;
      largest = block_largest;
    }
    sum += kernels.exp_sum(scores, largest, n);
    for (std::int64_t j = 0; j < n; ++j) {
      kernels.add_scaled(out, scores[j], dtype, value(begin + j), head_dim);
    }
  }
  const float inverse = 1.0f / sum;
  for (std::int64_t i = 0; i < head_dim; ++i) out[i] *= inverse;
}

/// Heads are the outer index, so that the threads' parts are equally long under a causal mask.
inline void attention(Context<Cpu>& ctx, View<float> out, View<const float> q,
                      const CachedKeysValues<Cpu>& cache, const AttentionRows& rows, float scale) {
  const std::int64_t heads = q.extent(1), head_dim = q.extent(2), tokens = q.rows();
  const std::int64_t group = heads / cache.kv_heads;
  ctx.parallel_for(heads * tokens, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t h = item / tokens, t = item % tokens;
      const std::int64_t slot = rows.slots[static_cast<std::size_t>(t)];
      const auto place = [&](std::int64_t j) { return cache.offset(slot, h / group, j); };
      attend(
          ctx.kernels(), out.row(t) + h * head_dim, q.row(t) + h * head_dim, head_dim,
          rows.visible[static_cast<std::size_t>(t)], scale, cache.dtype,
          [&](std::int64_t j) { return cache.keys + place(j); },
          [&](std::int64_t j) { return cache.values + place(j); });
    }
  });
}

/// Keys that query i of a segment sees.
inline std::int64_t visible_keys(const Segment& s, std::int64_t i, bool causal) {
  return causal ? std::max<std::int64_t>(0, s.key_count - s.query_count + i + 1) : s.key_count;
}

inline void attention(Context<Cpu>& ctx, View<float> out, View<const float> q, View<const float> k,
                      View<const float> v, std::span<const Segment> segments, bool causal,
                      float scale) {
  const std::int64_t heads = q.extent(1), head_dim = q.extent(2);
  const std::int64_t group = heads / k.extent(1);
  const auto bytes = [](const float* p) { return reinterpret_cast<const std::byte*>(p); };
  for (const Segment& s : segments) {
    ctx.parallel_for(heads * s.query_count, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t h = item / s.query_count, i = item % s.query_count;
        const std::int64_t head = h / group * head_dim, t = s.query_begin + i;
        float* result = out.row(t) + h * head_dim;
        const std::int64_t count = visible_keys(s, i, causal);
        if (count == 0) {
          std::memset(result, 0, static_cast<std::size_t>(head_dim) * sizeof(float));
          continue;
        }
        attend(
            ctx.kernels(), result, q.row(t) + h * head_dim, head_dim, count, scale, DType::f32,
            [&](std::int64_t j) { return bytes(k.row(s.key_begin + j) + head); },
            [&](std::int64_t j) { return bytes(v.row(s.key_begin + j) + head); });
      }
    });
  }
}

/// With p = softmax(scale · q kᵀ) and s[j] = p[j] (dout · v[j] − Σ_i p[i] dout · v[i]):
/// dv[j] += p[j] dout,  dq = scale Σ_j s[j] k[j],  dk[j] += scale s[j] q. One thread per group of
/// heads that share keys, so that no two threads add to one row.
inline void attention_backward(Context<Cpu>& ctx, View<float> dq, View<float> dk, View<float> dv,
                               View<const float> dout, View<const float> q, View<const float> k,
                               View<const float> v, std::span<const Segment> segments, bool causal,
                               float scale) {
  const std::int64_t heads = q.extent(1), head_dim = q.extent(2), kv_heads = k.extent(1);
  const std::int64_t group = heads / kv_heads;
  const CpuKernels& kernels = ctx.kernels();
  const auto bytes = [](const float* p) { return reinterpret_cast<const std::byte*>(p); };
  for (View<float> zero : {dq, dk, dv}) {
    for (std::int64_t i = 0; i < zero.rows(); ++i) {
      std::fill(zero.row(i), zero.row(i) + zero.columns(), 0.0f);
    }
  }
  ctx.parallel_for(kv_heads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> p, s;
    for (const Segment& segment : segments) {
      for (std::int64_t h = begin * group; h < end * group; ++h) {
        for (std::int64_t i = 0; i < segment.query_count; ++i) {
          const std::int64_t count = visible_keys(segment, i, causal);
          if (count == 0) continue;
          const std::int64_t t = segment.query_begin + i, head = h / group * head_dim;
          const float* query = q.row(t) + h * head_dim;
          const float* gradient = dout.row(t) + h * head_dim;
          const auto row = [&](auto view, std::int64_t j) {
            return view.row(segment.key_begin + j) + head;
          };
          p.resize(static_cast<std::size_t>(count));
          s.resize(static_cast<std::size_t>(count));
          for (std::int64_t j = 0; j < count; ++j) {
            p[static_cast<std::size_t>(j)] =
                scale * kernels.dot(query, DType::f32, bytes(row(k, j)), head_dim);
            s[static_cast<std::size_t>(j)] =
                kernels.dot(gradient, DType::f32, bytes(row(v, j)), head_dim);
          }
          const float sum = kernels.exp_sum(p.data(), *std::max_element(p.begin(), p.end()), count);
          float mean = 0;
          for (std::size_t j = 0; j < p.size(); ++j) mean += (p[j] /= sum) * s[j];
          for (std::int64_t j = 0; j < count; ++j) {
            const auto at = static_cast<std::size_t>(j);
            const float score = scale * p[at] * (s[at] - mean);
            kernels.add_scaled(row(dv, j), p[at], DType::f32, bytes(gradient), head_dim);
            kernels.add_scaled(row(dk, j), score, DType::f32, bytes(query), head_dim);
            kernels.add_scaled(dq.row(t) + h * head_dim, score, DType::f32, bytes(row(k, j)),
                               head_dim);
          }
        }
      }
    }
  });
}

inline void store_as(DType dtype, std::byte* to, const float* from, std::int64_t count) {
  if (dtype == DType::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
  } else if (dtype == DType::f16) {
    for (std::int64_t i = 0; i < count; ++i) reinterpret_cast<Half*>(to)[i] = to_half(from[i]);
  } else {
    for (std::int64_t i = 0; i < count; ++i) {
      reinterpret_cast<BFloat16*>(to)[i] = to_bfloat16(from[i]);
    }
  }
}

inline void cache_append(Context<Cpu>& ctx, const CachedKeysValues<Cpu>& cache, View<const float> k,
                         View<const float> v, const AppendRows& rows) {
  ctx.parallel_for(k.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const auto at = static_cast<std::size_t>(t);
      for (std::int64_t h = 0; h < cache.kv_heads; ++h) {
        const std::int64_t place = cache.offset(rows.slots[at], h, rows.indices[at]);
        store_as(cache.dtype, cache.keys + place, k.row(t) + h * cache.head_dim, cache.head_dim);
        store_as(cache.dtype, cache.values + place, v.row(t) + h * cache.head_dim, cache.head_dim);
      }
    }
  });
}

}  // namespace backend
ZIYA_NAMESPACE_END
