// SPDX-License-Identifier: Apache-2.0
// The program of the README on an NVIDIA GPU: another context, another model; tokens are drawn
// where the logits are. Its kernels come from ziya::cuda.
#include <iostream>
#include <ziya/ziya.hpp>

int main(int count, char** arguments) try {
  using Model = ziya::LlamaModel<ziya::CudaHalfConfig>;
  const std::string model_path = count > 1 ? arguments[1] : "build/ziya-tiny";
  ziya::Context<ziya::Cuda> ctx;
  const auto tokenizer = ziya::Tokenizer::load(model_path);
  const auto model = Model::load(model_path);
  const ziya::DecodeGraph<Model> graph(ctx);
  ziya::Generator generator(ctx, model, tokenizer, {.cache_dtype = ziya::DType::f16});
  generator.generate(ziya::prompt::ziya("背诵李白的《静夜思》"), {.do_sample = false},
                     [](std::string_view text) { std::cout << text << std::flush; });
} catch (const ziya::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
