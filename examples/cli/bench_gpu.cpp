// SPDX-License-Identifier: Apache-2.0
// `ziya bench` on an NVIDIA GPU.
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>

#include "bench.hpp"
#include "gpu_load.hpp"
#include "model.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/ziya.hpp"

#if ZIYA_WITH_CUDA
#include "gpu_ceilings.hpp"
#include "gpu_random_model.hpp"
#endif

namespace cli {

#if ZIYA_WITH_CUDA
namespace {

class GpuMachine {
 public:
  /// @param operands of the products that set the ceiling
  GpuMachine(ziya::Context<ziya::Cuda>& ctx, ziya::DType operands)
      : ctx_(ctx), operands_(operands) {}

  double bandwidth() { return gpu::read_bandwidth(ctx_); }
  double arithmetic() { return gpu::matrix_rate(ctx_, operands_); }
  std::int32_t best(ziya::View<const float, ziya::Cuda> row) {
    std::int32_t id = 0;
    float value = 0;
    ziya::ops::top_k(ctx_, std::span(&id, 1), std::span(&value, 1), row);
    return id;
  }
  void wait() { ctx_.synchronize(); }

 private:
  ziya::Context<ziya::Cuda>& ctx_;
  ziya::DType operands_;
};

template <class Config>
BenchReport bench_with(ziya::Context<ziya::Cuda>& ctx, const BenchOptions& options,
                       const ziya::LlamaModel<Config>& model) {
  const ziya::DType compute = ziya::dtype_of<typename Config::Compute>;
  const ziya::DType stored = work_of(model).dtype;
  const ziya::DType operands = stored == ziya::DType::f8_e4m3 ? stored : compute;
  GpuMachine machine(ctx, operands);
  const ziya::DecodeGraph<ziya::LlamaModel<Config>> graph(ctx);
  BenchReport report =
      Bench(ctx, model, options, ziya::dtype_from_name(options.model.cache_dtype).value_or(compute),
            machine)
          .run();
  cudaDeviceProp device{};
  ziya::cuda::check(cudaGetDeviceProperties(&device, ctx.device()), "properties of the GPU");
  report.isa = "sm_" + std::to_string(device.major) + std::to_string(device.minor);
  char line[384];
  std::snprintf(line, sizeof line, "reading %.0f GB/s, %s products %.0f TFLOP/s; GPU %d, %s",
                report.bandwidth * 1e-9, std::string(ziya::name(operands)).c_str(),
                report.arithmetic_rate * 1e-12, ctx.device(), device.name);
  report.machine = line;
  return report;
}

}  // namespace

BenchReport bench_on_gpu(const BenchOptions& options) {
  ziya::Context<ziya::Cuda> ctx;
  if (!options.random_weights.empty()) {
    const RandomWeights random = random_weights(options);
    if (random.dtype == ziya::DType::i8) {
      throw UsageError("ZIYA-701", "--type int8: no GPU reads it; use q8_0, or --device cpu");
    }
    return with_config(compute_type(random.dtype), [&](auto config) {
      using Config = decltype(config);
      return bench_with<Config>(ctx, options,
                                gpu_random_model::make<Config>(random.shape, random.dtype));
    });
  }
  const auto folder = ziya::resolve_model_path(ziya::path_from_utf8(options.model.model));
  return with_config(compute_type(options.model, folder), [&](auto config) {
    using Config = decltype(config);
    return bench_with<Config>(ctx, options,
                              load_whole<Config>(folder, load_options(options.model, folder)));
  });
}
#else
BenchReport bench_on_gpu(const BenchOptions&) { refuse_gpu(); }
#endif

}  // namespace cli
