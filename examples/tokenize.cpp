// SPDX-License-Identifier: Apache-2.0
// Text to ids in the three modes, ids to text, and a stream of ids to whole characters.
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>
#include <ziya/ziya.hpp>

namespace {

void print(const char* label, const std::vector<std::int32_t>& ids) {
  std::cout << label;
  for (const std::int32_t id : ids) std::cout << ' ' << id;
  std::cout << '\n';
}

}  // namespace

int main(int count, char** arguments) try {
  const auto tokenizer = ziya::Tokenizer::load(count > 1 ? arguments[1] : "build/ziya-tiny");
  const std::string text = ziya::prompt::ziya("春眠不觉晓 ☕");

  // As the model was trained: <human> and <bot> are tokens, white space beside them goes.
  const std::vector<std::int32_t> ids = tokenizer.encode(text);
  print("legacy:", ids);
  print("transformers:", tokenizer.encode(text, {.mode = ziya::TokenizerMode::transformers}));
  // For text of people you do not know: nothing they type is a token.
  print("plain:", tokenizer.encode(text, {.mode = ziya::TokenizerMode::plain, .add_bos = false}));

  std::cout << "decoded: " << tokenizer.decode(ids) << '\n';
  std::cout << "without special tokens: " << tokenizer.decode(ids, {.skip_special = true}) << '\n';

  // Characters of several byte tokens come when their last byte did.
  std::cout << "streamed:";
  ziya::Detokenizer stream(tokenizer, {.skip_special = true});
  for (const std::int32_t id : ids) std::cout << " [" << stream.push(id) << "]";
  std::cout << " [" << stream.finish() << "]\n";
} catch (const ziya::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
