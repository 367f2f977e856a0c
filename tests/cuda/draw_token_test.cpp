// SPDX-License-Identifier: Apache-2.0
// Tokens drawn on the GPU are those that the processors on the CPU draw: one body for both devices.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "cuda/devices.hpp"
#include "ziya/generate/configured_policy.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/ops/draw_token.hpp"

namespace draw_token_test {

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
      if constexpr (std::is_same_v<Device, Cuda>) {  // the processors did not step in
        SamplerState before = state;
        DeviceDraw draw;
        draw.configure(config);
        result.on_host += !draw.sample(ctx, View<const float, Device>(here.view()), before);
      }
      result.ids.push_back(policy.sample(ctx, View<const float, Device>(here.view()), state));
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
    const auto row = test::on<float, Cuda>(values, Shape{std::ssize(values)});
    return ops::draw_token(ctx, View<const float, Cuda>(row.view()), {}, draw);
  };
  CHECK(one({1, 5, 5, 2}, {.best = true}) == 1);
  CHECK(one({1, 5, 5, 2}, {.top_k = 1, .uniform = 0.4}) == 2);  // of equals the higher id first
  CHECK(one({1, 5, 5, 2}, {.top_k = 1, .uniform = 0.6}) == 1);
  CHECK_FALSE(one({1, std::nanf(""), 2}, {.best = true}));
  CHECK_FALSE(one({1, INFINITY, 2}, {}));
  CHECK_FALSE(one({-INFINITY, -INFINITY}, {.best = true}));
  CHECK_FALSE(one(std::vector<float>(5000, 1.0f), {.top_k = 50}));
  CHECK_FALSE(one(std::vector<float>(5000, 1.0f), {.top_p = 0.9f}));
  CHECK(one(std::vector<float>(5000, 1.0f), {.uniform = 0.5001}) == 2500);

  ConfiguredPolicy policy;  // what it cannot, the processors do, errors included
  policy.configure({});
  SamplerState state;
  const auto nothing =
      test::on<float, Cuda>(*std::make_unique<std::vector<float>>(4, std::nanf("")), Shape{4});
  CHECK_THROWS_AS(policy.sample(ctx, View<const float, Cuda>(nothing.view()), state), BackendError);
  CHECK(state.random.position == 0);
}

}  // namespace draw_token_test
