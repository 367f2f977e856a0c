// SPDX-License-Identifier: Apache-2.0
#include "ziya/generate/scheduler.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>
#include <map>
#include <stdexcept>

#include "model/ziya_tiny.hpp"
#include "support/contexts.hpp"
#include "ziya/core/random.hpp"
#include "ziya/generate/generator.hpp"

namespace scheduler_test {

using namespace ziya;
using fixture::ZiyaTiny;
using Ids = std::vector<std::int32_t>;
using Tiny = Scheduler<CpuModel>;

Context<Cpu>& context() {
  static Context<Cpu> ctx({.threads = 2});
  return ctx;
}
const ZiyaTiny& tiny() { return ZiyaTiny::instance(); }
Tiny make_scheduler(const SchedulerOptions& options) {
  return {context(), tiny().model(), tiny().tokenizer(), options};
}
Ids prompt_of(std::size_t poem) { return tiny().expected().at("poems").at(poem).at("prompt_ids"); }

/// The answer of a generator that knows nothing of the others.
GenerationResult alone(const Ids& prompt, const GenerationConfig& config) {
  Generator generator(context(), tiny().model(), tiny().tokenizer());
  return generator.generate(prompt, config);
}

/// Requests of all lengths, greedy and drawn, some with a common beginning of 40 and more tokens.
std::vector<Request> ragged() {
  Ids system = prompt_of(0);
  while (system.size() < 70) system.push_back(static_cast<std::int32_t>(300 + system.size()));
  std::vector<Request> requests;
  for (std::size_t i = 0; i < 12; ++i) {
    Ids prompt = i % 3 == 0 ? Ids{} : system;
    const Ids own = prompt_of(i % 5);
    prompt.insert(prompt.end(), own.begin() + (i % 3 == 0 ? 0 : 1), own.end());
    GenerationConfig config{.max_new_tokens = 5 + static_cast<std::int64_t>(i * 3),
                            .do_sample = i % 2 == 0,
                            .temperature = 2.0f,
                            .seed = i};
    requests.push_back({std::move(prompt), config});
  }
  return requests;
}

TEST_CASE("scheduler: every text is what the request alone gets, whatever runs beside it") {
  const auto requests = ragged();
  std::vector<GenerationResult> expected;
  for (const Request& request : requests) expected.push_back(alone(request.prompt, request.config));
  const std::vector<SchedulerOptions> variants{
      {.slots = 12},
      {.slots = 3, .page_tokens = 8, .chunk_tokens = 16},
      {.slots = 1, .page_tokens = 16},
      {.slots = 12, .page_tokens = 16, .chunk_tokens = 5},
      {.slots = 8, .max_tokens = 200, .pages = 30, .page_tokens = 8, .chunk_tokens = 32},
      {.slots = 8, .max_tokens = 200, .pages = 25, .page_tokens = 8, .chunk_tokens = 32}};
  for (std::size_t v = 0; v < variants.size(); ++v) {
    INFO("variant " << v);
    auto scheduler = make_scheduler(variants[v]);
    std::vector<std::string> streamed(requests.size());
    std::vector<int> ended(requests.size());
    for (std::size_t i = 0; i < requests.size(); ++i) {
      Request request = requests[i];
      request.on_text = [&streamed, i](std::string_view text) { streamed[i] += text; };
      request.on_end = [&, i](Outcome outcome) {
        INFO("request " << i);
        ++ended[i];
        CHECK(outcome.error == nullptr);
        CHECK(outcome.id == i + 1);
        CHECK(outcome.result.generated_ids == expected[i].generated_ids);
        CHECK(outcome.result.text == expected[i].text);
        CHECK(outcome.result.finish_reason == expected[i].finish_reason);
        CHECK(streamed[i] == expected[i].text);
      };
      CHECK(scheduler.submit(std::move(request)) == i + 1);
      if (i % 4 == 3) {
        for (std::size_t steps = 0; steps < i; ++steps) scheduler.step();  // some join later
      }
    }
    scheduler.run();
    CHECK(ended == std::vector<int>(requests.size(), 1));
    CHECK((scheduler.running() == 0 && scheduler.waiting() == 0));
    if (variants[v].pages == 25) CHECK(scheduler.preemptions() > 0);
    if (variants[v].pages == 0) CHECK(scheduler.preemptions() == 0);
  }
}

TEST_CASE("scheduler: a common beginning is stored once, and a part of a page is copied") {
  auto scheduler = make_scheduler({.slots = 6, .page_tokens = 16});
  Ids beginning(100, 7);
  for (std::size_t i = 1; i < beginning.size(); ++i) beginning[i] = static_cast<int>(300 + i);
  std::int64_t reused = 0;
  const GenerationConfig config{.max_new_tokens = 8, .do_sample = false, .eos_ids = {0}};
  std::vector<Ids> prompts;
  for (std::int32_t i = 0; i < 6; ++i) {
    prompts.push_back(beginning);
    prompts.back().push_back(500 + i);
    const Ids expected = alone(prompts.back(), config).generated_ids;
    scheduler.submit({prompts.back(), config, {}, [&reused, expected](Outcome outcome) {
                        reused += outcome.result.reused_tokens;
                        CHECK(outcome.result.generated_ids == expected);
                      }});
  }
  std::int64_t most = 0;
  while (scheduler.step()) most = std::max(most, scheduler.cache().used_pages());
  CHECK(reused == 5 * 100);
  // 6 full pages of 16 shared; each sequence has its own 7th page (tokens 96 … 107).
  CHECK(most == 6 + 6);
  // A later request finds the beginning among those that have left.
  scheduler.submit({prompts[2], config, {}, [](Outcome outcome) {
                      CHECK(outcome.result.reused_tokens == 100);
                    }});
  scheduler.run();
}

TEST_CASE("scheduler: cancelling, from callbacks too, and callbacks that throw") {
  auto scheduler = make_scheduler({.slots = 3, .page_tokens = 8, .chunk_tokens = 8});
  const GenerationConfig endless{.max_new_tokens = 60, .do_sample = false, .eos_ids = {0}};
  const std::string text = alone(prompt_of(1), endless).text;
  std::map<RequestId, Outcome> outcomes;
  const auto note = [&](Outcome outcome) { outcomes[outcome.id] = std::move(outcome); };
  RequestId second = 0;
  int pieces = 0;
  const RequestId first = scheduler.submit({prompt_of(0), endless,
                                            [&](std::string_view) {
                                              if (++pieces == 3) {
                                                CHECK(scheduler.cancel(second));
                                              }
                                              if (pieces == 6) throw std::domain_error("enough");
                                            },
                                            note});
  second = scheduler.submit({prompt_of(1), endless, {}, note});
  const RequestId third = scheduler.submit({prompt_of(1), endless, {}, note});
  const RequestId waiting = scheduler.submit({prompt_of(2), endless, {}, note});
  CHECK(scheduler.cancel(waiting));
  CHECK_FALSE(scheduler.cancel(99));
  scheduler.run();
  CHECK(outcomes.size() == 4);
  CHECK(outcomes[first].error != nullptr);
  CHECK_THROWS_AS(std::rethrow_exception(outcomes[first].error), std::domain_error);
  CHECK(outcomes[second].result.finish_reason == FinishReason::cancelled);
  CHECK(text.starts_with(outcomes[second].result.text));
  CHECK(outcomes[third].result.text == text);
  CHECK(outcomes[waiting].result.generated_ids.empty());
}

TEST_CASE("scheduler: what an on_end throws leaves the step, and nothing else is lost") {
  auto scheduler = make_scheduler({.slots = 4});
  int ended = 0;
  for (int i = 0; i < 4; ++i) {
    scheduler.submit({prompt_of(0), {.max_new_tokens = 3, .do_sample = false}, {}, [&](Outcome) {
                        if (++ended == 2) throw std::domain_error("no");
                        CHECK(test::error_id<ArgumentError>([&] { scheduler.step(); }) ==
                              "ZIYA-581");
                        if (ended == 1) scheduler.submit({prompt_of(1), {.max_new_tokens = 1}});
                      }});
  }
  CHECK_THROWS_AS(scheduler.run(), std::domain_error);
  scheduler.run();
  CHECK(ended == 4);
}

TEST_CASE("scheduler: what cannot be answered is refused when it is submitted") {
  auto scheduler = make_scheduler({.slots = 2, .pages = 4, .page_tokens = 8});
  CHECK(scheduler.context_limit() == 32);
  const auto id = [&](Request request) {
    return test::error_id<ArgumentError>([&] { scheduler.submit(std::move(request)); });
  };
  CHECK(id({{}}) == "ZIYA-521");
  CHECK(id({Ids(33, 5)}) == "ZIYA-522");
  CHECK(id({{1, 4480}}) == "ZIYA-523");
  CHECK(id({{1}, {.temperature = 0}}) == "ZIYA-501");
  for (const SchedulerOptions& wrong :
       {SchedulerOptions{.slots = 0}, SchedulerOptions{.max_tokens = -1},
        SchedulerOptions{.pages = -1}, SchedulerOptions{.page_tokens = 0}}) {
    CHECK(test::error_id<ArgumentError>([&] { make_scheduler(wrong); }) == "ZIYA-580");
  }
  bool ended = false;
  scheduler.submit({Ids(30, 5), {.eos_ids = {0}}, {}, [&](Outcome outcome) {
                      ended = outcome.result.context_exhausted;
                      CHECK(outcome.result.generated_ids.size() == 2);
                    }});
  scheduler.run();
  CHECK(ended);
}

TEST_CASE("scheduler: random joins, leaves, cancellations and throwing callbacks") {
  const auto requests = ragged();
  std::vector<Ids> expected;
  for (const Request& request : requests) {
    expected.push_back(alone(request.prompt, request.config).generated_ids);
  }
  for (const std::uint64_t seed : {1u, 2u, 3u, 4u}) {
    INFO("seed " << seed);
    Random random{.seed = seed};
    const auto one_in = [&](std::uint64_t n) { return random.bits() % n == 0; };
    auto scheduler = make_scheduler({.slots = 1 + static_cast<int>(seed),
                                     .max_tokens = 200,
                                     .pages = 25 + 4 * static_cast<std::int64_t>(seed),
                                     .page_tokens = 8,
                                     .chunk_tokens = 24});
    int submitted = 0, ended = 0;
    for (int round = 0; round < 60 || scheduler.running() + scheduler.waiting() > 0; ++round) {
      if (round < 60 && one_in(2)) {
        const std::size_t which = random.bits() % requests.size();
        Request request = requests[which];
        const bool throws = one_in(4), throws_at_end = one_in(6);
        if (throws) {
          request.on_text = [left = static_cast<int>(random.bits() % 5)](std::string_view) mutable {
            if (left-- == 0) throw std::domain_error("text");
          };
        }
        request.on_end = [&, which, throws, throws_at_end](Outcome outcome) {
          ++ended;
          const Ids& whole = expected[which];
          const Ids& got = outcome.result.generated_ids;
          REQUIRE(got.size() <= whole.size());
          CHECK(std::equal(got.begin(), got.end(), whole.begin()));
          const bool cut = outcome.result.finish_reason == FinishReason::cancelled;
          CHECK((cut || got.size() == whole.size()));
          if (outcome.error) CHECK(throws);
          if (throws_at_end) throw std::domain_error("end");
        };
        scheduler.submit(std::move(request));
        ++submitted;
      }
      if (submitted > 0 && one_in(9)) {
        scheduler.cancel(1 + random.bits() % static_cast<std::uint64_t>(submitted));
      }
      try {
        scheduler.step();
      } catch (const std::domain_error&) {
      }
      CHECK(scheduler.cache().used_pages() <= scheduler.cache().options().pages);
    }
    while (true) {
      try {
        if (!scheduler.step()) break;
      } catch (const std::domain_error&) {
      }
    }
    CHECK(ended == submitted);
  }
}

/// Bytes of the cache's pool that are in memory, as the system counts them.
std::int64_t resident(const KvCache<Cpu>& cache) {
  const std::int64_t page = sysconf(_SC_PAGESIZE);
  const auto begin = reinterpret_cast<std::uintptr_t>(cache.layer(0).keys) /
                     static_cast<std::uintptr_t>(page) * static_cast<std::uintptr_t>(page);
  const std::int64_t bytes = cache.options().pages * cache.bytes_per_page();
  std::vector<unsigned char> present(static_cast<std::size_t>(bytes / page + 1));
  REQUIRE(mincore(reinterpret_cast<void*>(begin), static_cast<std::size_t>(bytes),
                  present.data()) == 0);
  return page * std::count_if(present.begin(), present.end(), [](auto bits) { return bits & 1; });
}

TEST_CASE("scheduler: memory is what the pages hold, however long sequences may become") {
  auto scheduler = make_scheduler({.slots = 16, .max_tokens = 500});
  for (std::size_t i = 0; i < 16; ++i) {
    Request request{prompt_of(i % 5),
                    {.max_new_tokens = 40, .do_sample = false, .min_new_tokens = 40}};
    request.prompt.resize(request.prompt.size() - i % 4);
    scheduler.submit(std::move(request));
  }
  const KvCache<Cpu>& cache = scheduler.cache();
  std::int64_t most = 0;
  for (int step = 0; scheduler.step(); ++step) {
    if (step % 8 != 0) continue;
    const std::int64_t held = cache.used_pages() * cache.bytes_per_page();
    most = std::max(most, held);
    CHECK(static_cast<double>(resident(cache)) <= 1.05 * static_cast<double>(most));
  }
  CHECK(most < cache.options().pages * cache.bytes_per_page() / 2);
}

TEST_CASE("scheduler: dynamic RoPE scaling") {
  const fixture::TemporaryFolder folder;
  fixture::write_tiny(
      folder.path(), tiny().tensors(),
      {{"max_position_embeddings", 40}, {"rope_scaling", {{"type", "dynamic"}, {"factor", 4.0}}}});
  const auto model = CpuModel::load(folder.path());
  CHECK(test::error_id<ArgumentError>(
            [&] { Tiny(context(), model, tiny().tokenizer(), {.pages = 9}); }) == "ZIYA-580");
  Ids prompt = tiny().expected().at("conversations").at(0).at("prompt_ids");
  Tiny scheduler(context(), model, tiny().tokenizer(), {.slots = 4, .chunk_tokens = 30});
  const GenerationConfig config{.max_new_tokens = 10, .do_sample = false};
  for (const std::ptrdiff_t size : {20, 35, 60, 38, 80, 60}) {
    const Ids part(prompt.begin(), prompt.begin() + size);
    Generator fresh(context(), model, tiny().tokenizer());
    scheduler.submit({part, config, {}, [expected = fresh.generate(part, config)](Outcome outcome) {
                        CHECK(outcome.result.generated_ids == expected.generated_ids);
                      }});
  }
  scheduler.run();
}

}  // namespace scheduler_test
