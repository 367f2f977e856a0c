// SPDX-License-Identifier: Apache-2.0
// Speed of the 13B shape with random weights on one GPU, beside what that GPU can do at most.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "gpu_ceilings.hpp"
#include "gpu_random_model.hpp"
#include "random_model.hpp"
#include "ziya/generate/scheduler.hpp"
#include "ziya/model/decode_graph.hpp"
#include "ziya/model/llama.hpp"
#include "ziya/ops/add_bias.hpp"
#include "ziya/ops/cross_entropy.hpp"
#include "ziya/ops/draw_tokens.hpp"
#include "ziya/ops/rope_append_attention.hpp"

namespace {

using namespace ziya;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}
double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Ziya-LLaMA-13B.
LlamaShape shape_13b() {
  LlamaShape shape = random_model::shape_named("13b");
  shape.max_positions = 4096;
  return shape;
}

/// Bytes of the weights that a token reads.
template <class Config>
double weight_bytes(const LlamaModel<Config>& model) {
  std::int64_t bytes = 0;
  model.weights().visit([&](const std::string& name, const Weight<Cuda>& weight) {
    if (name != llama_names::embedding || model.shape().tied_head) bytes += weight.bytes();
  });
  return static_cast<double>(bytes);
}

/// Sequences of a model, prefilled and then continued with their best tokens.
template <class Config>
class Runner {
 public:
  using Model = LlamaModel<Config>;
  using T = typename Model::T;

  Runner(const Model& model, Context<Cuda>& ctx, int sequences, std::int64_t tokens,
         DType pages = dtype_of<T>)
      : model_(model),
        ctx_(ctx),
        cache_(model.shape().cache_shape(),
               {.dtype = pages, .slots = sequences, .max_tokens = tokens}),
        hidden_(Shape{sequences, model.shape().hidden}),
        logits_(Shape{sequences, model.shape().vocabulary}),
        next_(static_cast<std::size_t>(sequences), 5),
        best_(static_cast<std::size_t>(sequences), {.best = true}) {}

  void reset() {
    for (std::size_t slot = 0; slot < next_.size(); ++slot) {
      cache_.release(static_cast<std::int32_t>(slot));
    }
  }
  /// `count` tokens each of sequences `begin` … `end` in one pass; their last rows meet the head.
  void prefill(std::int32_t begin, std::int32_t end, std::int64_t count) {
    clear();
    std::vector<std::int32_t> outputs;
    for (std::int32_t slot = begin; slot < end; ++slot) {
      for (std::int64_t i = 0; i < count; ++i) {
        add(static_cast<std::int32_t>((i * 7919 + 3) % 30000), slot);
      }
      outputs.push_back(static_cast<std::int32_t>(ids_.size()) - 1);
    }
    run(outputs);
    ctx_.synchronize();
  }
  /// One token of every sequence; all ids of the next ones cross the bus.
  void decode() {
    clear();
    std::vector<std::int32_t> outputs;
    for (std::size_t slot = 0; slot < next_.size(); ++slot) {
      outputs.push_back(static_cast<std::int32_t>(slot));
      add(next_[slot], static_cast<std::int32_t>(slot));
    }
    run(outputs);
    ops::draw_tokens(ctx_, next_, View<const float, Cuda>(logits_.view()), best_, {});
    // Random weights of some types overflow 16-bit activations: no token is the best of NaN.
    for (std::int32_t& id : next_) id = std::max(id, 0);
  }

 private:
  void clear() {
    for (auto* column : {&ids_, &positions_, &slots_}) column->clear();
  }
  void add(std::int32_t id, std::int32_t slot) {
    std::int64_t position = cache_.length(slot);
    if (!slots_.empty() && slots_.back() == slot) position = positions_.back() + 1;
    ids_.push_back(id);
    positions_.push_back(static_cast<std::int32_t>(position));
    slots_.push_back(slot);
  }
  void run(std::span<const std::int32_t> outputs) {
    const auto count = static_cast<std::int64_t>(outputs.size());
    Batch<T, Cuda> batch;
    batch.ids = ids_;
    batch.positions = positions_;
    batch.slots = slots_;
    batch.outputs = outputs;
    model_.forward(ctx_, hidden_.view().row_range(0, count), batch, cache_);
    model_.logits(ctx_, logits_.view().row_range(0, count), hidden_.view().row_range(0, count));
  }

  const Model& model_;
  Context<Cuda>& ctx_;
  KvCache<Cuda> cache_;
  Tensor<T, Cuda> hidden_;
  Tensor<float, Cuda> logits_;
  std::vector<std::int32_t> ids_, positions_, slots_, next_;
  std::vector<TokenDraw> best_;
};

struct Ceilings {
  double bandwidth, rate;
};

enum class Asked { nothing, at_least, at_most };

/// A row of the table that gpu.sh prints last.
void result(const std::string& what, double value, const char* unit, Asked asked = Asked::nothing,
            double limit = 0) {
  std::string rest = "| | |";
  if (asked != Asked::nothing) {
    const bool least = asked == Asked::at_least;
    char text[64];
    std::snprintf(text, sizeof text, "| %s %g | %s |", least ? "≥" : "≤", limit,
                  (least ? value >= limit : value <= limit) ? "ok" : "missed");
    rest = text;
  }
  std::printf("| %s | %.1f %s %s\n", what.c_str(), value, unit, rest.c_str());
}

/// The stored type of a model's layers.
template <class Config>
DType stored_type(const LlamaModel<Config>& model) {
  return model.weights().layers[0].attention.q.weight.dtype;
}

/// Bytes of a token's keys and values in all layers.
double cache_bytes(const LlamaShape& shape, DType pages) {
  return static_cast<double>(shape.cache_bytes_per_token(pages));
}
/// What a row of the table says of pages that are not of the type of activations.
template <class Config>
std::string about(DType pages) {
  if (pages == dtype_of<typename Config::Compute>) return "";
  return ", pages in " + std::string(name(pages));
}

template <class Config>
void decode_alone(const LlamaModel<Config>& model, Context<Cuda>& ctx, const Ceilings& most,
                  std::int64_t context, DType pages = dtype_of<typename Config::Compute>) {
  const DecodeGraph<LlamaModel<Config>> graph(ctx);
  Runner<Config> runner(model, ctx, 1, context + 128, pages);
  runner.prefill(0, 1, context);
  for (int i = 0; i < 5; ++i) runner.decode();
  std::vector<double> times;
  for (int i = 0; i < 48; ++i) {
    const auto begin = Clock::now();
    runner.decode();
    times.push_back(seconds_since(begin));
  }
  const double cache = cache_bytes(model.shape(), pages) * static_cast<double>(context + 29);
  const double bytes = weight_bytes(model) + cache;
  const double time = median(times);
  std::printf(
      "decode, batch 1, context %5lld%s: %6.2f ms, %6.1f tokens/s, %5.1f %% of the bandwidth\n",
      static_cast<long long>(context), about<Config>(pages).c_str(), time * 1e3, 1 / time,
      100 * bytes / time / most.bandwidth);
  const DType type = stored_type(model);
  double limit = type == DType::f16                           ? 91
                 : type == DType::q8_0                        ? 88
                 : type == DType::q4_0 || type == DType::q4_k ? 80
                                                              : 0;
  if (context > 128 && limit > 0) limit -= 5;
  result(std::string(name(type)) + ", decode, context " + std::to_string(context) +
             about<Config>(pages),
         100 * bytes / time / most.bandwidth, "% of the bandwidth",
         limit > 0 ? Asked::at_least : Asked::nothing, limit);
}

/// One token each of a few short sequences.
template <class Config>
void decode_together(const LlamaModel<Config>& model, Context<Cuda>& ctx, const Ceilings& most,
                     int sequences) {
  const DecodeGraph<LlamaModel<Config>> graph(ctx);
  Runner<Config> runner(model, ctx, sequences, 128);
  for (int slot = 0; slot < sequences; ++slot) runner.prefill(slot, slot + 1, 16);
  for (int i = 0; i < 5; ++i) runner.decode();
  std::vector<double> times;
  for (int i = 0; i < 24; ++i) {
    const auto begin = Clock::now();
    runner.decode();
    times.push_back(seconds_since(begin));
  }
  const double time = median(times);
  std::printf(
      "decode, %2d short sequences: %6.2f ms, %6.0f tokens/s, weights at %5.1f %% of the "
      "bandwidth\n",
      sequences, time * 1e3, sequences / time, 100 * weight_bytes(model) / time / most.bandwidth);
}

/// One prompt after the other, and each after a rest: without one the card's power limits its
/// clock.
template <class Config>
void prefill(const LlamaModel<Config>& model, Context<Cuda>& ctx, const Ceilings& most,
             std::int64_t tokens) {
  Runner<Config> runner(model, ctx, 1, tokens);
  const double operations = random_model::prefill_operations(model.shape(), tokens);
  const bool bf16 = stored_type(model) == DType::bf16;
  for (const int rest : {0, 200}) {  // ms
    std::vector<double> times;
    for (int i = 0; i < 7; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(rest));
      runner.reset();
      const auto begin = Clock::now();
      runner.prefill(0, 1, tokens);
      if (i > 1) times.push_back(seconds_since(begin));
    }
    const double time = median(times);
    const std::string after = rest > 0 ? ", after a rest" : "";
    std::printf("prefill of %5lld tokens%s: %7.2f ms, %5.1f %% of the matrix rate\n",
                static_cast<long long>(tokens), after.c_str(), time * 1e3,
                100 * operations / time / most.rate);
    result(std::string(name(stored_type(model))) + ", prefill of " + std::to_string(tokens) + after,
           time * 1e3, "ms", bf16 ? Asked::at_most : Asked::nothing, tokens <= 512 ? 20 : 80);
  }
}

/// Sequences that begin and end together; their prompts are computed by up to 16 in one pass.
/// @returns seconds
template <class Config>
double batch(const LlamaModel<Config>& model, Context<Cuda>& ctx, const Ceilings& most,
             int sequences, DType pages = dtype_of<typename Config::Compute>) {
  constexpr std::int64_t in = 512, out = 128;
  constexpr int prompts = 16;
  const DecodeGraph<LlamaModel<Config>> graph(ctx);
  Runner<Config> runner(model, ctx, sequences, in + out, pages);
  std::vector<double> times;
  for (int pass = 0; pass < 4; ++pass) {
    runner.reset();
    const auto begin = Clock::now();
    for (int slot = 0; slot < sequences; slot += prompts) {
      runner.prefill(slot, std::min(slot + prompts, sequences), in);
    }
    for (int i = 0; i < out; ++i) runner.decode();
    if (pass > 0) times.push_back(seconds_since(begin));  // the first one chooses algorithms
  }
  const double time = median(times);
  const LlamaShape& shape = model.shape();
  const auto weights = static_cast<double>(shape.parameters_read_per_token());
  const double bytes = weight_bytes(model), per_token = cache_bytes(shape, pages);
  const double sums = 2.0 * static_cast<double>(shape.layers * shape.hidden);
  double roofline = random_model::prefill_operations(shape, in) * sequences / most.rate;
  for (std::int64_t i = 0; i < out; ++i) {
    const double past = static_cast<double>(in + i);
    roofline += std::max((bytes + per_token * past * sequences) / most.bandwidth,
                         2 * (weights + sums * past) * sequences / most.rate);
  }
  std::printf("batch %3d, 512 in, 128 out%s: %8.1f tokens/s, %5.1f %% of the roofline\n", sequences,
              about<Config>(pages).c_str(), static_cast<double>(sequences * out) / time,
              100 * roofline / time);
  result(std::string(name(stored_type(model))) + ", batch " + std::to_string(sequences) +
             about<Config>(pages),
         100 * roofline / time, "% of the roofline",
         sequences == 64 && stored_type(model) == DType::f16 ? Asked::at_least : Asked::nothing,
         50);
  return time;
}

Tokenizer tokenizer() { return Tokenizer::load(ZIYA_TINY "/base"); }

/// Twice as many requests as there is room for, which wait for it from the beginning, against two
/// batches that begin and end together.   @param batch seconds of one of those
template <class Config>
void continuous(const LlamaModel<Config>& model, Context<Cuda>& ctx, const Tokenizer& tokenizer,
                int slots, DType pages, double batch) {
  constexpr std::int64_t in = 512, out = 128;
  constexpr std::int64_t chunk = 2048;  // faster here than the default, 512
  const DecodeGraph<LlamaModel<Config>> graph(ctx);
  std::vector<double> times;
  for (int pass = 0; pass < 3; ++pass) {
    Scheduler<LlamaModel<Config>> scheduler(
        ctx, model, tokenizer,
        {.cache_dtype = pages, .slots = slots, .max_tokens = in + out, .chunk_tokens = chunk});
    std::int64_t answered = 0;
    for (int n = 0; n < 2 * slots; ++n) {
      Request request;
      for (std::int64_t i = 0; i < in; ++i) {
        request.prompt.push_back(static_cast<std::int32_t>((i * 7919 + n * 101 + 300) % 30000));
      }
      request.config.max_new_tokens = out;
      request.config.do_sample = false;
      request.config.eos_ids = {1};  // none that is likely
      request.on_end = [&](const Outcome& outcome) {
        answered += static_cast<std::int64_t>(outcome.result.generated_ids.size());
      };
      scheduler.submit(std::move(request));
    }
    const auto begin = Clock::now();
    scheduler.run();
    const double time =
        seconds_since(begin) * static_cast<double>(2 * slots * out) / static_cast<double>(answered);
    if (pass > 0) times.push_back(time);  // the first one chooses algorithms
  }
  const double rate = static_cast<double>(2 * slots * out) / median(times);
  std::printf("%d requests, %d at a time, pages in %s: %.1f tokens/s, %.1f %% of two batches\n",
              2 * slots, slots, std::string(name(pages)).c_str(), rate,
              100 * 2 * batch / median(times));
  result(std::string(name(stored_type(model))) + ", continuous batch " + std::to_string(slots),
         100 * 2 * batch / median(times), "% of static batches", Asked::at_least, 90);
}

template <class Config>
void batches(const LlamaModel<Config>& model, Context<Cuda>& ctx, const Ceilings& most,
             DType pages) {
  for (const int sequences : {8, 32, 64, 128}) {
    const double time = batch(model, ctx, most, sequences, pages);
    if (sequences == 64) continuous(model, ctx, tokenizer(), sequences, pages, time);
  }
}

/// Median time of one op, replayed from a graph of many so that launches do not count.
double time_of(Context<Cuda>& ctx, const std::function<void(int)>& op) {
  constexpr int times = 40;
  for (int i = 0; i < 3; ++i) op(i);
  cuda::Graph graph;
  graph.capture(ctx.stream(), [&] {
    for (int i = 0; i < times; ++i) op(i);
  });
  gpu::Timer timer(ctx.stream());
  std::vector<double> all;
  for (int i = 0; i < 7; ++i) {
    timer.begin();
    graph.launch(ctx.stream());
    all.push_back(timer.end() / times);
  }
  return median(all);
}

/// Kernels of one layer, each with the bytes that it has to move; layers rotate, so that weights
/// come from memory.
template <class Config>
void kernels(const LlamaModel<Config>& model, Context<Cuda>& ctx, const Ceilings& most,
             std::int64_t rows, std::int64_t context,
             DType pages = dtype_of<typename Config::Compute>) {
  using T = typename Config::Compute;
  const LlamaShape& s = model.shape();
  const auto layer = [&](int i) -> const LlamaLayer<Cuda>& {
    return model.weights().layers[static_cast<std::size_t>(i % s.layers)];
  };
  Tensor<T, Cuda> x(Shape{rows, s.hidden}), y(Shape{rows, s.hidden}), z(Shape{rows, s.hidden}),
      wide(Shape{rows, s.intermediate}), wide2(Shape{rows, s.intermediate}),
      q(Shape{rows, s.hidden});
  const auto noise = gpu_random_model::random_bytes(
      dtype_of<T>, rows * s.intermediate * static_cast<std::int64_t>(sizeof(T)));
  for (auto* tensor : {&x, &y, &z, &q, &wide, &wide2}) {
    copy(Cuda{}, tensor->data(), Cuda{}, noise->data(),
         static_cast<std::size_t>(tensor->elements()) * sizeof(T));
  }
  KvCache<Cuda> cache(s.cache_shape(), {.dtype = pages, .max_tokens = context + rows});
  std::vector<std::int32_t> slots(static_cast<std::size_t>(context + rows), 0), positions;
  (void)cache.prepare(slots);
  slots.resize(static_cast<std::size_t>(rows));
  std::vector<std::int64_t> places, visible;
  for (std::int64_t i = 0; i < rows; ++i) {
    positions.push_back(static_cast<std::int32_t>(context + i));
    places.push_back(context + i);
    visible.push_back(context + i + 1);
  }
  ctx.upload({positions, positions, slots, places, visible, cache.layer(0).block_table,
              cache.layer(0).table_stride});
  const RopeTable<Cuda> table(inverse_frequencies(s.head_dim, 10000.0, {}, 0));
  const auto heads = [&](Tensor<T, Cuda>& tensor) {
    return tensor.view().reshape(Shape{rows, s.query_heads, s.head_dim});
  };
  std::printf("kernels, %lld rows, context %lld%s\n", static_cast<long long>(rows),
              static_cast<long long>(context), about<Config>(pages).c_str());
  const auto say = [&](const char* name, double bytes, double operations, double time) {
    std::printf(
        "  %-28s %9.2f us  %8.2f MB  %6.0f GB/s  %5.1f %% of the bandwidth  %5.1f %% of the "
        "rate\n",
        name, time * 1e6, bytes / 1e6, bytes / time / 1e9, 100 * bytes / time / most.bandwidth,
        100 * operations / time / most.rate);
  };
  const auto row_bytes = static_cast<double>(rows * s.hidden) * sizeof(T);
  const auto wide_bytes = static_cast<double>(rows * s.intermediate) * sizeof(T);
  const auto square = static_cast<double>(s.hidden * s.hidden);
  const auto tall = static_cast<double>(s.hidden * s.intermediate);
  const auto r = static_cast<double>(rows);
  const DTypeInfo stored = info(layer(0).attention.q.weight.dtype);
  const double weight =
      static_cast<double>(stored.block_bytes) / static_cast<double>(stored.block_elements);
  say("embedding", 2 * row_bytes, 0, time_of(ctx, [&](int) {
        ops::embedding(ctx, y.view(), model.weights().embedding, positions);
      }));
  say("norm", 2 * row_bytes, 0, time_of(ctx, [&](int i) {
        ops::rms_norm(ctx, y.view(), x.view(), layer(i).input_norm.weight.view(), 1e-6f);
      }));
  say("rotation of q", 2 * row_bytes, 0,
      time_of(ctx, [&](int) { ops::rope(ctx, heads(q), positions, table); }));
  const double cached = cache_bytes(s, pages) / static_cast<double>(s.layers);
  say("cache alone", 2 * row_bytes + cached * r, 0, time_of(ctx, [&](int i) {
        ops::cache_append(ctx, cache.layer(i % s.layers), heads(z), heads(x), {slots, places});
      }));
  Tensor<float, Cuda> bias(Shape{s.hidden});
  copy(Cuda{}, bias.data(), Cuda{}, noise->data(), static_cast<std::size_t>(s.hidden) * 4);
  say("bias", 2 * row_bytes, 0,
      time_of(ctx, [&](int) { ops::add_bias(ctx, y.view(), bias.view()); }));
  const double seen = r * static_cast<double>(context) + r * (r + 1) / 2;
  const double read = cached * static_cast<double>(context + rows);
  say("attention", read + 2 * row_bytes, 4 * seen * static_cast<double>(s.hidden),
      time_of(ctx, [&](int i) {
        ops::attention(ctx, heads(y), heads(q), cache.layer(i % s.layers), {slots, visible});
      }));
  say("rotation, cache, attention", read + 5 * row_bytes, 4 * seen * static_cast<double>(s.hidden),
      time_of(ctx, [&](int i) {
        ops::rope_append_attention<Cuda, T>(
            ctx, heads(y), heads(q), heads(z), heads(x), cache.layer(i % s.layers),
            {positions, slots, places, visible}, table, RopePairing::halves);
      }));
  say("q, k, v", 3 * weight * square + 4 * row_bytes, 6 * square * r, time_of(ctx, [&](int i) {
        const auto& a = layer(i).attention;
        const std::array<View<T, Cuda>, 3> ys{y.view(), z.view(), q.view()};
        const std::array<const Weight<Cuda>*, 3> ws{&a.q.weight, &a.k.weight, &a.v.weight};
        ops::matmul_many<Cuda, T>(ctx, ys, x.view(), ws);
      }));
  say("o", weight * square + 2 * row_bytes, 2 * square * r, time_of(ctx, [&](int i) {
        ops::matmul(ctx, y.view(), x.view(), layer(i).attention.o.weight);
      }));
  say("gate, up, silu", 2 * weight * tall + row_bytes + wide_bytes, 4 * tall * r,
      time_of(ctx, [&](int i) {
        ops::matmul_silu_mul(ctx, wide.view(), x.view(), layer(i).mlp.gate.weight,
                             layer(i).mlp.up.weight);
      }));
  say("silu alone", 3 * wide_bytes, 0,
      time_of(ctx, [&](int) { ops::silu_mul(ctx, wide.view(), wide.view(), wide2.view()); }));
  say("down", weight * tall + row_bytes + wide_bytes, 2 * tall * r, time_of(ctx, [&](int i) {
        ops::matmul(ctx, y.view(), wide2.view(), layer(i).mlp.down.weight);
      }));
  Tensor<float, Cuda> scores(Shape{rows, s.vocabulary}), loss(Shape{rows});
  const double head = static_cast<double>(s.vocabulary * s.hidden);
  const double score_bytes = r * static_cast<double>(s.vocabulary) * sizeof(float);
  const DTypeInfo of_head = info(model.weights().head.weight.dtype);
  say("head",
      head * static_cast<double>(of_head.block_bytes) /
              static_cast<double>(of_head.block_elements) +
          row_bytes + score_bytes,
      2 * head * r, time_of(ctx, [&](int) { model.logits(ctx, scores.view(), x.view()); }));
  const std::vector<std::int32_t> labels(static_cast<std::size_t>(rows), 5);
  say("cross entropy", score_bytes, 0, time_of(ctx, [&](int) {
        ops::cross_entropy(ctx, loss.view(), View<const float, Cuda>(scores.view()), labels);
      }));
  if (is_quantised(stored_type(model))) {
    say("blocks as numbers", weight * square + square * sizeof(T), 0, time_of(ctx, [&](int i) {
          Workspace<Cuda>::Scope scope(ctx.workspace());
          backend::dequantise<T>(ctx, ctx.workspace().template take<T>({s.hidden, s.hidden}),
                                 layer(i).attention.o.weight);
        }));
  }
  // What brings the ids of all rows to the host, on its clock.
  const auto on_host = [&](const std::function<void()>& op) {
    std::vector<double> all;
    for (int i = 0; i < 21; ++i) {
      const auto begin = Clock::now();
      op();
      all.push_back(seconds_since(begin));
    }
    return median(all);
  };
  std::vector<std::int32_t> drawn(static_cast<std::size_t>(rows));
  const auto say_drawn = [&](const char* name, const TokenDraw& draw) {
    const std::vector<TokenDraw> draws(drawn.size(), draw);
    say(name, score_bytes, 0, on_host([&] {
          ops::draw_tokens(ctx, drawn, View<const float, Cuda>(scores.view()), draws, {});
        }));
  };
  say_drawn("best tokens, to the host", {.best = true});
  say_drawn("tokens drawn, to the host", {.top_k = 50, .top_p = 0.85f, .uniform = 0.4});
  say("softmax", 2 * score_bytes, 0,
      time_of(ctx, [&](int) { ops::softmax(ctx, scores.view(), scores.view()); }));
}

/// Bytes per second of pinned memory that crosses the bus.
double bus_rate(Context<Cuda>& ctx) {
  constexpr std::size_t bytes = std::size_t{256} << 20;
  void* pinned = nullptr;
  cuda::check(cudaHostAlloc(&pinned, bytes, cudaHostAllocDefault), "pinned memory");
  std::memset(pinned, 1, bytes);
  Tensor<std::byte, Cuda> there(Shape{static_cast<std::int64_t>(bytes)});
  gpu::Timer timer(ctx.stream());
  double best = 1e9;
  for (int pass = 0; pass < 8; ++pass) {
    timer.begin();
    cuda::check(cudaMemcpyAsync(there.data(), pinned, bytes, cudaMemcpyHostToDevice, ctx.stream()),
                "copy");
    best = std::min(best, timer.end());
  }
  (void)cudaFreeHost(pinned);
  return static_cast<double>(bytes) / best;
}

/// Forgets the pages of a model's files. @returns whether the system does
bool forget(const std::filesystem::path& folder) {
  bool done = true;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const int file = ::open(entry.path().c_str(), O_RDONLY);
    done = file >= 0 && ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0 && done;
    if (file >= 0) ::close(file);
  }
  return done;
}

/// Bytes per second of the files read in order by threads that do nothing else.
double read_rate(const std::filesystem::path& folder) {
  constexpr std::size_t piece = std::size_t{4} << 20;
  const auto begin = Clock::now();
  std::atomic<std::int64_t> bytes{0};
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const int file = ::open(entry.path().c_str(), O_RDONLY);
    std::atomic<std::int64_t> next{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 12; ++i) {
      threads.emplace_back([&] {
        std::vector<char> buffer(piece);
        for (;;) {
          const std::int64_t at = next++ * static_cast<std::int64_t>(piece);
          const auto count = ::pread(file, buffer.data(), piece, at);
          if (count <= 0) return;
          bytes += count;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    ::close(file);
  }
  return static_cast<double>(bytes) / seconds_since(begin);
}

/// A model in files, whose pages are in memory from the second pass on; at the end from the disk,
/// beside reading alone.
void load(Context<Cuda>& ctx, const char* folder) {
  const auto rate_of = [&] {
    const auto begin = Clock::now();
    const auto model = LlamaModel<CudaHalfConfig>::load(folder);
    const double time = seconds_since(begin);
    std::int64_t bytes = 0;
    model.weights().visit(
        [&](const std::string&, const Weight<Cuda>& weight) { bytes += weight.bytes(); });
    return static_cast<double>(bytes) / time;
  };
  std::vector<double> shares;
  for (int pass = 0; pass < 9; ++pass) {
    const double bus = bus_rate(ctx), rate = rate_of();
    std::printf("load: %.1f GB/s, %.0f %% of the bus (%.1f GB/s)\n", rate / 1e9, 100 * rate / bus,
                bus / 1e9);
    if (pass > 0) shares.push_back(100 * rate / bus);
  }
  result("load, pages in memory", median(shares), "% of the bus");
  if (!std::filesystem::is_directory(folder) || !forget(folder)) return;
  const double alone = read_rate(folder);
  (void)forget(folder);
  const double rate = rate_of();
  std::printf("load from the disk: %.1f GB/s; reading alone %.1f GB/s\n", rate / 1e9, alone / 1e9);
  result("load, from the disk", 100 * rate / alone, "% of reading alone");
}

}  // namespace

int main(int count, char** arguments) {
  const std::string_view what = count > 1 ? arguments[1] : "all";
  const auto wanted = [&](std::string_view part) {
    const bool all = what == "all" && part != "brief";
    return all || what.find(part) != what.npos;
  };
  try {
    Context<Cuda> ctx;
    if (what == "load" && count > 2) {
      load(ctx, arguments[2]);
      return 0;
    }
    const Ceilings most{gpu::read_bandwidth(ctx), gpu::matrix_rate(ctx)};
    std::printf("read bandwidth %.0f GB/s, bf16 product 8192^3 %.0f TFLOP/s\n",
                most.bandwidth / 1e9, most.rate / 1e12);
    result("read bandwidth", most.bandwidth / 1e9, "GB/s");
    result("bf16 product", most.rate / 1e12, "TFLOP/s");
    if (wanted("decode") || wanted("batch") || wanted("kernels")) {
      const auto model = gpu_random_model::make<CudaHalfConfig>(shape_13b());
      std::printf("fp16\n");
      if (wanted("kernels")) kernels(model, ctx, most, 1, 127);
      if (wanted("kernels")) kernels(model, ctx, most, 1, 2047);
      if (wanted("decode")) decode_alone(model, ctx, most, 64);
      if (wanted("decode")) decode_alone(model, ctx, most, 2048);
      if (wanted("batch")) batches(model, ctx, most, DType::f16);
    }
    if (wanted("batch") || wanted("blocks")) {
      const auto model = gpu_random_model::make<CudaHalfConfig>(shape_13b(), DType::q4_k);
      std::printf("%s\n", std::string(name(DType::q4_k)).c_str());
      batches(model, ctx, most, DType::q8_0);
    }
    for (const DType dtype :
         {DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::iq4_nl,
          DType::q2_k, DType::q3_k, DType::q4_k, DType::q5_k, DType::q6_k}) {
      if (!wanted("quantised") && !wanted(name(dtype))) continue;
      const auto begin = Clock::now();
      const auto model = gpu_random_model::make<CudaHalfConfig>(shape_13b(), dtype);
      std::printf("%s, uploaded and put in order in %.1f s\n", std::string(name(dtype)).c_str(),
                  seconds_since(begin));
      kernels(model, ctx, most, 1, 127);
      decode_alone(model, ctx, most, 64);
      decode_alone(model, ctx, most, 2048);
      if (wanted("brief")) continue;
      for (const std::int64_t rows : {16, 64, 512}) kernels(model, ctx, most, rows, 0);
      for (const int sequences : {2, 8, 16, 32, 64}) decode_together(model, ctx, most, sequences);
      for (const std::int64_t tokens : {512, 2048}) prefill(model, ctx, most, tokens);
    }
    if (wanted("pages")) {
      for (const DType dtype : {DType::f16, DType::q4_0}) {
        const auto model = gpu_random_model::make<CudaHalfConfig>(shape_13b(), dtype);
        std::printf("%s, pages of both types\n", std::string(name(dtype)).c_str());
        for (const DType pages : {DType::f16, DType::q8_0}) {
          for (const std::int64_t context : {127, 2047}) {
            if (dtype == DType::f16) kernels(model, ctx, most, 1, context, pages);
          }
          if (dtype == DType::f16) kernels(model, ctx, most, 2048, 0, pages);
          decode_alone(model, ctx, most, 64, pages);
          decode_alone(model, ctx, most, 2048, pages);
        }
      }
    }
    if (wanted("fp8")) {
      const auto model = gpu_random_model::make<CudaBFloat16Config>(shape_13b(), DType::f8_e4m3);
      const Ceilings in8{most.bandwidth, gpu::matrix_rate(ctx, DType::f8_e4m3)};
      std::printf("fp8, activations in bf16; fp8 product 8192^3 %.0f TFLOP/s\n", in8.rate / 1e12);
      for (const std::int64_t tokens : {512, 2048}) prefill(model, ctx, in8, tokens);
      for (const std::int64_t rows : {1, 16, 512, 2048}) kernels(model, ctx, in8, rows, 0);
      decode_alone(model, ctx, in8, 64);
      decode_alone(model, ctx, in8, 2048);
      for (const int sequences : {2, 4, 8, 16}) decode_together(model, ctx, in8, sequences);
    }
    if (wanted("kernels")) {
      LlamaShape shape = shape_13b();
      shape.layers = 8;  // more than the second-level cache holds
      const auto model = gpu_random_model::make<CudaConfig>(shape);
      std::printf("fp32\n");
      for (const std::int64_t rows : {1, 2048}) kernels(model, ctx, most, rows, 0);
    }
    if (wanted("prefill") || wanted("kernels")) {
      const auto model = gpu_random_model::make<CudaBFloat16Config>(shape_13b());
      std::printf("bf16\n");
      if (wanted("kernels")) kernels(model, ctx, most, 1, 127);
      for (const std::int64_t tokens : {512, 2048, 8192}) {
        if (wanted("kernels")) kernels(model, ctx, most, tokens, 0);
      }
      if (wanted("prefill")) prefill(model, ctx, most, 512);
      if (wanted("prefill")) prefill(model, ctx, most, 2048);
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
