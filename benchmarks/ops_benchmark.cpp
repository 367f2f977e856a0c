// SPDX-License-Identifier: Apache-2.0
// Single ops next to the machine's ceilings: "share" is of the read bandwidth for what memory
// bounds, and of the fp32 multiply-add rate for what arithmetic bounds.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ceilings.hpp"
#include "random_model.hpp"

namespace {

using ziya::Context;
using ziya::Cpu;
using ziya::DType;
using ziya::Shape;
using ziya::Tensor;
using ziya::View;

struct Machine {
  Context<Cpu> ctx;
  ceilings::ReadBandwidth memory{ctx};
  double rate = ceilings::multiply_add_rate(ctx);
};
Machine& machine() {
  static Machine instance;
  return instance;
}
DType dtype_at(std::int64_t i) {
  return std::array{DType::f32, DType::bf16, DType::f16}[static_cast<std::size_t>(i)];
}
Tensor<float> filled(const Shape& shape) {
  Tensor<float> result(shape);
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    result.data()[i] = static_cast<float>(i * 37 % 101) * 0.02f - 1.0f;
  }
  return result;
}

/// Reports bytes per second and their share; the ceiling is the mean of passes before and after.
class MemoryBound {
 public:
  MemoryBound() : ceiling_(machine().memory.pass(machine().ctx)) {}
  void report(benchmark::State& state, double bytes) {
    const double seconds =
        ceilings::seconds_since(begin_) / static_cast<double>(state.iterations());
    ceiling_ = (ceiling_ + machine().memory.pass(machine().ctx)) / 2;
    state.counters["GB/s"] = bytes / seconds * 1e-9;
    state.counters["share"] = bytes / seconds / ceiling_;
  }

 private:
  double ceiling_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

void report_arithmetic(benchmark::State& state, std::chrono::steady_clock::time_point begin,
                       double operations) {
  const double rate =
      operations * static_cast<double>(state.iterations()) / ceilings::seconds_since(begin);
  state.counters["GFLOP/s"] = rate * 1e-9;
  state.counters["share"] = rate / machine().rate;
}

/// y = x · wᵀ for one token, over enough different weights that no cache helps.
void matrix_vector(benchmark::State& state) {
  const DType dtype = dtype_at(state.range(0));
  const std::int64_t rows = state.range(1), columns = state.range(2);
  const std::int64_t bytes = rows * columns * ziya::info(dtype).block_bytes;
  const std::int64_t copies = std::max<std::int64_t>(1, (std::int64_t{1} << 29) / bytes);
  random_model::RandomBytes memory(dtype, copies * rows * columns);
  std::vector<ziya::Weight<Cpu>> weights;
  for (std::int64_t i = 0; i < copies; ++i) weights.push_back(memory.matrix(rows, columns));
  const Tensor<float> x = filled({1, columns});
  Tensor<float> y(Shape{1, rows});
  MemoryBound measure;
  for (auto _ : state) {
    for (const auto& w : weights) ziya::ops::matmul(machine().ctx, y.view(), x.view(), w);
  }
  measure.report(state, static_cast<double>(copies * bytes));
  state.SetLabel(std::string(ziya::name(dtype)));
}
BENCHMARK(matrix_vector)
    ->ArgNames({"dtype", "rows", "columns"})
    ->ArgsProduct({{0, 1, 2}, {2048}, {2048, 5632}})
    ->MinTime(0.3)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void matrix_matrix(benchmark::State& state) {
  const DType dtype = dtype_at(state.range(0));
  const std::int64_t rows = state.range(1), columns = state.range(2), tokens = state.range(3);
  random_model::RandomBytes memory(dtype, rows * columns);
  const ziya::Weight<Cpu> w = memory.matrix(rows, columns);
  const Tensor<float> x = filled({tokens, columns});
  Tensor<float> y(Shape{tokens, rows});
  const double rate = machine().rate;
  const auto begin = std::chrono::steady_clock::now();
  for (auto _ : state) ziya::ops::matmul(machine().ctx, y.view(), x.view(), w);
  report_arithmetic(state, begin, 2.0 * static_cast<double>(rows * columns * tokens));
  benchmark::DoNotOptimize(rate);
  state.SetLabel(std::string(ziya::name(dtype)));
}
BENCHMARK(matrix_matrix)
    ->ArgNames({"dtype", "rows", "columns", "tokens"})
    ->ArgsProduct({{0, 1, 2}, {2048}, {2048, 5632}, {8, 512}})
    ->MinTime(0.3)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

/// One new token of 16 layers, 16 heads of 128, over a cache of `context` tokens.
void attention(benchmark::State& state) {
  const DType dtype = dtype_at(state.range(0));
  const std::int64_t context = state.range(1), layers = 16;
  const ziya::CacheShape shape{layers, 16, 128};
  ziya::KvCache<Cpu> cache(shape, {.dtype = dtype, .max_tokens = context});
  const std::vector<std::int32_t> slots(static_cast<std::size_t>(context), 0);
  const auto step = cache.prepare(slots);
  const Tensor<float> v = filled({context, 16, 128});
  Tensor<float> k = filled({context, 16, 128});
  for (std::int64_t i = 0; i < layers; ++i) {
    ziya::ops::cache_append(machine().ctx, cache.layer(i), k.view(), v.view(),
                            {slots, step.indices});
  }
  cache.commit();
  const Tensor<float> q = filled({1, 16, 128});
  Tensor<float> out(q.shape());
  const std::int32_t slot = 0;
  MemoryBound measure;
  for (auto _ : state) {
    for (std::int64_t i = 0; i < layers; ++i) {
      ziya::ops::attention(machine().ctx, out.view(), q.view(), cache.layer(i),
                           {std::span(&slot, 1), std::span(&context, 1)});
    }
  }
  measure.report(state, static_cast<double>(context * cache.bytes_per_token()));
  state.SetLabel(std::string(ziya::name(dtype)));
}
BENCHMARK(attention)
    ->ArgNames({"dtype", "context"})
    ->ArgsProduct({{0, 2}, {64, 512, 2048}})
    ->MinTime(0.3)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

/// Causal attention of a whole prompt, without a cache.
void attention_prompt(benchmark::State& state) {
  const std::int64_t tokens = state.range(0), heads = 16, head_dim = 128;
  const Tensor<float> q = filled({tokens, heads, head_dim});
  Tensor<float> out(q.shape());
  const ziya::Segment segment{0, tokens, 0, tokens};
  const auto begin = std::chrono::steady_clock::now();
  for (auto _ : state) {
    ziya::ops::attention(machine().ctx, out.view(), q.view(), q.view(), q.view(),
                         std::span(&segment, 1));
  }
  report_arithmetic(state, begin,
                    2.0 * static_cast<double>(heads * head_dim * tokens * (tokens + 1)));
}
BENCHMARK(attention_prompt)
    ->ArgName("tokens")
    ->Arg(512)
    ->MinTime(0.3)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// What a decoded token pays per layer besides products: one row each.

void rms_norm(benchmark::State& state) {
  const Shape shape{1, state.range(0)};
  Tensor<float> y = filled(shape);
  const Tensor<float> x = filled(shape), weight = filled({state.range(0)});
  for (auto _ : state) {
    ziya::ops::rms_norm(machine().ctx, y.view(), x.view(), weight.view(), 1e-6f);
  }
}
BENCHMARK(rms_norm)->Arg(2048)->Arg(5120)->UseRealTime()->MinTime(0.1);

void rope(benchmark::State& state) {
  Tensor<float> x = filled({1, state.range(0), 128});
  const ziya::RopeTable<Cpu> table(ziya::inverse_frequencies(128, 10000.0, {}, 0));
  const std::int32_t position = 100;
  for (auto _ : state) {
    ziya::ops::rope(machine().ctx, x.view(), std::span(&position, 1), table,
                    ziya::RopePairing::halves);
  }
}
BENCHMARK(rope)->ArgName("heads")->Arg(16)->Arg(40)->UseRealTime()->MinTime(0.1);

void silu_mul(benchmark::State& state) {
  const Shape shape{1, state.range(0)};
  const Tensor<float> gate = filled(shape), up = filled(shape);
  Tensor<float> y(shape);
  for (auto _ : state) ziya::ops::silu_mul(machine().ctx, y.view(), gate.view(), up.view());
}
BENCHMARK(silu_mul)->Arg(5632)->Arg(13824)->UseRealTime()->MinTime(0.1);

/// Waking all threads for nothing.
void parallel_for(benchmark::State& state) {
  for (auto _ : state) {
    machine().ctx.parallel_for(machine().ctx.threads(), [](std::int64_t, std::int64_t) {});
  }
}
BENCHMARK(parallel_for)->UseRealTime()->MinTime(0.1);

}  // namespace

BENCHMARK_MAIN();
