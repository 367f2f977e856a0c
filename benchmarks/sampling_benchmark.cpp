// SPDX-License-Identifier: Apache-2.0
// Choosing one token at Ziya's vocabulary: milliseconds per token for several compositions, and
// their share of a decode step.
// usage: sampling_benchmark [step milliseconds]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/generate/configured_policy.hpp"
#include "ziya/generate/json_schema.hpp"

namespace {

using namespace ziya;

constexpr int vocabulary = 39424;
double step = 100;  // milliseconds

void measure(const char* what, const GenerationConfig& config) {
  Context<Cpu> ctx({.threads = 1});
  std::mt19937 draw(1);
  std::normal_distribution<float> normal(0, 3);
  std::vector<std::vector<float>> rows(16, std::vector<float>(vocabulary));
  for (auto& row : rows) {
    for (float& logit : row) logit = normal(draw);
  }
  ConfiguredPolicy policy;
  policy.configure(config);
  SamplerState state;
  std::vector<std::int32_t> history;
  for (int i = 0; i < 1000; ++i) history.push_back(static_cast<std::int32_t>(draw() % 2000));
  state.prompt_size = config.constraint ? history.size() : 500;
  constexpr int tokens = 300;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < tokens; ++i) {
    state.history = history;
    const auto& row = rows[static_cast<std::size_t>(i) % rows.size()];
    history.push_back(policy.sample(ctx, {row.data(), Shape{vocabulary}}, state));
  }
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - begin;
  std::printf("%-36s %7.3f ms per token   %5.2f %% of %g ms\n", what, spent.count() / tokens,
              spent.count() / tokens / step * 100, step);
}

/// A vocabulary of the real one's size and kind: bytes, letters, words, Chinese characters.
std::shared_ptr<const ConstraintVocabulary> some_vocabulary() {
  std::vector<std::string> bytes(3);
  for (int byte = 0; byte < 256; ++byte) bytes.emplace_back(1, static_cast<char>(byte));
  std::mt19937 draw(2);
  while (bytes.size() < 32000) {
    std::string word = draw() % 2 == 0 ? " " : "";
    for (unsigned i = 0; i <= draw() % 8; ++i) word += static_cast<char>('a' + draw() % 26);
    bytes.push_back(word);
  }
  for (unsigned c = 0x4E00; bytes.size() < vocabulary; ++c) {
    bytes.push_back({static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
                     static_cast<char>(0x80 | (c & 63))});
  }
  return std::make_shared<const ConstraintVocabulary>(bytes);
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) step = std::atof(arguments[1]);
  GenerationConfig config;
  config.do_sample = false;
  measure("greedy", config);
  config.do_sample = true;
  measure("the card: top-k 50, top-p 0.85", config);
  GenerationConfig all;
  all.temperature = 0.8f;
  all.min_p = 0.02f;
  all.typical_p = 0.95f;
  all.repetition_penalty = 1.1f;
  all.presence_penalty = all.frequency_penalty = 0.1f;
  all.no_repeat_ngram_size = 4;
  all.dry.multiplier = 0.8f;
  all.xtc_probability = 0.5f;
  all.bad_words_ids = {{5}, {6, 7}};
  all.sequence_bias = {{{9}, -1.0f}};
  all.min_new_tokens = 10;
  all.eos_ids = {2};
  measure("all common processors", all);
  all.top_k = 0;
  measure("the same without top-k", all);
  GenerationConfig mirostat;
  mirostat.mirostat.enabled = true;
  measure("mirostat 2", mirostat);
  GenerationConfig constrained;
  constrained.eos_ids = {2};
  constrained.constraint = {std::make_shared<const Grammar>(
                                JsonSchema::grammar(R"({"type": "array", "minItems": 4000})")),
                            some_vocabulary()};
  measure("the card, in JSON", constrained);
}
