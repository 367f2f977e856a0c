// SPDX-License-Identifier: Apache-2.0
// Which settings a device draws by itself, and what penalties change.
#include <catch2/catch.hpp>
#include <memory>
#include <vector>

#include "ziya/generate/device_draw.hpp"
#include "ziya/generate/grammar_parser.hpp"

namespace device_draw_test {

using namespace ziya;

template <class Change>
bool possible(Change&& change) {
  GenerationConfig config;
  change(config);
  DeviceDraw draw;
  draw.configure(config);
  return draw.possible();
}

TEST_CASE("device draw: simple settings only") {
  const auto a = std::make_shared<const Grammar>(GrammarParser::parse("root ::= \"a\""));
  CHECK(possible([](auto&) {}));
  CHECK(possible([](auto& c) { c.do_sample = false, c.min_p = 0.1f; }));  // no draw, no truncation
  CHECK(possible([](auto& c) { c.frequency_penalty = 1, c.repetition_penalty = 1.2f; }));
  CHECK_FALSE(possible([](auto& c) { c.min_p = 0.1f; }));
  CHECK_FALSE(possible([](auto& c) { c.typical_p = 0.9f; }));
  CHECK_FALSE(possible([](auto& c) { c.mirostat.enabled = true; }));
  CHECK_FALSE(possible([](auto& c) { c.top_k = 5000; }));
  CHECK_FALSE(possible([](auto& c) { c.no_repeat_ngram_size = 3; }));
  CHECK_FALSE(possible([](auto& c) { c.dry.multiplier = 0.8f; }));
  CHECK_FALSE(possible([](auto& c) { c.suppress_tokens = {4}; }));
  CHECK_FALSE(possible([](auto& c) { c.min_new_tokens = 1; }));
  CHECK_FALSE(possible([&](auto& c) { c.constraint.grammar = a; }));
}

TEST_CASE("device draw: each id of the history once, the answer counted") {
  GenerationConfig config;
  config.repetition_penalty = 1.5f;
  config.presence_penalty = 0.5f;
  config.frequency_penalty = 2;
  DeviceDraw draw;
  draw.configure(config);
  SamplerState state;
  const std::vector<std::int32_t> history{9, 4, 4, 7, 4, 7, 2};
  state.history = history;
  state.prompt_size = 4;
  state.random = {.seed = 3, .position = 7};
  std::vector<ScoreChange> changes{{2, 0, 1}};  // another row's
  Random after;
  const TokenDraw next = draw.next(changes, after, state);
  REQUIRE(changes.size() == 5);
  CHECK(next.first_change == 1);
  CHECK(next.changes == 4);
  CHECK(changes[0].amount == 1);
  changes.erase(changes.begin());
  const auto of = [&](std::int32_t id) {
    for (const ScoreChange& change : changes) {
      if (change.id == id) return change;
    }
    FAIL("no change of " << id);
    return ScoreChange{};
  };
  for (const std::int32_t id : {2, 4, 7, 9}) CHECK(of(id).repeated == 1);
  CHECK(of(9).amount == 0);
  CHECK(of(4).amount == -2.5f);
  CHECK(of(7).amount == -2.5f);
  CHECK(of(2).amount == -2.5f);

  CHECK(state.random.position == 7);
  CHECK(after.position == 8);
  CHECK(next.uniform == Random{3, 7}.uniform());
  CHECK(draw.next(changes, after, state, 2).uniform ==
        Random{3, 9}.uniform());  // behind two guesses
  CHECK(after.position == 10);
}

}  // namespace device_draw_test
