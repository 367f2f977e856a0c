// SPDX-License-Identifier: Apache-2.0
// Whole models: decode, prefill, load, merge. Random weights of at least 1 GB; with ZIYA_MODEL set
// to a directory, that model too.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "ceilings.hpp"
#include "random_model.hpp"
#include "ziya/convert/delta_merger.hpp"

namespace {

namespace fs = std::filesystem;
using ziya::Context;
using ziya::Cpu;
using ziya::CpuModel;
using ziya::DType;

struct Machine {
  Context<Cpu> ctx;
  ceilings::ReadBandwidth memory{ctx};
  double rate = ceilings::multiply_add_rate(ctx);
};
Machine& machine() {
  static Machine instance;
  return instance;
}

/// The model last asked for; one at a time is in memory.
const CpuModel& random_of(DType dtype) {
  static std::pair<DType, std::unique_ptr<CpuModel>> kept;
  if (!kept.second || kept.first != dtype) {
    kept.second.reset();
    kept = {dtype, std::make_unique<CpuModel>(
                       random_model::make(random_model::shape_of(dtype, 1.05e9), dtype))};
  }
  return *kept.second;
}

double bytes_per_token(const CpuModel& model) {
  const ziya::Weight<Cpu>& head = model.weights().head.weight;
  double bytes = static_cast<double>(head.bytes());
  for (const auto& layer : model.weights().layers) {
    const auto add = [&](const std::string&, const auto& weight) {
      if constexpr (requires { weight.bytes(); }) bytes += static_cast<double>(weight.bytes());
    };
    layer.attention.visit("", add);
    layer.mlp.visit("", add);
  }
  return bytes;
}

/// Tokens one after another behind a context of `context`; share of the read bandwidth, the cache's
/// bytes counted too.
void decode(benchmark::State& state, const CpuModel& model, std::int64_t context) {
  constexpr std::int64_t span = 64;
  random_model::Runner runner(model, machine().ctx, context + span + 1);
  runner.prefill(context);
  double ceiling = machine().memory.pass(machine().ctx), seconds = 0;
  std::int64_t length = context;
  for (auto _ : state) {
    if (length == context + span) runner.truncate(length = context);
    const auto begin = std::chrono::steady_clock::now();
    runner.decode();
    const double time = ceilings::seconds_since(begin);
    state.SetIterationTime(time);
    seconds += time;
    ++length;
  }
  ceiling = (ceiling + machine().memory.pass(machine().ctx)) / 2;
  const double rate = static_cast<double>(state.iterations()) / seconds;
  const auto cached =
      static_cast<double>((context + span / 2) * model.shape().cache_bytes_per_token());
  const double bytes = bytes_per_token(model) + cached;
  state.counters["tokens/s"] = rate;
  state.counters["GB/s"] = rate * bytes * 1e-9;
  state.counters["share"] = rate * bytes / ceiling;
}

void prefill(benchmark::State& state, const CpuModel& model, std::int64_t tokens) {
  random_model::Runner runner(model, machine().ctx, tokens);
  const auto begin = std::chrono::steady_clock::now();
  for (auto _ : state) runner.prefill(tokens);
  const double seconds = ceilings::seconds_since(begin) / static_cast<double>(state.iterations());
  state.counters["tokens/s"] = static_cast<double>(tokens) / seconds;
  state.counters["share"] =
      random_model::prefill_operations(model.shape(), tokens) / seconds / machine().rate;
}

void load(benchmark::State& state, const fs::path& directory) {
  for (auto _ : state) benchmark::DoNotOptimize(CpuModel::load(directory));
}

void merge(benchmark::State& state, const fs::path& base, const fs::path& delta) {
  const fs::path target =
      fs::temp_directory_path() / ("ziya_merge_benchmark_" + std::to_string(std::rand()));
  std::int64_t bytes = 0;
  for (auto _ : state) {
    bytes += ziya::DeltaMerger(base, delta, target, {.overwrite = true}).run().bytes;
  }
  state.SetBytesProcessed(bytes);
  fs::remove_all(target);
}

/// ZIYA_TINY is the folder examples/ziya-tiny of the source tree.
void add_benchmarks() {
  const auto add = [](const std::string& name, auto function) {
    return benchmark::RegisterBenchmark(name.c_str(), function)
        ->Unit(benchmark::kMillisecond)
        ->MinTime(1.0);
  };
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const std::string name(ziya::name(dtype));
    for (const std::int64_t context : {16, 512}) {
      add("decode/" + name + "/context:" + std::to_string(context), [=](benchmark::State& state) {
        decode(state, random_of(dtype), context);
      })->UseManualTime();
    }
    add("prefill/" + name + "/tokens:512", [=](benchmark::State& state) {
      prefill(state, random_of(dtype), 512);
    })->UseRealTime();
  }
  if (const char* directory = std::getenv("ZIYA_MODEL")) {
    const fs::path path = directory;
    add("load", [=](benchmark::State& state) { load(state, path); })->UseRealTime();
    add("decode/model/context:16", [=](benchmark::State& state) {
      decode(state, CpuModel::load(path), 16);
    })->UseManualTime();
    add("prefill/model/tokens:512", [=](benchmark::State& state) {
      prefill(state, CpuModel::load(path), 512);
    })->UseRealTime();
  }
  const fs::path tiny = ZIYA_TINY;
  if (fs::exists(tiny / "base")) {
    add("merge/ziya-tiny", [=](benchmark::State& state) {
      merge(state, tiny / "base", tiny / "delta");
    })->UseRealTime();
  }
}

}  // namespace

int main(int argc, char** argv) {
  add_benchmarks();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
