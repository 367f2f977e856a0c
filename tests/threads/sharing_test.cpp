// SPDX-License-Identifier: Apache-2.0
// What may be shared: a model, a tokenizer and the mapping behind them between threads, each with a
// context and a generator of its own; a cancellation from any thread. Runs under the thread
// sanitizer.
#include <atomic>
#include <catch2/catch.hpp>
#include <future>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "model/ziya_tiny.hpp"
#include "ziya/generate/generator.hpp"

namespace sharing_test {

using namespace ziya;
using fixture::ZiyaTiny;

const ZiyaTiny& tiny() { return ZiyaTiny::instance(); }
const nlohmann::json& poem(std::size_t i) { return tiny().expected().at("poems").at(i); }
const GenerationConfig greedy{.do_sample = false};

std::string recite(std::size_t i) {
  Context<Cpu> ctx({.threads = 2});
  Generator generator(ctx, tiny().model(), tiny().tokenizer());
  return generator.generate(poem(i).at("prompt_ids").get<std::vector<std::int32_t>>(), greedy).text;
}

TEST_CASE("three threads share a model and a tokenizer, and each recites its own poem") {
  tiny();  // made by one thread, as a program would
  std::vector<std::future<std::string>> answers;
  for (std::size_t i = 0; i < 3; ++i) {
    answers.push_back(std::async(std::launch::async, [i] { return recite(i); }));
  }
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(answers[i].get() == poem(i).at("answer").get<std::string>());
  }
}

TEST_CASE("an answer is cancelled by another thread, and the generator answers again") {
  Context<Cpu> ctx({.threads = 2});
  Generator generator(ctx, tiny().model(), tiny().tokenizer());
  const auto prompt = poem(0).at("prompt_ids").get<std::vector<std::int32_t>>();
  std::stop_source source;
  std::atomic<bool> started{false};
  std::thread stopper([&] {
    while (!started) std::this_thread::yield();
    source.request_stop();
  });
  GenerationConfig endless = greedy;
  endless.eos_ids = {0};  // which it never says
  const GenerationResult result = generator.generate(
      prompt, endless,
      [&](std::string_view) {
        started = true;
        while (!source.stop_requested()) std::this_thread::yield();
      },
      source.get_token());
  stopper.join();
  CHECK(result.finish_reason == FinishReason::cancelled);
  CHECK(generator.generate(prompt, greedy).text == poem(0).at("answer").get<std::string>());
}

TEST_CASE("a callback that throws in one thread does not touch the other's answer") {
  tiny();
  auto thrower = std::async(std::launch::async, [] {
    Context<Cpu> ctx({.threads = 1});
    Generator generator(ctx, tiny().model(), tiny().tokenizer());
    const auto prompt = poem(1).at("prompt_ids").get<std::vector<std::int32_t>>();
    int thrown = 0;
    for (int i = 0; i < 3; ++i) {
      try {
        generator.generate(prompt, greedy,
                           [](std::string_view) { throw std::runtime_error("gone"); });
      } catch (const std::runtime_error&) {
        ++thrown;
      }
    }
    return thrown;
  });
  CHECK(recite(2) == poem(2).at("answer").get<std::string>());
  CHECK(thrower.get() == 3);
}

}  // namespace sharing_test
