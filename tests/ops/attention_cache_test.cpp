// SPDX-License-Identifier: Apache-2.0
// Attention where numbers and layouts are extreme: token by token, page by page, huge scores.
#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "ziya/ops/attention.hpp"

namespace attention_cache_test {

using ziya::Context;
using ziya::Cpu;
using ziya::DType;
using ziya::Isa;
using ziya::Segment;
using ziya::Shape;
using ziya::View;
namespace ops = ziya::ops;

/// Two slots whose pages lie in reverse order, filled with what is not a number: whoever reads a
/// place that was not written shows it.
struct Cache {
  Cache(DType dtype, std::int64_t kv_heads, std::int64_t head_dim, std::int64_t page_tokens,
        std::int64_t tokens)
      : pages((tokens + page_tokens - 1) / page_tokens),
        page_bytes(kv_heads * page_tokens * ziya::bytes_of(dtype, head_dim)),
        keys(static_cast<std::size_t>(2 * pages * page_bytes), std::byte{0xff}),
        values(keys) {
    for (std::int64_t i = 2 * pages; i-- > 0;) table.push_back(static_cast<std::int32_t>(i));
    layer = {dtype,       kv_heads,      head_dim,     page_tokens, page_bytes,
             keys.data(), values.data(), table.data(), pages};
  }
  std::int64_t pages, page_bytes;
  std::vector<std::byte> keys, values;
  std::vector<std::int32_t> table;
  ziya::CachedKeysValues<Cpu> layer;
};

struct Sequence {
  Sequence(std::int64_t tokens_, std::int64_t heads_, std::int64_t kv_heads_, std::int64_t dim_)
      : tokens(tokens_),
        heads(heads_),
        kv_heads(kv_heads_),
        dim(dim_),
        q(test::random_values(tokens * heads * dim, 1, 2)),
        k(test::random_values(tokens * kv_heads * dim, 2, 2)),
        v(test::random_values(tokens * kv_heads * dim, 3)) {}

  /// Appends tokens [begin, begin + count) to slot 1, then attends with each over all up to it.
  std::vector<float> step(Context<Cpu>& ctx, const ziya::CachedKeysValues<Cpu>& layer,
                          std::int64_t begin, std::int64_t count) const {
    const std::vector<std::int32_t> slots(static_cast<std::size_t>(count), 1);
    std::vector<std::int64_t> indices, visible;
    for (std::int64_t t = begin; t < begin + count; ++t) {
      indices.push_back(t);
      visible.push_back(t + 1);
    }
    const Shape kv{count, kv_heads, dim}, queries{count, heads, dim};
    ops::cache_append(ctx, layer, View<const float>(k.data() + begin * kv_heads * dim, kv),
                      {v.data() + begin * kv_heads * dim, kv}, {slots, indices});
    std::vector<float> out(static_cast<std::size_t>(count * heads * dim), -1);
    ops::attention(ctx, View<float>(out.data(), queries), {q.data() + begin * heads * dim, queries},
                   layer, {slots, visible});
    return out;
  }

  /// From the formula, keys and values rounded to the stored type.
  std::vector<double> reference(DType dtype) const {
    std::vector<double> out;
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t h = 0; h < heads; ++h) {
        const std::int64_t g = h / (heads / kv_heads);
        const auto stored = [&](const std::vector<float>& from, std::int64_t j, std::int64_t i) {
          const auto at = static_cast<std::size_t>((j * kv_heads + g) * dim + i);
          return static_cast<double>(test::rounded(dtype, from[at]));
        };
        std::vector<double> weights, sums(static_cast<std::size_t>(dim), 0);
        double total = 0;
        for (std::int64_t j = 0; j <= t; ++j) {
          double score = 0;
          for (std::int64_t i = 0; i < dim; ++i) {
            const auto at = static_cast<std::size_t>((t * heads + h) * dim + i);
            score += static_cast<double>(q[at]) * stored(k, j, i);
          }
          weights.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
          total += weights.back();
        }
        for (std::int64_t j = 0; j <= t; ++j) {
          for (std::int64_t i = 0; i < dim; ++i) {
            sums[static_cast<std::size_t>(i)] +=
                weights[static_cast<std::size_t>(j)] / total * stored(v, j, i);
          }
        }
        out.insert(out.end(), sums.begin(), sums.end());
      }
    }
    return out;
  }

  std::int64_t tokens, heads, kv_heads, dim;
  std::vector<float> q, k, v;
};

TEST_CASE("attention: token by token, in chunks and at once are the same bits", "[attention]") {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::q8_0}) {
    for (const std::int64_t dim : {8, 16, 24, 32, 88}) {
      if (!ziya::can_cache(dtype, dim)) continue;
      const Sequence s(131, 4, 2, dim);
      const auto expected = s.reference(dtype);
      for (const std::int64_t page : {1, 3, 64}) {
        test::on_every_isa([&](Isa isa) {
          CAPTURE(ziya::name(dtype), dim, page);
          Context<Cpu> ctx({.threads = 1, .isa = isa});
          const auto whole = s.step(ctx, Cache(dtype, 2, dim, page, s.tokens).layer, 0, s.tokens);
          // q8_0, half a step of 1/127 away, against numbers that were not rounded
          CHECK(test::row_error(whole, expected, dim) <
                (dtype == DType::q8_0 ? 2e-2 : test::op_tolerance));
          const auto in_chunks = [&](std::int64_t chunk) {
            Cache cache(dtype, 2, dim, page, s.tokens);
            std::vector<float> joined;
            for (std::int64_t begin = 0; begin < s.tokens; begin += chunk) {
              const auto part = s.step(ctx, cache.layer, begin, std::min(chunk, s.tokens - begin));
              joined.insert(joined.end(), part.begin(), part.end());
            }
            return joined;
          };
          const auto alone = in_chunks(1);
          for (const std::int64_t chunk : {7, 50}) {
            CHECK(test::same_bits(in_chunks(chunk), alone));
          }
          CHECK(test::row_error(alone, expected, dim) <
                (dtype == DType::q8_0 ? 2e-2 : test::op_tolerance));
          if (s.tokens < test::other_attention_from(isa)) {
            CHECK(test::same_bits(whole, alone));
          } else {  // 65 rows, 65 rows, and a row by itself
            auto mixed = whole;
            const auto last = static_cast<std::ptrdiff_t>(whole.size()) / s.tokens;
            std::copy(alone.end() - last, alone.end(), mixed.end() - last);
            CHECK(test::same_bits(in_chunks(65), mixed));
          }
          for (const int threads : {2, 5}) {
            Context<Cpu> several({.threads = threads, .isa = isa});
            CHECK(test::same_bits(
                s.step(several, Cache(dtype, 2, dim, page, s.tokens).layer, 0, s.tokens), whole));
          }
        });
      }
    }
  }
}

TEST_CASE("attention: huge scores, rising, falling or equal, neither overflow nor vanish",
          "[attention]") {
  // q · k[j] = 1e6 · c[j] exactly; value j is j + 1, so the output says which keys won.
  constexpr std::int64_t keys = 200, dim = 8;
  const std::vector<float> q{1000, 0, 0, 0, 0, 0, 0, 0};
  const auto run = [&](Context<Cpu>& ctx, auto&& c) {
    std::vector<float> k(keys * dim, 0.0f), v(keys * dim), out(dim);
    for (std::int64_t j = 0; j < keys; ++j) {
      k[static_cast<std::size_t>(j * dim)] = 1000 * static_cast<float>(c(j));
      std::fill_n(v.begin() + j * dim, dim, static_cast<float>(j + 1));
    }
    const Segment segment{0, 1, 0, keys};
    ops::attention(ctx, View<float>(out.data(), {1, 1, dim}), {q.data(), {1, 1, dim}},
                   {k.data(), {keys, 1, dim}}, {v.data(), {keys, 1, dim}}, std::span(&segment, 1),
                   {.scale = 1.0f});
    CHECK(out == std::vector<float>(dim, out[0]));
    return out[0];
  };
  test::on_every_isa([&](Isa isa) {
    Context<Cpu> ctx({.threads = 1, .isa = isa});
    CHECK(run(ctx, [](std::int64_t j) { return j; }) == 200.0f);
    CHECK(run(ctx, [](std::int64_t j) { return -j; }) == 1.0f);
    CHECK(run(ctx, [](std::int64_t j) { return j == 130 ? 5 : -j % 3; }) == 131.0f);
    CHECK(run(ctx, [](std::int64_t j) { return j == 10 || j == 190 ? 7 : 1; }) == 101.0f);
    CHECK(run(ctx, [](std::int64_t) { return -100000; }) == Approx(100.5f));
    CHECK(run(ctx, [](std::int64_t) { return 100000; }) == Approx(100.5f));
  });
}

TEST_CASE("attention reads parts of fused rows and writes a part of a wide one", "[attention]") {
  constexpr std::int64_t tokens = 70, heads = 4, kv_heads = 2, dim = 16;
  constexpr std::int64_t width = heads * dim, kv_width = kv_heads * dim;
  constexpr std::int64_t fused = width + 2 * kv_width;
  const auto rows = test::random_values(tokens * fused, 1, 2);
  const View<const float> qkv(rows.data(), {tokens, fused});
  const auto part = [&](std::int64_t begin, std::int64_t count) {
    return qkv.column_range(begin, count).reshape({tokens, count / dim, dim});
  };
  const auto dense = [&](View<const float> view) {
    std::vector<float> values;
    for (std::int64_t t = 0; t < tokens; ++t) {
      values.insert(values.end(), view.row(t), view.row(t) + view.columns());
    }
    return values;
  };
  const auto q = part(0, width), k = part(width, kv_width), v = part(width + kv_width, kv_width);
  const auto dense_q = dense(q), dense_k = dense(k), dense_v = dense(v);
  const Shape queries{tokens, heads, dim}, keys{tokens, kv_heads, dim};
  const Segment segment{0, tokens, 0, tokens};
  test::on_every_isa([&](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    std::vector<float> wide(tokens * (width + 8), 7.0f), out(tokens * width);
    ops::attention(ctx, View<float>(wide.data(), {tokens, width + 8}).column_range(5, width), q, k,
                   v, std::span(&segment, 1));
    ops::attention(ctx, View<float>(out.data(), queries), {dense_q.data(), queries},
                   {dense_k.data(), keys}, {dense_v.data(), keys}, std::span(&segment, 1));
    for (std::int64_t t = 0; t < tokens; ++t) {
      const auto row = test::row_of(wide, t, width + 8);
      REQUIRE(
          test::same_bits({row.begin() + 5, row.begin() + 5 + width}, test::row_of(out, t, width)));
      REQUIRE(std::count(row.begin(), row.end(), 7.0f) == 8);
    }
  });
}

TEST_CASE("attention_backward and cache_append refuse what does not fit", "[attention]") {
  Context<Cpu> ctx({.threads = 1});
  std::vector<float> memory(200);
  const View<float> q(memory.data(), {2, 4, 8}), k(memory.data(), {2, 2, 8});
  const View<float> narrow(memory.data(), {2, 1, 8}), more(memory.data(), {3, 2, 8});
  const Segment segment{0, 2, 0, 2};
  const auto backward = [&](View<float> dq, View<float> dk, View<float> dv, View<float> dout) {
    ops::attention_backward(ctx, dq, dk, dv, dout, q, k, k, std::span(&segment, 1));
  };
  CHECK_THROWS_MATCHES(
      backward(q, narrow, k, q), ziya::ShapeError,
      Catch::Message("attention_backward: width of dk is 8, expected 16 [ZIYA-110]"));
  CHECK_THROWS_MATCHES(
      backward(q, k, more, q), ziya::ShapeError,
      Catch::Message("attention_backward: rows of dv is 3, expected 2 [ZIYA-110]"));
  CHECK_THROWS_AS(backward(k, k, k, q), ziya::ShapeError);
  CHECK_THROWS_AS(backward(q, k, k, narrow), ziya::ShapeError);

  const View<float> no_heads(memory.data(), {2, 0, 8});
  CHECK_THROWS_AS(
      ops::attention(ctx, no_heads, no_heads, no_heads, no_heads, std::span(&segment, 1)),
      ziya::ShapeError);

  const Cache cache(DType::f16, 2, 8, 4, 10);  // three pages of four tokens per slot
  const auto append = [&](View<float> keys, std::int64_t index) {
    const std::vector<std::int32_t> slots{0, 0};
    const std::vector<std::int64_t> indices{0, index};
    ops::cache_append(ctx, cache.layer, keys, keys, {slots, indices});
  };
  CHECK_NOTHROW(append(k, 11));
  CHECK_THROWS_MATCHES(append(narrow, 1), ziya::ShapeError,
                       Catch::Message("cache_append: width of k is 8, expected 16 [ZIYA-110]"));
  CHECK_THROWS_AS(append(more, 1), ziya::ShapeError);
  for (const std::int64_t index : {std::int64_t{12}, std::int64_t{-1}}) {
    CHECK_THROWS_AS(append(k, index), ziya::ArgumentError);
  }
}

TEST_CASE("floats become halves as to_half rounds them, on every path") {
  std::vector<float> values;  // of every sign, exponent and beginning: exact, near and at ties
  for (std::uint32_t upper = 0; upper < 0x10000; ++upper) {
    for (const std::uint32_t lower :
         {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x3000u, 0xffffu}) {
      values.push_back(std::bit_cast<float>(upper << 16 | lower));
    }
  }
  values.push_back(1.0f);  // a rest beside whole vectors
  std::vector<ziya::Half> halves(values.size());
  test::on_every_isa([&](Isa isa) {
    const Context<Cpu> ctx({.threads = 1, .isa = isa});
    ctx.kernels().to_halves(halves.data(), values.data(), std::ssize(values));
    std::int64_t odd = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      odd += halves[i].bits != ziya::to_half(values[i]).bits;
    }
    CHECK(odd == 0);
  });
}

}  // namespace attention_cache_test
