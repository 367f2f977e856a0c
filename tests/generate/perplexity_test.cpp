// SPDX-License-Identifier: Apache-2.0
// Perplexity against Transformers and llama.cpp, which ids count, and what is refused.
#include "ziya/generate/perplexity.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <vector>

#include "support/contexts.hpp"
#include "support/errors.hpp"
#include "ziya/io/json.hpp"
#include "ziya/model/llama.hpp"

namespace perplexity_test {

namespace fs = std::filesystem;

using ziya::Context;
using ziya::Cpu;
using ziya::CpuModel;
using ziya::PerplexityMethod;

struct Stories {
  nlohmann::json golden =
      ziya::read_json_file(fs::path(ZIYA_TEST_DATA) / "golden/perplexity/stories.json");
  std::vector<std::int32_t> ids = golden.at("ids");
  fs::path folder = fs::path(ZIYA_SHARED_DATA) / "stories260K-hf";
  Context<Cpu> ctx{{.threads = 2}};
  [[nodiscard]] bool missing() const {
    if (fs::exists(folder)) return false;
    std::cout << "SKIPPED: no " << folder << "\n";
    return true;
  }
  [[nodiscard]] ziya::PerplexityOptions options() const {
    ziya::PerplexityOptions result;
    result.context = golden.at("context");
    result.bos = 1;
    return result;
  }
};

TEST_CASE("llama.cpp's method gives llama.cpp's and Transformers' figure", "[perplexity]") {
  Stories stories;
  if (stories.missing()) return;
  const CpuModel model = CpuModel::load(stories.folder);
  const auto result = ziya::perplexity(stories.ctx, model, stories.ids, stories.options());
  CHECK(result.tokens == stories.golden.at("tokens").get<std::int64_t>());
  CHECK(result.perplexity ==
        Approx(stories.golden.at("llama_cpp_method").get<double>()).epsilon(1e-5));
  CHECK(result.perplexity ==
        Approx(stories.golden.at("llama_cpp").at("stories260K.f32.gguf").get<double>())
            .epsilon(1e-3));
  CHECK(result.uncertainty > 0.02 * result.perplexity);
  CHECK(result.uncertainty < 0.2 * result.perplexity);
  Context<Cpu> one({.threads = 1});
  CHECK(ziya::perplexity(one, model, stories.ids, stories.options()).perplexity ==
        result.perplexity);
}

TEST_CASE("the strided method gives the figure of Transformers' loop", "[perplexity]") {
  Stories stories;
  if (stories.missing()) return;
  const CpuModel model = CpuModel::load(stories.folder);
  ziya::PerplexityOptions options = stories.options();
  options.method = PerplexityMethod::strided;
  options.stride = stories.golden.at("stride");
  const auto result = ziya::perplexity(stories.ctx, model, stories.ids, options);
  CHECK(result.perplexity == Approx(stories.golden.at("strided").get<double>()).epsilon(1e-5));
  CHECK(result.tokens == static_cast<std::int64_t>(stories.ids.size()) - 1);
}

TEST_CASE("divergence from another model is PyTorch's; from itself it is none", "[perplexity]") {
  Stories stories;
  if (stories.missing()) return;
  const CpuModel model = CpuModel::load(stories.folder);
  const CpuModel rounded = CpuModel::load(stories.folder, {.dtype = ziya::DType::bf16});
  ziya::Context<Cpu> exact({.threads = 2, .isa = test::exact_isa()});
  const auto result = ziya::perplexity(exact, rounded, stories.ids, stories.options(), &model);
  CHECK(result.kl_divergence == Approx(stories.golden.at("bf16_kl").get<double>()).epsilon(0.02));
  CHECK(result.top_agreement == Approx(stories.golden.at("bf16_top").get<double>()).margin(0.005));
  CHECK(result.other_perplexity ==
        Approx(stories.golden.at("llama_cpp_method").get<double>()).epsilon(1e-5));
  const auto same = ziya::perplexity(stories.ctx, model, stories.ids, stories.options(), &model);
  CHECK(same.kl_divergence == 0);
  CHECK(same.top_agreement == 1);
}

TEST_CASE("llama.cpp's files of every mixture give llama.cpp's perplexity", "[perplexity]") {
  Stories stories;
  if (stories.missing()) return;
  for (const auto& [file, theirs] : stories.golden.at("llama_cpp").items()) {
    INFO(file);
    const CpuModel model = CpuModel::load(fs::path(ZIYA_SHARED_DATA) / "stories260K-gguf" / file);
    const double ours =
        ziya::perplexity(stories.ctx, model, stories.ids, stories.options()).perplexity;
    INFO(ours << ", llama.cpp " << theirs);
    CHECK(ours < 1.002 * theirs.get<double>());
    CHECK(ours > 0.98 * theirs.get<double>());
  }
}

TEST_CASE("a measurement is cancelled between windows", "[perplexity]") {
  Stories stories;
  if (stories.missing()) return;
  const CpuModel model = CpuModel::load(stories.folder);
  const std::atomic<bool> cancel{true};
  auto options = stories.options();
  options.cancel = &cancel;
  REQUIRE_ERROR(ziya::perplexity(stories.ctx, model, stories.ids, options), "ZIYA-561",
                "cancelled");
}

TEST_CASE("windows: which tokens count", "[perplexity]") {
  ziya::PerplexityOptions options{.context = 8};
  auto windows = ziya::detail::perplexity_windows(20, options);
  REQUIRE(windows.size() == 2);
  CHECK(windows[1].begin == 8);
  CHECK(windows[1].end == 16);
  CHECK(windows[1].score == 13);

  options = {.method = PerplexityMethod::strided, .context = 8, .stride = 3};
  windows = ziya::detail::perplexity_windows(20, options);
  std::int64_t counted = 1;
  for (const auto& window : windows) {
    CHECK(window.score == counted);
    CHECK(window.end - window.begin <= 8);
    CHECK(window.begin < window.score);
    counted = window.end;
  }
  CHECK(counted == 20);
  options.windows = 2;
  CHECK(ziya::detail::perplexity_windows(20, options).size() == 2);
}

TEST_CASE("texts that are too short and windows that make no sense are refused", "[perplexity]") {
  using ziya::detail::perplexity_windows;
  REQUIRE_ERROR(perplexity_windows(100, {.context = 512}), "ZIYA-560", "100 tokens");
  REQUIRE_ERROR(perplexity_windows(100, {.context = 2}), "ZIYA-560", "context of 2");
  ziya::PerplexityOptions strided{.method = PerplexityMethod::strided, .context = 8, .stride = 9};
  REQUIRE_ERROR(perplexity_windows(100, strided), "ZIYA-560", "stride of 9");
  strided.stride = 4;
  REQUIRE_ERROR(perplexity_windows(1, strided), "ZIYA-560", "1 tokens");
}

}  // namespace perplexity_test
