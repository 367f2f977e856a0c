// SPDX-License-Identifier: Apache-2.0
// Many answers at once, and guessing ahead, against one token of one answer at a time.
// usage: generation_benchmark MODEL [cpu|cuda] [pairs]
//
// MODEL is a folder of 1 GB or more that tests/reference/widen_ziya_tiny.py made. Both sides of a
// pair run one after the other in one process, warmed up, so that a shared machine slows both;
// medians of the pairs. The texts of both sides must be the same.
//   batch   16 prompts of 64 tokens on average (32 to 96), 128 new tokens each, greedy
//   lookup  a prompt that holds a poem and asks for it, with up to 16 guesses a pass and without
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ziya/generate/generator.hpp"
#include "ziya/io/json.hpp"
#include "ziya/model/decode_graph.hpp"
#include "ziya/text/prompt.hpp"

namespace {

using namespace ziya;
using Clock = std::chrono::steady_clock;
using Results = std::vector<GenerationResult>;

struct Poem {
  std::string query, answer;
};
std::vector<Poem> read_poems() {
  const auto expected = read_json_file(ZIYA_TINY "/expected.json");
  std::vector<Poem> poems;
  for (const auto& poem : *json_find(expected, "poems")) {
    poems.push_back({json_get<std::string>(poem, "query", "expected.json"),
                     json_get<std::string>(poem, "answer", "expected.json")});
  }
  return poems;
}

/// Beginnings of 32, 36, … 96 tokens of the poems' text, one after the other.
std::vector<std::vector<std::int32_t>> ragged_prompts(const Tokenizer& tokenizer,
                                                      const std::vector<Poem>& poems) {
  std::string text;
  for (const Poem& poem : poems) text += poem.answer;
  std::erase(text, '\n');
  const std::vector<std::int32_t> ids = tokenizer.encode(text, {.add_bos = false});
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::size_t i = 0, begin = 0; i < 16; ++i) {
    const std::size_t length = 32 + (64 * i + 8) / 15;
    prompts.emplace_back(1, tokenizer.bos_id());
    prompts.back().insert(prompts.back().end(), ids.begin() + static_cast<std::ptrdiff_t>(begin),
                          ids.begin() + static_cast<std::ptrdiff_t>(begin + length));
    begin += length;
  }
  return prompts;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Tokens per second of answers.
double speed(const std::function<Results()>& answer, Results& results) {
  const auto begin = Clock::now();
  results = answer();
  const std::chrono::duration<double> spent = Clock::now() - begin;
  std::size_t tokens = 0;
  for (const GenerationResult& result : results) tokens += result.generated_ids.size();
  return static_cast<double>(tokens) / spent.count();
}

/// @returns whether the texts are the same
bool compare(const char* name, int pairs, const std::function<Results()>& slow,
             const std::function<Results()>& fast) {
  std::vector<double> slows, fasts, ratios;
  std::size_t differing = 0;
  Results before, after;
  speed(slow, before), speed(fast, after);
  for (int i = 0; i < pairs; ++i) {
    slows.push_back(speed(slow, before));
    fasts.push_back(speed(fast, after));
    ratios.push_back(fasts.back() / slows.back());
    std::size_t different = 0;
    for (std::size_t k = 0; k < before.size(); ++k) {
      different += before[k].generated_ids != after[k].generated_ids;
    }
    differing = std::max(differing, different);
  }
  const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  std::printf("%-8s %8.1f %8.1f tokens/s %6.2f times (%.2f ... %.2f), %zu of %zu texts differ\n",
              name, median(slows), median(fasts), median(ratios), *least, *most, differing,
              before.size());
  return differing == 0;
}

template <class Model>
bool run(Context<typename Model::Device>& ctx, const std::string& path, int pairs) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  const Model model = Model::load(path);
  const std::vector<Poem> poems = read_poems();
  GeneratorOptions options;
  if constexpr (!std::is_same_v<typename Model::Device, Cpu>) {
    options.cache_dtype = std::is_same_v<typename Model::T, float> ? DType::f32 : DType::f16;
  }
  Generator plain(ctx, model, tokenizer, options);
  options.lookup_tokens = 16;
  Generator guessing(ctx, model, tokenizer, options);

  GenerationConfig config;
  config.do_sample = false;
  config.max_new_tokens = config.min_new_tokens = 128;
  const auto prompts = ragged_prompts(tokenizer, poems);
  const bool same_batch = compare(
      "batch", pairs,
      [&] {
        Results results;
        for (const auto& prompt : prompts) results.push_back(plain.generate(prompt, config));
        return results;
      },
      [&] { return plain.generate_batch(prompts, config); });

  const Poem& longest = *std::max_element(
      poems.begin(), poems.end(),
      [](const Poem& a, const Poem& b) { return a.answer.size() < b.answer.size(); });
  const std::string question = prompt::ziya(longest.answer + "\n" + longest.query);
  GenerationConfig quoting;
  quoting.do_sample = false;
  const auto alone = [&](auto& generator) {
    generator.reset();
    return Results{generator.generate(question, quoting)};
  };
  const bool same_quote = compare(
      "lookup", pairs, [&] { return alone(plain); }, [&] { return alone(guessing); });
  return same_batch && same_quote;
}

}  // namespace

int main(int count, char** arguments) try {
  if (count < 2) {
    std::fputs("usage: generation_benchmark MODEL [cpu|cuda] [pairs]\n", stderr);
    return 2;
  }
  const std::string path = arguments[1];
  const bool cuda = count > 2 && std::string_view(arguments[2]) == "cuda";
  const int pairs = count > 3 ? std::atoi(arguments[3]) : 5;
  if (!cuda) {
    Context<Cpu> ctx;
    return run<CpuModel>(ctx, path, pairs) ? 0 : 1;
  }
#if ZIYA_WITH_CUDA
  Context<Cuda> ctx;
  const bool half = Checkpoint::open(path).tensors().front().dtype == DType::f16;
  const auto with = [&]<class Model>(std::type_identity<Model>) {
    const DecodeGraph<Model> graph(ctx);
    return run<Model>(ctx, path, pairs) ? 0 : 1;
  };
  return half ? with(std::type_identity<LlamaModel<CudaHalfConfig>>{})
              : with(std::type_identity<CudaModel>{});
#else
  std::fputs("this build has no kernels for a GPU\n", stderr);
  return 2;
#endif
} catch (const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
