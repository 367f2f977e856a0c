// SPDX-License-Identifier: Apache-2.0
// Uses a little of every part that needs a library: Eigen's path, JSON, SentencePiece's header.
#include <iostream>

#include <ziya/ziya.hpp>

int main() {
  ziya::Context<ziya::Cpu> ctx({.threads = 1, .isa = ziya::Isa::eigen});
  const ziya::LlamaShape shape = ziya::parse_llama_shape(
      R"({"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 2, "vocab_size": 32})",
      "config.json");
  try {
    (void)ziya::Tokenizer::load("no such folder");
    return 1;
  } catch (const ziya::Error& error) {
    std::cout << ZIYA_VERSION << " " << shape.parameters() << " " << error.id() << "\n";
  }
  return 0;
}
