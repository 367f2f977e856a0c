// SPDX-License-Identifier: Apache-2.0
// Searches and processors against Transformers': ids and scores of 50 prompts for each of two
// models.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <utility>
#include <vector>

#include "model/fixture.hpp"
#include "model/golden.hpp"
#include "model/ziya_tiny.hpp"
#include "support/errors.hpp"
#include "ziya/backend/cpu/context.hpp"
#include "ziya/generate/beam_search.hpp"
#include "ziya/generate/cached_rows.hpp"
#include "ziya/generate/contrastive_search.hpp"
#include "ziya/generate/generation_config_file.hpp"
#include "ziya/generate/generator.hpp"
#include "ziya/generate/processor_list.hpp"

namespace search_golden_test {

using namespace ziya;

GenerationConfig config_of(const nlohmann::json& entry) {
  const fixture::TemporaryFolder folder;
  nlohmann::json settings{{"do_sample", false}, {"eos_token_id", 2}};
  settings.update(entry.at("settings"));
  settings["max_new_tokens"] = entry.at("max_new_tokens");
  fixture::write_file(folder.path() / "generation_config.json", settings.dump());
  return GenerationConfig::load(folder.path());
}

using Ids = std::vector<std::int32_t>;

void check_model(const std::string& name, const CpuModel& model, const Tokenizer& tokenizer) {
  Context<Cpu> ctx({.threads = 1});
  Generator generator(ctx, model, tokenizer);
  const auto folder = golden::folder("search");
  const nlohmann::json beams = read_json_file(folder / (name + ".beam.json"));
  REQUIRE(beams.size() == 50);
  for (const nlohmann::json& entry : beams) {
    const GenerationConfig config = config_of(entry);
    const Ids prompt = entry.at("prompt");
    INFO(name << " " << entry.at("settings").dump() << " " << entry.at("prompt").dump());
    const nlohmann::json& answers = entry.at("answers");
    if (config.num_beams == 1) {
      CHECK(generator.generate(prompt, config).generated_ids == answers[0].get<Ids>());
      continue;
    }
    const auto results = beam_search(ctx, model, tokenizer, prompt, config);
    REQUIRE(results.size() == answers.size());
    for (std::size_t i = 0; i < results.size(); ++i) {
      CHECK(results[i].generated_ids == answers[i].get<Ids>());
      // The log-probability per token; a score multiplies it by length^(1 − length_penalty).
      const auto length = static_cast<double>(results[i].generated_ids.size());
      const double scale = std::pow(length, config.length_penalty - 1.0);
      CHECK(results[i].score * scale ==
            Approx(entry.at("scores")[i].get<double>() * scale).epsilon(0).margin(1e-4));
    }
  }
  const nlohmann::json contrastive = read_json_file(folder / (name + ".contrastive.json"));
  REQUIRE(contrastive.size() == 50);
  for (const nlohmann::json& entry : contrastive) {
    const GenerationConfig config = config_of(entry);
    INFO(name << " " << entry.at("settings").dump() << " " << entry.at("prompt").dump());
    CHECK(wants_contrastive_search(config));
    const auto result =
        contrastive_search(ctx, model, tokenizer, entry.at("prompt").get<Ids>(), config);
    CHECK(result.generated_ids == entry.at("answers")[0].get<Ids>());
  }
}

/// What is left of a model's own logits: how many ids and which, and their scores.
void check_processors(const std::string& name, const CpuModel& model, const Tokenizer& tokenizer) {
  Context<Cpu> ctx({.threads = 1});
  const nlohmann::json cases =
      read_json_file(golden::folder("search") / (name + ".processors.json"));
  REQUIRE(cases.size() == 50 * 17);
  const fixture::TemporaryFolder folder;
  SamplerState state;  // one for all, as rows of a batch have one after another
  Ids prompt;
  std::vector<float> logits;
  for (const nlohmann::json& entry : cases) {
    INFO(name << " " << entry.at("settings").dump() << " " << entry.at("prompt").dump());
    if (Ids next = entry.at("prompt"); next != prompt) {
      prompt = std::move(next);
      CachedRows<CpuModel> rows(ctx, model, 1, std::ssize(prompt));
      logits = logits_row(rows.logits(rows.append(0, prompt, false)), 0, tokenizer);
    }
    nlohmann::json settings{{"top_k", 0}, {"top_p", 1.0}, {"eos_token_id", 2}};
    settings.update(entry.at("settings"));
    fixture::write_file(folder.path() / "generation_config.json", settings.dump());
    state.history = prompt;
    state.prompt_size = 1;
    state.limit = prompt.size() + 1;
    const Shape shape{static_cast<std::int64_t>(logits.size())};
    std::vector<Candidate> left;
    std::int64_t ids = 0;
    double scores = 0;
    processors_of(GenerationConfig::load(folder.path()))
        .run({logits.data(), shape}, state)
        .for_each([&](const Candidate& candidate) {
          left.push_back(candidate);
          ids += candidate.id;
          scores += double{candidate.score};
        });
    const auto count = static_cast<double>(left.size());
    REQUIRE(left.size() == entry.at("kept").get<std::size_t>());
    CHECK(ids == entry.at("ids").get<std::int64_t>());
    CHECK(scores / count == Approx(entry.at("scores").get<double>() / count).margin(1e-4));
    std::ranges::sort(left, [](const Candidate& a, const Candidate& b) {
      return std::pair(-a.score, a.id) < std::pair(-b.score, b.id);
    });
    for (std::size_t i = 0; i < entry.at("best").size(); ++i) {
      CHECK(left[i].id == entry.at("best")[i][0].get<std::int32_t>());
      CHECK(left[i].score == Approx(entry.at("best")[i][1].get<double>()).epsilon(0).margin(1e-4));
    }
  }
}

TEST_CASE("processors and searches give the reference's ids and scores: ziya-tiny") {
  const auto& tiny = fixture::ZiyaTiny::instance();
  check_model("ziya-tiny", tiny.model(), tiny.tokenizer());
  check_processors("ziya-tiny", tiny.model(), tiny.tokenizer());
}

TEST_CASE("processors and searches give the reference's ids and scores: stories260K") {
  const auto folder = golden::shared("stories260K-hf");
  if (folder.empty()) return;
  const CpuModel model = CpuModel::load(folder);
  const Tokenizer tokenizer = Tokenizer::load(folder);
  check_model("stories260K", model, tokenizer);
  check_processors("stories260K", model, tokenizer);
}

TEST_CASE("one beam is greedy; sampled beams follow the seed; stop strings end beams") {
  const auto& tiny = fixture::ZiyaTiny::instance();
  Context<Cpu> ctx({.threads = 1});
  Generator generator(ctx, tiny.model(), tiny.tokenizer());
  const Ids prompt = tiny.expected().at("poems")[0].at("prompt_ids");
  GenerationConfig config{.max_new_tokens = 12, .do_sample = false};
  const auto greedy = generator.generate(prompt, config);
  const auto one = beam_search(ctx, tiny.model(), tiny.tokenizer(), prompt, config).front();
  CHECK(one.generated_ids == greedy.generated_ids);
  CHECK(one.text == greedy.text);
  config.num_beams = config.num_return_sequences = 3;
  config.do_sample = true;
  config.temperature = 2;
  config.seed = 1;
  const auto ids = [&] {
    std::vector<Ids> all;
    for (const auto& each : beam_search(ctx, tiny.model(), tiny.tokenizer(), prompt, config)) {
      all.push_back(each.generated_ids);
    }
    return all;
  };
  const auto first = ids();
  CHECK(first == ids());
  config.seed = 2;
  CHECK(first != ids());
  config.do_sample = false;
  config.stop = {greedy.text.substr(0, 3)};
  config.num_return_sequences = 1;
  const auto stopped = beam_search(ctx, tiny.model(), tiny.tokenizer(), prompt, config).front();
  CHECK(stopped.text.find(config.stop[0]) == std::string::npos);
  config.max_new_tokens = 0;
  CHECK(beam_search(ctx, tiny.model(), tiny.tokenizer(), prompt, config).front().text.empty());
  REQUIRE_ERROR(beam_search(ctx, tiny.model(), tiny.tokenizer(), {}, config), "ZIYA-550", "0 ids");
}

TEST_CASE("log-probabilities are those of the model's own logits") {
  const auto& tiny = fixture::ZiyaTiny::instance();
  Context<Cpu> ctx({.threads = 1});
  Generator generator(ctx, tiny.model(), tiny.tokenizer());
  GenerationConfig config{.max_new_tokens = 8, .do_sample = false};
  config.logprobs = 5;
  config.repetition_penalty = 3;
  const auto result =
      generator.generate(tiny.expected().at("poems")[0].at("prompt_ids").get<Ids>(), config);
  REQUIRE(result.logprobs.size() == result.generated_ids.size());
  for (std::size_t i = 0; i < result.logprobs.size(); ++i) {
    const TokenLogprobs& each = result.logprobs[i];
    CHECK(each.id == result.generated_ids[i]);
    REQUIRE(each.top.size() == 5);
    double mass = 0;
    for (std::size_t j = 0; j < 5; ++j) {
      mass += std::exp(each.top[j].score);
      CHECK((j == 0 || each.top[j].score <= each.top[j - 1].score));
    }
    CHECK(mass <= 1 + 1e-6);
    CHECK(each.logprob <= each.top[0].score + 1e-6);
  }
  // A search says of the same answer the same.
  const Ids prompt = result.prompt_ids;
  config.repetition_penalty = 1;
  const auto greedy = generator.generate(prompt, config);
  config.top_k = 2, config.penalty_alpha = 1e-6f;
  const auto beam = beam_search(ctx, tiny.model(), tiny.tokenizer(), prompt, config).front();
  const auto contrastive = contrastive_search(ctx, tiny.model(), tiny.tokenizer(), prompt, config);
  for (const auto* found : {&beam, &contrastive}) {
    REQUIRE(found->generated_ids == greedy.generated_ids);
    REQUIRE(found->logprobs.size() == greedy.logprobs.size());
    for (std::size_t i = 0; i < greedy.logprobs.size(); ++i) {
      CHECK(found->logprobs[i].logprob == greedy.logprobs[i].logprob);
      CHECK(found->logprobs[i].top == greedy.logprobs[i].top);
    }
  }
  const TokenLogprobs known = token_logprobs(std::vector<float>{0, std::log(3.0f)}, 0, 9);
  CHECK(known.logprob == Approx(std::log(0.25)));
  REQUIRE(known.top.size() == 2);
  CHECK(known.top[0].id == 1);
}

}  // namespace search_golden_test
