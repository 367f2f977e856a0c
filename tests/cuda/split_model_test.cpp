// SPDX-License-Identifier: Apache-2.0
// A model partly on the CPU and partly on GPUs says what it says on the CPU alone.
#include <catch2/catch.hpp>
#include <vector>

#include "cuda/devices.hpp"
#include "model/ziya_tiny.hpp"
#include "ziya/generate/generator.hpp"
#include "ziya/model/split_model.hpp"

namespace cuda_split_model_test {

using namespace ziya;

template <class Config>
std::vector<std::int32_t> answer(const std::vector<std::int64_t>& parts, DType cache) {
  const auto& tiny = fixture::ZiyaTiny::instance();
  LlamaShape shape = read_llama_shape(tiny.folder());
  auto weights = load_llama_weights(
      std::make_shared<const CheckpointSource>(Checkpoint::open(tiny.folder())), shape, {});
  SplitPlan plan;
  SplitOptions<CudaOptions> options{.near = {.threads = 2}};
  plan.near_layers = shape.layers;
  for (const std::int64_t layers : parts) {  // several GPUs in turn, as far as there are several
    const int device = static_cast<int>(plan.parts.size()) % cuda::device_count();
    plan.parts.push_back({device, layers});
    plan.near_layers -= layers;
    options.far.push_back({.device = device});
  }
  Context<Split<Cuda>> ctx(options);
  const SplitModel<Config> model(shape, plan, std::move(weights));
  Generator<SplitModel<Config>> generator(ctx, model, tiny.tokenizer(),
                                          {.cache_dtype = cache, .page_tokens = 8});
  const auto& poem = tiny.expected().at("poems").at(0);
  const std::vector<std::int32_t> prompt = poem.at("prompt_ids");
  const auto result = generator.generate(prompt, {.max_new_tokens = 40, .do_sample = false});
  const auto batch = generator.generate_batch({prompt, {1, 5}, prompt},
                                              {.max_new_tokens = 40, .do_sample = false});
  CHECK(batch[2].generated_ids == result.generated_ids);
  CHECK(result.text == poem.at("answer").get<std::string>());
  return result.generated_ids;
}

TEST_CASE("cuda: layers on the CPU and on GPUs: the same greedy ids", "[cuda]") {
  if (!test::gpu()) return;
  const auto& tiny = fixture::ZiyaTiny::instance();
  Context<Cpu> ctx({.threads = 2});
  Generator<CpuModel> on_cpu(ctx, tiny.model(), tiny.tokenizer());
  const std::vector<std::int32_t> prompt = tiny.expected().at("poems").at(0).at("prompt_ids");
  const auto expected =
      on_cpu.generate(prompt, {.max_new_tokens = 40, .do_sample = false}).generated_ids;
  for (const auto& parts : std::vector<std::vector<std::int64_t>>{{1}, {2}, {3}, {1, 1}, {2, 1}}) {
    CAPTURE(parts);
    CHECK(answer<CudaConfig>(parts, DType::f32) == expected);
    CHECK(answer<CudaHalfConfig>(parts, DType::f16) == expected);
    CHECK(answer<CudaHalfConfig>(parts, DType::q8_0) == expected);
  }
  set_current(Cuda{}, 0);
}

}  // namespace cuda_split_model_test
