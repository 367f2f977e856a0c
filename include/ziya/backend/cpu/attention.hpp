// SPDX-License-Identifier: Apache-2.0
// attention on the CPU: a few rows of one head at a time, keys in blocks of 64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
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

inline constexpr std::int64_t attention_block = 64;  // keys whose scores are held at a time
inline constexpr std::int64_t attention_rows = 24;   // queries that share a pass over the keys
inline constexpr std::int64_t rows_together = 6;     // of them, at a time while a block is cached
static_assert(attention_rows <= AttentionTiles::block);
inline constexpr std::int64_t attention_part = 8;  // keys between two requests to memory
// floats of rows in blocks that are widened at a time
inline constexpr std::int64_t attention_widened = largest_head_in_blocks;

/// Rows of one query head that attend to one sequence; row t sees its first visible[t] tokens.
struct QueryRun {
  const float* q = nullptr;
  float* out = nullptr;
  std::int64_t q_stride = 0, out_stride = 0;  ///< in floats
  std::int64_t rows = 0;
  std::int64_t visible[AttentionTiles::block] = {};

  /// Takes one more row of `most` if it sees as many keys as the row before, or one more.
  bool extend(std::int64_t keys, std::int64_t most) {
    if (rows == most) return false;
    if (rows > 0 && keys != visible[rows - 1] && keys != visible[rows - 1] + 1) return false;
    visible[rows++] = keys;
    return true;
  }
};

/// Adjacent tokens of one key head: the first one's key and value, and how many follow at the
/// strides of the whole.
struct KeyRun {
  const std::byte *keys, *values;
  std::int64_t count;
};
struct KeyLayout {
  DType dtype;  ///< f32, f16, bf16, or q8_0 with rows side by side
  std::int64_t head_dim, key_stride, value_stride;  ///< strides in elements
};

/// Requests `rows` rows that will be read a block later; strides in bytes.
inline void prefetch_rows(const std::byte* from, std::int64_t rows, std::int64_t stride,
                          std::int64_t bytes) {
  for (std::int64_t r = 0; r < rows; ++r, from += stride) {
    for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
  }
}

/// out = Σ_j softmax_j(scale · q · key(j)) value(j), j < visible, blocks of keys in order with a
/// running maximum and sum; a row's order of operations does not depend on the rows beside it.
/// `place(j)` gives the KeyRun at token j; `following` is what will be met next.
template <class Place>
inline void attend(const CpuKernels& kernels, const QueryRun& run, const KeyLayout& layout,
                   float scale, Place&& place, const KeyRun& following) {
  float scores[attention_rows * attention_block], largest[attention_rows], sums[attention_rows];
  const std::int64_t head_dim = layout.head_dim, rows = run.rows;
  // A single row is bound by memory: while it meets the keys its values are on their way, and
  // while it meets the values the next keys are, in the end those of the next row.
  const bool streaming = rows == 1;
  const std::int64_t row_bytes = bytes_of(layout.dtype, head_dim);
  const std::int64_t key_bytes = bytes_of(layout.dtype, layout.key_stride);
  const std::int64_t value_bytes = bytes_of(layout.dtype, layout.value_stride);
  // Blocks are widened in the first-level cache, exactly, and met as the floats that they are.
  const bool in_blocks = is_quantised(layout.dtype);
  alignas(64) float widened[attention_widened];
  const DType read_as = in_blocks ? DType::f32 : layout.dtype;
  const auto readable = [&](const std::byte* from, std::int64_t count) {
    if (!in_blocks) return from;
    kernels.dequantise(widened, from, count * head_dim);
    return reinterpret_cast<const std::byte*>(static_cast<const float*>(widened));
  };
  const std::int64_t part_limit =
      std::min(streaming ? attention_part : attention_block,
               in_blocks ? attention_widened / head_dim : attention_block);
  for (std::int64_t t = 0; t < rows; ++t) {
    largest[t] = -std::numeric_limits<float>::infinity();
    sums[t] = 0;
    std::fill_n(run.out + t * run.out_stride, head_dim, 0.0f);
  }
  for (std::int64_t begin = 0; begin < run.visible[rows - 1]; begin += attention_block) {
    const auto keys_of = [&](std::int64_t t) {
      return std::clamp<std::int64_t>(run.visible[t] - begin, 0, attention_block);
    };
    for (std::int64_t j = 0, n = keys_of(rows - 1); j < n;) {
      const KeyRun part = place(begin + j);
      const std::int64_t count = std::min({part.count, n - j, part_limit});
      if (streaming) {
        prefetch_rows(part.values, count, value_bytes, row_bytes);
      }
      const std::byte* keys = readable(part.keys, count);
      for (std::int64_t first = 0; first < rows; first += rows_together) {
        const std::int64_t last = std::min(rows, first + rows_together);
        const std::int64_t seen = std::clamp<std::int64_t>(keys_of(last - 1) - j, 0, count);
        kernels.matmul(
            {read_as, keys, head_dim, run.q + first * run.q_stride, run.q_stride, last - first,
             scores + first * attention_block + j, attention_block, layout.key_stride},
            0, seen);
      }
      j += count;
    }
    for (std::int64_t t = 0; t < rows; ++t) {
      const std::int64_t n = keys_of(t);
      if (n == 0) continue;
      float *row = scores + t * attention_block, *out = run.out + t * run.out_stride;
      const float block_largest = kernels.scale_and_find_largest(row, scale, n);
      if (block_largest > largest[t]) {
        const float shrink = std::exp(largest[t] - block_largest);
        sums[t] *= shrink;
        for (std::int64_t i = 0; i < head_dim; ++i) out[i] *= shrink;
        largest[t] = block_largest;
      }
      sums[t] += kernels.exp_sum(row, largest[t], n);
    }
    // A few rows at a time, the keys that all of them see together, then what later rows see.
    const auto add_values = [&](std::int64_t t, std::int64_t count_rows, std::int64_t j,
                                std::int64_t n) {
      while (j < n) {
        const KeyRun part = place(begin + j);
        const std::int64_t count = std::min({part.count, n - j, part_limit});
        const std::int64_t ahead = begin + attention_block + j;
        if (streaming && ahead < run.visible[0]) {
          const KeyRun next = place(ahead);
          prefetch_rows(next.keys, std::min({next.count, run.visible[0] - ahead, count}), key_bytes,
                        row_bytes);
        } else if (streaming && j < following.count) {
          prefetch_rows(following.keys + j * key_bytes, std::min(following.count - j, count),
                        key_bytes, row_bytes);
        }
        kernels.add_weighted({read_as, readable(part.values, count), layout.value_stride, count,
                              head_dim, scores + t * attention_block + j, attention_block,
                              count_rows, run.out + t * run.out_stride, run.out_stride});
        j += count;
      }
    };
    for (std::int64_t first = 0; first < rows; first += rows_together) {
      const std::int64_t last = std::min(rows, first + rows_together), common = keys_of(first);
      add_values(first, last - first, 0, common);
      for (std::int64_t t = first + 1; t < last; ++t) add_values(t, 1, common, keys_of(t));
    }
  }
  for (std::int64_t t = 0; t < rows; ++t) {
    const float inverse = run.visible[t] > 0 ? 1.0f / sums[t] : 0.0f;
    float* out = run.out + t * run.out_stride;
    for (std::int64_t i = 0; i < head_dim; ++i) out[i] *= inverse;
  }
}

/// The same for many rows by the kernels' AttentionTiles.
template <class Place>
inline void attend_tiled(const CpuKernels& kernels, const QueryRun& run, const KeyLayout& layout,
                         float scale, float* scratch, Place&& place) {
  constexpr std::int64_t block = AttentionTiles::block;
  const AttentionTiles& tiles = *kernels.attention;
  const std::int64_t head_dim = layout.head_dim;
  const std::int64_t key_bytes = bytes_of(layout.dtype, layout.key_stride);
  const std::int64_t value_bytes = bytes_of(layout.dtype, layout.value_stride);
  const bool in_blocks = is_quantised(layout.dtype);
  float* wide_keys = scratch + tiles.scratch_floats(head_dim);
  float* wide_values = wide_keys + block * head_dim;
  const std::byte *keys[block], *values[block];
  if (in_blocks) {
    for (std::int64_t j = 0; j < block; ++j) {
      keys[j] = reinterpret_cast<const std::byte*>(wide_keys + j * head_dim);
      values[j] = reinterpret_cast<const std::byte*>(wide_values + j * head_dim);
    }
  }
  std::int64_t seen[block];
  tiles.begin(scratch, run.q, run.q_stride, run.rows, head_dim);
  for (std::int64_t begin = 0, end = run.visible[run.rows - 1]; begin < end; begin += block) {
    const std::int64_t n = std::min(block, end - begin);
    for (std::int64_t j = 0; j < n;) {
      const KeyRun part = place(begin + j);
      const std::int64_t count = std::min(part.count, n - j);
      if (in_blocks) {
        kernels.dequantise(wide_keys + j * head_dim, part.keys, count * head_dim);
        kernels.dequantise(wide_values + j * head_dim, part.values, count * head_dim);
      } else {
        for (std::int64_t i = 0; i < count; ++i) {
          keys[j + i] = part.keys + i * key_bytes;
          values[j + i] = part.values + i * value_bytes;
        }
      }
      j += count;
    }
    for (std::int64_t t = 0; t < run.rows; ++t) seen[t] = run.visible[t] - begin;
    tiles.add({in_blocks ? DType::f32 : layout.dtype, head_dim, run.rows, n, keys, values, seen,
               scale, scratch});
  }
  tiles.end(scratch, run.out, run.out_stride, run.rows, head_dim);
}

/// Calls attend or attend_tiled for runs of rows, which a thread's part of `count` items is cut
/// into: next(begin, end, most) gives the run at `begin` with up to `most` rows, is_long(begin)
/// whether it belongs to one, in the whole call, for which tiles pay, place(begin) the keys.
template <class Next, class IsLong, class Place>
inline void attend_runs(Context<Cpu>& ctx, std::int64_t count, const KeyLayout& layout, float scale,
                        Next&& next, IsLong&& is_long, Place&& place) {
  const CpuKernels& kernels = ctx.kernels();
  Workspace<Cpu>::Scope scope(ctx.workspace());
  std::int64_t room = 0;
  float* scratch = nullptr;
  if (kernels.attention != nullptr) {
    room = kernels.attention->scratch_floats(layout.head_dim) +
           2 * AttentionTiles::block * layout.head_dim;
    room = (room + 15) / 16 * 16;
    scratch = ctx.workspace().take<float>({ctx.threads(), room}).data();
  }
  ctx.parallel_for(ctx.threads(), [&](std::int64_t thread, std::int64_t last_thread) {
    std::int64_t begin = count * thread / ctx.threads();
    const std::int64_t end = count * last_thread / ctx.threads();
    while (begin < end) {
      const bool tiled = scratch != nullptr && is_long(begin);
      const QueryRun run = next(begin, end, tiled ? AttentionTiles::block : attention_rows);
      if (tiled) {
        attend_tiled(kernels, run, layout, scale, scratch + thread * room, place(begin));
      } else {
        const std::int64_t after = begin + run.rows;
        KeyRun following{nullptr, nullptr, 0};
        if (run.rows == 1 && after < end) {
          if (const std::int64_t keys = next(after, end, 1).visible[0]; keys > 0) {
            following = place(after)(0);
            following.count = std::min({following.count, keys, attention_block});
          }
        }
        attend(kernels, run, layout, scale, place(begin), following);
      }
      begin += run.rows;
    }
  });
}

/// Heads are the outer index, so that the threads' parts are equally long under a causal mask.
inline void attention(Context<Cpu>& ctx, View<float> out, View<const float> q,
                      const CachedKeysValues<Cpu>& cache, const AttentionRows& rows, float scale) {
  const std::int64_t heads = q.extent(1), head_dim = q.extent(2), tokens = q.rows();
  const std::int64_t group = heads / cache.kv_heads;
  const KeyLayout layout{cache.dtype, head_dim, head_dim, head_dim};
  const auto slot_of = [&](std::int64_t t) { return rows.slots[static_cast<std::size_t>(t)]; };
  attend_runs(
      ctx, heads * tokens, layout, scale,
      [&](std::int64_t begin, std::int64_t end, std::int64_t most) {
        const std::int64_t h = begin / tokens, first = begin % tokens;
        QueryRun run{q.row(first) + h * head_dim, out.row(first) + h * head_dim, q.row_stride(),
                     out.row_stride()};
        const std::int64_t last = std::min(tokens, first + end - begin);
        for (std::int64_t t = first; t < last; ++t) {
          const std::int64_t keys = rows.visible[static_cast<std::size_t>(t)];
          if (slot_of(t) != slot_of(first) || !run.extend(keys, most)) break;
        }
        return run;
      },
      [&](std::int64_t begin) {
        const std::int64_t t = begin % tokens, least = ctx.kernels().attention->least_rows;
        std::int64_t first = t, last = t + 1;
        while (first > 0 && t - first < least && slot_of(first - 1) == slot_of(t)) --first;
        while (last < tokens && last - t < least && slot_of(last) == slot_of(t)) ++last;
        return last - first >= least;
      },
      [&](std::int64_t begin) {
        const std::int64_t head = begin / tokens / group, slot = slot_of(begin % tokens);
        return [&cache, head, slot](std::int64_t j) {
          const std::int64_t place = cache.offset(slot, head, j);
          return KeyRun{cache.keys + place, cache.values + place,
                        cache.page_tokens - j % cache.page_tokens};
        };
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
  const KeyLayout layout{DType::f32, head_dim, k.row_stride(), v.row_stride()};
  for (const Segment& s : segments) {
    attend_runs(
        ctx, heads * s.query_count, layout, scale,
        [&](std::int64_t begin, std::int64_t end, std::int64_t most) {
          const std::int64_t h = begin / s.query_count, first = begin % s.query_count;
          const std::int64_t t = s.query_begin + first;
          QueryRun run{q.row(t) + h * head_dim, out.row(t) + h * head_dim, q.row_stride(),
                       out.row_stride()};
          const std::int64_t last = std::min(s.query_count, first + end - begin);
          for (std::int64_t i = first; i < last; ++i) {
            if (!run.extend(visible_keys(s, i, causal), most)) break;
          }
          return run;
        },
        [&](std::int64_t) { return s.query_count >= ctx.kernels().attention->least_rows; },
        [&](std::int64_t begin) {
          const std::int64_t head = begin / s.query_count / group * head_dim;
          return [&k, &v, &s, head](std::int64_t j) {
            return KeyRun{reinterpret_cast<const std::byte*>(k.row(s.key_begin + j) + head),
                          reinterpret_cast<const std::byte*>(v.row(s.key_begin + j) + head),
                          s.key_count - j};
          };
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

}  // namespace backend
ZIYA_NAMESPACE_END
