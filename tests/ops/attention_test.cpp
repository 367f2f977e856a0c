// SPDX-License-Identifier: Apache-2.0
// Attention over a paged cache and without one, forward and backward.
#include "ziya/ops/attention.hpp"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace attention_test {

using test::on_every_isa;
using test::on_threads;
using ziya::Context;
using ziya::Cpu;
using ziya::DType;
using ziya::Isa;
using ziya::Segment;
using ziya::Shape;
using ziya::View;

struct Heads {
  std::int64_t queries, kv, dim;
};

/// One query head over the first `count` keys, from the formula. `key(j, i)`, `value(j, i)`.
template <class Query, class Key, class Value>
std::vector<double> attend(std::int64_t count, std::int64_t dim, double scale, Query&& query,
                           Key&& key, Value&& value) {
  std::vector<double> weights, out(static_cast<std::size_t>(dim), 0);
  double sum = 0;
  for (std::int64_t j = 0; j < count; ++j) {
    double score = 0;
    for (std::int64_t i = 0; i < dim; ++i) score += query(i) * key(j, i);
    weights.push_back(std::exp(scale * score));
    sum += weights.back();
  }
  for (std::int64_t j = 0; j < count; ++j) {
    for (std::int64_t i = 0; i < dim; ++i) {
      out[static_cast<std::size_t>(i)] += weights[static_cast<std::size_t>(j)] / sum * value(j, i);
    }
  }
  return out;
}

/// Element i of a row in q8_0: 34 bytes a block, a half and 32 integers.
double element_of_blocks(const std::byte* row, std::int64_t i) {
  ziya::Half scale;
  std::memcpy(&scale, row + i / 32 * 34, sizeof scale);
  const auto quant = static_cast<std::int8_t>(row[i / 32 * 34 + 2 + i % 32]);
  return static_cast<double>(ziya::to_float(scale)) * quant;
}

/// Sequences of different lengths in a cache whose pages lie in no order.
struct Fixture {
  Fixture(Heads heads, DType stored, std::int64_t page)
      : h(heads), dtype(stored), page_tokens(page), stride((longest + page - 1) / page) {
    const std::int64_t pages = stride * static_cast<std::int64_t>(lengths.size());
    page_bytes = h.kv * page * ziya::bytes_of(dtype, h.dim);
    keys.resize(static_cast<std::size_t>(pages * page_bytes));
    values.resize(keys.size());
    for (std::int64_t i = 0; i < pages; ++i) {
      table.push_back(static_cast<std::int32_t>((i * 11 + 3) % pages));
    }
    if (pages % 11 == 0) FAIL("the page order must be a permutation");
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      k.push_back(test::random_values(lengths[s] * h.kv * h.dim, 10 + s));
      v.push_back(test::random_values(lengths[s] * h.kv * h.dim, 20 + s));
    }
    // Rows of several sequences, not sorted: a run of a prefill, single tokens, early rows.
    for (std::int64_t count = 60; count <= 75; ++count) add_row(1, count);
    add_row(0, 1);
    add_row(2, 200);
    add_row(2, 199);
    add_row(1, 64);
    for (std::int64_t count = 120; count <= 140; ++count) add_row(2, count);
    q = test::random_values(rows() * h.queries * h.dim, 30);
  }
  void add_row(std::int32_t slot, std::int64_t count) {
    slots.push_back(slot);
    visible.push_back(count);
  }
  [[nodiscard]] std::int64_t rows() const { return static_cast<std::int64_t>(slots.size()); }
  ziya::CachedKeysValues<Cpu> layer() {
    return {dtype,       h.kv,          h.dim,        page_tokens, page_bytes,
            keys.data(), values.data(), table.data(), stride};
  }
  void append(Context<Cpu>& ctx) {
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      const Shape shape{lengths[s], h.kv, h.dim};
      std::vector<std::int32_t> slot(static_cast<std::size_t>(lengths[s]),
                                     static_cast<std::int32_t>(s));
      std::vector<std::int64_t> indices;
      for (std::int64_t i = 0; i < lengths[s]; ++i) indices.push_back(i);
      ziya::ops::cache_append(ctx, layer(), View<const float>(k[s].data(), shape),
                              View<const float>(v[s].data(), shape), {slot, indices});
    }
  }
  std::vector<float> run(Context<Cpu>& ctx, std::int64_t begin, std::int64_t count,
                         ziya::ops::AttentionOptions options = {}) {
    const std::int64_t width = h.queries * h.dim;
    std::vector<float> out(static_cast<std::size_t>(count * width), -1);
    const Shape shape{count, h.queries, h.dim};
    const auto first = static_cast<std::size_t>(begin), n = static_cast<std::size_t>(count);
    ziya::ops::attention(ctx, View<float>(out.data(), shape),
                         View<const float>(q.data() + begin * width, shape), layer(),
                         {std::span(slots).subspan(first, n), std::span(visible).subspan(first, n)},
                         options);
    return out;
  }
  /// Element i of a key (or value) as the cache has it: rounded; of blocks, what was appended.
  double stored(const std::vector<float>& from, const std::vector<std::byte>& pages,
                std::int32_t slot, std::int64_t j, std::int64_t head, std::int64_t i) {
    if (dtype != DType::q8_0) {
      return static_cast<double>(
          test::rounded(dtype, from[static_cast<std::size_t>((j * h.kv + head) * h.dim + i)]));
    }
    return element_of_blocks(pages.data() + layer().offset(slot, head, j), i);
  }
  std::vector<double> expected(double scale) {
    std::vector<double> result;
    for (std::int64_t t = 0; t < rows(); ++t) {
      const auto at = static_cast<std::size_t>(t);
      const auto slot = static_cast<std::size_t>(slots[at]);
      for (std::int64_t head = 0; head < h.queries; ++head) {
        const std::int64_t kv_head = head / (h.queries / h.kv);
        const auto out = attend(
            visible[at], h.dim, scale,
            [&](std::int64_t i) {
              return static_cast<double>(
                  q[static_cast<std::size_t>((t * h.queries + head) * h.dim + i)]);
            },
            [&](std::int64_t j, std::int64_t i) {
              return stored(k[slot], keys, slots[at], j, kv_head, i);
            },
            [&](std::int64_t j, std::int64_t i) {
              return stored(v[slot], values, slots[at], j, kv_head, i);
            });
        result.insert(result.end(), out.begin(), out.end());
      }
    }
    return result;
  }

  static constexpr std::int64_t longest = 200;
  static constexpr std::array<std::int64_t, 3> lengths{1, 75, 200};
  Heads h;
  DType dtype;
  std::int64_t page_tokens, stride, page_bytes = 0;
  std::vector<std::byte> keys, values;
  std::vector<std::int32_t> table, slots;
  std::vector<std::int64_t> visible;
  std::vector<std::vector<float>> k, v;
  std::vector<float> q;
};

TEST_CASE("attention over a cache: every type, head size and instruction set", "[attention]") {
  on_every_isa([](Isa isa) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::q8_0}) {
      for (const Heads h : {Heads{2, 2, 8}, Heads{4, 2, 88}, Heads{3, 1, 64}, Heads{2, 2, 128},
                            Heads{1, 1, 1024}}) {
        if (!ziya::can_cache(dtype, h.dim)) continue;
        INFO(name(dtype) << ", " << h.queries << " / " << h.kv << " heads of " << h.dim);
        Fixture f(h, dtype, 16);
        const auto out = on_threads(isa, [&](Context<Cpu>& ctx) {
          f.append(ctx);
          return f.run(ctx, 0, f.rows());
        });
        const double scale = 1 / std::sqrt(static_cast<double>(h.dim));
        REQUIRE(test::row_error(out, f.expected(scale), h.dim) < test::op_tolerance);
      }
    }
  });
}

TEST_CASE("attention: neither the batch nor the size of a page changes a bit", "[attention]") {
  on_every_isa([](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    for (const DType dtype : {DType::f16, DType::q8_0}) {
      INFO(name(dtype));
      const Heads h{4, 2, dtype == DType::f16 ? 40 : 96};
      Fixture f(h, dtype, 16);
      f.append(ctx);
      const auto out = f.run(ctx, 0, f.rows());
      for (std::int64_t t = 0; t < f.rows(); ++t) {
        REQUIRE(test::same_bits(f.run(ctx, t, 1), test::row_of(out, t, h.queries * h.dim)));
      }
      for (const std::int64_t page : {1, 48, 64, 256}) {
        INFO(page << " tokens per page");
        Fixture other(h, dtype, page);
        other.append(ctx);
        REQUIRE(test::same_bits(other.run(ctx, 0, f.rows()), out));
      }
    }
  });
}

TEST_CASE("cache_append in q8_0: within half a step of the row, NaN where a number is none",
          "[attention]") {
  Context<Cpu> ctx({.threads = 1});
  Fixture f({2, 2, 64}, DType::q8_0, 16);
  std::vector<float>& k = f.k[1];
  std::fill_n(k.begin(), 32, 0.0f);               // token 0, head 0, the first block
  k[40] = 0.25f * ziya::to_float(ziya::Half{1});  // too small for any scale beside nothing
  std::fill_n(k.begin() + 32, 8, 0.0f);
  std::fill(k.begin() + 41, k.begin() + 64, 0.0f);
  std::fill_n(k.begin() + 64, 32, 3e38f);  // head 1: too large for a scale of 16 bits
  k[2 * 128] = std::numeric_limits<float>::infinity();
  k[2 * 128 + 32] = std::numeric_limits<float>::quiet_NaN();
  f.append(ctx);
  const auto at = [&](std::int64_t j, std::int64_t head, std::int64_t i) {
    return f.stored(k, f.keys, 1, j, head, i);
  };
  for (std::int64_t i = 0; i < 64; ++i) CHECK(at(0, 0, i) == 0);
  CHECK(at(0, 1, 0) == 127 * 65504.0);
  for (std::int64_t i = 0; i < 64; ++i) CHECK(std::isnan(at(2, 0, i)));
  for (std::int64_t j = 3; j < 75; ++j) {
    for (std::int64_t b = 0; b < 4; ++b) {  // two heads of two blocks
      const float* row = k.data() + j * 128 + b * 32;
      const auto size = [](float x, float y) { return std::abs(x) < std::abs(y); };
      const double largest = std::abs(*std::max_element(row, row + 32, size));
      for (std::int64_t i = 0; i < 32; ++i) {
        const double error = std::abs(at(j, b / 2, b % 2 * 32 + i) - static_cast<double>(row[i]));
        REQUIRE(error <= largest / 127 * 0.5 * 1.001);
      }
    }
  }
}

TEST_CASE("attention: the scale is an option, no visible key gives zeros", "[attention]") {
  on_every_isa([](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    Fixture f({2, 1, 16}, DType::f32, 32);
    f.append(ctx);
    REQUIRE(test::row_error(f.run(ctx, 0, f.rows(), {.scale = 0.5f}), f.expected(0.5), 16) <
            test::op_tolerance);
    f.visible[3] = 0;
    REQUIRE(f.run(ctx, 3, 1) == std::vector<float>(32, 0.0f));
  });
}

TEST_CASE("attention without a cache: segments, causal or not, queries fewer or more than keys",
          "[attention]") {
  const Heads h{4, 2, 24};
  const std::int64_t query_rows = 90, key_rows = 120;
  const auto q = test::random_values(query_rows * h.queries * h.dim, 1);
  const auto k = test::random_values(key_rows * h.kv * h.dim, 2);
  const auto v = test::random_values(key_rows * h.kv * h.dim, 3);
  // Later keys than queries, equal, and queries that see nothing when causal.
  const std::array segments{Segment{0, 10, 0, 70}, Segment{10, 40, 70, 40},
                            Segment{50, 40, 110, 10}};
  on_every_isa([&](Isa isa) {
    for (const bool causal : {true, false}) {
      const auto out = on_threads(isa, [&](Context<Cpu>& ctx) {
        std::vector<float> result(q.size(), -1);
        ziya::ops::attention(ctx, View<float>(result.data(), Shape{query_rows, h.queries, h.dim}),
                             View<const float>(q.data(), Shape{query_rows, h.queries, h.dim}),
                             View<const float>(k.data(), Shape{key_rows, h.kv, h.dim}),
                             View<const float>(v.data(), Shape{key_rows, h.kv, h.dim}), segments,
                             {.causal = causal});
        return result;
      });
      std::vector<double> expected;
      for (const Segment& s : segments) {
        for (std::int64_t i = 0; i < s.query_count; ++i) {
          const std::int64_t count =
              causal ? std::max<std::int64_t>(0, s.key_count - s.query_count + i + 1) : s.key_count;
          for (std::int64_t head = 0; head < h.queries; ++head) {
            const auto at = [&](const std::vector<float>& from, std::int64_t row,
                                std::int64_t heads, std::int64_t which, std::int64_t e) {
              return static_cast<double>(
                  from[static_cast<std::size_t>((row * heads + which) * h.dim + e)]);
            };
            const auto row = attend(
                count, h.dim, 1 / std::sqrt(24.0),
                [&](std::int64_t e) { return at(q, s.query_begin + i, h.queries, head, e); },
                [&](std::int64_t j, std::int64_t e) {
                  return at(k, s.key_begin + j, h.kv, head / 2, e);
                },
                [&](std::int64_t j, std::int64_t e) {
                  return at(v, s.key_begin + j, h.kv, head / 2, e);
                });
            expected.insert(expected.end(), row.begin(), row.end());
          }
        }
      }
      REQUIRE(test::row_error(out, expected, h.dim) < test::op_tolerance);
    }
  });
}

TEST_CASE("attention: with and without a cache, the same bits", "[attention]") {
  on_every_isa([](Isa isa) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    Fixture f({4, 2, 40}, DType::f32, 16);
    f.append(ctx);
    const Segment segment{0, 16, 0, 75};  // rows 0 … 15 see 60 … 75 tokens of slot 1
    const Shape queries{16, 4, 40}, keys{75, 2, 40};
    std::vector<float> out(16 * 4 * 40);
    ziya::ops::attention(ctx, View<float>(out.data(), queries),
                         View<const float>(f.q.data(), queries),
                         View<const float>(f.k[1].data(), keys),
                         View<const float>(f.v[1].data(), keys), std::span(&segment, 1));
    REQUIRE(test::same_bits(out, f.run(ctx, 0, 16)));
  });
}

TEST_CASE("attention_backward against central differences", "[attention][backward]") {
  const Heads h{4, 2, 5};
  const std::array segments{Segment{0, 3, 0, 4}, Segment{3, 2, 4, 2}, Segment{5, 2, 6, 1}};
  const std::int64_t query_rows = 7, key_rows = 7;
  const auto q = test::random_values(query_rows * h.queries * h.dim, 1);
  const auto k = test::random_values(key_rows * h.kv * h.dim, 2);
  const auto v = test::random_values(key_rows * h.kv * h.dim, 3);
  const auto dout = test::random_values(query_rows * h.queries * h.dim, 4);
  const Shape queries{query_rows, h.queries, h.dim}, keys{key_rows, h.kv, h.dim};
  for (const bool causal : {true, false}) {
    const auto loss = [&](const auto& qs, const auto& ks, const auto& vs) {
      double sum = 0;
      for (const Segment& s : segments) {
        for (std::int64_t i = 0; i < s.query_count; ++i) {
          const std::int64_t count =
              causal ? std::max<std::int64_t>(0, s.key_count - s.query_count + i + 1) : s.key_count;
          for (std::int64_t head = 0; head < h.queries; ++head) {
            const std::int64_t row = ((s.query_begin + i) * h.queries + head) * h.dim;
            const auto at = [&](std::int64_t j, std::int64_t e) {
              return static_cast<std::size_t>(((s.key_begin + j) * h.kv + head / 2) * h.dim + e);
            };
            const auto out = attend(
                count, h.dim, 0.7,
                [&](std::int64_t e) {
                  return static_cast<double>(qs[static_cast<std::size_t>(row + e)]);
                },
                [&](std::int64_t j, std::int64_t e) { return static_cast<double>(ks[at(j, e)]); },
                [&](std::int64_t j, std::int64_t e) { return static_cast<double>(vs[at(j, e)]); });
            for (std::int64_t e = 0; e < h.dim; ++e) {
              sum += out[static_cast<std::size_t>(e)] *
                     static_cast<double>(dout[static_cast<std::size_t>(row + e)]);
            }
          }
        }
      }
      return sum;
    };
    auto expected = test::gradient(q, [&](const auto& at) { return loss(at, k, v); });
    for (const auto& part : {test::gradient(k, [&](const auto& at) { return loss(q, at, v); }),
                             test::gradient(v, [&](const auto& at) { return loss(q, k, at); })}) {
      expected.insert(expected.end(), part.begin(), part.end());
    }
    on_every_isa([&](Isa isa) {
      const auto found = on_threads(isa, [&](Context<Cpu>& ctx) {
        std::vector<float> d(q.size() + k.size() + v.size());
        float* dk = d.data() + q.size();
        ziya::ops::attention_backward(
            ctx, View<float>(d.data(), queries), View<float>(dk, keys),
            View<float>(dk + k.size(), keys), View<const float>(dout.data(), queries),
            View<const float>(q.data(), queries), View<const float>(k.data(), keys),
            View<const float>(v.data(), keys), segments, {.causal = causal, .scale = 0.7f});
        return d;
      });
      REQUIRE(test::row_error(found, expected, static_cast<std::int64_t>(found.size())) <
              test::gradient_tolerance);
    });
  }
}

TEST_CASE("attention refuses what does not fit", "[attention]") {
  Context<Cpu> ctx({.threads = 1});
  Fixture f({2, 1, 16}, DType::f32, 32);
  f.append(ctx);
  auto cache = f.layer();
  std::vector<float> out(f.q.size());
  const auto id = [&](const Shape& shape, std::int64_t rows) {
    return test::error_id<ziya::Error>([&] {
      const auto n = static_cast<std::size_t>(rows);
      ziya::ops::attention(ctx, View<float>(out.data(), shape),
                           View<const float>(f.q.data(), shape), cache,
                           {std::span(f.slots).first(n), std::span(f.visible).first(n)});
    });
  };
  REQUIRE(id({2, 2, 16}, 2).empty());
  REQUIRE(id({2, 2, 15}, 2) == "ZIYA-110");
  REQUIRE(id({2, 32}, 2) == "ZIYA-110");
  REQUIRE(id({2, 2, 16}, 3) == "ZIYA-110");
  f.visible[0] = 7 * 32 + 1;
  REQUIRE(id({2, 2, 16}, 2) == "ZIYA-116");
  f.visible[0] = -1;
  REQUIRE(id({2, 2, 16}, 2) == "ZIYA-116");
  f.visible[0] = 1;
  cache.kv_heads = 3;
  REQUIRE(id({2, 2, 16}, 2) == "ZIYA-110");
  cache.kv_heads = 0;
  REQUIRE(id({2, 2, 16}, 2) == "ZIYA-110");
  cache.kv_heads = 1;
  for (const DType dtype : {DType::i8, DType::q4_0, DType::q8_0}) {  // q8_0: half a block
    cache.dtype = dtype;
    REQUIRE(id({2, 2, 16}, 2) == "ZIYA-113");
  }
  const Segment outside{0, 2, 5, 3};
  const View<const float> keys(f.k[1].data(), Shape{7, 1, 16});
  REQUIRE_THROWS_AS(ziya::ops::attention(ctx, View<float>(out.data(), Shape{2, 2, 16}),
                                         View<const float>(f.q.data(), Shape{2, 2, 16}), keys, keys,
                                         std::span(&outside, 1)),
                    ziya::ShapeError);
}

}  // namespace attention_test
