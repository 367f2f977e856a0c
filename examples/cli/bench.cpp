// SPDX-License-Identifier: Apache-2.0
// `ziya bench`: tokens per second beside what the machine can do in the same minute.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ceilings.hpp"
#include "commands.hpp"
#include "json_text.hpp"
#include "memory.hpp"
#include "model.hpp"
#include "random_model.hpp"
#include "terminal.hpp"
#include "ziya/io/model_path.hpp"

namespace cli {
namespace {

using ziya::Cpu;
using ziya::DType;

/// Bytes that one step reads of the weights, and what computes with most of them.
struct Work {
  std::int64_t bytes = 0;
  DType dtype = DType::f32;
};

Work work_of(const ziya::CpuModel& model) {
  std::array<std::int64_t, ziya::dtype_count> by_type{};
  Work work;
  model.weights().visit([&](const std::string& name, const ziya::Weight<Cpu>& weight) {
    if (name == ziya::llama_names::embedding && !model.shape().tied_head) return;
    work.bytes += weight.bytes();
    by_type[static_cast<std::size_t>(weight.dtype)] += weight.bytes();
  });
  work.dtype =
      static_cast<DType>(std::max_element(by_type.begin(), by_type.end()) - by_type.begin());
  return work;
}

/// How many times the 32-bit rate the machine computes with a stored type, at best: two bf16
/// products or four of 8 bits in the place of one.
double rate_factor(DType dtype) {
  if (dtype == DType::bf16) return 2;
  return ziya::is_plain_float(dtype) ? 1 : 4;
}

/// One test: rates of its repetitions, each with the ceilings measured right before and after.
struct Test {
  std::string name;
  std::vector<double> rates{}, bandwidth_shares{}, arithmetic_shares{};
  double bytes_per_token = 0;
};

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

class Bench {
 public:
  Bench(ziya::Context<Cpu>& ctx, const ziya::CpuModel& model, const BenchOptions& options)
      : ctx_(ctx),
        model_(model),
        options_(options),
        work_(work_of(model)),
        memory_(ctx, ceiling_bytes()),
        cache_dtype_(ziya::dtype_from_name(options.model.cache_dtype).value_or(ziya::DType::f32)) {}

  [[nodiscard]] const Work& work() const { return work_; }
  [[nodiscard]] double bandwidth() const { return ceilings::median(bandwidths_); }
  [[nodiscard]] double rate() const { return ceilings::median(rates_); }

  /// All prompts of a test in one batch; only the last token meets the head.
  Test prompt() {
    const std::int64_t tokens = options_.prompt;
    Test test{"pp" + std::to_string(tokens)};
    test.bytes_per_token = static_cast<double>(work_.bytes) / static_cast<double>(tokens);
    const double operations =
        random_model::prefill_operations(model_.shape(), tokens) / static_cast<double>(tokens);
    ziya::KvCache<Cpu> cache = new_cache(1, tokens);
    repeat(test, static_cast<double>(tokens), operations, [&] {
      cache.release(0);
      std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
      for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = id_at(i);
      const std::vector<std::int32_t> slots(ids.size(), 0);
      const auto last = static_cast<std::int32_t>(tokens - 1);
      step(cache, ids, slots, std::span(&last, 1), 0);
    });
    return test;
  }

  /// `batch` sequences from nothing, each token the likeliest after the last.
  Test generation() {
    const std::int64_t batch = options_.batch, tokens = options_.generate;
    Test test{"tg" + std::to_string(tokens)};
    test.bytes_per_token = static_cast<double>(work_.bytes) / static_cast<double>(batch);
    const ziya::LlamaShape& shape = model_.shape();
    const double attention =
        static_cast<double>(shape.layers * 2 * shape.query_heads * shape.head_dim * (tokens + 1)) /
        2;
    const double operations =
        2 * (static_cast<double>(shape.parameters_read_per_token()) + attention);
    ziya::KvCache<Cpu> cache = new_cache(static_cast<int>(batch), tokens);
    std::vector<std::int32_t> slots(static_cast<std::size_t>(batch)), all(slots.size());
    for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = all[i] = static_cast<std::int32_t>(i);
    repeat(test, static_cast<double>(batch * tokens), operations, [&] {
      for (const std::int32_t slot : slots) cache.release(slot);
      std::vector<std::int32_t> ids(slots.size());
      for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = id_at(i);
      for (std::int64_t t = 0; t < tokens; ++t) {
        step(cache, ids, slots, all, t);
        for (std::size_t i = 0; i < ids.size(); ++i) {
          const float* row = logits_.view().row(static_cast<std::int64_t>(i));
          ids[i] = static_cast<std::int32_t>(std::max_element(row, row + shape.vocabulary) - row);
        }
      }
    });
    return test;
  }

 private:
  static std::int64_t ceiling_bytes() {
    const std::int64_t free = available_memory().value_or(std::int64_t{8} << 30);
    return std::clamp<std::int64_t>(free / 4, std::int64_t{1} << 26, std::int64_t{1} << 30);
  }
  [[nodiscard]] std::int32_t id_at(std::size_t i) const {
    const auto limit =
        static_cast<std::size_t>(std::min<std::int64_t>(256, model_.shape().vocabulary));
    return static_cast<std::int32_t>((i * 7919 + 3) % limit);
  }
  [[nodiscard]] ziya::KvCache<Cpu> new_cache(int slots, std::int64_t tokens) const {
    return {model_.shape().cache_shape(),
            {.dtype = cache_dtype_, .slots = slots, .max_tokens = tokens}};
  }

  /// The first run wakes threads and touches memory, and does not count.
  template <class Run>
  void repeat(Test& test, double tokens, double operations, Run&& run) {
    const double factor = rate_factor(work_.dtype);
    run();
    for (int i = 0; i < options_.repetitions; ++i) {
      const double before = memory_.pass(ctx_);
      const double arithmetic = ceilings::multiply_add_rate(ctx_, 3);
      const auto begin = std::chrono::steady_clock::now();
      run();
      const double rate = tokens / ceilings::seconds_since(begin);
      const double bandwidth = (before + memory_.pass(ctx_)) / 2;
      test.rates.push_back(rate);
      test.bandwidth_shares.push_back(rate * test.bytes_per_token / bandwidth);
      test.arithmetic_shares.push_back(rate * operations / (factor * arithmetic));
      bandwidths_.push_back(bandwidth);
      rates_.push_back(arithmetic);
    }
  }

  void step(ziya::KvCache<Cpu>& cache, const std::vector<std::int32_t>& ids,
            const std::vector<std::int32_t>& slots, std::span<const std::int32_t> outputs,
            std::int64_t first) {
    positions_.resize(ids.size());
    const bool one_sequence = slots.size() > 1 && slots.back() == 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      positions_[i] =
          static_cast<std::int32_t>(first) + (one_sequence ? static_cast<std::int32_t>(i) : 0);
    }
    ziya::Batch<float, Cpu> batch;
    batch.ids = ids;
    batch.positions = positions_;
    batch.slots = slots;
    batch.outputs = outputs;
    const auto rows = static_cast<std::int64_t>(outputs.size());
    if (hidden_.empty() || hidden_.view().rows() != rows) {
      hidden_ = ziya::Tensor<float>(ziya::Shape{rows, model_.shape().hidden});
      logits_ = ziya::Tensor<float>(ziya::Shape{rows, model_.shape().vocabulary});
    }
    model_.forward(ctx_, hidden_.view(), batch, cache);
    model_.logits(ctx_, logits_.view(), ziya::View<const float>(hidden_.view()));
  }

  ziya::Context<Cpu>& ctx_;
  const ziya::CpuModel& model_;
  const BenchOptions& options_;
  Work work_;
  ceilings::ReadBandwidth memory_;
  DType cache_dtype_;
  std::vector<double> bandwidths_{}, rates_{};
  ziya::Tensor<float> hidden_, logits_;
  std::vector<std::int32_t> positions_{};
};

ziya::CpuModel model_for(const BenchOptions& options) {
  if (options.random_weights.empty()) {
    if (options.model.model.empty()) {
      throw UsageError("ZIYA-701", "bench: give a model, or --random-weights with a size");
    }
    const auto folder = ziya::resolve_model_path(ziya::path_from_utf8(options.model.model));
    return load_model(options.model, folder, std::max(options.prompt, options.generate));
  }
  const auto dtype = options.type == "int8" ? DType::i8 : ziya::dtype_from_name(options.type);
  if (!dtype ||
      (!ziya::is_plain_float(*dtype) && !ziya::is_quantised(*dtype) && *dtype != DType::i8)) {
    throw UsageError("ZIYA-701", "--type " + options.type +
                                     ": expected f32, f16, bf16, int8 or a quantised type");
  }
  const ziya::LlamaShape shape = random_model::shape_named(options.random_weights);
  const std::int64_t bytes = ziya::bytes_of(*dtype, shape.parameters() / 256 * 256);
  note("random weights: " + options.random_weights + ", " + bytes_text(bytes));
  const auto free = available_memory();
  if (free && bytes > *free) {
    note("warning: the weights take " + bytes_text(bytes) + " of memory, but " + bytes_text(*free) +
         " are free");
  }
  return random_model::make(shape, *dtype);
}

std::string number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

void print_json(const Bench& bench, const BenchOptions& options, const ziya::Context<Cpu>& ctx,
                const std::vector<Test>& tests) {
  const std::string model =
      options.random_weights.empty() ? options.model.model : "random:" + options.random_weights;
  std::string text = "[";
  for (const Test& test : tests) {
    const Spread rate = spread(test.rates);
    text += (text.size() == 1 ? "\n  {" : ",\n  {");
    text +=
        "\"test\": " + json_text(test.name) + ", \"model\": " + json_text(model) +
        ", \"type\": " + json_text(std::string(ziya::name(bench.work().dtype))) +
        ", \"threads\": " + std::to_string(ctx.threads()) +
        ", \"isa\": " + json_text(std::string(ziya::name(ctx.isa()))) +
        ", \"batch\": " + std::to_string(test.name.starts_with("tg") ? options.batch : 1) +
        ", \"repetitions\": " + std::to_string(options.repetitions) +
        ", \"avg_ts\": " + number(rate.mean, "%.6g") +
        ", \"stddev_ts\": " + number(rate.deviation, "%.6g") +
        ", \"weight_bytes_per_token\": " + number(test.bytes_per_token, "%.12g") +
        ", \"read_bandwidth_share\": " + number(spread(test.bandwidth_shares).mean, "%.6g") +
        ", \"arithmetic_share\": " + number(spread(test.arithmetic_shares).mean, "%.6g") +
        ", \"read_bandwidth\": " + number(bench.bandwidth(), "%.6g") +
        ", \"arithmetic_rate\": " + number(rate_factor(bench.work().dtype) * bench.rate(), "%.6g") +
        "}";
  }
  print(text + "\n]\n");
}

void print_table(const Bench& bench, const ziya::Context<Cpu>& ctx,
                 const std::vector<Test>& tests) {
  char line[160];
  print("test        tokens/s             GB/s   of bandwidth   of arithmetic\n");
  for (const Test& test : tests) {
    const Spread rate = spread(test.rates);
    std::snprintf(line, sizeof line, "%-8s %9.2f ± %-8.2f %7.2f %11.1f %% %13.1f %%\n",
                  test.name.c_str(), rate.mean, rate.deviation,
                  rate.mean * test.bytes_per_token * 1e-9, 100 * spread(test.bandwidth_shares).mean,
                  100 * spread(test.arithmetic_shares).mean);
    print(line);
  }
  const double factor = rate_factor(bench.work().dtype);
  std::snprintf(line, sizeof line,
                "measured beside it: reading %.1f GB/s, 32-bit arithmetic %.2f TFLOP/s (× %.0f for "
                "%s); %d threads, %s\n",
                bench.bandwidth() * 1e-9, bench.rate() * 1e-12, factor,
                std::string(ziya::name(bench.work().dtype)).c_str(), ctx.threads(),
                std::string(ziya::name(ctx.isa())).c_str());
  print(line);
}

}  // namespace

int run(const BenchOptions& options) {
  if (options.prompt == 0 && options.generate == 0) {
    throw UsageError("ZIYA-701", "bench: -p 0 -n 0 leaves nothing to measure");
  }
  ziya::Context<Cpu> ctx(context_options(options.model));
  const ziya::CpuModel model = model_for(options);
  Bench bench(ctx, model, options);
  std::vector<Test> tests;
  if (options.prompt > 0) tests.push_back(bench.prompt());
  if (options.generate > 0) tests.push_back(bench.generation());
  if (options.json) {
    print_json(bench, options, ctx, tests);
  } else {
    print_table(bench, ctx, tests);
  }
  return 0;
}

}  // namespace cli
