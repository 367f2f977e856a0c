// SPDX-License-Identifier: Apache-2.0
// Prompts of different lengths answered together; each answer is what it would be alone.
#include <cstddef>
#include <iostream>
#include <string>
#include <vector>
#include <ziya/ziya.hpp>

int main(int count, char** arguments) try {
  const std::string model_path = count > 1 ? arguments[1] : "build/ziya-tiny";
  ziya::Context<ziya::Cpu> ctx;
  const auto tokenizer = ziya::Tokenizer::load(model_path);
  const auto model = ziya::CpuModel::load(model_path);
  ziya::Generator generator(ctx, model, tokenizer);

  const std::vector<std::string> questions = {"你好", "What is the capital of Japan?",
                                              "背诵孟浩然的《春晓》"};
  std::vector<std::string> prompts;
  for (const std::string& question : questions) prompts.push_back(ziya::prompt::ziya(question));

  const auto answers = generator.generate_batch(prompts, {.do_sample = false});
  for (std::size_t i = 0; i < answers.size(); ++i) {
    std::cout << questions[i] << " (" << answers[i].prompt_ids.size() << " tokens)\n"
              << answers[i].text << "\n(" << name(answers[i].finish_reason) << ")\n\n";
  }
} catch (const ziya::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
