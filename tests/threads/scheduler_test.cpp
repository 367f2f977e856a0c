// SPDX-License-Identifier: Apache-2.0
// A scheduler as a server drives it: one thread steps, others hand in requests and cancel them
// while it does; callbacks throw. Runs under the thread sanitizer.
#include "ziya/generate/scheduler.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <mutex>
#include <stdexcept>
#include <stop_token>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "model/ziya_tiny.hpp"
#include "ziya/core/random.hpp"
#include "ziya/generate/generator.hpp"

namespace scheduler_threads_test {

using namespace ziya;
using fixture::ZiyaTiny;
using Ids = std::vector<std::int32_t>;

constexpr int poems = 4, clients = 3, requests_each = 8;

const ZiyaTiny& tiny() { return ZiyaTiny::instance(); }
Ids prompt_of(std::size_t poem) { return tiny().expected().at("poems").at(poem).at("prompt_ids"); }
GenerationConfig drawn(std::size_t poem) {
  return {.max_new_tokens = 6 + 4 * static_cast<std::int64_t>(poem),
          .do_sample = poem % 2 == 1,
          .temperature = 2.0f,
          .seed = poem};
}

/// Where clients leave requests for the thread that steps.
class Inbox {
 public:
  void put(Request request) {
    const std::lock_guard lock(mutex_);
    requests_.push_back(std::move(request));
  }
  std::vector<Request> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(requests_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<Request> requests_;
};

TEST_CASE("scheduler: random joins, leaves, cancellations from other threads, throwing callbacks") {
  Context<Cpu> ctx({.threads = 2});
  std::vector<Ids> expected;
  for (std::size_t i = 0; i < poems; ++i) {
    Generator generator(ctx, tiny().model(), tiny().tokenizer());
    expected.push_back(generator.generate(prompt_of(i), drawn(i)).generated_ids);
  }
  Scheduler scheduler(
      ctx, tiny().model(), tiny().tokenizer(),
      {.slots = 3, .max_tokens = 100, .pages = 20, .page_tokens = 8, .chunk_tokens = 16});
  Inbox inbox;
  int ended = 0, wrong = 0, cut = 0;  // of the thread that steps
  const auto client = [&](std::uint64_t seed) {
    Random random{.seed = seed};
    for (int i = 0; i < requests_each; ++i) {
      const std::size_t poem = random.bits() % poems;
      const bool throws = random.bits() % 4 == 0;
      std::stop_source source;
      Request request{prompt_of(poem), drawn(poem)};
      request.cancellation = source.get_token();
      if (throws) {
        request.on_text = [left = static_cast<int>(random.bits() % 5)](std::string_view) mutable {
          if (left-- == 0) throw std::domain_error("text");
        };
      }
      request.on_end = [&, poem, throws](const Outcome& outcome) {
        ++ended;
        const Ids &whole = expected[poem], &got = outcome.result.generated_ids;
        const bool early = outcome.result.finish_reason == FinishReason::cancelled;
        cut += early;
        wrong += (outcome.error && !throws) || got.size() > whole.size() ||
                 !std::equal(got.begin(), got.end(), whole.begin()) ||
                 (!early && got.size() != whole.size());
      };
      inbox.put(std::move(request));
      for (std::uint64_t wait = random.bits() % 8; wait > 0; --wait) std::this_thread::yield();
      if (random.bits() % 3 == 0) source.request_stop();
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < clients; ++i) threads.emplace_back(client, i + 1);
  int submitted = 0;
  while (ended < clients * requests_each) {
    for (Request& request : inbox.take()) {
      scheduler.submit(std::move(request));
      ++submitted;
    }
    if (!scheduler.step()) std::this_thread::yield();
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(submitted == clients * requests_each);
  CHECK(wrong == 0);
  CHECK(cut > 0);
  CHECK(cut < ended);
}

}  // namespace scheduler_threads_test
