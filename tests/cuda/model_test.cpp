// SPDX-License-Identifier: Apache-2.0
// Models on the GPU against the same models on the CPU.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/devices.hpp"
#include "model/fixture.hpp"
#include "model/ziya_tiny.hpp"
#include "support/contexts.hpp"
#include "ziya/generate/generator.hpp"
#include "ziya/model/decode_graph.hpp"
#include "ziya/ops/quantize.hpp"

namespace model_test {

using namespace ziya;
using fixture::Rows;

using Ids = std::vector<std::int32_t>;

template <class Model>
Batch<typename Model::T, Cuda> batch_of(const Rows& rows) {
  Batch<typename Model::T, Cuda> batch;
  batch.ids = rows.ids;
  batch.positions = rows.positions;
  batch.slots = rows.slots;
  batch.outputs = rows.outputs;
  return batch;
}

/// Logits of the rows' outputs.
template <class Model>
std::vector<float> logits(const Model& model, Context<Cuda>& ctx, const Rows& rows,
                          KvCache<Cuda>& cache) {
  using T = typename Model::T;
  const auto count = static_cast<std::int64_t>(rows.outputs.size());
  Tensor<T, Cuda> hidden(Shape{count, model.shape().hidden});
  model.forward(ctx, hidden.view(), batch_of<Model>(rows), cache);
  Tensor<float, Cuda> result(Shape{count, model.shape().vocabulary});
  model.logits(ctx, result.view(), hidden.view());
  return test::values_of(result);
}

template <class Model>
KvCache<Cuda> cache_of(const Model& model, int slots, DType dtype, std::int64_t tokens = 192,
                       std::int64_t page_tokens = 8) {
  return KvCache<Cuda>(
      model.shape().cache_shape(),
      {.dtype = dtype, .slots = slots, .max_tokens = tokens, .page_tokens = page_tokens});
}

/// The prompt in one pass, then one token each: logits of every pass and the best ids.
struct Greedy {
  std::vector<float> logits;
  Ids ids;
};
/// @param follow the tokens that are taken, whichever are best
template <class Model>
Greedy greedy(const Model& model, Context<Cuda>& ctx, Ids ids, const Ids& follow,
              DType cache_type) {
  KvCache<Cuda> cache =
      cache_of(model, 1, cache_type, static_cast<std::int64_t>(ids.size() + follow.size()));
  Greedy result;
  const auto vocabulary = static_cast<std::size_t>(model.shape().vocabulary);
  std::size_t begin = 0;
  for (const std::int32_t next : follow) {
    const auto rows = logits(model, ctx, Rows(ids, begin, ids.size()), cache);
    begin = ids.size();
    result.logits.insert(result.logits.end(), rows.begin(), rows.end());
    result.ids.push_back(fixture::argmax(std::span(rows).last(vocabulary)));
    ids.push_back(next);
  }
  return result;
}

Greedy greedy_on_cpu(const CpuModel& model, Ids ids, std::size_t count,
                     DType cache_type = DType::f32) {
  Context<Cpu> ctx({.isa = test::exact_isa()});
  KvCache<Cpu> cache =
      fixture::make_cache(model, 1, static_cast<std::int64_t>(ids.size() + count), cache_type);
  Greedy result;
  const std::size_t prompt = ids.size();
  const auto vocabulary = static_cast<std::size_t>(model.shape().vocabulary);
  for (std::size_t begin = 0; ids.size() < prompt + count;) {
    const auto hidden = fixture::hidden(model, ctx, Rows(ids, begin, ids.size()), cache);
    const auto rows = fixture::copy(fixture::logits(model, ctx, hidden));
    begin = ids.size();
    result.logits.insert(result.logits.end(), rows.begin(), rows.end());
    ids.push_back(fixture::argmax(std::span(rows).last(vocabulary)));
  }
  result.ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(prompt), ids.end());
  return result;
}

template <class Config>
void check_compute(const LlamaShape& shape, const LlamaWeights<Cpu>& weights, Context<Cuda>& ctx,
                   const Ids& prompt, const Greedy& expected) {
  using T = typename Config::Compute;
  const LlamaModel<Config> model(shape, weights_on<Cuda>(weights));
  const auto found = greedy(model, ctx, prompt, expected.ids, dtype_of<T>);
  CHECK(golden::error(found.logits, expected.logits, static_cast<std::size_t>(shape.vocabulary)) <
        test::logit_tolerance<T>);
  if (std::is_same_v<T, float>) CHECK(found.ids == expected.ids);
  const DecodeGraph<LlamaModel<Config>> graph(ctx);
  const auto replayed = greedy(model, ctx, prompt, expected.ids, dtype_of<T>);
  CHECK(replayed.ids == found.ids);
  CHECK(replayed.logits == found.logits);
}

/// The same model with the numbers that blocks of a type hold, as floats on the CPU and in blocks
/// on the GPU.
struct QuantisedModel {
  CpuModel floats;
  LlamaWeights<Cpu> blocks;
};
QuantisedModel quantised(const CpuModel& cpu, DType dtype) {
  Context<Cpu> ctx({.threads = 2});
  LlamaWeights<Cpu> blocks, floats;
  for (auto* weights : {&blocks, &floats}) {
    const auto matrix = [&](const Weight<Cpu>& weight) {
      const auto stored = ops::converted(ctx, dtype, weight);
      return weights == &blocks ? stored : ops::converted(ctx, DType::f32, stored);
    };
    const auto linear = [&](const nn::Linear<Cpu>& from) {
      nn::Linear<Cpu> result;
      result.weight = matrix(from.weight);
      return result;
    };
    const auto norm = [](const nn::RmsNorm<Cpu>& from) {
      return nn::RmsNorm<Cpu>{from.weight.to<Cpu>(), from.eps};
    };
    weights->embedding = matrix(cpu.weights().embedding);
    for (const auto& from : cpu.weights().layers) {
      LlamaLayer<Cpu> layer;
      layer.input_norm = norm(from.input_norm);
      layer.attention.query_heads = from.attention.query_heads;
      layer.attention.kv_heads = from.attention.kv_heads;
      layer.attention.head_dim = from.attention.head_dim;
      layer.attention.q = linear(from.attention.q);
      layer.attention.k = linear(from.attention.k);
      layer.attention.v = linear(from.attention.v);
      layer.attention.o = linear(from.attention.o);
      layer.post_attention_norm = norm(from.post_attention_norm);
      layer.mlp.gate = linear(from.mlp.gate);
      layer.mlp.up = linear(from.mlp.up);
      layer.mlp.down = linear(from.mlp.down);
      weights->layers.push_back(std::move(layer));
    }
    weights->final_norm = norm(cpu.weights().final_norm);
    weights->head = linear(cpu.weights().head);
  }
  return {CpuModel(cpu.shape(), std::move(floats)), std::move(blocks)};
}

/// Of weights on the GPU against a model on the CPU.
void check_model(const CpuModel& cpu, const LlamaWeights<Cpu>& weights, Context<Cuda>& ctx,
                 const Ids& prompt, std::size_t count) {
  const Greedy expected = greedy_on_cpu(cpu, prompt, count);
  check_compute<CudaConfig>(cpu.shape(), weights, ctx, prompt, expected);
  check_compute<CudaHalfConfig>(cpu.shape(), weights, ctx, prompt, expected);
  check_compute<CudaBFloat16Config>(cpu.shape(), weights, ctx, prompt, expected);
}
void check_model(const CpuModel& cpu, Context<Cuda>& ctx, const Ids& prompt, std::size_t count) {
  check_model(cpu, cpu.weights(), ctx, prompt, count);
}

/// Two layers of random weights in ±scale.
CpuModel random_model(std::int64_t head_dim, std::int64_t heads, std::int64_t kv_heads, DType dtype,
                      std::int64_t intermediate = 0) {
  LlamaShape shape;
  shape.hidden = heads * head_dim;
  shape.intermediate = intermediate > 0 ? intermediate : 3 * shape.hidden / 2 + 8;
  shape.layers = 2;
  shape.query_heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.vocabulary = 97;
  shape.max_positions = 512;
  std::uint64_t seed = 1;
  const auto linear = [&](const char*, std::int64_t out, std::int64_t in, bool) {
    nn::Linear<Cpu> result;
    const double scale = 2 / std::sqrt(static_cast<double>(in));
    result.weight =
        test::stored(dtype, out, in, test::random_values(out * in, ++seed, scale)).weight;
    return result;
  };
  const auto norm = [&](const char*) {
    nn::RmsNorm<Cpu> result{Tensor<float>(Shape{shape.hidden}), 1e-6f};
    for (std::int64_t i = 0; i < shape.hidden; ++i) {
      result.weight.data()[i] = 0.8f + 0.01f * static_cast<float>(i % 40);
    }
    return result;
  };
  LlamaWeights<Cpu> weights;
  weights.embedding = linear("embed_tokens", shape.vocabulary, shape.hidden, false).weight;
  for (std::int64_t i = 0; i < shape.layers; ++i) {
    weights.layers.push_back(make_layer<Cpu>(shape, norm, linear));
  }
  weights.final_norm = norm("norm");
  weights.head = linear("lm_head", shape.vocabulary, shape.hidden, false);
  return CpuModel(shape, std::move(weights));
}

Ids some_ids(std::size_t count) {
  Ids ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int32_t>(i * 31 % 97));
  return ids;
}

TEST_CASE("cuda: random models of every head size: logits, greedy tokens, graphs",
          "[cuda][small][library]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const auto [head_dim, heads, kv_heads] :
         {std::array<std::int64_t, 3>{8, 4, 2}, {64, 4, 4}, {88, 2, 1}, {128, 2, 2}, {10, 3, 1}}) {
      CAPTURE(name(dtype), head_dim);
      check_model(random_model(head_dim, heads, kv_heads, dtype), ctx, some_ids(40), 12);
    }
  }
}

TEST_CASE("cuda: random models in every quantised type: logits, greedy tokens, graphs",
          "[cuda][small][library]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  const CpuModel plain = random_model(64, 4, 2, DType::f32, 768);
  for (int i = static_cast<int>(DType::q4_0); i < dtype_count; ++i) {
    const auto dtype = static_cast<DType>(i);
    CAPTURE(name(dtype));
    const QuantisedModel model = quantised(plain, dtype);
    check_model(model.floats, model.blocks, ctx, some_ids(40), 12);
  }
}

TEST_CASE("cuda: the reference's models of every kind", "[cuda]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  const Checkpoint file = Checkpoint::open(golden::folder("models") / "golden.safetensors");
  for (const auto& entry : fixture::cases()) {
    const std::string name = entry.at("name");
    CAPTURE(name);
    const fixture::TemporaryFolder folder;
    fixture::write_case(folder.path(), name, DType::f16);
    const auto prompt = golden::values<std::int32_t>(file, name + "/f16/prompt");
    check_model(CpuModel::load(folder.path()), ctx, prompt, 8);
  }
}

/// Two sequences in one pass and then a token of each at a time, against each alone.
template <class Config>
void check_together(const LlamaShape& shape, const LlamaWeights<Cpu>& weights, Context<Cuda>& ctx) {
  using T = typename Config::Compute;
  using Model = LlamaModel<Config>;
  const Model model(shape, weights_on<Cuda>(weights));
  const auto vocabulary = static_cast<std::size_t>(shape.vocabulary);
  const Ids first = some_ids(70), second = some_ids(5);
  const auto alone = [&](const Ids& ids) {
    KvCache<Cuda> cache = cache_of(model, 1, dtype_of<T>);
    return logits(model, ctx, Rows(ids, 0, ids.size()), cache);
  };
  KvCache<Cuda> together = cache_of(model, 3, dtype_of<T>);
  Rows rows(first, 0, first.size(), 2);
  rows.append(second, 0, second.size(), 0);
  const auto both = logits(model, ctx, rows, together);
  std::vector<float> expected = alone(first);
  for (const float value : alone(second)) expected.push_back(value);
  CHECK(golden::error(both, expected, vocabulary) < test::logit_tolerance<T>);

  const DecodeGraph<Model> graph(ctx);
  Ids longer = first, shorter = second;
  for (int i = 0; i < 6; ++i) {
    longer.push_back(i), shorter.push_back(i + 7);
    Rows next(shorter, shorter.size() - 1, shorter.size(), 0);
    next.append(longer, longer.size() - 1, longer.size(), 2);
    const auto step = logits(model, ctx, next, together);
    std::vector<float> whole;
    for (const Ids& ids : {shorter, longer}) {
      const auto all = alone(ids);
      whole.insert(whole.end(), all.end() - shape.vocabulary, all.end());
    }
    CHECK(golden::error(step, whole, vocabulary) < test::logit_tolerance<T>);
  }
}

TEST_CASE("cuda: a row among others is near the row alone", "[cuda][small][library]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  const CpuModel plain = random_model(64, 4, 2, DType::f16, 768);
  const auto check = [&](const LlamaWeights<Cpu>& weights) {
    check_together<CudaConfig>(plain.shape(), weights, ctx);
    check_together<CudaHalfConfig>(plain.shape(), weights, ctx);
    check_together<CudaBFloat16Config>(plain.shape(), weights, ctx);
  };
  check(plain.weights());
  for (const DType dtype : {DType::q8_0, DType::q4_k}) {
    CAPTURE(name(dtype));
    check(quantised(plain, dtype).blocks);
  }
}

Ids every_second(std::int32_t begin, std::int32_t end) {
  Ids rows;
  for (std::int32_t row = begin; row < end; row += 2) rows.push_back(row);
  return rows;
}

/// Two sequences in one pass of which some rows are wanted, and then a token of each, against a
/// pass that wants all rows. Numbers next to each other may be rounded to different ones in pages.
template <class Config>
void check_wanted(const LlamaShape& shape, const LlamaWeights<Cpu>& weights, Context<Cuda>& ctx,
                  DType cache_dtype, std::int64_t page_tokens) {
  using T = typename Config::Compute;
  CAPTURE(name(dtype_of<T>), name(cache_dtype), page_tokens);
  const double tolerance = std::max(test::logit_tolerance<T>,
                                    cache_dtype == DType::f32 ? 0 : test::half_model_tolerance);
  const LlamaModel<Config> model(shape, weights_on<Cuda>(weights));
  const auto vocabulary = static_cast<std::size_t>(shape.vocabulary);
  const Ids first = some_ids(81), second = some_ids(6);
  Rows rows(first, 0, 80, 2), next(second, 5, 6, 0);
  rows.append(second, 0, 5, 0);
  next.append(first, 80, 81, 2);
  KvCache<Cuda> cache = cache_of(model, 3, cache_dtype, 192, page_tokens);
  const auto whole = logits(model, ctx, rows, cache);
  const auto whole_next = logits(model, ctx, next, cache);
  Ids backwards = every_second(0, 85);
  std::reverse(backwards.begin(), backwards.end());
  for (const Ids& wanted :
       {Ids{79, 84}, Ids{}, Ids{79}, Ids{84, 3, 3, 80}, every_second(0, 85), backwards}) {
    CAPTURE(wanted);
    cache.release(0), cache.release(2);
    rows.outputs = wanted;
    if (wanted.empty()) {
      Tensor<T, Cuda> none(Shape{0, shape.hidden});
      model.forward(ctx, none.view(), batch_of<LlamaModel<Config>>(rows), cache);
    } else {
      std::vector<float> expected;
      for (const std::int32_t row : wanted) {
        const auto begin = whole.begin() + std::ptrdiff_t{row} * shape.vocabulary;
        expected.insert(expected.end(), begin, begin + shape.vocabulary);
      }
      CHECK(golden::error(logits(model, ctx, rows, cache), expected, vocabulary) < tolerance);
    }
    CHECK(cache.length(2) == 80);
    CHECK(golden::error(logits(model, ctx, next, cache), whole_next, vocabulary) < tolerance);
  }
}

TEST_CASE("cuda: rows that are wanted are near those of a pass that wants all",
          "[cuda][small][library]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  for (const std::int64_t head_dim : {64, 128}) {
    const CpuModel plain = random_model(head_dim, 256 / head_dim, 2, DType::f16, 768);
    const auto check = [&](const LlamaWeights<Cpu>& weights) {
      for (const DType pages : {DType::f16, DType::q8_0}) {
        check_wanted<CudaConfig>(plain.shape(), weights, ctx, pages, 8);
        check_wanted<CudaHalfConfig>(plain.shape(), weights, ctx, pages, 64);
        check_wanted<CudaBFloat16Config>(plain.shape(), weights, ctx, pages, 64);
      }
      check_wanted<CudaConfig>(plain.shape(), weights, ctx, DType::f32, 8);
      check_wanted<CudaBFloat16Config>(plain.shape(), weights, ctx, DType::bf16, 64);
    };
    CAPTURE(head_dim);
    check(plain.weights());
    check(quantised(plain, DType::q4_k).blocks);
  }
}

TEST_CASE("cuda: rows that are wanted, with a rotation per sequence", "[cuda][small][library]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  const CpuModel plain = random_model(64, 4, 2, DType::f16, 768);
  LlamaShape shape = plain.shape();
  shape.rope_scaling.kind = RopeScaling::Kind::dynamic;
  shape.rope_scaling.factor = 2;
  shape.rope_scaling.original_max_positions = 16;
  check_wanted<CudaConfig>(shape, plain.weights(), ctx, DType::f32, 8);
  check_wanted<CudaHalfConfig>(shape, plain.weights(), ctx, DType::f16, 64);
}

// Blocks add to the residual stream within products, and attention takes whole pages.
TEST_CASE("cuda: a long prompt, in one pass and behind a short one", "[cuda][small][library]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  const CpuModel cpu = random_model(128, 2, 1, DType::f32);
  const Ids ids = some_ids(340);
  const auto vocabulary = static_cast<std::size_t>(cpu.shape().vocabulary);
  Context<Cpu> on_cpu({.threads = 2});
  KvCache<Cpu> cpu_cache = fixture::make_cache(cpu, 1, 340);
  const auto hidden = fixture::hidden(cpu, on_cpu, Rows(ids, 0, ids.size()), cpu_cache);
  const auto expected = fixture::copy(fixture::logits(cpu, on_cpu, hidden));
  const auto check = [&]<class Config>(Config) {
    using Model = LlamaModel<Config>;
    const Model model(cpu.shape(), weights_on<Cuda>(cpu.weights()));
    for (const std::size_t begin : {std::size_t{0}, std::size_t{40}}) {
      CAPTURE(begin);
      KvCache<Cuda> cache = cache_of(model, 1, dtype_of<typename Config::Compute>, 340, 64);
      std::vector<float> found;
      if (begin > 0) found = logits(model, ctx, Rows(ids, 0, begin), cache);
      const auto rest = logits(model, ctx, Rows(ids, begin, ids.size()), cache);
      found.insert(found.end(), rest.begin(), rest.end());
      CHECK(golden::error(found, expected, vocabulary) <
            test::logit_tolerance<typename Config::Compute>);
    }
  };
  check(CudaConfig{});
  check(CudaHalfConfig{});
  check(CudaBFloat16Config{});
}

TEST_CASE("cuda: a trained checkpoint: logits, greedy tokens, graphs", "[cuda]") {
  if (!test::gpu()) return;
  const auto folder = golden::shared("stories260K-hf");
  if (folder.empty()) return;
  Context<Cuda> ctx;
  const auto cpu = CpuModel::load(folder);
  const auto reference = read_json_file(folder / "reference.json");
  check_model(cpu, ctx, reference.at("sentence_ids"), 40);
  const Ids from_bos = reference.at("greedy_from_bos");
  const CudaModel model(cpu.shape(), weights_on<Cuda>(cpu.weights()));
  const Ids rest(from_bos.begin() + 1, from_bos.end());
  CHECK(greedy(model, ctx, {1}, rest, DType::f32).ids == rest);
}

TEST_CASE("cuda: GGUF files of every mixture of types", "[cuda]") {
  if (!test::gpu()) return;
  const auto folder = golden::shared("stories260K-gguf");
  if (folder.empty()) return;
  Context<Cuda> ctx;
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".gguf") continue;
    CAPTURE(entry.path().filename().string());
    ++files;
    const auto floats = CpuModel::load(entry.path(), {.dtype = DType::f32});
    const auto stored = CpuModel::load(entry.path());
    check_model(floats, stored.weights(), ctx, {1, 403, 407, 261, 378}, 20);
  }
  CHECK(files > 0);
}

TEST_CASE("cuda: ziya-tiny's logits are the CPU's", "[cuda]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  const auto& tiny = fixture::ZiyaTiny::instance();
  check_model(tiny.model(), ctx, tiny.expected().at("poems").at(0).at("prompt_ids"), 40);
}

/// Poems one by one, through a graph, and together.
template <class Config>
void check_recites(DType cache, std::optional<DType> stored = {}) {
  using Model = LlamaModel<Config>;
  Context<Cuda> ctx;
  const auto& tiny = fixture::ZiyaTiny::instance();
  const GenerationConfig config{.do_sample = false};
  const auto model = Model::load(tiny.folder(), {.dtype = stored});
  const DecodeGraph<Model> graph(ctx);
  Generator<Model> generator(ctx, model, tiny.tokenizer(), {.cache_dtype = cache});
  std::vector<Ids> prompts;
  std::vector<std::string> answers;
  for (std::size_t i = 0; i < 20; ++i) {
    const auto& poem = tiny.expected().at("poems").at(i);
    prompts.push_back(poem.at("prompt_ids"));
    answers.push_back(poem.at("answer"));
    CHECK(generator.generate(prompts.back(), config).text == answers.back());
  }
  CHECK(graph.replays() > 100);
  const auto results = generator.generate_batch(prompts, config);
  for (std::size_t i = 0; i < results.size(); ++i) CHECK(results[i].text == answers[i]);
}

TEST_CASE("cuda: ziya-tiny recites in every type of activations", "[cuda]") {
  if (!test::gpu()) return;
  check_recites<CudaConfig>(DType::f32);
  check_recites<CudaConfig>(DType::f16);
  check_recites<CudaHalfConfig>(DType::f16);
  check_recites<CudaBFloat16Config>(DType::bf16);
  for (int i = static_cast<int>(DType::q4_0); i < dtype_count; ++i) {
    CAPTURE(name(static_cast<DType>(i)));
    check_recites<CudaHalfConfig>(DType::f16, static_cast<DType>(i));
  }
  check_recites<CudaBFloat16Config>(DType::bf16, DType::q6_k);
}

TEST_CASE("cuda: ziya-tiny with keys and values in q8_0", "[cuda]") {
  if (!test::gpu()) return;
  const auto& tiny = fixture::ZiyaTiny::instance();
  const Ids prompt = tiny.expected().at("poems").at(0).at("prompt_ids");
  const auto on_cpu = greedy_on_cpu(tiny.model(), prompt, 40, DType::q8_0);
  Context<Cuda> ctx;
  const auto model = LlamaModel<CudaHalfConfig>::load(tiny.folder());
  const auto found = greedy(model, ctx, prompt, on_cpu.ids, DType::q8_0);
  CHECK(golden::error(found.logits, on_cpu.logits,
                      static_cast<std::size_t>(model.shape().vocabulary)) <
        test::logit_tolerance<Half>);
  const DecodeGraph<LlamaModel<CudaHalfConfig>> graph(ctx);
  CHECK(greedy(model, ctx, prompt, on_cpu.ids, DType::q8_0).logits == found.logits);
  CHECK(graph.replays() > 20);
  check_recites<CudaConfig>(DType::q8_0);
  check_recites<CudaHalfConfig>(DType::q8_0, DType::q4_k);
  check_recites<CudaBFloat16Config>(DType::q8_0);
}

}  // namespace model_test
