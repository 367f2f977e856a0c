// SPDX-License-Identifier: Apache-2.0
// GGUF files: tensors, the shape and the generation defaults in the metadata, the tokenizer of the
// vocabulary; and what was understood is written into metadata and understood again.
#include "ziya/io/gguf.hpp"

#include <cstdlib>
#include <string>
#include <vector>

#include "fuzz/read_all.hpp"
#include "ziya/model/gguf_config.hpp"
#include "ziya/model/llama_config.hpp"
#include "ziya/text/gguf_vocabulary_writer.hpp"

namespace {

template <class F>
void attempt(F&& part) {
  try {
    part();
  } catch (const ziya::Error&) {
  }
}

void require(bool holds) {
  if (!holds) std::abort();
}

void tokenize(const ziya::gguf::Metadata& metadata) {
  const std::string text = "a ab  aba 你好\xFF\xE4<bot>x\n\xE2\x96\x81";
  const auto files = ziya::gguf::tokenizer_files(metadata);
  const auto tokenizer = ziya::Tokenizer::from_files(files, "fuzz");
  const auto ids = tokenizer.encode(text, {.add_bos = false});
  for (const std::int32_t id : ids) require(tokenizer.contains(id));
  (void)tokenizer.decode(ids);
  ziya::gguf::Metadata again;
  ziya::gguf::set_vocabulary(again, files, tokenizer.vocabulary_size() + 1);
  const auto second = ziya::Tokenizer::from_files(ziya::gguf::tokenizer_files(again), "again");
  require(second.vocabulary_size() == tokenizer.vocabulary_size());
  require(second.encode(text, {.add_bos = false}) == ids);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::read_all(data, size);
  const fuzz::MemoryFile file(data, size);
  attempt([&] {
    const auto checkpoint = ziya::Checkpoint::open(file.path());
    const ziya::gguf::Metadata* metadata = checkpoint.gguf_metadata();
    if (metadata == nullptr) return;
    for (const auto& tensor : checkpoint.tensors()) {
      const auto name = ziya::gguf::gguf_name(tensor.name);
      require(!name || ziya::gguf::hf_name(*name) == tensor.name);
      require(ziya::gguf::order_of(tensor.name) >= 0);
    }
    attempt([&] {
      ziya::gguf::Metadata again;
      ziya::gguf::set_shape(again, ziya::read_gguf_shape(checkpoint));
    });
    attempt([&] { (void)ziya::gguf::ConfigMaker(checkpoint).make_generation(); });
    attempt([&] { tokenize(*metadata); });
  });
  return 0;
}
