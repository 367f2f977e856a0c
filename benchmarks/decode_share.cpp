// SPDX-License-Identifier: Apache-2.0
// Batch-1 decode and prefill of a model of at least 1 GB as shares of what the machine can do,
// measured in the same run: decode_share [least share of the read bandwidth] [threads]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "ceilings.hpp"
#include "random_model.hpp"

namespace {

struct Result {
  double bandwidth = 0;  ///< bytes/s, median of the passes between the tokens
  double decode = 0;     ///< tokens/s, median
  double share = 0;      ///< of the bandwidth: median over tokens, each by the passes beside it
};

/// A token, a pass over memory, a token, …: on a shared machine both see the same weather.
Result decode(random_model::Runner& runner, ziya::Context<ziya::Cpu>& ctx,
              const ceilings::ReadBandwidth& memory, double bytes, int tokens) {
  std::vector<double> passes, times, shares;
  for (int i = 0; i < tokens; ++i) {
    const double before = memory.pass(ctx);
    runner.decode();  // wakes the threads and warms what is small
    const auto begin = std::chrono::steady_clock::now();
    runner.decode();
    const double time = ceilings::seconds_since(begin);
    const double after = memory.pass(ctx);
    passes.insert(passes.end(), {before, after});
    times.push_back(time);
    shares.push_back(bytes / time / ((before + after) / 2));
  }
  return {ceilings::median(passes), 1 / ceilings::median(times), ceilings::median(shares)};
}

double prefill(random_model::Runner& runner, std::int64_t tokens, int repetitions) {
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    runner.prefill(tokens);
    times.push_back(ceilings::seconds_since(begin));
  }
  return *std::min_element(times.begin(), times.end());
}

}  // namespace

int main(int argc, char** argv) try {
  const double least = argc > 1 ? std::strtod(argv[1], nullptr) : 0;
  ziya::Context<ziya::Cpu> ctx({.threads = argc > 2 ? std::atoi(argv[2]) : 0});
  const ceilings::ReadBandwidth memory(ctx);
  const double rate = ceilings::multiply_add_rate(ctx);
  std::printf("%d threads, %s, fp32 multiply-add %.0f GFLOP/s\n", ctx.threads(),
              std::string(ziya::name(ctx.isa())).c_str(), rate * 1e-9);
  std::printf("%-5s %9s %11s %10s %14s %9s %9s %14s\n", "dtype", "read GB", "memory GB/s",
              "decode t/s", "decode GB/s", "share", "prefill", "of fp32 rate");
  bool reached = true;
  for (const ziya::DType dtype : {ziya::DType::f32, ziya::DType::bf16, ziya::DType::f16}) {
    const ziya::LlamaShape shape = random_model::shape_of(dtype, 1.05e9);
    const ziya::CpuModel model = random_model::make(shape, dtype);
    const double bytes =
        static_cast<double>(shape.parameters_read_per_token() * ziya::info(dtype).block_bytes);
    random_model::Runner runner(model, ctx, 1024);
    const std::int64_t prompt = 512;
    const double time = prefill(runner, prompt, 2);
    runner.prefill(16);
    Result best;
    for (int attempt = 0; attempt < 5; ++attempt) {
      const Result result = decode(runner, ctx, memory, bytes, 9);
      if (result.share > best.share) best = result;
      if (least == 0 || best.share >= least) break;
    }
    std::printf("%-5s %9.2f %11.1f %10.2f %14.1f %8.1f%% %5.0f t/s %13.1f%%\n",
                std::string(ziya::name(dtype)).c_str(), bytes * 1e-9, best.bandwidth * 1e-9,
                best.decode, best.decode * bytes * 1e-9, 100 * best.share,
                static_cast<double>(prompt) / time,
                100 * random_model::prefill_operations(shape, prompt) / time / rate);
    reached = reached && best.share >= least;
  }
  if (!reached) std::printf("decode is below %.0f%% of the read bandwidth\n", 100 * least);
  return reached ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "decode_share: %s\n", error.what());
  return 1;
}
