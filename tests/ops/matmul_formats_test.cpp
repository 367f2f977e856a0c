// SPDX-License-Identifier: Apache-2.0
// Products with every quantised type and int8, on every instruction set, against loops in double
// over the dequantised weights and the activations as the path rounds them.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "ziya/backend/cpu/quantize/dequantise_row.hpp"
#include "ziya/ops/matmul.hpp"
#include "ziya/ops/rms_norm.hpp"

namespace matmul_formats_test {

using ziya::Context;
using ziya::Cpu;
using ziya::DType;
using ziya::Isa;
using ziya::View;
using ziya::Weight;

struct Stored {
  std::vector<std::byte> bytes;
  std::vector<float> row_scales;
  Weight<Cpu> weight;
};

/// Any bits but for the 16-bit scales, which are ordinary numbers of both signs.
Stored random_blocks(DType dtype, std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  ziya::Random random{.seed = seed};
  Stored w;
  w.bytes.resize(static_cast<std::size_t>(rows * ziya::bytes_of(dtype, columns)));
  for (std::byte& byte : w.bytes) byte = static_cast<std::byte>(random.uniform() * 256);
  const auto scale = [&] { return ziya::to_half(static_cast<float>(random.uniform() - 0.5)); };
  if (ziya::is_quantised(dtype)) {
    for (std::size_t at = 0; at < w.bytes.size();) {
      ziya::quantize::with_block(dtype, [&](auto block) {
        std::memcpy(&block, w.bytes.data() + at, sizeof block);
        block.d = scale();
        if constexpr (requires { block.m; }) block.m = scale();
        if constexpr (requires { block.dmin; }) block.dmin = scale();
        std::memcpy(w.bytes.data() + at, &block, sizeof block);
        at += sizeof block;
      });
    }
  }
  w.weight = {dtype, rows, columns, w.bytes.data(), nullptr};
  if (dtype == DType::i8) {
    w.row_scales = test::random_values(rows, seed + 1);
    w.weight.row_scales = w.row_scales.data();
  }
  return w;
}

/// Extremes of the integers: every quant and every packed scale at its largest or smallest.
void saturate(Stored& w, std::byte value) {
  const DType dtype = w.weight.dtype;
  std::fill(w.bytes.begin(), w.bytes.end(), value);
  for (std::size_t at = 0; at < w.bytes.size();) {
    ziya::quantize::with_block(dtype, [&](auto block) {
      std::memcpy(&block, w.bytes.data() + at, sizeof block);
      block.d = ziya::to_half(0.5f);
      if constexpr (requires { block.m; }) block.m = ziya::to_half(0.25f);
      if constexpr (requires { block.dmin; }) block.dmin = ziya::to_half(0.25f);
      std::memcpy(w.bytes.data() + at, &block, sizeof block);
      at += sizeof block;
    });
  }
}

/// One row of x as the kernels of the context read it, from the definition.
std::vector<double> seen(const Context<Cpu>& ctx, const float* x, const Weight<Cpu>& w) {
  const std::int64_t columns = w.columns;
  const std::int64_t span =
      w.dtype != DType::i8 && ziya::info(w.dtype).block_elements == 32 ? 32 : 256;
  std::vector<double> result(x, x + columns);
  if (ctx.kernels().quantise == nullptr) return result;
  for (std::int64_t i = 0; i < columns; i += span) {
    const std::int64_t end = std::min(columns, i + span);
    float largest = 0;
    for (std::int64_t j = i; j < end; ++j) largest = std::max(largest, std::abs(x[j]));
    float scale = largest / 127.0f;
    if (span == 32) {
      int exponent = 0;
      const float fraction = std::frexp(scale, &exponent);
      if (fraction > 0) scale = std::ldexp(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
    }
    const float inverse = largest > 0 ? 1.0f / scale : 0.0f;
    for (std::int64_t j = i; j < end; ++j) {
      result[static_cast<std::size_t>(j)] =
          static_cast<double>(scale) * static_cast<double>(std::nearbyint(x[j] * inverse));
    }
  }
  return result;
}

std::vector<double> expected(const Context<Cpu>& ctx, const std::vector<float>& x,
                             const Weight<Cpu>& w) {
  std::vector<double> y;
  std::vector<float> row(static_cast<std::size_t>(w.columns));
  const std::int64_t tokens = static_cast<std::int64_t>(x.size()) / w.columns;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::vector<double> a = seen(ctx, x.data() + t * w.columns, w);
    for (std::int64_t r = 0; r < w.rows; ++r) {
      ziya::quantize::dequantise_row(w.dtype, w.row(r), row.data(), w.columns, w.row_scale(r));
      double sum = 0;
      for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * static_cast<double>(row[i]);
      y.push_back(sum);
    }
  }
  return y;
}

std::vector<float> product(Context<Cpu>& ctx, const float* x, std::int64_t tokens,
                           const Weight<Cpu>& w) {
  std::vector<float> y(static_cast<std::size_t>(tokens * w.rows), -1);
  ziya::ops::matmul(ctx, View<float>(y.data(), {tokens, w.rows}), {x, {tokens, w.columns}}, w);
  return y;
}

std::vector<DType> formats() {
  std::vector<DType> result{DType::i8};
  for (int i = 0; i < ziya::dtype_count; ++i) {
    if (ziya::is_quantised(static_cast<DType>(i))) result.push_back(static_cast<DType>(i));
  }
  return result;
}

TEST_CASE("matmul: every format, every path, any cut of tokens and rows", "[matmul]") {
  for (const DType dtype : formats()) {
    for (const std::int64_t columns : {5, 32, 256, 288, 300, 544, 1024, 1280}) {
      if (columns % ziya::info(dtype).block_elements != 0) continue;
      for (const std::int64_t rows : {9, 16, 53}) {
        constexpr std::int64_t tokens = 26;
        CAPTURE(ziya::name(dtype), columns, rows);
        const Stored w = random_blocks(dtype, rows, columns, 7);
        const auto x = test::random_values(tokens * columns, 3);
        test::on_every_isa([&](Isa isa) {
          const auto whole = test::on_threads(
              isa, [&](Context<Cpu>& ctx) { return product(ctx, x.data(), tokens, w.weight); });
          Context<Cpu> ctx({.threads = 1, .isa = isa});
          CHECK(test::row_error(whole, expected(ctx, x, w.weight), rows) < test::op_tolerance);
          for (const std::int64_t count : {1, 2, 3, 6, 7, 8, 12, 13, 16, 20, 24}) {
            const auto part = product(ctx, x.data() + columns, count, w.weight);
            const std::vector<float> same(whole.begin() + rows, whole.begin() + rows * (count + 1));
            CHECK(test::same_bits(part, same));
          }
        });
      }
    }
  }
}

TEST_CASE("matmul: more tokens and rows than are kept at once give the bits of one token",
          "[matmul]") {
  constexpr std::int64_t tokens = 520, rows = 290, columns = 768;
  auto x = test::random_values(tokens * columns, 3);
  for (std::int64_t i = 0; i < tokens / 2 * columns; i += 5) x[static_cast<std::size_t>(i)] *= 4;
  for (const DType dtype : formats()) {
    CAPTURE(ziya::name(dtype));
    const Stored w = random_blocks(dtype, rows, columns, 7);
    const auto whole = test::on_threads(ziya::best_isa(), [&](Context<Cpu>& ctx) {
      return product(ctx, x.data(), tokens, w.weight);
    });
    Context<Cpu> ctx({.threads = 1});
    for (const std::int64_t t : {0, 255, 300, 511, 519}) {
      const auto alone = product(ctx, x.data() + t * columns, 1, w.weight);
      const std::vector<float> same(whole.begin() + rows * t, whole.begin() + rows * (t + 1));
      CHECK(test::same_bits(alone, same));
    }
  }
}

TEST_CASE("matmul: AMX gives the bits of AVX-512", "[matmul]") {
  if (!ziya::is_available(Isa::amx)) return;
  for (const DType dtype : formats()) {
    for (const std::int64_t columns : {5, 32, 256, 288, 300, 544, 768, 1280}) {
      if (columns % ziya::info(dtype).block_elements != 0) continue;
      for (const std::int64_t tokens : {16, 33, 64, 77, 520}) {
        for (const std::int64_t rows : {9, 53, 290}) {
          if (rows * tokens > 290 * 77) continue;
          CAPTURE(ziya::name(dtype), columns, tokens, rows);
          const Stored w = random_blocks(dtype, rows, columns, 7);
          auto x = test::random_values(tokens * columns, 3);
          for (std::size_t i = 0; i < x.size() / 2; i += 5) x[i] *= 4;
          Context<Cpu> tiles({.threads = 2, .isa = Isa::amx});
          Context<Cpu> vectors({.threads = 1, .isa = Isa::avx512});
          CHECK(test::same_bits(product(tiles, x.data(), tokens, w.weight),
                                product(vectors, x.data(), tokens, w.weight)));
        }
      }
    }
  }
}

TEST_CASE("matmul: integers at their limits do not overflow", "[matmul]") {
  for (const DType dtype : formats()) {
    if (dtype == DType::i8) continue;
    for (const int value : {0, 255}) {
      CAPTURE(ziya::name(dtype), value);
      Stored w = random_blocks(dtype, 17, 512, 1);
      saturate(w, static_cast<std::byte>(value));
      for (const float sign : {1.0f, -1.0f}) {
        const std::vector<float> x(512 * 70, 127 * sign);  // every value ± 127, whatever the span
        test::on_every_isa([&](Isa isa) {
          Context<Cpu> ctx({.threads = 1, .isa = isa});
          for (const std::int64_t tokens : {1, 8, 70}) {
            const std::vector<float> some(x.begin(), x.begin() + 512 * tokens);
            const auto y = product(ctx, x.data(), tokens, w.weight);
            CHECK(test::row_error(y, expected(ctx, some, w.weight), 17) < test::op_tolerance);
          }
        });
      }
    }
  }
}

TEST_CASE("gated_mlp is its composed reference, bit for bit, of few tokens and of many",
          "[matmul]") {
  struct Case {
    DType gate, up, down;
    std::int64_t in, inner;
  };
  constexpr std::int64_t out = 70;
  // groups of columns enough for two threads, for one or for none; the last one whole or a part;
  // floats on either side of 8 bits
  for (const Case& c : {Case{DType::q4_0, DType::q4_0, DType::q8_0, 32, 2080},
                        Case{DType::q4_k, DType::q6_k, DType::q5_k, 256, 1024},
                        Case{DType::bf16, DType::q5_1, DType::q5_0, 64, 1056},
                        Case{DType::i8, DType::i8, DType::i8, 40, 300},
                        Case{DType::q4_1, DType::q4_1, DType::f16, 64, 288}}) {
    CAPTURE(ziya::name(c.gate), ziya::name(c.down));
    const auto stored = [](DType dtype, std::int64_t rows, std::int64_t columns,
                           std::uint64_t seed) {
      if (!ziya::is_plain_float(dtype)) return random_blocks(dtype, rows, columns, seed);
      Stored w;
      const auto values = test::random_values(rows * columns, seed);
      w.bytes.resize(static_cast<std::size_t>(rows * ziya::bytes_of(dtype, columns)));
      for (std::size_t i = 0; i < values.size(); ++i) {
        const ziya::Half half = ziya::to_half(values[i]);
        const ziya::BFloat16 brain = ziya::to_bfloat16(values[i]);
        std::memcpy(w.bytes.data() + 2 * i, dtype == DType::f16 ? &half.bits : &brain.bits, 2);
      }
      w.weight = {dtype, rows, columns, w.bytes.data(), nullptr};
      return w;
    };
    const Stored gate = stored(c.gate, c.inner, c.in, 1), up = stored(c.up, c.inner, c.in, 2);
    const Stored down = stored(c.down, out, c.inner, 3);
    const auto norm = test::random_values(c.in, 4);
    const View<const float> weight(norm.data(), {c.in});
    for (const std::int64_t tokens : {1, 48, 49, 70}) {
      CAPTURE(tokens);
      const auto x = test::random_values(tokens * c.in, 5);
      const auto residual = test::random_values(tokens * out, 6);
      const View<const float> input(x.data(), {tokens, c.in});
      test::on_every_isa([&](Isa isa) {
        Context<Cpu> one({.threads = 1, .isa = isa});
        std::vector<float> n(x.size()), hidden(static_cast<std::size_t>(tokens * c.inner));
        const View<float> normed(n.data(), {tokens, c.in});
        const View<float> gated(hidden.data(), {tokens, c.inner});
        auto sum = residual;
        ziya::ops::rms_norm<Cpu, float>(one, normed, input, weight, 1e-5f);
        ziya::ops::matmul_silu_mul<Cpu, float>(one, gated, normed, gate.weight, up.weight);
        const auto added = product(one, hidden.data(), tokens, down.weight);
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += added[i];
        REQUIRE(test::same_bits(sum, test::on_threads(isa, [&](Context<Cpu>& ctx) {
                                  auto y = residual;
                                  ziya::ops::gated_mlp<Cpu, float>(
                                      ctx, View<float>(y.data(), {tokens, out}), input, weight,
                                      1e-5f, gate.weight, up.weight, down.weight);
                                  return y;
                                })));
      });
    }
  }
}

TEST_CASE("matmul: 8-bit activations of zeros, tiny and infinite rows", "[matmul]") {
  constexpr std::size_t rows = 20, columns = 256;
  for (const DType dtype : {DType::q4_0, DType::q4_1, DType::q4_k}) {
    const Stored w = random_blocks(dtype, rows, columns, 5);
    for (const std::int64_t tokens : {1, 40}) {
      const auto count = static_cast<std::size_t>(tokens);
      CAPTURE(ziya::name(dtype), tokens);
      test::on_every_isa([&](Isa isa) {
        Context<Cpu> ctx({.threads = 1, .isa = isa});
        std::vector<float> x(count * columns, 0.0f);
        const auto y_with = [&](float value) {
          for (std::size_t t = 0; t < count; ++t) x[t * columns + 3] = value;
          return product(ctx, x.data(), tokens, w.weight);
        };
        CHECK(y_with(0.0f) == std::vector<float>(count * rows, 0.0f));
        for (const float y : y_with(1e-40f)) CHECK(std::abs(y) < 1e-37f);
        for (const float value : {1.2e-36f, 1e33f}) {  // the smallest scale, the largest shift
          const auto y = y_with(value);
          CHECK(test::row_error(y, expected(ctx, x, w.weight), rows) < test::op_tolerance);
        }
        for (const float y : y_with(std::numeric_limits<float>::infinity())) {
          CHECK(!std::isfinite(y));
        }
        for (const float y : y_with(std::numeric_limits<float>::quiet_NaN())) CHECK(std::isnan(y));
      });
    }
  }
}

}  // namespace matmul_formats_test
