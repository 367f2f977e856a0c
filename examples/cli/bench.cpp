// SPDX-License-Identifier: Apache-2.0
// `ziya bench`: tokens per second beside what the machine can do in the same minute.
#include "bench.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "ceilings.hpp"
#include "commands.hpp"
#include "json_text.hpp"
#include "memory.hpp"
#include "model.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/io/model_path.hpp"

namespace cli {
namespace {

using ziya::Cpu;
using ziya::DType;

/// How many times the 32-bit rate the machine computes with a stored type, at best: two bf16
/// products or four of 8 bits in the place of one.
double rate_factor(DType dtype) {
  if (dtype == DType::bf16) return 2;
  return ziya::is_plain_float(dtype) ? 1 : 4;
}

class CpuMachine {
 public:
  CpuMachine(ziya::Context<Cpu>& ctx, DType dtype)
      : ctx_(ctx), factor_(rate_factor(dtype)), memory_(ctx, ceiling_bytes()) {}

  double bandwidth() { return memory_.pass(ctx_); }
  double arithmetic() { return factor_ * ceilings::multiply_add_rate(ctx_, 3); }
  static std::int32_t best(ziya::View<const float> row) {
    const float* begin = row.data();
    return static_cast<std::int32_t>(std::max_element(begin, begin + row.elements()) - begin);
  }
  static void wait() {}

 private:
  static std::int64_t ceiling_bytes() {
    const std::int64_t free = available_memory().value_or(std::int64_t{8} << 30);
    return std::clamp<std::int64_t>(free / 4, std::int64_t{1} << 26, std::int64_t{1} << 30);
  }

  ziya::Context<Cpu>& ctx_;
  double factor_;
  ceilings::ReadBandwidth memory_;
};

ziya::CpuModel model_for(const BenchOptions& options) {
  if (options.random_weights.empty()) {
    const auto folder = ziya::resolve_model_path(ziya::path_from_utf8(options.model.model));
    return load_model(options.model, folder, std::max(options.prompt, options.generate));
  }
  const RandomWeights random = random_weights(options);
  if (random.dtype == DType::f8_e4m3) refuse_float8();
  const std::int64_t bytes = ziya::bytes_of(random.dtype, random.shape.parameters() / 256 * 256);
  const auto free = available_memory();
  if (free && bytes > *free) {
    note("warning: the weights take " + bytes_text(bytes) + " of memory, but " + bytes_text(*free) +
         " are free");
  }
  return random_model::make(random.shape, random.dtype);
}

struct Spread {
  double mean = 0, deviation = 0;
};
Spread spread(const std::vector<double>& values) {
  Spread result;
  for (const double value : values) result.mean += value / static_cast<double>(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  if (values.size() > 1) {
    result.deviation = std::sqrt(squares / static_cast<double>(values.size() - 1));
  }
  return result;
}

std::string number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

void print_json(const BenchReport& report, const BenchOptions& options) {
  const std::string model =
      options.random_weights.empty() ? options.model.model : "random:" + options.random_weights;
  std::string text = "[";
  for (const BenchTest& test : report.tests) {
    const Spread rate = spread(test.rates);
    text += (text.size() == 1 ? "\n  {" : ",\n  {");
    text += "\"test\": " + json_text(test.name) + ", \"model\": " + json_text(model) +
            ", \"type\": " + json_text(std::string(ziya::name(report.dtype))) +
            ", \"cache_type\": " + json_text(std::string(ziya::name(report.cache_dtype))) +
            ", \"threads\": " + std::to_string(report.threads) +
            ", \"isa\": " + json_text(report.isa) +
            ", \"batch\": " + std::to_string(test.name.starts_with("tg") ? options.batch : 1) +
            ", \"repetitions\": " + std::to_string(options.repetitions) +
            ", \"avg_ts\": " + number(rate.mean, "%.6g") +
            ", \"stddev_ts\": " + number(rate.deviation, "%.6g") +
            ", \"weight_bytes_per_token\": " + number(test.bytes_per_token, "%.12g") +
            ", \"read_bandwidth_share\": " + number(spread(test.bandwidth_shares).mean, "%.6g") +
            ", \"arithmetic_share\": " + number(spread(test.arithmetic_shares).mean, "%.6g") +
            ", \"read_bandwidth\": " + number(report.bandwidth, "%.6g") +
            ", \"arithmetic_rate\": " + number(report.arithmetic_rate, "%.6g") + "}";
  }
  print(text + "\n]\n");
}

void print_table(const BenchReport& report) {
  char line[160];
  print("test        tokens/s             GB/s   of bandwidth   of arithmetic\n");
  for (const BenchTest& test : report.tests) {
    const Spread rate = spread(test.rates);
    std::snprintf(line, sizeof line, "%-8s %9.2f ± %-8.2f %7.2f %11.1f %% %13.1f %%\n",
                  test.name.c_str(), rate.mean, rate.deviation,
                  rate.mean * test.bytes_per_token * 1e-9, 100 * spread(test.bandwidth_shares).mean,
                  100 * spread(test.arithmetic_shares).mean);
    print(line);
  }
  print("measured beside it: " + report.machine + "\n");
}

}  // namespace

RandomWeights random_weights(const BenchOptions& options) {
  const auto dtype = weight_type(options.type);
  if (!dtype || (!ziya::is_plain_float(*dtype) && !ziya::is_quantised(*dtype) &&
                 *dtype != DType::i8 && *dtype != DType::f8_e4m3)) {
    throw UsageError("ZIYA-701", "--type " + options.type +
                                     ": expected f32, f16, bf16, int8, fp8 or a quantised type");
  }
  const RandomWeights result{random_model::shape_named(options.random_weights), *dtype};
  note("random weights: " + options.random_weights + ", " +
       bytes_text(ziya::bytes_of(*dtype, result.shape.parameters() / 256 * 256)));
  return result;
}

BenchReport bench_on_cpu(const BenchOptions& options) {
  ziya::Context<Cpu> ctx(cpu_options(options.model));
  const ziya::CpuModel model = model_for(options);
  const DType dtype = work_of(model).dtype;
  CpuMachine machine(ctx, dtype);
  const DType cache_dtype =
      ziya::dtype_from_name(options.model.cache_dtype).value_or(ziya::DType::f32);
  const std::int64_t tokens =
      std::max(options.prompt, options.batch * (options.depth + options.generate));
  note("keys and values: " + bytes_text(tokens * model.shape().cache_bytes_per_token(cache_dtype)) +
       " in " + std::string(name(cache_dtype)));
  BenchReport report = Bench(ctx, model, options, cache_dtype, machine).run();
  report.threads = ctx.threads();
  report.isa = std::string(ziya::name(ctx.isa()));
  const double factor = rate_factor(dtype);
  char line[160];
  std::snprintf(line, sizeof line,
                "reading %.1f GB/s, 32-bit arithmetic %.2f TFLOP/s (× %.0f for %s); %d threads, %s",
                report.bandwidth * 1e-9, report.arithmetic_rate / factor * 1e-12, factor,
                std::string(ziya::name(dtype)).c_str(), report.threads, report.isa.c_str());
  report.machine = line;
  return report;
}

int run(const BenchOptions& options) {
  if (options.prompt == 0 && options.generate == 0) {
    throw UsageError("ZIYA-701", "bench: -p 0 -n 0 leaves nothing to measure");
  }
  if (options.random_weights.empty() && options.model.model.empty()) {
    throw UsageError("ZIYA-701", "bench: give a model, or --random-weights with a size");
  }
  const BenchReport report =
      wants_gpu(options.model) ? bench_on_gpu(options) : bench_on_cpu(options);
  if (options.json) {
    print_json(report, options);
  } else {
    print_table(report);
  }
  return 0;
}

}  // namespace cli
