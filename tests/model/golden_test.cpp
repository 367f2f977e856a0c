// SPDX-License-Identifier: Apache-2.0
// The model against Transformers, on every instruction set, with 1, 2 and 5 threads.
#include <catch2/catch.hpp>

#include "model/fixture.hpp"
#include "support/contexts.hpp"

namespace golden_test {

using namespace ziya;
using fixture::Rows;

// docs/testing.md, "What is promised": fp32 activations on the same, widened weights; and activations
// in bf16.
constexpr double exact_tolerance = 1e-4, bf16_tolerance = 3e-2;

/// Everything that the golden file has of one case in one precision.
void check_case(const CpuModel& model, Context<Cpu>& ctx, const Checkpoint& file,
                const std::string& prefix) {
  const auto prompt = golden::values<std::int32_t>(file, prefix + "prompt");
  const bool exact =
      !test::rounds_to_bf16(ctx.isa(), model.weights().layers[0].mlp.gate.weight.dtype);
  const double tolerance = exact ? exact_tolerance : bf16_tolerance;
  const auto width = static_cast<std::size_t>(model.shape().hidden);
  const auto vocabulary = static_cast<std::size_t>(model.shape().vocabulary);
  const auto close = [&](const Tensor<float>& found, const std::string& name, std::size_t columns) {
    const auto expected = golden::values<float>(file, prefix + name);
    INFO(name);
    CHECK(golden::error(fixture::copy(found), expected, columns) < tolerance);
  };
  const Rows rows(prompt, 0, prompt.size());
  {
    INFO("without a cache");
    LlamaSaved<float, Cpu> saved;
    Tensor<float> norm(Shape{static_cast<std::int64_t>(prompt.size()), model.shape().hidden});
    model.forward(ctx, norm.view(), rows.batch(), &saved);
    for (std::size_t i = 0; i + 1 < saved.layers.size(); ++i) {
      close(saved.layers[i + 1].input, "layer." + std::to_string(i), width);
    }
    close(saved.output, "layer." + std::to_string(saved.layers.size() - 1), width);
    close(norm, "norm", width);
    close(fixture::logits(model, ctx, norm), "logits", vocabulary);
  }
  {
    INFO("with a cache");
    KvCache<Cpu> cache = fixture::make_cache(model);
    const Tensor<float> norm = fixture::hidden(model, ctx, rows, cache);
    close(norm, "norm", width);
    close(fixture::logits(model, ctx, norm), "logits", vocabulary);
  }
  const auto greedy = golden::values<std::int32_t>(file, prefix + "greedy");
  if (exact) {
    CHECK(fixture::greedy(model, ctx, prompt, greedy.size()) == greedy);
  } else {
    CHECK(fixture::behind_best(model, ctx, prompt, greedy) < tolerance);
  }
}

TEST_CASE("layers, logits and greedy tokens of random models are the reference's") {
  const Checkpoint file = Checkpoint::open(golden::folder("models") / "golden.safetensors");
  REQUIRE(fixture::cases().size() == 10);
  for (const auto& entry : fixture::cases()) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const std::string name = entry.at("name");
      const fixture::TemporaryFolder folder;
      fixture::write_case(folder.path(), name, dtype);
      const auto model = CpuModel::load(folder.path());
      REQUIRE(model.weights().layers[0].mlp.gate.weight.dtype == dtype);
      for (const auto& machine : fixture::machines()) {
        INFO(name << ", " << ziya::name(dtype) << ", " << machine.describe());
        Context<Cpu> ctx = machine.context();
        check_case(model, ctx, file, name + "/" + std::string(ziya::name(dtype)) + "/");
      }
    }
  }
}

TEST_CASE("files that torch.save and save_pretrained wrote give the same numbers") {
  const Checkpoint file = Checkpoint::open(golden::folder("models") / "golden.safetensors");
  Context<Cpu> ctx;
  const auto check = [&](const std::string& folder, const std::string& prefix) {
    INFO(folder);
    check_case(CpuModel::load(golden::folder("models") / folder), ctx, file, prefix);
  };
  check("grouped-f16-sharded-bin", "grouped/f16/");
  check("tied-bf16-bin", "tied/bf16/");
  check("grouped_llama3-bf16-safetensors", "grouped_llama3/bf16/");
}

TEST_CASE("converting while loading is rounding the files") {
  const Checkpoint file = Checkpoint::open(golden::folder("models") / "golden.safetensors");
  const fixture::TemporaryFolder folder;
  fixture::write_case(folder.path(), "plain", DType::bf16);
  Context<Cpu> ctx;
  const auto widened = CpuModel::load(folder.path(), {.dtype = DType::f32});
  CHECK(widened.weights().embedding.dtype == DType::f32);
  check_case(widened, ctx, file, "plain/bf16/");
  const auto stored = CpuModel::load(folder.path());
  CHECK(stored.weights().embedding.dtype == DType::bf16);
}

TEST_CASE("a trained checkpoint agrees with Transformers and with a float64 forward pass") {
  const auto folder = golden::shared("stories260K-hf");
  if (folder.empty()) return;
  const Checkpoint file = Checkpoint::open(golden::folder("stories") / "golden.safetensors");
  const auto reference = read_json_file(folder / "reference.json");
  const auto model = CpuModel::load(folder);
  const std::vector<std::int32_t> sentence = reference.at("sentence_ids");
  const std::vector<float> last = reference.at("sentence_last_logits");
  const std::vector<std::int32_t> story = reference.at("greedy_prompt_ids");
  const std::vector<std::int32_t> from_bos = reference.at("greedy_from_bos");
  for (const auto& machine : fixture::machines()) {
    INFO(machine.describe());
    Context<Cpu> ctx = machine.context();
    check_case(model, ctx, file, "");
    KvCache<Cpu> cache = fixture::make_cache(model);
    const Tensor<float> logits = fixture::logits(
        model, ctx, fixture::hidden(model, ctx, Rows(sentence, 0, sentence.size()), cache));
    CHECK(golden::error(golden::span(logits.view()).last(last.size()), last, last.size()) <
          exact_tolerance);
    CHECK(fixture::greedy(model, ctx, {1}, from_bos.size() - 1) ==
          std::vector<std::int32_t>(from_bos.begin() + 1, from_bos.end()));
    constexpr std::ptrdiff_t prompt = 5;  // "Once upon a time"
    CHECK(fixture::greedy(model, ctx, {story.begin(), story.begin() + prompt},
                          story.size() - prompt) ==
          std::vector<std::int32_t>(story.begin() + prompt, story.end()));
  }
  // The mean negative log-likelihood of the story, which float64 gave.
  Context<Cpu> ctx;
  KvCache<Cpu> cache = fixture::make_cache(model, 1, 512);
  const Tensor<float> rows = fixture::logits(
      model, ctx, fixture::hidden(model, ctx, Rows(from_bos, 0, from_bos.size()), cache));
  double sum = 0;
  for (std::size_t i = 0; i + 1 < from_bos.size(); ++i) {
    const float* row = rows.data() + static_cast<std::int64_t>(i) * model.shape().vocabulary;
    double total = 0;
    for (std::int64_t j = 0; j < model.shape().vocabulary; ++j) total += std::exp(double{row[j]});
    sum += std::log(total) - row[from_bos[i + 1]];
  }
  const double mean = sum / static_cast<double>(from_bos.size() - 1);
  CHECK(mean == Approx(reference.at("greedy_mean_nll").get<double>()).epsilon(1e-5));
}

}  // namespace golden_test
