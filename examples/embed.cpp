// SPDX-License-Identifier: Apache-2.0
// The program of the README: a question in, an answer streamed.
#include <iostream>
#include <ziya/ziya.hpp>

int main(int count, char** arguments) try {
  const std::string model_path = count > 1 ? arguments[1] : "build/ziya-tiny";
  ziya::Context<ziya::Cpu> ctx;
  const auto tokenizer = ziya::Tokenizer::load(model_path);
  const auto model = ziya::CpuModel::load(model_path);
  ziya::Generator generator(ctx, model, tokenizer);
  generator.generate(ziya::prompt::ziya("背诵李白的《静夜思》"), {.do_sample = false},
                     [](std::string_view text) { std::cout << text << std::flush; });
} catch (const ziya::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
