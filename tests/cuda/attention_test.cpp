// SPDX-License-Identifier: Apache-2.0
// Attention over a paged cache and without one, on both devices, against sums in double.
#include "ziya/ops/attention.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "cuda/devices.hpp"
#include "support/errors.hpp"
#include "ziya/backend/cpu/quantize/encode_32.hpp"
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
                                Heads{4, 1, 128}, Heads{1, 1, 10}, Heads{3, 3, 96},
                                Heads{2, 1, 160}, Heads{96, 8, 64}};

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
std::vector<DType> cache_types(std::int64_t head_dim) {
  std::vector<DType> types{ziya::dtype_of<T>, DType::f32};
  if (std::is_same_v<T, float>) types = {DType::f32, DType::f16, DType::bf16};
  if (ziya::can_cache(DType::q8_0, head_dim)) types.push_back(DType::q8_0);
  return types;
}

/// What a cache of type `dtype` holds of some whole heads.
std::vector<float> as_cached(DType dtype, std::vector<float> values) {
  if (dtype != DType::q8_0) {
    for (float& value : values) value = rounded(dtype, value);
    return values;
  }
  for (std::size_t i = 0; i < values.size(); i += 32) {
    ziya::blocks::Q8_0 block;
    ziya::quantize::encode_nearest(block, &values[i]);
    for (std::size_t j = 0; j < 32; ++j) {
      values[i + j] = ziya::to_float(block.d) * static_cast<float>(block.quants[j]);
    }
  }
  return values;
}

/// Rows of queries against `slots` sequences of 300 tokens.
template <class Device, class T>
void check_paged(Context<Device>& ctx, T, std::span<const Heads> all,
                 const std::vector<Ragged>& batches, std::int64_t slots,
                 std::int64_t page_tokens = 16) {
  for (const Heads& heads : all) {
    for (const DType dtype : cache_types<T>(heads.dim)) {
      constexpr std::int64_t tokens = 300;
      ziya::KvCache<Device> cache({1, heads.key, heads.dim}, {.dtype = dtype,
                                                              .slots = static_cast<int>(slots),
                                                              .max_tokens = tokens,
                                                              .page_tokens = page_tokens});
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
      k = as_cached(dtype, std::move(k)), v = as_cached(dtype, std::move(v));
      std::vector<std::vector<float>> cached_k(static_cast<std::size_t>(slots)), cached_v(cached_k);
      for (std::int64_t i = 0; i < slots * tokens; ++i) {
        const auto slot = static_cast<std::size_t>(i % slots);
        for (std::int64_t j = 0; j < width; ++j) {
          const auto from = static_cast<std::size_t>(i * width + j);
          cached_k[slot].push_back(k[from]);
          cached_v[slot].push_back(v[from]);
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

// Pages that warpgroups take: several tiles of a prompt, a prompt whose first rows see nothing, the
// last tokens of another, and so many single rows that blocks take several tiles each.
ZIYA_TEST_ON_DEVICES("cuda: attention of prompts over pages of 64 tokens", "[cuda][small][race]") {
  constexpr std::array heads{Heads{4, 2, 128}};
  Ragged batch;
  const auto add = [&](std::int32_t slot, std::int64_t first, std::int64_t end) {
    for (std::int64_t i = first; i < end; ++i) {
      batch.slots.push_back(slot), batch.visible.push_back(std::max<std::int64_t>(0, i + 1));
    }
  };
  add(1, 0, 300), add(3, -70, 60), add(0, 180, 200);
  for (std::int32_t i = 0; i < 40; ++i) add(i % 2 * 2, 255 + i, 256 + i);
  on_device<TestType>([&](auto& ctx, auto t) { check_paged(ctx, t, heads, {batch}, 4, 64); });
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

TEST_CASE("cuda: head sizes that kernels or blocks do not take are refused", "[cuda][small]") {
  REQUIRE_ERROR(ziya::KvCache<Cuda>({1, 1, 80}, {.dtype = DType::q8_0, .max_tokens = 4}),
                "ZIYA-407", "q8_0");
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

/// The last `count` tokens of every slot as they are stored; of blocks whose scales lie apart,
/// quants and then scales.
template <class Device>
std::vector<std::byte> stored_last(const ziya::KvCache<Device>& cache, std::int32_t slots,
                                   std::int64_t count) {
  const auto layer = cache.layer(0);
  const std::int64_t width = layer.page_bytes / (layer.kv_heads * layer.page_tokens);
  std::vector<std::byte> bytes;
  const auto take = [&](const std::byte* from, std::int64_t size) {
    bytes.resize(bytes.size() + static_cast<std::size_t>(size));
    ziya::copy(Cpu{}, &*(bytes.end() - size), Device{}, from, static_cast<std::size_t>(size));
  };
  for (std::int32_t slot = 0; slot < slots; ++slot) {
    for (std::int64_t t = cache.length(slot) - count; t < cache.length(slot); ++t) {
      for (std::int64_t head = 0; head < layer.kv_heads; ++head) {
        for (const std::byte* from : {layer.keys, layer.values}) {
          const std::int64_t at = layer.offset(slot, head, t);
          take(from + at, width);
          if (layer.scales > 0) take(from + layer.scales + at / 16, width / 16);
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
      for (const DType dtype : cache_types<decltype(t)>(heads.dim)) {
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

TEMPLATE_TEST_CASE("cuda: a cache in q8_0 holds what the CPU's holds, to the bit", "[cuda][small]",
                   OnGpuF32, OnGpuF16, OnGpuBf16) {
  on_device<TestType>([&]<class T>(Context<Cuda>& ctx, T) {
    for (const std::int64_t dim : {32, 64, 96, 128, 160}) {
      constexpr std::int64_t heads = 3, tokens = 50;
      auto values = random_values(tokens * heads * dim, 5);
      std::fill_n(values.begin(), 32, 0.0f);
      std::fill_n(values.begin() + 32 * heads, 7, 1e-7f);  // blocks beside others of usual numbers
      values[static_cast<std::size_t>(heads * dim)] = 65504.0f;
      values[static_cast<std::size_t>(2 * heads * dim)] = std::numeric_limits<float>::infinity();
      values[static_cast<std::size_t>(3 * heads * dim)] = std::numeric_limits<float>::quiet_NaN();
      values[static_cast<std::size_t>(4 * heads * dim)] = 3e38f;
      const auto x = on<T, Cuda>(values, {tokens, heads, dim});
      const auto same = on<float, Cpu>(values, {tokens, heads, dim});
      const std::vector<std::int32_t> slots(tokens, 0);
      const ziya::CacheOptions options{
          .dtype = DType::q8_0, .slots = 1, .max_tokens = tokens, .page_tokens = 7};
      ziya::KvCache<Cuda> cache({1, heads, dim}, options);
      ziya::KvCache<Cpu> expected({1, heads, dim}, options);
      CHECK(cache.bytes_per_page() == expected.bytes_per_page());
      const auto step = cache.prepare(slots);
      ops::cache_append(ctx, cache.layer(0), x.view(), x.view(), {slots, step.indices});
      cache.commit();
      (void)expected.prepare(slots);
      Context<Cpu> cpu({.threads = 1});
      ops::cache_append(cpu, expected.layer(0), same.view(), same.view(), {slots, step.indices});
      expected.commit();
      // A head's blocks on the CPU, the same taken apart on the GPU.
      const auto found = stored_last(cache, 1, tokens), blocks = stored_last(expected, 1, tokens);
      const std::int64_t head_bytes = dim / 32 * 34;
      std::vector<std::byte> apart;
      for (std::size_t at = 0; at < blocks.size(); at += static_cast<std::size_t>(head_bytes)) {
        for (const auto& [begin, size] : {std::pair{2, 32}, std::pair{0, 2}}) {
          for (std::int64_t block = 0; block < dim / 32; ++block) {
            const auto* from = &blocks[at + static_cast<std::size_t>(block * 34 + begin)];
            apart.insert(apart.end(), from, from + size);
          }
        }
      }
      CHECK(found == apart);
    }
  });
}

// So many keys that heads are widened in two parts.
TEST_CASE("cuda: rows of a long prompt against a cache in q8_0 are those of one token each",
          "[cuda]") {
  on_device<OnGpuF16>([&](Context<Cuda>& ctx, Half) {
    constexpr std::int64_t heads = 64, dim = 64, each = 420, tokens = 10 * each, rows = 20;
    ziya::KvCache<Cuda> cache({1, heads, dim}, {.dtype = DType::q8_0, .max_tokens = tokens});
    for (unsigned part = 0; part < 10; ++part) {
      auto k = random_values(each * heads * dim, part),
           v = random_values(each * heads * dim, part + 50);
      const auto keys = on<Half, Cuda>(k, {each, heads, dim});
      const auto values = on<Half, Cuda>(v, {each, heads, dim});
      const std::vector<std::int32_t> slots(each, 0);
      const auto step = cache.prepare(slots);
      ops::cache_append(ctx, cache.layer(0), keys.view(), values.view(), {slots, step.indices});
      cache.commit();
    }
    auto q = random_values(rows * heads * dim, 99, 2);
    const Shape shape{rows, heads, dim};
    const auto queries = on<Half, Cuda>(q, shape);
    auto together = poisoned<Half, Cuda>(shape), alone = poisoned<Half, Cuda>(shape);
    const std::vector<std::int32_t> slots(rows, 0);
    std::vector<std::int64_t> visible;
    for (std::int64_t t = 0; t < rows; ++t) visible.push_back(tokens - rows + t + 1);
    ops::attention(ctx, together.view(), queries.view(), cache.layer(0), {slots, visible});
    for (std::int64_t t = 0; t < rows; ++t) {
      const auto row = static_cast<std::size_t>(t);
      ops::attention(ctx, alone.view().row_range(t, 1),
                     ziya::View<const Half, Cuda>(queries.view().row_range(t, 1)), cache.layer(0),
                     {std::span(&slots[row], 1), std::span(&visible[row], 1)});
    }
    const auto expected = values_of(alone);
    CHECK(row_error(values_of(together), {expected.begin(), expected.end()}, dim) <
          tolerance<Half>);
  });
}

}  // namespace attention_test
