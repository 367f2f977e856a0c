// SPDX-License-Identifier: Apache-2.0
// A model split over devices answers as the whole one; here all devices are the host's, so to the
// bit. What fits where.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "model/ziya_tiny.hpp"
#include "support/errors.hpp"
#include "ziya/generate/generator.hpp"
#include "ziya/model/split_model.hpp"

namespace split_model_test {

using namespace ziya;
using Model = SplitModel<CpuConfig>;

SplitPlan plan_of(std::int64_t layers, std::vector<std::int64_t> parts) {
  SplitPlan plan;
  plan.near_layers = layers;
  for (const std::int64_t count : parts) {
    plan.parts.push_back({static_cast<int>(plan.parts.size()), count});
    plan.near_layers -= count;
  }
  return plan;
}

Model split(const std::filesystem::path& folder, const std::vector<std::int64_t>& parts) {
  LlamaShape shape = read_llama_shape(folder);
  auto weights = load_llama_weights(
      std::make_shared<const CheckpointSource>(Checkpoint::open(folder)), shape, {});
  const SplitPlan plan = plan_of(shape.layers, parts);
  return Model(shape, plan, std::move(weights));
}

std::vector<std::int32_t> ids_of(const std::vector<GenerationResult>& results) {
  std::vector<std::int32_t> ids;
  for (const auto& result : results) {
    ids.insert(ids.end(), result.generated_ids.begin(), result.generated_ids.end());
  }
  return ids;
}

TEST_CASE("split model: every division gives the whole model's answers") {
  const auto& tiny = fixture::ZiyaTiny::instance().folder();
  const Tokenizer tokenizer = Tokenizer::load(tiny);
  Context<Cpu> whole_ctx({.threads = 2});
  const CpuModel whole = CpuModel::load(tiny);
  const std::int64_t layers = whole.shape().layers;
  REQUIRE(layers >= 2);
  const DType cache = GENERATE(DType::f32, DType::q8_0);
  Generator expected(whole_ctx, whole, tokenizer, {.cache_dtype = cache, .page_tokens = 4});
  GenerationConfig config;
  config.max_new_tokens = 24;
  config.seed = 5;
  const std::vector<std::string> prompts{"<human>:静夜思\n<bot>:", "<human>:静夜\n<bot>:", "abc"};

  for (const auto& parts : {std::vector{layers},
                            {layers - 1},
                            {std::int64_t{1}},
                            {std::int64_t{1}, std::int64_t{1}},
                            {layers - 1, std::int64_t{1}}}) {
    CAPTURE(parts);
    SplitOptions<CpuOptions> options{.near = {.threads = 2}};
    options.far.resize(parts.size(), {.threads = 1});
    Context<Split<Cpu>> ctx(options);
    const Model model = split(tiny, parts);
    Generator<Model> generator(ctx, model, tokenizer, {.cache_dtype = cache, .page_tokens = 4});
    expected.reset();
    for (const bool draws : {false, true}) {
      config.do_sample = draws;
      for (const std::string& prompt : prompts) {  // one after the other: the cache is reused
        const auto found = generator.generate(prompt, config);
        const auto whole_answer = expected.generate(prompt, config);
        CHECK(found.generated_ids == whole_answer.generated_ids);
        CHECK(found.reused_tokens == whole_answer.reused_tokens);
      }
      CHECK(ids_of(generator.generate_batch(prompts, config)) ==
            ids_of(expected.generate_batch(prompts, config)));
    }
  }
}

TEST_CASE("split model: a failed step leaves the cache as it was") {
  const auto& tiny = fixture::ZiyaTiny::instance().folder();
  SplitOptions<CpuOptions> options{.near = {.threads = 1}};
  options.far.resize(1, {.threads = 1});
  Context<Split<Cpu>> ctx(options);
  const Model model = split(tiny, {1});
  KvCache<Split<Cpu>> cache(model.shape().cache_shape(), {.max_tokens = 8, .page_tokens = 4});
  CHECK(cache.bytes_per_token() == model.shape().cache_bytes_per_token());
  const std::vector<std::int32_t> ids{1, 1 << 30}, positions{0, 1}, slots{0, 0}, outputs{1};
  Batch<float, Split<Cpu>> batch;
  batch.ids = ids;
  batch.positions = positions;
  batch.slots = slots;
  batch.outputs = outputs;
  const Tensor<float, Split<Cpu>> hidden(Shape{1, model.shape().hidden});
  const View<float, Split<Cpu>> view(const_cast<float*>(hidden.data()), hidden.shape());
  CHECK_THROWS_AS(model.forward(ctx, view, batch, cache), ArgumentError);
  CHECK(cache.length(0) == 0);
}

TEST_CASE("split model: weights of 8 bits with scales stay where they are") {
  const std::vector<std::byte> data(8 * 4 + 8 * sizeof(float));
  const Weight<Cpu> weight{DType::i8, 8, 4, data.data(), nullptr};
  REQUIRE_ERROR(weight_on<Cpu>(weight), "ZIYA-153", "i8");
}

TEST_CASE("split plan: devices are filled in turn, from the last layer on") {
  const SplitNeed need{std::vector<std::int64_t>(10, 100), 50, 20, 30};  // 120 each, 80 beside
  const auto far = [&](std::vector<std::int64_t> room, std::optional<std::int64_t> layers = {}) {
    return plan_split(need, room, layers);
  };
  CHECK(far({}).parts.empty());
  CHECK(far({80 + 119}).near_layers == 10);
  CHECK(far({80 + 3 * 120}).parts == std::vector<SplitPart>{{0, 3}});
  CHECK(far({80 + 3 * 120}).near_layers == 7);
  CHECK(far({5000}).parts == std::vector<SplitPart>{{0, 10}});
  CHECK(far({5000}).weights == std::vector<std::int64_t>{1050});
  CHECK(far({5000}).caches == std::vector<std::int64_t>{200});
  CHECK(far({80 + 3 * 120, 30 + 4 * 120}).parts == std::vector<SplitPart>{{1, 4}, {0, 3}});
  CHECK(far({10, 80 + 4 * 120}).parts == std::vector<SplitPart>{{1, 4}});  // the first holds none
  CHECK(far({5000}, 4).near_layers == 6);
  CHECK(far({5000}, 0).parts.empty());
  CHECK(far({5000}, 99).near_layers == 0);
  try {
    far({80 + 3 * 120}, 7);
    FAIL("no error");
  } catch (const BackendError& error) {
    CHECK(error.id() == "ZIYA-156");
    CHECK(std::string(error.what()).find("3 layers would fit") != std::string::npos);
  }
}

}  // namespace split_model_test
