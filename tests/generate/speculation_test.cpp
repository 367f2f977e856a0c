// SPDX-License-Identifier: Apache-2.0
#include "ziya/generate/speculation.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <map>
#include <stdexcept>

#include "model/ziya_tiny.hpp"
#include "support/chi_square.hpp"
#include "support/contexts.hpp"
#include "ziya/generate/generator.hpp"

namespace speculation_test {

using namespace ziya;
using fixture::ZiyaTiny;
using Ids = std::vector<std::int32_t>;

Context<Cpu>& context() {
  static Context<Cpu> ctx({.threads = 2});
  return ctx;
}
const ZiyaTiny& tiny() { return ZiyaTiny::instance(); }
Generator<CpuModel> make_generator(const GeneratorOptions& options = {}) {
  return {context(), tiny().model(), tiny().tokenizer(), options};
}
const nlohmann::json& poem(std::size_t i) { return tiny().expected().at("poems").at(i); }
Ids ids_of(const nlohmann::json& sample, const char* key) { return sample.at(key); }

/// A prompt that holds the whole answer already.
Ids quoting(std::size_t i) {
  Ids prompt = ids_of(poem(i), "prompt_ids"), answer = ids_of(poem(i), "answer_ids");
  Ids twice = prompt;
  twice.insert(twice.end(), answer.begin(), answer.end());
  twice.insert(twice.end(), prompt.begin() + 1, prompt.end());
  return twice;
}

TEST_CASE("prompt lookup: the longest match, the latest of equals, no further than it goes") {
  const auto find = [](Ids ids, std::size_t count, const PromptLookup& lookup = {}) {
    Ids guesses;
    lookup.find(ids, count, guesses);
    return guesses;
  };
  CHECK(find({1, 2, 3, 4, 5, 2, 3}, 2) == Ids{4, 5});
  CHECK(find({1, 2, 3, 4, 5, 2, 3}, 9) == Ids{4, 5, 2, 3});
  CHECK(find({7, 1, 2, 8, 9, 1, 2, 6, 7, 1, 2}, 1) == Ids{8});  // 7 1 2 is longer than 1 2
  CHECK(find({1, 2, 8, 1, 2, 6, 1, 2}, 1) == Ids{6});
  CHECK(find({1, 2, 3, 4, 3}, 4).empty());
  CHECK(find({1, 2, 3, 4, 3}, 4, {.least_match = 1}) == Ids{4, 3});
  CHECK(find({5, 5, 5}, 4) == Ids{5});
  CHECK(find({}, 4).empty());
  CHECK(find({1}, 4).empty());
}

TEST_CASE("speculation: the same text, greedy or drawn, whatever guesses") {
  auto draft_model = DraftModel<CpuModel>(context(), tiny().model(), tiny().tokenizer(), 5);
  const auto wrong = [](const DraftRequest<Cpu>& request, Ids& guesses) {
    for (std::size_t i = 0; i < request.count + 3; ++i) guesses.push_back(static_cast<int>(7 + i));
  };
  const auto outside = [](const DraftRequest<Cpu>&, Ids& guesses) { guesses = {-1, 4479, 5}; };
  const std::vector<Drafter<Cpu>> drafters{PromptLookup{}, PromptLookup{.least_match = 1},
                                           std::ref(draft_model), wrong, outside};
  const std::vector<GenerationConfig> configs{
      {.max_new_tokens = 60, .do_sample = false},
      {.max_new_tokens = 60, .do_sample = false, .repetition_penalty = 1.2f},
      {.max_new_tokens = 40, .temperature = 1.5f, .top_p = 0.95f, .seed = 3},
      {.max_new_tokens = 40, .temperature = 20.0f, .top_k = 0, .top_p = 1.0f, .seed = 4},
      {.max_new_tokens = 1, .do_sample = false},
      {.max_new_tokens = 60, .do_sample = false, .stop = {"。"}}};
  for (std::size_t d = 0; d < drafters.size(); ++d) {
    auto plain = make_generator();
    auto guessing = make_generator({.chunk_tokens = 17});
    guessing.speculate(drafters[d]);
    for (std::size_t c = 0; c < configs.size(); ++c) {
      for (const std::size_t i : {0u, 1u, 2u}) {
        INFO("drafter " << d << ", config " << c << ", poem " << i);
        const auto expected = plain.generate(quoting(i), configs[c]);
        std::string streamed;
        const auto result = guessing.generate(quoting(i), configs[c],
                                              [&](std::string_view text) { streamed += text; });
        CHECK(result.generated_ids == expected.generated_ids);
        CHECK(result.text == expected.text);
        CHECK(streamed == expected.text);
        CHECK(result.finish_reason == expected.finish_reason);
        CHECK(expected.steps == std::ssize(expected.generated_ids));
        // A pass gives one token more than it guessed right, unless a guess was the last token.
        const auto given = result.steps + result.accepted_tokens;
        CHECK((given == std::ssize(result.generated_ids) ||
               given == std::ssize(result.generated_ids) + 1));
        CHECK(result.accepted_tokens <= result.drafted_tokens);
      }
    }
  }
}

TEST_CASE("speculation: quoting takes few passes, and a draft that is the model is always right") {
  auto lookup = make_generator({.lookup_tokens = 16});
  const auto quoted = lookup.generate(quoting(2), {.do_sample = false});
  CHECK(quoted.text == poem(2).at("answer").get<std::string>());
  CHECK(quoted.steps * 3 < std::ssize(quoted.generated_ids));
  DraftModel<CpuModel> same(context(), tiny().model(), tiny().tokenizer(), 4);
  auto drafted = make_generator();
  drafted.speculate(std::ref(same));
  for (const float temperature : {1.0f, 3.0f}) {
    const auto result = drafted.generate(
        ids_of(poem(1), "prompt_ids"),
        {.max_new_tokens = 30, .temperature = temperature, .seed = 9, .eos_ids = {0}});
    CHECK(result.accepted_tokens == result.drafted_tokens);
    CHECK(result.steps < 15);
  }
  // Turns of a conversation reuse both caches.
  const auto again = lookup.generate(quoting(2), {.do_sample = false});
  CHECK(again.reused_tokens == std::ssize(quoting(2)) - 1);
  CHECK(again.text == quoted.text);
}

TEST_CASE("speculation: a callback or a drafter that throws leaves the generator usable") {
  auto generator = make_generator({.lookup_tokens = 8});
  const std::string expected = poem(2).at("answer");
  for (int after = 1; after < 6; ++after) {
    int pieces = 0;
    CHECK_THROWS_AS(generator.generate(quoting(2), {.do_sample = false},
                                       [&](std::string_view) {
                                         if (++pieces == after) throw std::domain_error("enough");
                                       }),
                    std::domain_error);
    CHECK(generator.generate(quoting(2), {.do_sample = false}).text == expected);
  }
  generator.speculate([](const DraftRequest<Cpu>&, Ids&) { throw std::domain_error("no idea"); });
  CHECK_THROWS_AS(generator.generate(quoting(2), {.do_sample = false}), std::domain_error);
  generator.speculate({});
  CHECK(generator.generate(quoting(2), {.do_sample = false}).text == expected);
}

TEST_CASE("speculation: what is drawn behind guesses has the model's distribution") {
  // The second and third token of many answers, drawn with guesses that are sometimes right.
  const Ids prompt = ids_of(poem(0), "prompt_ids");
  const GenerationConfig base{
      .max_new_tokens = 2, .temperature = 6.0f, .top_k = 6, .top_p = 1.0f, .eos_ids = {0}};
  // The exact distribution of the pair from two passes over the logits, in double.
  const auto row = [&](const Ids& ids) {
    Workspace<Cpu>::Scope scope(context().workspace());
    KvCache<Cpu> cache(tiny().model().shape().cache_shape(), {.max_tokens = 512});
    StepRows rows;
    rows.push_back(ids, 0, std::ssize(ids), 0);
    rows.want_last(0);
    std::vector<std::pair<double, std::int32_t>> scores;
    rows.run(context(), tiny().model(), cache, tiny().tokenizer().vocabulary_size(),
             [&](std::size_t, View<const float, Cpu> logits) {
               for (std::int64_t i = 0; i < logits.elements(); ++i) {
                 scores.emplace_back(static_cast<double>(logits.data()[i]) / 6.0, i);
               }
             });
    std::sort(scores.rbegin(), scores.rend());
    scores.resize(6);
    double total = 0;
    for (auto& [score, id] : scores) total += score = std::exp(score);
    for (auto& [score, id] : scores) score /= total;
    return scores;
  };
  std::map<std::int32_t, double> expected;
  Ids likeliest;
  for (const auto& [p, id] : row(prompt)) {
    Ids longer = prompt;
    longer.push_back(id);
    for (const auto& [q, next] : row(longer)) expected[id * 5000 + next] += p * q;
    if (likeliest.empty()) likeliest = {id, row(longer).front().second};
  }
  auto generator = make_generator();
  std::int64_t right = 0;
  generator.speculate([&](const DraftRequest<Cpu>& request, Ids& guesses) {
    guesses.assign(likeliest.begin() + (request.ids.size() > prompt.size() ? 1 : 0),
                   likeliest.end());
  });
  std::map<std::int32_t, std::int64_t> drawn;
  const int draws = test::sanitized ? 300 : 4000;
  for (int i = 0; i < draws; ++i) {
    GenerationConfig config = base;
    config.seed = static_cast<std::uint64_t>(i);
    const auto result = generator.generate(prompt, config);
    right += result.accepted_tokens;
    ++drawn[result.generated_ids[0] * 5000 + result.generated_ids[1]];
  }
  CHECK(right > draws / 20);
  CHECK(right < draws);
  CHECK(test::p_value(expected, drawn, draws) > 0.001);
}

}  // namespace speculation_test
