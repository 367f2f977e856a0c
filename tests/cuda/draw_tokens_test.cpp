// SPDX-License-Identifier: Apache-2.0
// Tokens drawn on the GPU are those that the processors on the CPU draw: one body for both devices.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/devices.hpp"
#include "model/ziya_tiny.hpp"
#include "ziya/generate/configured_policy.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/generator.hpp"
#include "ziya/generate/token_draws.hpp"
#include "ziya/model/llama.hpp"
#include "ziya/ops/draw_tokens.hpp"

namespace draw_tokens_test {

using namespace ziya;

struct Setting {
  const char* name;
  GenerationConfig config;
};

std::vector<Setting> settings() {
  std::vector<Setting> all;
  const auto add = [&](const char* name, auto&& change) {
    GenerationConfig config;
    change(config);
    all.push_back({name, config});
  };
  add("model card", [](auto&) {});
  add("greedy", [](auto& c) { c.do_sample = false; });
  add("greedy, penalties", [](auto& c) {
    c.do_sample = false;
    c.repetition_penalty = 1.3f;
    c.presence_penalty = 0.5f;
  });
  add("temperature alone", [](auto& c) { c.top_k = 0, c.top_p = 1, c.temperature = 0.7f; });
  add("top_p alone", [](auto& c) { c.top_k = 0, c.top_p = 0.6f, c.temperature = 0.3f; });
  add("top_k alone", [](auto& c) { c.top_k = 1000, c.top_p = 1, c.temperature = 1.6f; });
  add("one", [](auto& c) { c.top_k = 1; });
  add("top_p 0", [](auto& c) { c.top_p = 0; });
  add("every penalty", [](auto& c) {
    c.repetition_penalty = 1.1f;
    c.presence_penalty = -0.25f;
    c.frequency_penalty = 0.75f;
    c.temperature = 0.9f;
  });
  add("llama.cpp's order", [](auto& c) {
    c.order = SamplerOrder::llama_cpp;
    c.repetition_penalty = 1.2f;
    c.frequency_penalty = 0.3f;
    c.penalty_last_tokens = 5;
    c.temperature = 1.4f;
  });
  add("llama.cpp's order, all tokens", [](auto& c) {
    c.order = SamplerOrder::llama_cpp;
    c.top_k = 0, c.top_p = 1, c.temperature = 0.5f;
  });
  return all;
}

/// What a GPU draws from one row, if it does, and the random numbers behind it.
std::pair<std::optional<std::int32_t>, Random> drawn_alone(Context<Cuda>& ctx,
                                                           View<const float, Cuda> row,
                                                           const ConfiguredPolicy& policy,
                                                           SamplerState state) {
  TokenDraws<Cuda> draws;
  draws.reset(1);
  draws.ask(0, policy, state);
  draws.run(ctx, row.reshape(Shape{1, row.elements()}));
  const auto id = draws.take(0, state);
  return {id, state.random};
}

/// The ids that a policy draws from some rows, one after the other, how many numbers it took, and
/// draws that a GPU left to the host.
struct Drawn {
  std::vector<std::int32_t> ids;
  std::uint64_t numbers = 0;
  int on_host = 0;
};
template <class Device>
Drawn drawn(Context<Device>& ctx, const GenerationConfig& config,
            const std::vector<Tensor<float>>& rows, int draws) {
  ConfiguredPolicy policy;
  policy.configure(config);
  SamplerState state;
  state.random.seed = 11;
  std::vector<std::int32_t> history{1, 3, 3, 5, 900000};
  state.prompt_size = 2;
  Drawn result;
  for (const Tensor<float>& row : rows) {
    const auto here = row.to<Device>();
    for (int i = 0; i < draws; ++i) {
      state.history = history;
      const View<const float, Device> logits = here.view();
      if constexpr (std::is_same_v<Device, Cuda>) {  // the processors did not step in
        result.on_host += !drawn_alone(ctx, logits, policy, state).first;
      }
      result.ids.push_back(next_token(ctx, logits, policy, state));
      history.push_back(result.ids.back());
    }
  }
  result.numbers = state.random.position;
  return result;
}

std::vector<Tensor<float>> rows_of(std::int64_t count) {
  std::vector<Tensor<float>> rows;
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    auto values = test::random_values(count, seed, seed == 3 ? 0.5 : 12);
    for (std::size_t i = 0; i < values.size(); i += 5) values[i] = std::round(values[i]);  // equals
    if (count > 10) values[7] = -INFINITY;
    Tensor<float> row(Shape{count});
    std::copy(values.begin(), values.end(), row.data());
    rows.push_back(std::move(row));
  }
  return rows;
}

void check_draws(std::int64_t count, int draws) {
  Context<Cpu> cpu({.threads = 1});
  Context<Cuda> gpu;
  const auto rows = rows_of(count);
  for (const Setting& setting : settings()) {
    CAPTURE(count, setting.name);
    const Drawn found = drawn(gpu, setting.config, rows, draws);
    const Drawn expected = drawn(cpu, setting.config, rows, draws);
    CHECK(found.ids == expected.ids);
    CHECK(found.numbers == expected.numbers);
    // More than 2048 nearly equal tokens under top_p are the host's: the third row.
    const bool flat = setting.config.do_sample && setting.config.top_p < 1 &&
                      setting.config.top_k == 0 && count > 2048;
    CHECK(found.on_host <= (flat ? draws : 0));
  }
}

TEST_CASE("cuda: the GPU draws what the CPU draws", "[cuda][small]") {
  if (!test::gpu()) return;
  for (const std::int64_t count : {1, 2, 37, 1500}) check_draws(count, 40);
  check_draws(39410, 12);
}

TEST_CASE("cuda: the GPU draws what the CPU draws, a few times", "[cuda][small][race]") {
  if (!test::gpu()) return;
  check_draws(300, 1);
}

TEST_CASE("cuda: the GPU itself draws, and says where it cannot", "[cuda][small]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  const auto one = [&](std::vector<float> values, const TokenDraw& draw) {
    const auto row = test::on<float, Cuda>(values, Shape{1, std::ssize(values)});
    std::int32_t id = 0;
    ops::draw_tokens(ctx, std::span(&id, 1), View<const float, Cuda>(row.view()),
                     std::span(&draw, 1), {});
    return id;
  };
  CHECK(one({1, 5, 5, 2}, {.best = true}) == 1);
  CHECK(one({1, 5, 5, 2}, {.top_k = 1, .uniform = 0.4}) == 2);  // of equals the higher id first
  CHECK(one({1, 5, 5, 2}, {.top_k = 1, .uniform = 0.6}) == 1);
  CHECK(one({1, std::nanf(""), 2}, {.best = true}) == -1);
  CHECK(one({1, INFINITY, 2}, {}) == -1);
  CHECK(one({-INFINITY, -INFINITY}, {.best = true}) == -1);
  CHECK(one(std::vector<float>(5000, 1.0f), {.top_k = 50}) == -1);
  CHECK(one(std::vector<float>(5000, 1.0f), {.top_p = 0.9f}) == -1);
  CHECK(one({1, 5, 5, 2}, {.on_host = true}) == -1);
  CHECK(one(std::vector<float>(5000, 1.0f), {.uniform = 0.5001}) == 2500);

  ConfiguredPolicy policy;  // what it cannot, the processors do, errors included
  policy.configure({});
  SamplerState state;
  const auto nothing =
      test::on<float, Cuda>(*std::make_unique<std::vector<float>>(4, std::nanf("")), Shape{4});
  CHECK_THROWS_AS(next_token(ctx, View<const float, Cuda>(nothing.view()), policy, state),
                  BackendError);
  CHECK(state.random.position == 0);
}

TEST_CASE("cuda: rows of many settings drawn together are those drawn alone",
          "[cuda][small][race]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  std::vector<ConfiguredPolicy> policies;
  for (const Setting& setting : settings()) policies.emplace_back().configure(setting.config);
  const std::size_t left = policies.size();  // a setting that no device knows
  policies.emplace_back().configure({.min_p = 0.1f});
  constexpr std::int64_t count = 301, stride = 304;  // what is beyond a row's columns means nothing
  std::vector<float> values;
  std::vector<SamplerState> states;
  std::vector<std::vector<std::int32_t>> histories;
  const auto rows = rows_of(count);
  for (std::size_t i = 0; i < 2 * policies.size(); ++i) {
    const float* row = rows[i % rows.size()].data();
    values.insert(values.end(), row, row + count);
    values.resize(values.size() + stride - count, INFINITY);
    std::vector<std::int32_t>& history = histories.emplace_back();
    for (std::size_t n = 0; n < i; ++n) history.push_back(static_cast<std::int32_t>(n * n % 300));
    states.emplace_back().random = {.seed = i, .position = i};
  }
  const std::size_t damaged = 2, not_asked = 5;
  values[damaged * stride + 9] = std::nanf("");
  const auto there = test::on<float, Cuda>(values, Shape{std::ssize(states), stride});
  const auto logits = View<const float, Cuda>(there.view()).column_range(0, count);

  TokenDraws<Cuda> draws;
  for (int round = 0; round < 2; ++round) {  // the second one is of fewer rows
    const std::size_t size = round == 0 ? states.size() : states.size() / 2;
    draws.reset(size);
    for (std::size_t i = 0; i < size; ++i) {
      states[i].history = histories[i];
      if (i != not_asked) draws.ask(i, policies[i % policies.size()], states[i]);
    }
    draws.run(ctx, logits.row_range(0, static_cast<std::int64_t>(size)));
    for (std::size_t i = 0; i < size; ++i) {
      CAPTURE(round, i);
      const View<const float, Cuda> row(logits.row(static_cast<std::int64_t>(i)), Shape{count});
      const auto [id, random] = drawn_alone(ctx, row, policies[i % policies.size()], states[i]);
      const bool drawn = i != damaged && i % policies.size() != left;
      CHECK(id.has_value() == drawn);
      SamplerState state = states[i];
      const auto together = draws.take(i, state);
      if (i == not_asked) {
        CHECK_FALSE(together);
        continue;
      }
      CHECK(together == id);
      CHECK(state.random.position == random.position);
    }
  }
}

TEST_CASE("cuda: answers drawn together, and behind guesses, are those drawn alone", "[cuda]") {
  if (!test::gpu()) return;
  Context<Cuda> ctx;
  const auto& tiny = fixture::ZiyaTiny::instance();
  const auto model = LlamaModel<CudaConfig>::load(tiny.folder());
  Generator<LlamaModel<CudaConfig>> generator(ctx, model, tiny.tokenizer());
  std::vector<std::vector<std::int32_t>> prompts;
  std::vector<GenerationConfig> configs;
  std::vector<GenerationResult> alone;
  for (std::size_t i = 0; i < 8; ++i) {
    prompts.push_back(tiny.expected().at("poems").at(i % 3).at("prompt_ids"));
    GenerationConfig& config = configs.emplace_back();
    config = {.max_new_tokens = 24,
              .do_sample = i % 4 != 3,
              .temperature = 1.5f,
              .seed = i,
              .eos_ids = {0}};
    if (i % 4 == 1) config.repetition_penalty = 1.2f, config.presence_penalty = 0.5f;
    if (i % 4 == 2) config.min_p = 0.05f;  // which the host draws
    if (i % 4 == 0) config.logprobs = 2;
    alone.push_back(generator.generate(prompts.back(), config));
  }
  const auto together = generator.generate_batch(prompts, configs);
  // Guesses that are right up to a place, and wrong there.
  for (std::size_t i = 0; i < alone.size(); ++i) {
    CAPTURE(i);
    CHECK(together[i].generated_ids == alone[i].generated_ids);
    CHECK(together[i].logprobs.size() == alone[i].logprobs.size());
    generator.speculate([&](const DraftRequest<Cuda>& request, std::vector<std::int32_t>& guesses) {
      const std::size_t done = request.ids.size() - prompts[i].size();
      const auto& ids = alone[i].generated_ids;
      for (std::size_t n = done; n < ids.size() && guesses.size() < request.count; ++n) {
        guesses.push_back(n % 7 == 6 ? 300 : ids[n]);
      }
    });
    const auto guessed = generator.generate(prompts[i], configs[i]);
    generator.speculate({});
    CHECK(guessed.generated_ids == alone[i].generated_ids);
    CHECK(guessed.accepted_tokens > 4);
  }
}

}  // namespace draw_tokens_test
