// SPDX-License-Identifier: Apache-2.0
// What `ziya bench` measures, the same on every device.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "commands.hpp"
#include "random_model.hpp"
#include "terminal.hpp"
#include "ziya/ziya.hpp"

namespace cli {

/// One test: rates of its repetitions, each with the ceilings measured right before and after.
struct BenchTest {
  std::string name;
  std::vector<double> rates{}, bandwidth_shares{}, arithmetic_shares{};
  double bytes_per_token = 0;
};

struct BenchReport {
  std::vector<BenchTest> tests{};
  ziya::DType dtype = ziya::DType::f32;        ///< of most weights
  ziya::DType cache_dtype = ziya::DType::f32;  ///< of keys and values
  int threads = 1;                             ///< of the host that compute
  std::string isa{};                           ///< instruction set, or kind of GPU
  double bandwidth = 0, arithmetic_rate = 0;   ///< bytes and operations per second, medians
  std::string machine{};                       ///< the measured ceilings in words
};

BenchReport bench_on_cpu(const BenchOptions& options);
/// @throws BackendError where there is no GPU or this program was built without CUDA
BenchReport bench_on_gpu(const BenchOptions& options);

/// The shape of `--random-weights`, the type of `--type`, and a note of what they take.
/// @throws UsageError for a type that no matrix is stored in
struct RandomWeights {
  ziya::LlamaShape shape;
  ziya::DType dtype;
};
RandomWeights random_weights(const BenchOptions& options);

/// Bytes that one step reads of the weights, and what computes with most of them.
struct BenchWork {
  std::int64_t bytes = 0;
  ziya::DType dtype = ziya::DType::f32;
};

template <class Model>
BenchWork work_of(const Model& model) {
  std::array<std::int64_t, ziya::dtype_count> by_type{};
  BenchWork work;
  model.weights().visit([&](const std::string& name, const auto& weight) {
    if (name == ziya::llama_names::embedding && !model.shape().tied_head) return;
    work.bytes += weight.bytes();
    by_type[static_cast<std::size_t>(weight.dtype)] += weight.bytes();
  });
  work.dtype =
      static_cast<ziya::DType>(std::max_element(by_type.begin(), by_type.end()) - by_type.begin());
  return work;
}

/// @tparam Machine gives `bandwidth()` and `arithmetic()`, measured when they are called, `best(row
/// of logits)`, and `wait()` for enqueued work
template <class Model, class Machine>
class Bench {
 public:
  using Device = typename Model::Device;
  using T = typename Model::T;

  Bench(ziya::Context<Device>& ctx, const Model& model, const BenchOptions& options,
        ziya::DType cache_dtype, Machine& machine)
      : ctx_(ctx),
        model_(model),
        options_(options),
        bytes_(work_of(model).bytes),
        cache_dtype_(cache_dtype),
        machine_(machine) {}

  /// @returns tests and medians of the ceilings
  BenchReport run() {
    BenchReport report;
    if (options_.prompt > 0) report.tests.push_back(prompt());
    if (options_.generate > 0) report.tests.push_back(generation());
    report.dtype = work_of(model_).dtype;
    report.cache_dtype = cache_dtype_;
    report.bandwidth = median(bandwidths_);
    report.arithmetic_rate = median(rates_);
    return report;
  }

 private:
  static double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }

  /// The prompt in one pass; only its last token meets the head.
  BenchTest prompt() {
    const std::int64_t tokens = options_.prompt;
    BenchTest test{"pp" + std::to_string(tokens)};
    test.bytes_per_token = static_cast<double>(bytes_) / static_cast<double>(tokens);
    const double operations =
        random_model::prefill_operations(model_.shape(), tokens) / static_cast<double>(tokens);
    ziya::KvCache<Device> cache = new_cache(1, tokens);
    repeat(test, static_cast<double>(tokens), operations, [&] {
      cache.release(0);
      fill(cache, 0, tokens);
    });
    return test;
  }

  /// Tokens [begin, end) of the first slot in one pass.
  void fill(ziya::KvCache<Device>& cache, std::int64_t begin, std::int64_t end) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(end - begin));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = id_at(i);
    const std::vector<std::int32_t> slots(ids.size(), 0);
    const auto last = static_cast<std::int32_t>(end - begin - 1);
    step(cache, ids, slots, std::span(&last, 1), begin);
  }

  /// `batch` sequences behind `depth` tokens, each token the likeliest after the last.
  BenchTest generation() {
    const std::int64_t batch = options_.batch, tokens = options_.generate, depth = options_.depth;
    BenchTest test{"tg" + std::to_string(tokens)};
    if (depth > 0) test.name += " @ d" + std::to_string(depth);
    test.bytes_per_token = static_cast<double>(bytes_) / static_cast<double>(batch);
    const ziya::LlamaShape& shape = model_.shape();
    const double attention = static_cast<double>(shape.layers * 2 * shape.query_heads *
                                                 shape.head_dim * (2 * depth + tokens + 1)) /
                             2;
    const double operations =
        2 * (static_cast<double>(shape.parameters_read_per_token()) + attention);
    ziya::KvCache<Device> cache = new_cache(static_cast<int>(batch), depth + tokens);
    std::vector<std::int32_t> slots(static_cast<std::size_t>(batch)), all(slots.size());
    for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = all[i] = static_cast<std::int32_t>(i);
    constexpr std::int64_t chunk = 512;  // as generating reads a prompt
    for (std::int64_t i = 0; i < depth; i += chunk) fill(cache, i, std::min(depth, i + chunk));
    for (std::size_t i = 1; i < slots.size(); ++i) cache.share(0, slots[i], depth);
    repeat(test, static_cast<double>(batch * tokens), operations, [&] {
      for (const std::int32_t slot : slots) cache.truncate(slot, depth);
      std::vector<std::int32_t> ids(slots.size());
      for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = id_at(i);
      for (std::int64_t t = 0; t < tokens; ++t) {
        step(cache, ids, slots, all, depth + t);
        for (std::size_t i = 0; i < ids.size(); ++i) {
          ids[i] = machine_.best(logits_.view().row_range(static_cast<std::int64_t>(i), 1));
        }
      }
    });
    return test;
  }

  [[nodiscard]] std::int32_t id_at(std::size_t i) const {
    const auto limit =
        static_cast<std::size_t>(std::min<std::int64_t>(256, model_.shape().vocabulary));
    return static_cast<std::int32_t>((i * 7919 + 3) % limit);
  }
  [[nodiscard]] ziya::KvCache<Device> new_cache(int slots, std::int64_t tokens) const {
    return {model_.shape().cache_shape(),
            {.dtype = cache_dtype_, .slots = slots, .max_tokens = tokens}};
  }

  /// The first run wakes threads, touches memory and chooses algorithms, and does not count.
  template <class Run>
  void repeat(BenchTest& test, double tokens, double operations, Run&& run) {
    using Clock = std::chrono::steady_clock;
    run();
    machine_.wait();
    for (int i = 0; i < options_.repetitions; ++i) {
      const double before = machine_.bandwidth();
      const double arithmetic = machine_.arithmetic();
      const auto begin = Clock::now();
      run();
      machine_.wait();
      const double rate = tokens / std::chrono::duration<double>(Clock::now() - begin).count();
      const double bandwidth = (before + machine_.bandwidth()) / 2;
      test.rates.push_back(rate);
      test.bandwidth_shares.push_back(rate * test.bytes_per_token / bandwidth);
      test.arithmetic_shares.push_back(rate * operations / arithmetic);
      bandwidths_.push_back(bandwidth);
      rates_.push_back(arithmetic);
    }
  }

  void step(ziya::KvCache<Device>& cache, const std::vector<std::int32_t>& ids,
            const std::vector<std::int32_t>& slots, std::span<const std::int32_t> outputs,
            std::int64_t first) {
    positions_.resize(ids.size());
    const bool one_sequence = slots.size() > 1 && slots.back() == 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      positions_[i] =
          static_cast<std::int32_t>(first) + (one_sequence ? static_cast<std::int32_t>(i) : 0);
    }
    ziya::Batch<T, Device> batch;
    batch.ids = ids;
    batch.positions = positions_;
    batch.slots = slots;
    batch.outputs = outputs;
    const auto rows = static_cast<std::int64_t>(outputs.size());
    if (hidden_.empty() || hidden_.view().rows() != rows) {
      hidden_ = ziya::Tensor<T, Device>(ziya::Shape{rows, model_.shape().hidden});
      logits_ = ziya::Tensor<float, Device>(ziya::Shape{rows, model_.shape().vocabulary});
    }
    model_.forward(ctx_, hidden_.view(), batch, cache);
    model_.logits(ctx_, logits_.view(), ziya::View<const T, Device>(hidden_.view()));
  }

  ziya::Context<Device>& ctx_;
  const Model& model_;
  const BenchOptions& options_;
  std::int64_t bytes_;
  ziya::DType cache_dtype_;
  Machine& machine_;
  std::vector<double> bandwidths_{}, rates_{};
  ziya::Tensor<T, Device> hidden_;
  ziya::Tensor<float, Device> logits_;
  std::vector<std::int32_t> positions_{};
};

}  // namespace cli
