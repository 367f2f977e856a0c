// SPDX-License-Identifier: Apache-2.0
// Scores, embeddings, perplexity and searches on the GPU are those of the CPU.
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "cuda/devices.hpp"
#include "model/ziya_tiny.hpp"
#include "ziya/generate/beam_search.hpp"
#include "ziya/generate/contrastive_search.hpp"
#include "ziya/generate/perplexity.hpp"
#include "ziya/generate/scoring.hpp"
#include "ziya/model/split_model.hpp"

namespace cuda_scoring_test {

using namespace ziya;
using Ids = std::vector<std::int32_t>;

const fixture::ZiyaTiny& tiny() { return fixture::ZiyaTiny::instance(); }

/// What a model says of the first poem.
struct Scores {
  double answer = 0, other = 0;  ///< log-probabilities
  bool greedy = false;
  std::vector<float> vector;
  PerplexityResult perplexity;
  std::vector<Ids> beams;
  std::vector<double> beam_scores;
  Ids contrastive;
};

template <class Model>
Scores scores(Context<typename Model::Device>& ctx, const Model& model, DType cache) {
  const auto& poem = tiny().expected().at("poems").at(0);
  const Ids prompt = poem.at("prompt_ids"), answer = poem.at("answer_ids");
  Scores result;
  Scorer<Model> scorer(ctx, model, 7, cache);
  const Likelihood likelihood = scorer.log_likelihood(prompt, answer);
  result.answer = likelihood.log_probability;
  result.greedy = likelihood.greedy;
  result.other = scorer.log_likelihood(prompt, Ids{5, 6, 7}).log_probability;
  result.vector = scorer.embed(prompt);
  Ids text;
  for (int i = 0; i < 4; ++i) {
    const Ids ids = tiny().expected().at("poems").at(i).at("answer_ids");
    text.insert(text.end(), ids.begin(), ids.end());
  }
  PerplexityOptions options;
  options.context = 32;
  options.bos = 1;
  result.perplexity = perplexity(ctx, model, text, options, &model);
  GenerationConfig beams{.max_new_tokens = 12, .do_sample = false};
  beams.num_beams = 3;
  beams.num_return_sequences = 3;
  for (const auto& found : beam_search(ctx, model, tiny().tokenizer(), prompt, beams, {}, cache)) {
    result.beams.push_back(found.generated_ids);
    result.beam_scores.push_back(found.score);
  }
  GenerationConfig contrastive{.max_new_tokens = 12, .do_sample = false};
  contrastive.top_k = 4;
  contrastive.penalty_alpha = 0.4f;
  result.contrastive =
      contrastive_search(ctx, model, tiny().tokenizer(), prompt, contrastive, {}, cache)
          .generated_ids;
  return result;
}

const Scores& on_cpu() {
  static const Scores result = [] {
    Context<Cpu> ctx({.threads = 2});
    return scores(ctx, tiny().model(), DType::f32);
  }();
  return result;
}

/// @param limit of differences of log-probabilities, relative to them
void check(const Scores& found, double limit, bool exact) {
  const Scores& expected = on_cpu();
  const auto near = [&](double value) { return Approx(value).epsilon(limit).margin(limit); };
  CHECK(found.answer == near(expected.answer));
  CHECK(found.other == near(expected.other));
  CHECK(found.greedy == expected.greedy);
  double product = 0;
  for (std::size_t i = 0; i < found.vector.size(); ++i) {
    product += double{found.vector[i]} * double{expected.vector[i]};
  }
  CHECK(product == Approx(1).margin(limit));
  CHECK(found.perplexity.tokens == expected.perplexity.tokens);
  CHECK(found.perplexity.perplexity == near(expected.perplexity.perplexity));
  CHECK(found.perplexity.uncertainty == near(expected.perplexity.uncertainty));
  CHECK(found.perplexity.other_perplexity == found.perplexity.perplexity);
  CHECK(found.perplexity.kl_divergence == Approx(0).margin(1e-12));
  CHECK(found.perplexity.top_agreement == 1);
  REQUIRE(found.beams.size() == expected.beams.size());
  CHECK(found.beams.front() == expected.beams.front());
  CHECK(found.beam_scores.front() == near(expected.beam_scores.front()));
  if (!exact) return;
  CHECK(found.beams == expected.beams);
  CHECK(found.contrastive == expected.contrastive);
}

TEST_CASE("cuda: scores, embeddings, perplexity and searches are the CPU's", "[cuda]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  {
    INFO("f32");
    check(scores(ctx, CudaModel::load(tiny().folder()), DType::f32), test::model_tolerance, true);
  }
  {
    INFO("f16");
    check(scores(ctx, LlamaModel<CudaHalfConfig>::load(tiny().folder()), DType::f16),
          test::half_model_tolerance, false);
  }
  INFO("bf16");
  check(scores(ctx, LlamaModel<CudaBFloat16Config>::load(tiny().folder()), DType::bf16),
        test::bfloat16_model_tolerance, false);
}

TEST_CASE("cuda: the same of a model that is partly on the CPU", "[cuda]") {
  if (!test::gpu()) return;
  LlamaShape shape = read_llama_shape(tiny().folder());
  auto weights = load_llama_weights(
      std::make_shared<const CheckpointSource>(Checkpoint::open(tiny().folder())), shape, {});
  SplitPlan plan;
  plan.near_layers = shape.layers - 2;
  plan.parts = {{0, 2}};
  Context<Split<Cuda>> ctx(SplitOptions<CudaOptions>{.near = {.threads = 2}, .far = {{}}});
  const SplitModel<CudaConfig> model(shape, plan, std::move(weights));
  check(scores(ctx, model, DType::f32), test::model_tolerance, true);
}

}  // namespace cuda_scoring_test
