// SPDX-License-Identifier: Apache-2.0
#include "ziya/generate/session.hpp"

#include <catch2/catch.hpp>
#include <stdexcept>

#include "model/ziya_tiny.hpp"
#include "support/errors.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/generate/scoring.hpp"
#include "ziya/text/prompt.hpp"

namespace session_test {

using namespace ziya;
using fixture::ZiyaTiny;
using Ids = std::vector<std::int32_t>;

Context<Cpu>& context() {
  static Context<Cpu> ctx({.threads = 2});
  return ctx;
}
const ZiyaTiny& tiny() { return ZiyaTiny::instance(); }
Session<CpuModel> make_session(const SessionOptions& options = {}, const char* name = "ziya") {
  return {context(), tiny().model(), tiny().tokenizer(), prompt::template_by_name(name), options};
}
const GenerationConfig greedy{.do_sample = false};

TEST_CASE("templates: ziya's are the ids of the training form, whatever is typed") {
  const PromptTemplate wrapping = prompt::template_by_name("ziya");
  for (const char* query : {"你好", " what? \n", "x</s><human>:y<bot>:", "", "1 2  3"}) {
    INFO(query);
    CHECK(wrapping.query_ids(tiny().tokenizer(), query) ==
          prompt::ziya_turn_ids(tiny().tokenizer(), query));
    const std::vector<prompt::Turn> turns{{query, "an answer "}, {"b", ""}};
    Conversation conversation(tiny().tokenizer(), wrapping);
    conversation.start_with({});
    conversation.add(query, "an answer ");
    conversation.ask("b");
    CHECK(conversation.ids() == prompt::conversation_ids(tiny().tokenizer(), turns));
  }
}

TEST_CASE("templates: the texts of the others") {
  const auto text = [](const char* name, std::optional<std::string> system = {}) {
    Conversation conversation(tiny().tokenizer(), prompt::template_by_name(name));
    conversation.set_system(std::move(system));
    conversation.add(" q1 ", "a1");
    conversation.ask("q2");
    return tiny().tokenizer().decode(conversation.ids());
  };
  const auto squeezed = [](std::string spaced) {  // decoding shows each segment's own space
    std::erase(spaced, ' ');
    return spaced;
  };
  CHECK(squeezed(text("llama2", "sys")) ==
        "<s>[INST]<<SYS>>\nsys\n<</SYS>>\n\nq1[/INST]a1</s><s>[INST]q2[/INST]");
  CHECK(squeezed(text("llama2")) == "<s>[INST]q1[/INST]a1</s><s>[INST]q2[/INST]");
  CHECK(squeezed(text("vicuna", "sys")) == "<s>sysUSER:q1ASSISTANT:a1</s>USER:q2ASSISTANT:");
  CHECK(squeezed(text("vicuna")).starts_with("<s>AchatbetweenacurioususerandanAI") == false);
  CHECK(squeezed(text("vicuna")).starts_with("<s>Achatbetweenacurioususerandanartificial"));
  CHECK(squeezed(text("alpaca", "")) ==
        "<s>###Instruction:\nq1\n\n###Response:a1</s>\n\n###Instruction:\nq2\n\n###Response:");
  CHECK(squeezed(text("reward")) == "<s>Human:q1\n\nAssistant:a1</s>Human:q2\n\nAssistant:");
  CHECK(squeezed(text("raw")) == "<s>q1a1</s>q2");
  CHECK(squeezed(text("ziya-demo")) == "<s><human>:q1<bot>:a1\n<human>:q2<bot>:");
  REQUIRE_ERROR(prompt::template_by_name("chatml"), "ZIYA-318", "alpaca");
  REQUIRE_ERROR(PromptTemplate::parse("[]", "t"), "ZIYA-317", "object");
  REQUIRE_ERROR(PromptTemplate::parse(R"({"colour": 1})", "t"), "ZIYA-317", "member");
  REQUIRE_ERROR(PromptTemplate::parse(R"({"tokens": [""]})", "t"), "ZIYA-317", "tokens");
  const auto lacking = PromptTemplate::parse(R"({"name": "n", "tokens": ["<|no|>"],
                                                 "before_query": "<|no|>"})",
                                             "t");
  CHECK_FALSE(lacking.fits(tiny().tokenizer()));
  REQUIRE_ERROR(lacking.query_ids(tiny().tokenizer(), "q"), "ZIYA-315", "<|no|>");
}

TEST_CASE("session: turns see each other, and only what is new is computed") {
  for (std::size_t i = 0; i < 4; ++i) {
    const auto& sample = tiny().expected().at("conversations").at(i);
    auto session = make_session();
    std::int64_t before = 0;
    for (const auto& turn : sample.at("turns")) {
      const Reply reply = session.say(turn.at("query").get<std::string>(), greedy);
      CHECK(reply.result.text == turn.at("answer").get<std::string>());
      CHECK(reply.result.reused_tokens >= before - 1);
      before = session.conversation().size();
    }
  }
}

TEST_CASE("session: saved and restored, it goes on as it would have") {
  const test::TemporaryDirectory folder;
  const GenerationConfig wild{.max_new_tokens = 12, .temperature = 5.0f};
  auto one = make_session({.seed = 40});
  one.conversation().set_system("Speak.");
  (void)one.say("What is the capital of France?", wild);
  one.save(folder / "s");
  auto other = make_session();
  other.load(folder / "s");
  CHECK(other.seed() == 41);
  CHECK(other.conversation().system() == "Speak.");
  for (int turn = 0; turn < 2; ++turn) {
    CHECK(other.say("And then?", wild).result.generated_ids ==
          one.say("And then?", wild).result.generated_ids);
  }
  // What does not fit is refused, and nothing changes.
  const Ids held = other.conversation().ids();
  auto vicuna = make_session({}, "vicuna");
  REQUIRE_ERROR(vicuna.load(folder / "s"), "ZIYA-583", "template");
  const std::string text = test::read_file(folder / "s");
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string copy = text;
    copy.replace(copy.find(from), from.size(), to);
    return folder.file("changed", copy);
  };
  REQUIRE_ERROR(other.load(changed("\"model\":\"", "\"model\":\"0")), "ZIYA-584", "belongs to");
  REQUIRE_ERROR(other.load(changed("\"turns\":[[", "\"turns\":[[99999,")), "ZIYA-583", "4379");
  REQUIRE_ERROR(other.load(changed("\"turns\":[[", "\"turns\":[[-1,")), "ZIYA-583", "4379");
  REQUIRE_ERROR(other.load(changed("ziya-session", "session")), "ZIYA-582", "session");
  REQUIRE_ERROR(other.load(changed("\"version\":1", "\"version\":2")), "ZIYA-582", "version");
  REQUIRE_ERROR(other.load(folder.file("cut", text.substr(0, text.size() / 2))), "ZIYA-230", "cut");
  REQUIRE_ERROR(other.load(folder / "absent"), "ZIYA-201", "absent");
  CHECK(other.conversation().ids() == held);
}

TEST_CASE("session: a long history is shortened by rule, and said; a failure changes nothing") {
  for (const HistoryRule rule : {HistoryRule::drop_turns, HistoryRule::slide}) {
    auto session = make_session({.history = rule});
    std::int64_t forgotten = 0;
    for (int turn = 0; turn < 40; ++turn) {
      const Reply reply = session.say("What is the capital of France?", greedy);
      forgotten += reply.forgotten.tokens;
      CHECK(session.conversation().size() <= session.generator().context_limit());
      CHECK_FALSE(reply.result.context_exhausted);
    }
    CHECK(forgotten > 100);
    const Ids held = session.conversation().ids();
    std::string huge;
    for (int i = 0; i < 600; ++i) huge += "the ";
    REQUIRE_ERROR(session.say(huge, greedy), "ZIYA-522", "context");
    CHECK_THROWS_AS(session.say("What is 2 + 2?", greedy,
                                [](std::string_view) { throw std::domain_error("no"); }),
                    std::domain_error);
    CHECK(session.conversation().ids() == held);
    CHECK(session.say("What is the capital of France?", greedy).result.text == "Paris.");
  }
}

TEST_CASE("scoring: the sum of what a forward pass gives, in any order of calls") {
  Scorer<CpuModel> scorer(context(), tiny().model(), 7);
  const auto& poem = tiny().expected().at("poems").at(0);
  const Ids prompt = poem.at("prompt_ids"), answer = poem.at("answer_ids");
  const auto reference = [&](const Ids& from, const Ids& to) {
    Ids ids = from;
    ids.insert(ids.end(), to.begin(), to.end());
    std::vector<std::int32_t> positions, slots(ids.size(), 0), outputs;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      positions.push_back(static_cast<int>(i));
      outputs.push_back(static_cast<int>(i));
    }
    Workspace<Cpu>::Scope scope(context().workspace());
    const auto rows = static_cast<std::int64_t>(ids.size());
    Tensor<float> hidden(Shape{rows, tiny().model().shape().hidden});
    Tensor<float> logits(Shape{rows, tiny().model().shape().vocabulary});
    Batch<float, Cpu> batch;
    batch.ids = ids, batch.positions = positions, batch.slots = slots, batch.outputs = outputs;
    tiny().model().forward(context(), hidden.view(), batch);
    tiny().model().logits(context(), logits.view(), hidden.view());
    double total = 0;
    for (std::size_t i = from.size() - 1; i + 1 < ids.size(); ++i) {
      const float* row = logits.data() + static_cast<std::int64_t>(i) * logits.shape()[1];
      double sum = 0;
      for (std::int64_t j = 0; j < logits.shape()[1]; ++j) sum += std::exp(double{row[j]});
      total += double{row[ids[i + 1]]} - std::log(sum);
    }
    return total;
  };
  for (const Ids& to : {answer, Ids{5}, Ids{5, 6, 7}, answer}) {
    const Likelihood found = scorer.log_likelihood(prompt, to);
    CHECK(found.log_probability == Approx(reference(prompt, to)).epsilon(1e-5));
    CHECK(found.tokens == std::ssize(to));
    CHECK(found.greedy == (to == answer));
  }
  const auto vector = scorer.embed(prompt);
  double length = 0;
  for (const float value : vector) length += double{value} * double{value};
  CHECK(length == Approx(1.0).epsilon(1e-6));
  CHECK(Scorer<CpuModel>(context(), tiny().model(), 512).embed(prompt) == vector);
  CHECK(scorer.embed(answer) != vector);
  REQUIRE_ERROR(scorer.log_likelihood(prompt, {}), "ZIYA-585", "continuation");
  REQUIRE_ERROR(scorer.log_likelihood({}, prompt), "ZIYA-521", "empty");
  REQUIRE_ERROR(scorer.embed(Ids(513, 5)), "ZIYA-522", "512");
}

}  // namespace session_test
