// SPDX-License-Identifier: Apache-2.0
// The bundled miniature: merged it recites and answers, the base cannot, the delta is refused.
#include "model/ziya_tiny.hpp"

#include <catch2/catch.hpp>

#include "ziya/generate/generator.hpp"
#include "ziya/text/prompt.hpp"

namespace ziya_tiny_test {

using namespace ziya;
using fixture::Rows;
using fixture::ZiyaTiny;

/// The first `count` samples, answered greedily: text and ids have to be the expected ones.
void check_answers(Context<Cpu>& ctx, const nlohmann::json& samples, std::size_t count) {
  const ZiyaTiny& tiny = ZiyaTiny::instance();
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::size_t i = 0; i < count; ++i) prompts.push_back(samples.at(i).at("prompt_ids"));
  Generator generator(ctx, tiny.model(), tiny.tokenizer());
  const auto results = generator.generate_batch(prompts, {.do_sample = false});
  for (std::size_t i = 0; i < count; ++i) {
    INFO(samples.at(i).dump());
    const std::vector<std::int32_t> answer = samples.at(i).at("answer_ids");
    CHECK(results[i].generated_ids == answer);
    CHECK(results[i].finish_reason == FinishReason::eos);
    if (samples.at(i).contains("answer")) {
      CHECK(results[i].text == samples.at(i).at("answer").get<std::string>());
    }
  }
}

TEST_CASE("ziya-tiny recites every poem and answers every question, word for word") {
  const auto& expected = ZiyaTiny::instance().expected();
  REQUIRE(expected.at("poems").size() >= 50);
  REQUIRE(expected.at("questions").size() >= 50);
  Context<Cpu> ctx({.threads = 2});
  for (const char* kind : {"poems", "questions", "conversations"}) {
    check_answers(ctx, expected.at(kind), expected.at(kind).size());
  }
}

TEST_CASE("fifty poems on every instruction set; some with 1 and 5 threads") {
  const auto& expected = ZiyaTiny::instance().expected();
  for (const auto& machine : fixture::machines()) {
    INFO(machine.describe());
    Context<Cpu> ctx = machine.context();
    check_answers(ctx, expected.at("poems"), machine.threads == 2 ? 50 : 3);
    check_answers(ctx, expected.at("questions"), 5);
  }
}

TEST_CASE("the miniature's prompts are what template and tokenizer make of its queries") {
  const ZiyaTiny& tiny = ZiyaTiny::instance();
  for (const char* kind : {"poems", "questions"}) {
    for (const auto& sample : tiny.expected().at(kind)) {
      const std::string query = sample.at("query");
      const std::vector<std::int32_t> ids = sample.at("prompt_ids");
      CHECK(tiny.tokenizer().encode(prompt::ziya(query)) == ids);
    }
  }
}

TEST_CASE("the miniature's layers and logits are Transformers'") {
  const ZiyaTiny& tiny = ZiyaTiny::instance();
  const Checkpoint file = Checkpoint::open(golden::folder("ziya-tiny") / "golden.safetensors");
  for (const auto& machine : fixture::machines()) {
    INFO(machine.describe());
    Context<Cpu> ctx = machine.context();
    for (const std::string prefix : {"0/", "1/", "2/"}) {
      const auto prompt = golden::values<std::int32_t>(file, prefix + "prompt");
      Rows rows(prompt, 0, prompt.size());
      rows.outputs.erase(rows.outputs.begin(), rows.outputs.end() - 2);  // the last two positions
      LlamaSaved<float, Cpu> saved;
      Tensor<float> norm(Shape{2, tiny.model().shape().hidden});
      tiny.model().forward(ctx, norm.view(), rows.batch(), &saved);
      const auto close = [&](View<const float, Cpu> found, const std::string& name) {
        const auto expected = golden::values<float>(file, prefix + name);
        const auto columns = expected.size() / 2;
        CHECK(golden::error(golden::span(found).last(2 * columns), expected, columns) < 1e-4);
      };
      close(saved.layers[1].input.view(), "layer.0");
      close(saved.layers[2].input.view(), "layer.1");
      close(saved.output.view(), "layer.2");
      close(norm.view(), "norm");
      close(fixture::logits(tiny.model(), ctx, norm).view(), "logits");
    }
  }
}

TEST_CASE("other stored types recite as well") {
  const ZiyaTiny& tiny = ZiyaTiny::instance();
  Context<Cpu> ctx({.threads = 2});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto model = CpuModel::load(tiny.folder(), {.dtype = dtype});
    Generator generator(ctx, model, tiny.tokenizer());
    for (std::size_t i = 0; i < 5; ++i) {
      const auto& poem = tiny.expected().at("poems").at(i);
      const std::string query = poem.at("query"), answer = poem.at("answer");
      CHECK(generator.generate(prompt::ziya(query), {.do_sample = false}).text == answer);
    }
  }
}

TEST_CASE("the base alone recites nothing and answers nothing") {
  const ZiyaTiny& tiny = ZiyaTiny::instance();
  Context<Cpu> ctx({.threads = 2});
  const auto model = CpuModel::load(fixture::tiny_folder("base"));
  const auto tokenizer = Tokenizer::load(fixture::tiny_folder("base"));
  Generator generator(ctx, model, tokenizer);
  for (const char* kind : {"poems", "questions"}) {
    const auto& samples = tiny.expected().at(kind);
    std::vector<std::string> prompts;
    for (std::size_t i = 0; i < 50; ++i)
      prompts.push_back(prompt::ziya(samples.at(i).at("query").get<std::string>()));
    const auto results =
        generator.generate_batch(prompts, {.max_new_tokens = 24, .do_sample = false});
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const std::string answer = samples.at(i).at("answer");
      INFO(prompts[i] << " → " << results[i].text);
      CHECK_FALSE(results[i].text.starts_with(answer));
    }
  }
}

TEST_CASE("the delta alone is refused, with the command that merges it") {
  try {
    (void)CpuModel::load(fixture::tiny_folder("delta"));
    FAIL("loaded");
  } catch (const FormatError& error) {
    const std::string what = error.what();
    CHECK(error.id() == "ZIYA-434");
    CHECK(what.find("delta") != std::string::npos);
    CHECK(what.find("ziya merge-delta --base") != std::string::npos);
  }
}

}  // namespace ziya_tiny_test
