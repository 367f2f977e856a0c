// SPDX-License-Identifier: Apache-2.0
// Attention over a paged cache and without one, on both devices, against sums in double.
#include "ziya/ops/attention.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "cuda/devices.hpp"
#include "support/errors.hpp"
#include "ziya/nn/kv_cache.hpp"
#include "ziya/ops/rope_append_attention.hpp"

namespace attention_test {

using namespace test;
namespace ops = ziya::ops;

struct Heads {
  std::int64_t query, key, dim;
};
// So many heads that a block takes several parts of the keys are the last case.
constexpr std::array head_cases{Heads{4, 4, 8},   Heads{4, 2, 64}, Heads{2, 2, 88},
                                Heads{4, 1, 128}, Heads{1, 1, 10}, Heads{96, 8, 64}};

double at(const std::vector<float>& values, std::int64_t i) {
  return static_cast<double>(values[static_cast<std::size_t>(i)]);
}

/// Row t attends to rows [first, first + visible) of k and v.
void attend(std::vector<double>& out, const std::vector<float>& q, const std::vector<float>& k,
            const std::vector<float>& v, const Heads& heads, std::int64_t t, std::int64_t first,
            std::int64_t visible) {
  for (std::int64_t h = 0; h < heads.query; ++h) {
    const std::int64_t g = h / (heads.query / heads.key);
    std::vector<double> p;
    for (std::int64_t j = 0; j < visible; ++j) {
      double sum = 0;
      for (std::int64_t i = 0; i < heads.dim; ++i) {
        sum += at(q, (t * heads.query + h) * heads.dim + i) *
               at(k, ((first + j) * heads.key + g) * heads.dim + i);
      }
      p.push_back(std::exp(sum / std::sqrt(static_cast<double>(heads.dim))));
    }
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    for (std::int64_t i = 0; i < heads.dim; ++i) {
      double sum = 0;
      for (std::int64_t j = 0; j < visible; ++j) {
        sum +=
            p[static_cast<std::size_t>(j)] * at(v, ((first + j) * heads.key + g) * heads.dim + i);
      }
      out[static_cast<std::size_t>((t * heads.query + h) * heads.dim + i)] =
          visible > 0 ? sum / total : 0;
    }
  }
}

/// The cache's tokens of several sequences, and queries for some of them.
struct Ragged {
  std::vector<std::int32_t> slots;  ///< of the queries
  std::vector<std::int64_t> visible;
};

template <class T>
std::vector<DType> cache_types() {
  if (std::is_same_v<T, float>) return {DType::f32, DType::f16, DType::bf16};
  return {ziya::dtype_of<T>, DType::f32};
}

/// Rows of queries against `slots` sequences of 300 tokens.
template <class Device, class T>
void check_paged(Context<Device>& ctx, T, std::span<const Heads> all,
                 const std::vector<Ragged>& batches, std::int64_t slots) {
  for (const Heads& heads : all) {
    for (const DType dtype : cache_types<T>()) {
      constexpr std::int64_t tokens = 300;
      ziya::KvCache<Device> cache({1, heads.key, heads.dim}, {.dtype = dtype,
                                                              .slots = static_cast<int>(slots),
                                                              .max_tokens = tokens,
                                                              .page_tokens = 16});
      // Tokens of the sequences alternate, so their pages do.
      std::vector<std::int32_t> order;
      for (std::int64_t i = 0; i < slots * tokens; ++i) {
        order.push_back(static_cast<std::int32_t>(i % slots));
      }
      const std::int64_t width = heads.key * heads.dim;
      auto k = random_values(slots * tokens * width, 1),
           v = random_values(slots * tokens * width, 2);
      auto keys = on<T, Device>(k, {slots * tokens, heads.key, heads.dim});
      const auto values = on<T, Device>(v, {slots * tokens, heads.key, heads.dim});
      const auto step = cache.prepare(order);
      const auto layer = cache.layer(0);
      ops::cache_append(ctx, layer, keys.view(), values.view(), {order, step.indices});
      cache.commit();
      // What the cache holds, a sequence after another.
      std::vector<std::vector<float>> cached_k(static_cast<std::size_t>(slots)), cached_v(cached_k);
      for (std::int64_t i = 0; i < slots * tokens; ++i) {
        const auto slot = static_cast<std::size_t>(i % slots);
        for (std::int64_t j = 0; j < width; ++j) {
          const auto from = static_cast<std::size_t>(i * width + j);
          cached_k[slot].push_back(rounded(dtype, k[from]));
          cached_v[slot].push_back(rounded(dtype, v[from]));
        }
      }
      for (const Ragged& batch : batches) {
        CAPTURE(heads.query, heads.key, heads.dim, name(dtype), batch.slots.size());
        const auto rows = static_cast<std::int64_t>(batch.slots.size());
        auto q = random_values(rows * heads.query * heads.dim, 3, 2);
        const Shape shape{rows, heads.query, heads.dim};
        const auto queries = on<T, Device>(q, shape);
        auto out = poisoned<T, Device>(shape);
        ops::attention(ctx, out.view(), queries.view(), layer, {batch.slots, batch.visible});
        std::vector<double> expected(q.size());
        for (std::int64_t t = 0; t < rows; ++t) {
          const auto slot = static_cast<std::size_t>(batch.slots[static_cast<std::size_t>(t)]);
          attend(expected, q, cached_k[slot], cached_v[slot], heads, t, 0,
                 batch.visible[static_cast<std::size_t>(t)]);
        }
        const auto found = values_of(out);
        CHECK(row_error(found, expected, heads.query * heads.dim) < tolerance<T>);
        auto again = poisoned<T, Device>(shape);
        ops::attention(ctx, again.view(), queries.view(), layer, {batch.slots, batch.visible});
        CHECK(found == values_of(again));
        for (std::int64_t t = 0; t < rows && rows < 16; ++t) {  // and alone, in other blocks
          const auto row = static_cast<std::size_t>(t);
          ops::attention(ctx, again.view().row_range(t, 1),
                         ziya::View<const T, Device>(queries.view().row_range(t, 1)), layer,
                         {std::span(&batch.slots[row], 1), std::span(&batch.visible[row], 1)});
        }
        CHECK(found == values_of(again));
      }
    }
  }
}

ZIYA_TEST_ON_DEVICES("cuda: attention over a paged cache", "[cuda][small]") {
  // One row each (split over keys), rows of a prompt (tiles), both, and rows that see nothing.
  std::vector<Ragged> batches{{{0}, {300}}, {{0, 1, 2}, {1, 130, 300}}, {{2, 1}, {0, 129}}};
  Ragged prompt;
  for (std::int64_t i = 0; i < 150; ++i) prompt.slots.push_back(1), prompt.visible.push_back(i + 1);
  prompt.slots.push_back(2);
  prompt.visible.push_back(300);
  batches.push_back(prompt);
  on_device<TestType>([&](auto& ctx, auto t) { check_paged(ctx, t, head_cases, batches, 3); });
}

// One row, whose keys are split over blocks that merge what they found, and some rows of a prompt.
TEMPLATE_TEST_CASE("cuda: attention over a paged cache, a few rows", "[cuda][small][race]",
                   OnGpuF32, OnGpuF16) {
  constexpr std::array heads{Heads{2, 1, 64}, Heads{1, 1, 128}};
  Ragged prompt;
  for (std::int64_t i = 280; i < 300; ++i) {
    prompt.slots.push_back(0), prompt.visible.push_back(i + 1);
  }
  on_device<TestType>([&](auto& ctx, auto t) {
    check_paged(ctx, t, heads, {{{0}, {300}}, prompt}, 1);
  });
}

ZIYA_TEST_ON_DEVICES("cuda: attention without a cache", "[cuda][small][race]") {
  const std::vector<ziya::Segment> segments{{0, 70, 0, 70}, {70, 3, 70, 9}, {73, 5, 79, 2}};
  on_device<TestType>([&]<class Device, class T>(Context<Device>& ctx, T) {
    for (const Heads& heads : head_cases) {
      for (const bool causal : {true, false}) {
        CAPTURE(heads.query, heads.key, heads.dim, causal);
        auto q = random_values(78 * heads.query * heads.dim, 1, 2);
        auto k = random_values(81 * heads.key * heads.dim, 2),
             v = random_values(81 * heads.key * heads.dim, 3);
        const auto queries = on<T, Device>(q, {78, heads.query, heads.dim});
        const auto keys = on<T, Device>(k, {81, heads.key, heads.dim});
        const auto values = on<T, Device>(v, {81, heads.key, heads.dim});
        auto out = poisoned<T, Device>({78, heads.query, heads.dim});
        ops::attention(ctx, out.view(), queries.view(), keys.view(), values.view(), segments,
                       {.causal = causal});
        std::vector<double> expected(q.size());
        for (const ziya::Segment& s : segments) {
          for (std::int64_t i = 0; i < s.query_count; ++i) {
            const std::int64_t visible =
                causal ? std::max<std::int64_t>(0, s.key_count - s.query_count + i + 1)
                       : s.key_count;
            attend(expected, q, k, v, heads, s.query_begin + i, s.key_begin, visible);
          }
        }
        CHECK(row_error(values_of(out), expected, heads.query * heads.dim) < tolerance<T>);
      }
    }
  });
}

TEST_CASE("cuda: caches in blocks and head sizes that kernels do not take are refused",
          "[cuda][small]") {
  REQUIRE_ERROR(ziya::KvCache<Cuda>({1, 1, 32}, {.dtype = DType::q8_0, .max_tokens = 4}),
                "ZIYA-153", "q8_0");
  if (!gpu()) return;
  ziya::Context<Cuda> ctx;
  const std::vector<std::int32_t> slots{0};
  const auto attend_with = [&](std::int64_t dim) {
    auto v = random_values(dim, 1);
    const auto x = on<float, Cuda>(v, {1, 1, dim});
    auto out = poisoned<float, Cuda>({1, 1, dim});
    ziya::KvCache<Cuda> cache({1, 1, dim}, {.dtype = DType::f32, .slots = 1, .max_tokens = 4});
    const auto step = cache.prepare(slots);
    ops::cache_append(ctx, cache.layer(0), x.view(), x.view(), {slots, step.indices});
    ops::attention(ctx, out.view(), x.view(), cache.layer(0), {slots, step.visible});
  };
  attend_with(256);
  REQUIRE_ERROR(attend_with(258), "ZIYA-154", "head size 258");
  REQUIRE_ERROR(attend_with(7), "ZIYA-154", "head size 7");
}

/// The last `count` tokens of every slot as they are stored.
template <class Device>
std::vector<std::byte> stored_last(const ziya::KvCache<Device>& cache, std::int32_t slots,
                                   std::int64_t count) {
  const auto layer = cache.layer(0);
  const std::int64_t width = layer.page_bytes / (layer.kv_heads * layer.page_tokens);
  std::vector<std::byte> bytes;
  for (std::int32_t slot = 0; slot < slots; ++slot) {
    for (std::int64_t t = cache.length(slot) - count; t < cache.length(slot); ++t) {
      for (std::int64_t head = 0; head < layer.kv_heads; ++head) {
        for (const std::byte* from : {layer.keys, layer.values}) {
          bytes.resize(bytes.size() + static_cast<std::size_t>(width));
          ziya::copy(Cpu{}, &*(bytes.end() - width), Device{}, from + layer.offset(slot, head, t),
                     static_cast<std::size_t>(width));
        }
      }
    }
  }
  return bytes;
}

struct Answer {
  std::vector<float> out;
  std::vector<std::byte> stored;
  friend bool operator==(const Answer&, const Answer&) = default;
};

/// Tokens behind sequences of `past` tokens: `steps` times `each` tokens of every sequence, by one
/// op or by its parts.
template <class Device, class T>
Answer continue_sequences(Context<Device>& ctx, T, const Heads& heads, DType dtype,
                          ziya::RopePairing pairing, const std::vector<std::int64_t>& past,
                          int steps, int each, bool by_parts) {
  const auto slots = static_cast<std::int32_t>(past.size());
  ziya::KvCache<Device> cache(
      {1, heads.key, heads.dim},
      {.dtype = dtype, .slots = slots, .max_tokens = 300, .page_tokens = 16});
  std::vector<std::int32_t> rows;
  for (std::int32_t slot = 0; slot < slots; ++slot) {
    rows.insert(rows.end(), static_cast<std::size_t>(past[static_cast<std::size_t>(slot)]), slot);
  }
  const auto random = [&](std::int64_t count, std::int64_t of, unsigned seed) {
    auto values = random_values(count * of * heads.dim, seed);
    return on<T, Device>(values, {count, of, heads.dim});
  };
  const auto count = static_cast<std::int64_t>(rows.size());
  auto k = random(count, heads.key, 1), v = random(count, heads.key, 2);
  const auto before = cache.prepare(rows);
  ops::cache_append(ctx, cache.layer(0), k.view(), v.view(), {rows, before.indices});
  cache.commit();

  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < heads.dim / 2; ++i) {
    frequencies.push_back(1 / static_cast<float>(i + 1));
  }
  const ziya::RopeTable<Device> table(frequencies);
  rows.clear();
  for (std::int32_t slot = 0; slot < slots; ++slot) {
    rows.insert(rows.end(), static_cast<std::size_t>(each), slot);
  }
  const auto tokens = static_cast<std::int64_t>(rows.size());
  std::vector<Tensor<T, Device>> kept;  // made before, so that nothing waits between the steps
  for (int step = 0; step < steps; ++step) {
    const auto seed = static_cast<unsigned>(10 * step);
    kept.push_back(random(tokens, heads.query, seed + 3));
    kept.push_back(random(tokens, heads.key, seed + 4));
    kept.push_back(random(tokens, heads.key, seed + 5));
    kept.push_back(poisoned<T, Device>({tokens, heads.query, heads.dim}));
  }
  for (int step = 0; step < steps; ++step) {
    auto* const at = &kept[4 * static_cast<std::size_t>(step)];
    const auto places = cache.prepare(rows);
    const auto layer = cache.layer(0);
    const std::vector<std::int32_t> positions(places.indices.begin(), places.indices.end());
    if (by_parts) {
      ops::rope(ctx, at[0].view(), positions, table, pairing);
      ops::rope(ctx, at[1].view(), positions, table, pairing);
      ops::cache_append(ctx, layer, at[1].view(), at[2].view(), {rows, places.indices});
      ops::attention(ctx, at[3].view(), at[0].view(), layer, {rows, places.visible});
    } else {
      ops::rope_append_attention(ctx, at[3].view(), at[0].view(), at[1].view(), at[2].view(), layer,
                                 {positions, rows, places.indices, places.visible}, table, pairing);
    }
    cache.commit();
  }
  Answer answer{{}, stored_last(cache, slots, std::int64_t{steps} * each)};
  for (std::size_t i = 3; i < kept.size(); i += 4) {
    const auto values = values_of(kept[i]);
    answer.out.insert(answer.out.end(), values.begin(), values.end());
  }
  return answer;
}

ZIYA_TEST_ON_DEVICES("cuda: rope_append_attention is its parts, to the bit",
                     "[cuda][small][race]") {
  on_device<TestType>([&](auto& ctx, auto t) {
    const std::vector<std::int64_t> past{0, 126, 127, 128, 256};
    for (const Heads& heads : head_cases) {
      for (const DType dtype : cache_types<decltype(t)>()) {
        const auto pairing =
            heads.query == heads.key ? ziya::RopePairing::interleaved : ziya::RopePairing::halves;
        CAPTURE(heads.query, heads.key, heads.dim, name(dtype));
        const auto run = [&](const std::vector<std::int64_t>& lengths, int each, bool by_parts) {
          return continue_sequences(ctx, t, heads, dtype, pairing, lengths, 3, each, by_parts);
        };
        const Answer one = run(past, 1, false);
        CHECK(one ==
              run(past, 1, true));  // the second and third step read what the ones before stored
        CHECK(run({127, 0}, 4, false) ==
              run({127, 0}, 4, true));  // rows see earlier ones of the batch
        CHECK(one == run(past, 1, false));
      }
    }
  });
}

}  // namespace attention_test
