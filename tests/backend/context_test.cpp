// SPDX-License-Identifier: Apache-2.0
// The context of the CPU: its options and threads, and the kernels of every instruction set.
#include "ziya/backend/cpu/context.hpp"

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/contexts.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace context_test {

using ziya::Cpu;
using ziya::CpuKernels;
using ziya::DType;
using ziya::Isa;
using CpuContext = ziya::Context<Cpu>;

/// Of |a − b| / |b|, element by element: two units in the last place at most.
constexpr double exp_tolerance = 2.4e-7;

TEST_CASE("a context has the threads and the instruction set asked for", "[context]") {
  CHECK(CpuContext().threads() == ziya::default_threads());
  CHECK(CpuContext().isa() == ziya::best_isa());
  CHECK(CpuContext({.threads = 3}).threads() == 3);
  CHECK(CpuContext().decode_hook() == nullptr);
  std::set<const CpuKernels*> tables;
  for (const Isa isa : ziya::available_isas()) {
    const CpuContext ctx({.threads = 1, .isa = isa});
    CHECK(ctx.isa() == isa);
    tables.insert(&ctx.kernels());
  }
  CHECK(tables.size() == ziya::available_isas().size());
}

TEST_CASE("options that cannot be had are refused", "[context]") {
  CHECK_THROWS_MATCHES(CpuContext({.threads = -1}), ziya::ArgumentError,
                       Catch::Message("context: -1 threads [ZIYA-112]"));
  CHECK_THROWS_MATCHES(CpuContext({.threads = 4097}), ziya::ArgumentError,
                       Catch::Message("context: 4097 threads [ZIYA-112]"));
  for (const Isa isa : {Isa::avx2, Isa::avx512, Isa::amx, static_cast<Isa>(99)}) {
    if (ziya::is_available(isa)) continue;
    CHECK_THROWS_MATCHES(CpuContext({.threads = 1, .isa = isa}), ziya::ArgumentError,
                         Catch::Message("context: this machine has no " +
                                        std::string(ziya::name(isa)) + " [ZIYA-111]"));
  }
}

TEST_CASE("parallel_for covers a range and passes exceptions on", "[context]") {
  CpuContext ctx({.threads = 3});
  std::atomic<std::int64_t> sum{0};
  ctx.parallel_for(100, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) sum += i;
  });
  CHECK(sum == 4950);
  const auto last_part_fails = [](std::int64_t begin, std::int64_t) {
    if (begin == 2) throw ziya::BackendError("ZIYA-000", "on another thread");
  };
  CHECK_THROWS_AS(ctx.parallel_for(3, last_part_fails), ziya::BackendError);
}

TEST_CASE("contexts of several threads of a program do not meet", "[context]") {
  std::atomic<int> wrong{0};
  const auto program = [&](int seed) {
    CpuContext ctx({.threads = 2});
    for (int round = 0; round < 200; ++round) {
      std::vector<int> values(64, seed);
      ctx.parallel_for(64, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) values[static_cast<std::size_t>(i)] += round;
      });
      for (const int value : values) wrong += value != seed + round;
    }
  };
  std::thread other(program, 1);
  program(2);
  other.join();
  CHECK(wrong == 0);
}

TEST_CASE("dot and add_scaled agree with double, wherever their operands lie", "[kernels]") {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t count : {1, 7, 8, 15, 16, 17, 63, 64, 100, 257}) {
      const auto b = test::random_matrix(dtype, 1, count, 1);
      const auto a = test::random_values(count, 2);
      double dot = 0, size = 0;
      std::vector<double> sums(1, 3.0);
      for (std::int64_t i = 0; i < count; ++i) {
        const auto x = static_cast<double>(a[static_cast<std::size_t>(i)]);
        dot += x * b.at(0, i);
        size += std::abs(x * b.at(0, i));
        sums.push_back(x + 0.5 * b.at(0, i));
      }
      sums.push_back(3.0);
      test::on_every_isa([&](Isa isa) {
        CAPTURE(ziya::name(dtype), count);
        const CpuContext ctx({.threads = 1, .isa = isa});
        const CpuKernels& kernels = ctx.kernels();
        const float found = kernels.dot(a.data(), dtype, b.weight.data, count);
        CHECK(std::abs(static_cast<double>(found) - dot) <= test::op_tolerance * size);

        std::vector<float> y(1, 3.0f);  // odd addresses, and a neighbour on either side
        y.insert(y.end(), a.begin(), a.end());
        y.push_back(3.0f);
        CHECK(kernels.dot(y.data() + 1, dtype, b.weight.data, count) == found);
        kernels.add_scaled(y.data() + 1, 0.5f, dtype, b.weight.data, count);
        CHECK(test::row_error(y, sums, count + 2) < test::op_tolerance);
        CHECK(y.front() == 3.0f);
        CHECK(y.back() == 3.0f);
      });
    }
  }
}

TEST_CASE("scale_and_find_largest is a scaled copy and the largest of it", "[kernels]") {
  const auto x = test::random_values(70, 3);
  test::on_every_isa([&](Isa isa) {
    const CpuContext ctx({.threads = 1, .isa = isa});
    const CpuKernels& kernels = ctx.kernels();
    for (const float offset : {0.0f, -100.0f, 100.0f}) {  // also where all are below zero
      for (std::int64_t count = 0; count <= 64; ++count) {
        std::vector<float> y = x;
        for (float& v : y) v += offset;
        std::vector<float> expected = y;
        float largest = -INFINITY;
        for (std::int64_t i = 3; i < 3 + count; ++i) {
          largest = std::max(largest, expected[static_cast<std::size_t>(i)] *= 0.7f);
        }
        REQUIRE(kernels.scale_and_find_largest(y.data() + 3, 0.7f, count) == largest);
        REQUIRE(y == expected);
      }
    }
  });
}

TEST_CASE("exp is accurate over the range of a float, and 0 at minus infinity", "[kernels]") {
  std::vector<float> inputs;
  for (double x = -87.3; x < 81; x += 0.0137) inputs.push_back(static_cast<float>(x));
  test::on_every_isa([&](Isa isa) {
    const CpuContext ctx({.threads = 1, .isa = isa});
    std::vector<float> values = inputs;
    const float found =
        ctx.kernels().exp_sum(values.data(), 0.0f, static_cast<std::int64_t>(values.size()));
    double worst = 0, sum = 0;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const double expected = std::exp(static_cast<double>(inputs[i]));
      worst = std::max(worst, std::abs(static_cast<double>(values[i]) - expected) / expected);
      sum += expected;
    }
    CHECK(worst < exp_tolerance);
    CHECK(std::abs(static_cast<double>(found) - sum) < test::op_tolerance * sum);
    for (std::int64_t count = 1; count <= 33; ++count) {
      std::vector<float> low(static_cast<std::size_t>(count), -INFINITY);
      low.back() = -1e30f;
      CHECK(ctx.kernels().exp_sum(low.data(), 0.0f, count) == 0.0f);
      CHECK(low == std::vector<float>(low.size(), 0.0f));
    }
    float high = 88.3f;
    ctx.kernels().exp_sum(&high, 0.0f, 1);
    CHECK(static_cast<double>(high) ==
          Approx(std::exp(static_cast<double>(88.3f))).epsilon(exp_tolerance));
    for (const float x : {-87.4f, -88.0f, -90.0f, -103.0f, -104.0f}) {
      float value = x;
      ctx.kernels().exp_sum(&value, 0.0f, 1);
      CHECK(value >= 0.0f);
      CHECK(value <= 1.2e-38f);
    }
  });
}

TEST_CASE("exp keeps what is not a number", "[kernels]") {
  test::on_every_isa([&](Isa isa) {
    const CpuContext ctx({.threads = 1, .isa = isa});
    for (std::size_t at = 0; at < 20; ++at) {
      std::vector<float> values(20, -1.0f);
      values[at] = NAN;
      CHECK(std::isnan(ctx.kernels().exp_sum(values.data(), 0.0f, 20)));
      for (std::size_t i = 0; i < values.size(); ++i) CHECK(std::isnan(values[i]) == (i == at));
    }
  });
}

TEST_CASE("exp_sum and silu_mul give an element the same bits wherever it stands", "[kernels]") {
  const auto x = test::random_values(64, 1, 8), up = test::random_values(64, 2);
  test::on_every_isa([&](Isa isa) {
    const CpuContext ctx({.threads = 1, .isa = isa});
    const CpuKernels& kernels = ctx.kernels();
    std::vector<float> exp_whole = x, silu_whole(64);
    kernels.exp_sum(exp_whole.data(), 8.0f, 64);
    kernels.silu_mul(silu_whole.data(), x.data(), up.data(), 64);
    for (std::int64_t begin = 0; begin < 64; begin += 5) {
      for (std::int64_t count = 1; begin + count <= 64; count += 3) {
        const auto part = [&](const std::vector<float>& values) {
          return std::vector<float>(values.begin() + begin, values.begin() + begin + count);
        };
        std::vector<float> y = x, moved = part(x);
        const float sum = kernels.exp_sum(y.data() + begin, 8.0f, count);
        REQUIRE(test::same_bits(part(y), part(exp_whole)));
        REQUIRE(kernels.exp_sum(moved.data(), 8.0f, count) == sum);
        kernels.silu_mul(y.data() + begin, x.data() + begin, up.data() + begin, count);
        REQUIRE(test::same_bits(part(y), part(silu_whole)));
      }
    }
  });
}

}  // namespace context_test
