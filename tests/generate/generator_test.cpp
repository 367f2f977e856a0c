// SPDX-License-Identifier: Apache-2.0
#include "ziya/generate/generator.hpp"

#include <catch2/catch.hpp>
#include <limits>
#include <map>
#include <set>

#include "model/ziya_tiny.hpp"
#include "ziya/generate/speculation.hpp"
#include "ziya/text/prompt.hpp"

namespace generator_test {

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
Ids prompt_of(const nlohmann::json& sample) { return sample.at("prompt_ids"); }
std::string answer_of(const nlohmann::json& sample) { return sample.at("answer"); }

const GenerationConfig greedy{.do_sample = false};

std::string error_id(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    INFO(error.what());
    return error.id();
  }
  return "nothing was thrown";
}

/// A policy that plays ids from a list, whatever the logits; and notes how many it was shown.
struct Script {
  const Ids* ids;
  std::size_t prompt;
  std::int64_t* columns = nullptr;

  std::int32_t sample(Context<Cpu>&, View<const float, Cpu> logits, SamplerState& state) const {
    if (columns != nullptr) *columns = logits.elements();
    return ids->at(state.history.size() - prompt);
  }
};
static_assert(SamplingPolicy<Script> && !ConfigurablePolicy<Script>);

struct Played {
  GenerationResult result;
  std::vector<std::string> pieces;
};
/// Generation in which the model says `ids`.
Played play(const Ids& ids, GenerationConfig config = {}) {
  Generator generator(context(), tiny().model(), tiny().tokenizer(), Script{&ids, 2});
  config.max_new_tokens = std::min<std::int64_t>(config.max_new_tokens, std::ssize(ids));
  Played played;
  played.result = generator.generate(
      Ids{1, 5}, config, [&](std::string_view text) { played.pieces.emplace_back(text); });
  return played;
}

TEST_CASE("an answer: ids, text, reason, and pieces of whole characters that join to the text") {
  auto generator = make_generator();
  for (std::size_t i = 0; i < 5; ++i) {
    const auto& sample = poem(i);
    std::string joined;
    const auto result = generator.generate(prompt::ziya(sample.at("query").get<std::string>()),
                                           greedy, [&](std::string_view piece) {
                                             CHECK_FALSE(piece.empty());
                                             CHECK(is_valid_utf8(piece));
                                             joined += piece;
                                           });
    CHECK(result.text == answer_of(sample));
    CHECK(joined == result.text);
    CHECK(result.prompt_ids == prompt_of(sample));
    CHECK(result.generated_ids == Ids(sample.at("answer_ids")));
    CHECK(result.finish_reason == FinishReason::eos);
    CHECK_FALSE(result.context_exhausted);
    CHECK(result.text == tiny().tokenizer().decode(result.generated_ids, {.skip_special = true}));
  }
}

TEST_CASE("the same seed gives the same text, another seed another") {
  auto generator = make_generator();
  GenerationConfig config{.max_new_tokens = 30, .temperature = 30.0f, .top_k = 0, .top_p = 1.0f};
  std::set<Ids> answers;
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    config.seed = seed;
    const auto first = generator.generate(prompt_of(poem(0)), config).generated_ids;
    CHECK(generator.generate(prompt_of(poem(0)), config).generated_ids == first);
    CHECK(make_generator({.chunk_tokens = 3}).generate(prompt_of(poem(0)), config).generated_ids ==
          first);
    answers.insert(first);
  }
  CHECK(answers.size() == 3);
}

TEST_CASE("padding rows of the embedding are never sampled, nor shown to a policy") {
  std::int64_t columns = 0;
  const Ids ids{100, 101};
  Generator scripted(context(), tiny().model(), tiny().tokenizer(), Script{&ids, 1, &columns});
  (void)scripted.generate(Ids{1}, {.max_new_tokens = 2});
  CHECK(columns == tiny().tokenizer().vocabulary_size());
  REQUIRE(columns < tiny().model().shape().vocabulary);
  auto generator = make_generator();
  const GenerationConfig flat{
      .max_new_tokens = 400, .temperature = 1e6f, .top_k = 0, .top_p = 1.0f, .eos_ids = {0}};
  const auto result = generator.generate(Ids{1}, flat);
  for (const std::int32_t id : result.generated_ids) CHECK(id < columns);
}

TEST_CASE("max_new_tokens ends an answer with length") {
  auto generator = make_generator();
  const Ids answer = poem(0).at("answer_ids");
  for (const std::int64_t count : {1, 5}) {
    const auto result =
        generator.generate(prompt_of(poem(0)), {.max_new_tokens = count, .do_sample = false});
    CHECK(result.generated_ids == Ids(answer.begin(), answer.begin() + count));
    CHECK(result.finish_reason == FinishReason::length);
    CHECK_FALSE(result.context_exhausted);
  }
  const auto none = generator.generate(prompt_of(poem(0)), {.max_new_tokens = 0});
  CHECK((none.generated_ids.empty() && none.text.empty()));
  CHECK(none.finish_reason == FinishReason::length);
}

TEST_CASE("the context ends an answer with length, and that is said") {
  auto generator = make_generator();
  REQUIRE(generator.context_limit() == 512);
  GenerationConfig config{.do_sample = false, .eos_ids = {4378}};  // never comes
  const auto near = generator.generate(Ids(500, 5), config);
  CHECK(near.generated_ids.size() == 12);
  CHECK(near.finish_reason == FinishReason::length);
  CHECK(near.context_exhausted);
  const auto full = generator.generate(Ids(512, 5), config);
  CHECK(full.generated_ids.empty());
  CHECK(full.finish_reason == FinishReason::length);
  CHECK(full.context_exhausted);
  config.max_new_tokens = 12;
  CHECK_FALSE(generator.generate(Ids(500, 5), config).context_exhausted);
  CHECK(error_id([&] { (void)generator.generate(Ids(513, 5), config); }) == "ZIYA-522");
}

TEST_CASE("prompts and settings that cannot be answered are refused; the next answer is right") {
  auto generator = make_generator();
  CHECK(error_id([&] { (void)generator.generate(Ids{}); }) == "ZIYA-521");
  for (const std::int32_t id : {-1, 4480, std::numeric_limits<int>::max()}) {
    CHECK(error_id([&] { (void)generator.generate(Ids{1, id}); }) == "ZIYA-523");
    CHECK(error_id([&] { (void)generator.generate(Ids{1}, {.eos_ids = {id}}); }) == "ZIYA-523");
  }
  const std::vector<GenerationConfig> wrong{{.max_new_tokens = -1}, {.temperature = 0},
                                            {.temperature = -1},    {.top_k = -1},
                                            {.top_p = 1.1f},        {.repetition_penalty = 0}};
  for (const auto& config : wrong) {
    CHECK(error_id([&] { (void)generator.generate(Ids{1}, config); }) == "ZIYA-501");
  }
  CHECK(error_id([&] { (void)generator.generate(Ids{1}, {.stop = {""}}); }) == "ZIYA-524");
  CHECK(error_id([&] { (void)make_generator({.chunk_tokens = 0}); }) == "ZIYA-526");
  CHECK(generator.generate(prompt_of(poem(3)), greedy).text == answer_of(poem(3)));
}

TEST_CASE("a tokenizer with more tokens than the model has embeddings is refused") {
  const fixture::TemporaryFolder folder;
  fixture::write_case(folder.path(), "plain", DType::f32);
  const auto model = CpuModel::load(folder.path());
  CHECK(error_id([&] { Generator(context(), model, tiny().tokenizer()); }) == "ZIYA-525");
}

TEST_CASE("a model that computes NaN is an error, not a random answer") {
  fixture::Tensors tensors = tiny().tensors();
  auto& weights = tensors.at("model.layers.2.mlp.down_proj.weight").bytes;
  const std::uint16_t nan = 0x7e00;
  for (std::size_t i = 0; i < weights.size(); i += 2) std::memcpy(&weights[i], &nan, 2);
  const fixture::TemporaryFolder folder;
  fixture::write_tiny(folder.path(), tensors);
  const auto model = CpuModel::load(folder.path());
  Generator generator(context(), model, tiny().tokenizer());
  CHECK(error_id([&] { (void)generator.generate(Ids{1, 5}, greedy); }) == "ZIYA-502");
  CHECK(error_id([&] { (void)generator.generate(Ids{1, 5}); }) == "ZIYA-502");
}

TEST_CASE("eos ids: several, and the tokenizer's where none are given") {
  const Ids ids{100, 101, 102, 2, 103};
  CHECK(play(ids).result.generated_ids == Ids{100, 101, 102, 2});
  CHECK(play(ids).result.finish_reason == FinishReason::eos);
  CHECK(play(ids, {.eos_ids = {7, 101}}).result.generated_ids == Ids{100, 101});
  CHECK(play(ids, {.eos_ids = {7}}).result.generated_ids == ids);
  CHECK(play(ids, {.eos_ids = {7}}).result.finish_reason == FinishReason::length);
  // The end token is in the ids, and in the text only when special tokens are wanted.
  CHECK(play(ids).result.text.find("</s>") == std::string::npos);
  CHECK(play(ids, {.skip_special = false}).result.text.ends_with("</s>"));
}

TEST_CASE("characters that come as bytes are given whole") {
  const auto byte = [](unsigned value) { return static_cast<std::int32_t>(3 + value); };
  // 🙂, é, an unfinished character in the middle, and one at the end.
  const Ids ids{byte(0xF0), byte(0x9F), byte(0x99), byte(0x82), byte(0xC3),
                byte(0xA9), byte(0xE7), byte('!'),  byte(0xE7), byte(0xA9)};
  const Played played = play(ids);
  CHECK(played.result.text == "🙂é\xE7!\xE7\xA9");
  REQUIRE(played.pieces.size() >= 2);
  CHECK(played.pieces[0] == "🙂");
  CHECK(played.pieces[1] == "é");
  std::string joined;
  for (const std::string& piece : played.pieces) joined += piece;
  CHECK(joined == played.result.text);
}

TEST_CASE("stop strings end the answer before them, also across tokens") {
  const Ids ids = poem(0).at("answer_ids");
  const std::string text = answer_of(poem(0));  // 空山不见人，但闻人语响。…
  const auto stopped = [&](const std::string& stop) { return play(ids, {.stop = {"#", stop}}); };
  for (const char* stop : {"人", "不见", "，但闻人语", "。\n返", "空山"}) {
    INFO(stop);
    const Played played = stopped(stop);
    CHECK(played.result.text == text.substr(0, text.find(stop)));
    CHECK(played.result.finish_reason == FinishReason::stop);
    std::string joined;
    for (const std::string& piece : played.pieces) joined += piece;
    CHECK(joined == played.result.text);
    CHECK(played.result.generated_ids.size() < ids.size());
  }
  // What only looked like the beginning comes out after all, at the latest at the end.
  CHECK(stopped("人语x").result.text == text);
  CHECK(stopped(text.substr(text.size() - 3) + "!").result.text == text);
  CHECK(stopped(text.substr(text.size() - 3) + "!").result.finish_reason == FinishReason::eos);
}

TEST_CASE("an answer that continues a text keeps the space of its first word") {
  const auto ids = tiny().tokenizer().encode("king said", {.add_bos = false});
  CHECK(play(ids).result.text == "king said");
  CHECK(play(ids, {.continues = true}).result.text == " king said");
}

TEST_CASE("cancelling: before, between the chunks of a prompt, between tokens") {
  auto generator = make_generator({.chunk_tokens = 4});
  std::atomic<bool> flag = true;
  const auto before = generator.generate(prompt_of(poem(1)), greedy, {}, flag);
  CHECK(before.finish_reason == FinishReason::cancelled);
  CHECK((before.generated_ids.empty() && before.text.empty()));
  flag = false;
  int pieces = 0;
  const auto during = generator.generate(
      prompt_of(poem(1)), greedy, [&](std::string_view) { flag = ++pieces == 4; }, flag);
  CHECK(during.finish_reason == FinishReason::cancelled);
  CHECK(pieces == 4);
  CHECK(answer_of(poem(1)).starts_with(during.text));
  CHECK_FALSE(during.text.empty());
  std::stop_source source;
  const auto by_token = generator.generate(
      prompt_of(poem(1)), greedy, [&](std::string_view) { source.request_stop(); },
      source.get_token());
  CHECK(by_token.finish_reason == FinishReason::cancelled);
  CHECK(generator.generate(prompt_of(poem(1)), greedy).text == answer_of(poem(1)));
}

TEST_CASE("a callback that throws is heard, and the generator can be used again") {
  auto generator = make_generator();
  for (int after = 1; after < 8; ++after) {
    int pieces = 0;
    CHECK_THROWS_AS(generator.generate(prompt_of(poem(2)), greedy,
                                       [&](std::string_view) {
                                         if (++pieces == after) throw std::domain_error("enough");
                                       }),
                    std::domain_error);
    const auto again = generator.generate(prompt_of(poem(2)), greedy);
    CHECK(again.text == answer_of(poem(2)));
    CHECK(again.reused_tokens > 0);
  }
}

TEST_CASE("a conversation computes only what is new, with the same result") {
  const auto& conversations = tiny().expected().at("conversations");
  auto generator = make_generator();
  for (std::size_t i = 0; i < 6; ++i) {
    const auto& sample = conversations.at(i);
    const Ids prompt = prompt_of(sample);
    generator.reset();
    // The first turn, then the whole: what they share is not computed again.
    const auto end = std::find(prompt.begin() + 2, prompt.end(), prompt[1]);
    const auto first = generator.generate(Ids(prompt.begin(), end), {.max_new_tokens = 3});
    CHECK(first.reused_tokens == 0);
    const auto whole = generator.generate(prompt, greedy);
    CHECK(whole.generated_ids == Ids(sample.at("answer_ids")));
    CHECK(whole.reused_tokens >= end - prompt.begin() - 1);
    CHECK(whole.reused_tokens < std::ssize(prompt));
    // The same prompt again: all but its last token is there.
    const auto again = generator.generate(prompt, greedy);
    CHECK(again.reused_tokens == std::ssize(prompt) - 1);
    CHECK(again.generated_ids == whole.generated_ids);
    // One that differs early.
    Ids other = prompt;
    other[4] = 100;
    const auto changed = generator.generate(other, {.max_new_tokens = 8, .do_sample = false});
    CHECK(changed.reused_tokens == 4);
    CHECK(
        changed.generated_ids ==
        make_generator().generate(other, {.max_new_tokens = 8, .do_sample = false}).generated_ids);
  }
}

TEST_CASE("a cache that has to grow gives the same answers") {
  const fixture::TemporaryFolder folder;
  fixture::write_tiny(folder.path(), tiny().tensors(), {{"max_position_embeddings", 20000}});
  const auto model = CpuModel::load(folder.path());
  Generator generator(context(), model, tiny().tokenizer(), {.page_tokens = 4});
  for (const std::int64_t count : {1, 3, 6000, 15000, 2}) {
    const auto result =
        generator.generate(prompt_of(poem(4)), {.max_new_tokens = count, .do_sample = false});
    CHECK(answer_of(poem(4)).starts_with(result.text));
    CHECK(result.finish_reason == (count < 40 ? FinishReason::length : FinishReason::eos));
  }
}

TEST_CASE("the size of a prompt's chunks changes nothing") {
  const Ids prompt = prompt_of(tiny().expected().at("conversations").at(0));
  const GenerationConfig config{.max_new_tokens = 20, .temperature = 3.0f, .seed = 5};
  const Ids expected = make_generator().generate(prompt, config).generated_ids;
  for (const std::int64_t chunk : {1, 2, 7, 64}) {
    CHECK(make_generator({.chunk_tokens = chunk}).generate(prompt, config).generated_ids ==
          expected);
  }
}

TEST_CASE("a batch of ragged prompts: every answer is what the prompt alone gives") {
  std::vector<Ids> prompts;
  for (std::size_t i = 0; i < 7; ++i) prompts.push_back(prompt_of(poem(i)));
  prompts.push_back(prompt_of(tiny().expected().at("conversations").at(1)));
  prompts.push_back({1});
  prompts.push_back(prompts[0]);
  for (const GenerationConfig& config :
       {GenerationConfig{.max_new_tokens = 60, .do_sample = false},
        GenerationConfig{.max_new_tokens = 30, .temperature = 2.0f, .top_p = 0.95f, .seed = 11},
        GenerationConfig{.max_new_tokens = 30, .repetition_penalty = 1.3f, .seed = 12}}) {
    for (const std::int64_t chunk : {512, 16, 3}) {
      auto generator = make_generator({.chunk_tokens = chunk});
      std::vector<std::string> texts(prompts.size());
      const auto results = generator.generate_batch(
          prompts, config, [&](std::size_t i, std::string_view text) { texts[i] += text; });
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        INFO("prompt " << i << ", chunks of " << chunk);
        const auto alone = generator.generate(prompts[i], config);
        CHECK(results[i].prompt_ids == prompts[i]);
        CHECK(results[i].generated_ids == alone.generated_ids);
        CHECK(results[i].text == alone.text);
        CHECK(results[i].text == texts[i]);
        CHECK(results[i].finish_reason == alone.finish_reason);
      }
    }
  }
}

TEST_CASE("a batch with a config each, and batches that are refused") {
  auto generator = make_generator();
  const std::vector<Ids> prompts{prompt_of(poem(0)), prompt_of(poem(1))};
  const std::vector<GenerationConfig> configs{{.max_new_tokens = 3, .do_sample = false},
                                              {.max_new_tokens = 9, .do_sample = false}};
  const auto results = generator.generate_batch(prompts, configs);
  CHECK(results[0].generated_ids.size() == 3);
  CHECK(results[1].generated_ids.size() == 9);
  CHECK(generator.generate_batch(std::vector<Ids>{}).empty());
  const std::vector<std::string> texts{prompt::ziya(poem(0).at("query").get<std::string>())};
  CHECK(generator.generate_batch(texts, greedy)[0].text == answer_of(poem(0)));
  const std::vector<GenerationConfig> three(3);
  CHECK(error_id([&] { (void)generator.generate_batch(prompts, three); }) == "ZIYA-527");
  CHECK(error_id([&] { (void)generator.generate_batch(std::vector<Ids>{{1}, {}}); }) == "ZIYA-521");
  int pieces = 0;
  CHECK_THROWS_AS(generator.generate_batch(prompts, greedy,
                                           [&](std::size_t, std::string_view) {
                                             if (++pieces == 3) throw std::domain_error("enough");
                                           }),
                  std::domain_error);
  std::atomic<bool> flag = true;
  for (const auto& result : generator.generate_batch(prompts, greedy, {}, flag)) {
    CHECK(result.finish_reason == FinishReason::cancelled);
  }
  CHECK(generator.generate_batch(texts, greedy)[0].text == answer_of(poem(0)));
}

TEST_CASE("a cache in 16 bits recites too") {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    auto generator = make_generator({.cache_dtype = dtype});
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(generator.generate(prompt_of(poem(i)), greedy).text == answer_of(poem(i)));
    }
  }
}

TEST_CASE("a cache in q8_0 recites every poem, alone and beside others that share its pages") {
  auto generator = make_generator({.cache_dtype = DType::q8_0, .page_tokens = 4});
  std::vector<Ids> prompts;
  for (const auto& sample : tiny().expected().at("poems")) prompts.push_back(prompt_of(sample));
  const auto together = generator.generate_batch(prompts, greedy);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    INFO("poem " << i);
    CHECK(together[i].text == answer_of(poem(i)));
    if (i < 10) CHECK(generator.generate(prompts[i], greedy).text == answer_of(poem(i)));
  }
}

TEST_CASE("rotary scaling extends the context") {
  LlamaShape shape;
  shape.max_positions = 2048;
  CHECK(context_limit(shape) == 2048);
  shape.rope_scaling = {
      .kind = RopeScaling::Kind::linear, .factor = 2, .original_max_positions = 2048};
  CHECK(context_limit(shape) == 4096);
  shape.max_positions = 8192;  // a config that says the extended length itself
  CHECK(context_limit(shape) == 8192);
  shape.rope_scaling.kind = RopeScaling::Kind::llama3;
  CHECK(context_limit(shape) == 8192);
  shape.rope_scaling = {
      .kind = RopeScaling::Kind::dynamic, .factor = 1e300, .original_max_positions = 8192};
  CHECK(context_limit(shape) == 1 << 30);
}

TEST_CASE("dynamic scaling: what the cache holds never changes an answer") {
  const fixture::TemporaryFolder folder;
  fixture::write_tiny(
      folder.path(), tiny().tensors(),
      {{"max_position_embeddings", 40}, {"rope_scaling", {{"type", "dynamic"}, {"factor", 4.0}}}});
  const auto model = CpuModel::load(folder.path());
  Ids prompt = prompt_of(tiny().expected().at("conversations").at(0));
  REQUIRE(prompt.size() > 80);
  const GenerationConfig config{.max_new_tokens = 10, .do_sample = false};
  Generator used(context(), model, tiny().tokenizer(), {.chunk_tokens = 16});
  REQUIRE(used.context_limit() == 160);
  for (const std::size_t size : {20u, 35u, 38u, 60u, 38u, 80u, 60u, 20u}) {
    INFO(size);
    const Ids part(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(size));
    Generator fresh(context(), model, tiny().tokenizer());
    CHECK(used.generate(part, config).generated_ids == fresh.generate(part, config).generated_ids);
  }
}

/// A policy of a user, which knows nothing of configs: the best token that differs from the last.
struct NeverTwice {
  std::int32_t sample(Context<Cpu>&, View<const float, Cpu> logits, SamplerState& state) const {
    state.candidates.assign({logits.data(), static_cast<std::size_t>(logits.elements())});
    state.candidates.transform_only(state.history.last(1), [](float) { return -1e30f; });
    return state.candidates.best().id;
  }
};

TEST_CASE("a policy of one's own") {
  Generator generator(context(), tiny().model(), tiny().tokenizer(), NeverTwice{});
  const auto result = generator.generate(Ids{1, 5, 5}, {.max_new_tokens = 40});
  CHECK(result.generated_ids.size() > 1);
  for (std::size_t i = 1; i < result.generated_ids.size(); ++i) {
    CHECK(result.generated_ids[i] != result.generated_ids[i - 1]);
  }
}

TEST_CASE("answers: greedy ones on every machine, drawn ones on any number of threads") {
  std::map<Isa, Ids> drawn;
  for (const auto& machine : fixture::machines()) {
    INFO(machine.describe());
    Context<Cpu> ctx = machine.context();
    Generator generator(ctx, tiny().model(), tiny().tokenizer());
    const std::vector<Ids> prompts{prompt_of(poem(0)), prompt_of(poem(1))};
    const auto answers = generator.generate_batch(prompts, greedy);
    for (std::size_t i = 0; i < prompts.size(); ++i) CHECK(answers[i].text == answer_of(poem(i)));
    const auto ids =
        generator.generate(prompts[0], {.max_new_tokens = 12, .temperature = 2.0f, .seed = 3})
            .generated_ids;
    CHECK(drawn.emplace(machine.isa, ids).first->second == ids);
    generator.speculate(PromptLookup{4});
    CHECK(generator.generate(prompts[1], greedy).text == answer_of(poem(1)));
  }
}

}  // namespace generator_test
