// SPDX-License-Identifier: Apache-2.0
// The processors of a generation_config.json against those that Transformers builds from it, and
// those that Transformers lacks against their definition in double.
#include "ziya/generate/processor_list.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <random>

#include "model/fixture.hpp"
#include "model/golden.hpp"
#include "support/errors.hpp"
#include "ziya/backend/cpu/context.hpp"
#include "ziya/generate/configured_policy.hpp"
#include "ziya/generate/generation_config_file.hpp"
#include "ziya/generate/presets.hpp"

namespace processor_list_test {

using namespace ziya;
using Scores = std::map<std::int32_t, double>;

View<const float, Cpu> row(const std::vector<float>& logits) {
  return {logits.data(), Shape{static_cast<std::int64_t>(logits.size())}};
}

Scores left(const Candidates& candidates) {
  Scores result;
  candidates.for_each([&](const Candidate& candidate) {
    CHECK(result.emplace(candidate.id, candidate.score).second);
  });
  return result;
}

TEST_CASE("what Transformers keeps of a generation_config.json, with its scores") {
  const auto folder = golden::folder("processors");
  const Checkpoint file = Checkpoint::open(folder / "golden.safetensors");
  const fixture::TemporaryFolder model;
  SamplerState state;
  const nlohmann::json cases = read_json_file(folder / "cases.json");
  REQUIRE(cases.size() > 100);
  for (const nlohmann::json& entry : cases) {
    const std::string name = entry.at("name");
    INFO(name);
    nlohmann::json settings{{"top_k", 0}, {"top_p", 1.0}, {"eos_token_id", 2}};
    settings.update(entry);
    fixture::write_file(model.path() / "generation_config.json", settings.dump());
    const GenerationConfig config = GenerationConfig::load(model.path());
    const auto logits = golden::values<float>(file, name + "/logits");
    const auto history = golden::values<std::int32_t>(file, name + "/history");
    state.history = history;
    state.prompt_size = entry.at("prompt");
    state.limit = entry.at("limit");
    const Scores scores = left(processors_of(config).run(row(logits), state));
    const auto kept = golden::values<std::int32_t>(file, name + "/kept");
    const auto expected = golden::values<float>(file, name + "/scores");
    REQUIRE(scores.size() == kept.size());
    std::size_t i = 0;
    for (const auto& [id, score] : scores) {
      CHECK(id == kept[i]);
      CHECK(score == Approx(expected[i]).epsilon(1e-5).margin(1e-5));
      ++i;
    }
  }
}

std::vector<float> random_row(std::mt19937& draw, std::size_t size) {
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> result(size);
  for (float& value : result) value = normal(draw);
  return result;
}
std::vector<std::int32_t> random_ids(std::mt19937& draw, std::size_t count, int below) {
  std::vector<std::int32_t> ids(count);
  for (auto& id : ids) id = static_cast<std::int32_t>(draw() % static_cast<unsigned>(below));
  return ids;
}

TEST_CASE("count penalties are the formula's, on a whole row and on a short list") {
  std::mt19937 draw(1);
  for (int round = 0; round < 50; ++round) {
    const auto logits = random_row(draw, 30);
    const auto history = random_ids(draw, 25, 35);
    SamplerState state;
    state.history = history;
    state.prompt_size = 10;
    for (const bool narrowed : {false, true}) {
      for (const std::int64_t last : {-1, 7}) {
        state.candidates.assign(logits);
        if (narrowed) state.candidates.narrow();
        CountPenalty(0.4f, 0.3f, last).apply(state);
        const Scores scores = left(state.candidates);
        for (std::int32_t id = 0; id < 30; ++id) {
          int count = 0;
          for (std::size_t i = last < 0 ? 10 : 25 - 7; i < 25; ++i) count += history[i] == id;
          const double expected =
              logits[static_cast<std::size_t>(id)] - 0.3 * count - (count > 0 ? 0.4 : 0.0);
          CHECK(scores.at(id) == Approx(expected).margin(1e-5));
        }
      }
    }
  }
}

TEST_CASE("DRY is its definition: longest repeated stretch, up to a breaker") {
  std::mt19937 draw(2);
  for (int round = 0; round < 300; ++round) {
    const auto logits = random_row(draw, 6);
    const auto history = random_ids(draw, 1 + draw() % 40, 4);
    SamplerState state;
    state.history = history;
    DryOptions options{.multiplier = 0.8f, .base = 1.75f, .allowed_length = 1 + round % 3};
    if (round % 2 == 0) options.breakers = {3};
    state.candidates.assign(logits);
    Dry(options).apply(state);
    const Scores scores = left(state.candidates);
    for (std::int32_t id = 0; id < 6; ++id) {
      int longest = 0;
      for (std::size_t at = 1; at < history.size(); ++at) {  // id stood at `at`
        if (history[at] != id) continue;
        int length = 0;
        while (static_cast<std::size_t>(length) < at) {
          const std::int32_t a = history[at - 1 - static_cast<std::size_t>(length)];
          const std::int32_t b = history[history.size() - 1 - static_cast<std::size_t>(length)];
          if (a != b || (round % 2 == 0 && b == 3)) break;
          ++length;
        }
        longest = std::max(longest, length);
      }
      double expected = logits[static_cast<std::size_t>(id)];
      if (longest >= options.allowed_length) {
        expected -= double{0.8f} * std::pow(1.75, longest - options.allowed_length);
      }
      CHECK(scores.at(id) == Approx(expected).epsilon(1e-5));
    }
  }
}

std::vector<double> softmax(const std::vector<float>& logits) {
  double total = 0;
  std::vector<double> result;
  for (const float logit : logits) result.push_back(std::exp(double{logit}));
  for (const double value : result) total += value;
  for (double& value : result) value /= total;
  return result;
}

TEST_CASE("XTC removes all likely tokens but the least likely of them") {
  std::mt19937 draw(3);
  int removed = 0, rolled = 0;
  for (int round = 0; round < 400; ++round) {
    const auto logits = random_row(draw, 12);
    const auto p = softmax(logits);
    SamplerState state;
    state.random.seed = static_cast<std::uint64_t>(round);
    Random same = state.random;
    const bool acts = same.uniform() < 0.5;
    state.candidates.assign(logits);
    Xtc(0.5f, 0.12f).apply(state);
    double least = 2;
    int above = 0;
    for (const double value : p) {
      if (value >= double{0.12f}) ++above, least = std::min(least, value);
    }
    const Scores scores = left(state.candidates);
    for (std::int32_t id = 0; id < 12; ++id) {
      const bool goes = acts && above >= 2 && p[static_cast<std::size_t>(id)] > least;
      CHECK(scores.contains(id) == !goes);
      removed += goes;
    }
    rolled += acts;
  }
  CHECK(removed > 100);
  CHECK((rolled > 150 && rolled < 250));
}

TEST_CASE("mirostat 2 draws and learns as its definition in double does") {
  std::mt19937 draw(4);
  GenerationConfig config;
  config.mirostat = {.enabled = true, .tau = 2.0f, .eta = 0.3f};
  config.seed = 5;
  ConfiguredPolicy policy;
  policy.configure(config);
  Context<Cpu> ctx({.threads = 1});
  SamplerState state;
  state.random.seed = 5;
  Random random{5, 0};
  double mu = 4;
  for (int token = 0; token < 200; ++token) {
    const auto logits = random_row(draw, 50);
    const auto p = softmax(logits);
    std::vector<std::pair<double, std::int32_t>> kept;
    for (std::int32_t id = 0; id < 50; ++id) {
      if (-std::log2(p[static_cast<std::size_t>(id)]) <= mu) {
        kept.emplace_back(p[static_cast<std::size_t>(id)], id);
      }
    }
    if (kept.empty()) {
      const auto best = std::max_element(p.begin(), p.end()) - p.begin();
      kept.emplace_back(p[static_cast<std::size_t>(best)], static_cast<std::int32_t>(best));
    }
    std::sort(kept.rbegin(), kept.rend());
    double total = 0;
    for (const auto& [value, id] : kept) total += value;
    double rest = random.uniform() * total;
    std::size_t chosen = 0;
    while (chosen + 1 < kept.size() && (rest -= kept[chosen].first) >= 0) ++chosen;
    CHECK(policy.sample(ctx, row(logits), state) == kept[chosen].second);
    mu -= double{0.3f} * (-std::log2(kept[chosen].first / total) - 2.0);
    CHECK(*state.mirostat_mu == Approx(mu).epsilon(1e-4));
  }
}

TEST_CASE("the llama.cpp order cools last, the reference's first") {
  // Probabilities .5 .3 .2: at temperature 0.1 the best holds nearly everything.
  const std::vector<float> logits{std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  GenerationConfig config;
  config.temperature = 0.1f;
  config.top_k = 0;
  config.top_p = 0.6f;
  SamplerState state;
  CHECK(left(processors_of(config).run(row(logits), state)).size() == 1);
  config.order = SamplerOrder::llama_cpp;
  CHECK(left(processors_of(config).run(row(logits), state)).size() == 2);
}

TEST_CASE("presets are the cards'") {
  const GenerationConfig visual = generation_preset("visual");
  CHECK(visual.max_new_tokens == 128);
  CHECK(visual.top_p == 0.1f);
  CHECK(visual.temperature == 0.7f);
  CHECK(visual.repetition_penalty == 1.18f);
  CHECK(generation_preset("ziya").max_new_tokens == 1024);
  CHECK(generation_preset("llama.cpp").order == SamplerOrder::llama_cpp);
  REQUIRE_ERROR(generation_preset("best"), "ZIYA-548", "best");
}

TEST_CASE("a row whose tokens are all removed is refused, whatever comes next") {
  const std::vector<float> logits{1, 2, 3};
  GenerationConfig config;
  config.suppress_tokens = {0, 1, 2};
  config.top_k = 0;
  for (float* setting : {&config.min_p, &config.epsilon_cutoff, &config.eta_cutoff}) {
    *setting = 0.5f;
    SamplerState state;
    CHECK_THROWS_AS(processors_of(config).run(row(logits), state), BackendError);
    *setting = 0;
  }
  SamplerState state;
  CHECK_THROWS_AS(processors_of(config).run(row(logits), state), BackendError);
}

TEST_CASE("settings outside their domain, and those that nothing implements, are refused by name") {
  const auto refused = [](auto change) {
    GenerationConfig config;
    change(config);
    CHECK_THROWS_AS(config.check(), ArgumentError);
  };
  refused([](auto& c) { c.min_p = 1.5f; });
  refused([](auto& c) { c.typical_p = 0; });
  refused([](auto& c) { c.presence_penalty = NAN; });
  refused([](auto& c) { c.num_return_sequences = 2; });
  refused([](auto& c) { c.dry.base = 0.5f; });
  refused([](auto& c) { c.bad_words_ids = {{}}; });
  refused([](auto& c) { c.sequence_bias = {{{-1}, 1}}; });
  refused([](auto& c) { c.mirostat = {true, -1.0f, 0.1f}; });
  const fixture::TemporaryFolder model;
  fixture::write_file(model.path() / "generation_config.json", R"({"guidance_scale": 1.5})");
  REQUIRE_ERROR(GenerationConfig::load(model.path()), "ZIYA-547", "guidance_scale is 1.5");
  fixture::write_file(model.path() / "generation_config.json", R"({"guidance_scale": 1.0})");
  CHECK_NOTHROW(GenerationConfig::load(model.path()));
  fixture::write_file(model.path() / "generation_config.json", R"({"early_stopping": "soon"})");
  REQUIRE_ERROR(GenerationConfig::load(model.path()), "ZIYA-511", "early_stopping");
}

}  // namespace processor_list_test
