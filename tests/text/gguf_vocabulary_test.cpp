// SPDX-License-Identifier: Apache-2.0
// Vocabularies in GGUF metadata: the ids of a tokenizer that went through one are the folder's own.
#include "ziya/text/gguf_vocabulary_writer.hpp"

#include <map>
#include <optional>

#include "golden.hpp"
#include "ziya/io/gguf_writer.hpp"

namespace gguf_vocabulary_test {

using namespace ziya_test;
using ziya::Tokenizer;
using ziya::TokenizerMode;
using ziya::gguf::Metadata;

using Files = std::map<std::string, std::string>;

Files tokenizer_folder_files(const std::filesystem::path& folder) {
  Files files;
  for (const char* name : {"tokenizer.model", "added_tokens.json", "tokenizer_config.json",
                           "special_tokens_map.json"}) {
    if (std::filesystem::exists(folder / name)) files[name] = read_file(folder / name);
  }
  return files;
}

/// The keys that any writer of GGUF files sets, without our own.
Metadata without_records(const Metadata& metadata) {
  Metadata result("plain");
  for (const auto& [key, value] : metadata.entries()) {
    if (!key.starts_with("ziya.")) result.set(key, value);
  }
  return result;
}

Tokenizer tokenizer_of(const Metadata& metadata) {
  return Tokenizer::from_files(ziya::gguf::tokenizer_files(metadata), "test");
}

void require_same(const Tokenizer& expected, const Tokenizer& got) {
  REQUIRE(got.vocabulary_size() == expected.vocabulary_size());
  REQUIRE(got.bos_id() == expected.bos_id());
  REQUIRE(got.eos_id() == expected.eos_id());
  REQUIRE(got.unk_id() == expected.unk_id());
  REQUIRE(got.pad_id() == expected.pad_id());
  std::vector<std::string> texts = golden("strings").at("texts").get<std::vector<std::string>>();
  texts.emplace_back("<human>:  你好 <bot>:\xFF\xE4</s> a  <s>b");
  texts.emplace_back(" <human> <bot>x<human>\n");
  REQUIRE(texts.size() > 1000);
  for (const std::string& text : texts) {
    for (const auto mode :
         {TokenizerMode::legacy, TokenizerMode::transformers, TokenizerMode::plain}) {
      const Ids ids = expected.encode(text, {.mode = mode});
      if (got.encode(text, {.mode = mode}) != ids) {
        CAPTURE(text, static_cast<int>(mode));
        REQUIRE(got.encode(text, {.mode = mode}) == ids);
      }
      if (got.decode(ids) != expected.decode(ids)) REQUIRE(got.decode(ids) == expected.decode(ids));
    }
  }
}

/// @param plain whether the keys that everybody writes say all of this tokenizer
void check_round_trip(const std::string& name, bool plain) {
  const auto folder = tokenizer_folder(name);
  if (folder.empty()) return;
  const Files files = tokenizer_folder_files(folder);
  const Tokenizer expected = Tokenizer::load(folder);
  const std::int64_t rows = expected.vocabulary_size() + 13;
  Metadata metadata("test");
  ziya::gguf::set_vocabulary(metadata, files, rows);
  REQUIRE(metadata.texts("tokenizer.ggml.tokens")->size() == static_cast<std::size_t>(rows));
  Files again = ziya::gguf::tokenizer_files(metadata);
  // The miniature's maker writes the default type of a piece too; LLaMA's leaves it out.
  if (name == "ziya-tiny") again["tokenizer.model"] = files.at("tokenizer.model");
  REQUIRE(again == files);

  const ScratchFolder scratch;
  ziya::GgufWriter writer(scratch.path() / "m.gguf", {}, metadata);
  writer.commit();
  require_same(expected, Tokenizer::load(scratch.path() / "m.gguf"));
  require_same(expected, Tokenizer::load(scratch.path()));
  if (plain) require_same(expected, tokenizer_of(without_records(metadata)));
}

/// A vocabulary of a few tokens, its keys changed by the test.
struct Small {
  std::vector<std::string> texts{"<unk>", "<s>", "</s>", "b", "\xE2\x96\x81", "a", "<x>", "[PAD7]"};
  std::vector<float> scores{0, 0, 0, -3, -1, -2, 0, -10000};
  std::vector<std::int32_t> types{2, 3, 3, 1, 1, 1, 4, 5};
  std::string model = "llama";

  [[nodiscard]] Metadata metadata() const {
    Metadata result("small.gguf");
    result.set_text("tokenizer.ggml.model", model);
    result.set_texts("tokenizer.ggml.tokens", texts);
    result.set_floats("tokenizer.ggml.scores", scores);
    result.set_i32s("tokenizer.ggml.token_type", types);
    result.set_u32("tokenizer.ggml.bos_token_id", 1);
    result.set_u32("tokenizer.ggml.eos_token_id", 2);
    result.set_u32("tokenizer.ggml.padding_token_id", 0xffffffff);
    return result;
  }
};

std::string why(const Metadata& metadata) {
  try {
    (void)ziya::gguf::tokenizer_files(metadata);
  } catch (const ziya::Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_CASE("gguf vocabulary: ziya-tiny", "[text]") { check_round_trip("ziya-tiny", true); }
TEST_CASE("gguf vocabulary: Ziya's own shape", "[text]") { check_round_trip("ziya-like", true); }
TEST_CASE("gguf vocabulary: LLaMA", "[text]") { check_round_trip("llama", true); }
TEST_CASE("gguf vocabulary: stories260K", "[text]") {
  // Its special tokens strip their neighbours under the legacy rule, which only our keys say.
  check_round_trip("stories260K", false);
}

TEST_CASE("gguf vocabulary: llama.cpp's own file of stories260K", "[text]") {
  const auto folder = tokenizer_folder("stories260K");
  if (folder.empty()) return;
  const auto file = folder.parent_path() / "stories260K-gguf/stories260K.f32.gguf";
  const Tokenizer tokenizer = Tokenizer::load(file);
  const nlohmann::json reference = ziya::read_json_file(folder / "reference.json");
  for (const auto& entry : reference.at("encode")) {
    const auto text = entry.at("text").get<std::string>();
    CHECK(tokenizer.encode(text, {.add_bos = false}) == entry.at("ids").get<Ids>());
  }
}

TEST_CASE("gguf vocabulary: added and padding tokens follow llama.cpp's conventions", "[text]") {
  Metadata metadata("test");
  Files files = tokenizer_folder_files(tiny_folder);
  files["special_tokens_map.json"] = R"({"pad_token": "<pad>"})";
  ziya::gguf::set_vocabulary(metadata, files, 4390);
  const auto texts = *metadata.texts("tokenizer.ggml.tokens");
  const auto types = *metadata.integers("tokenizer.ggml.token_type");
  const auto scores = *metadata.floats("tokenizer.ggml.scores");
  REQUIRE(metadata.text("tokenizer.ggml.model") == "llama");
  REQUIRE(metadata.integer("tokenizer.ggml.bos_token_id") == 1);
  REQUIRE(metadata.integer("tokenizer.ggml.eos_token_id") == 2);
  REQUIRE(metadata.integer("tokenizer.ggml.unknown_token_id") == 0);
  REQUIRE(metadata.integer("tokenizer.ggml.padding_token_id") == 4379);
  REQUIRE(metadata.boolean("tokenizer.ggml.add_bos_token") == true);
  REQUIRE(metadata.boolean("tokenizer.ggml.add_eos_token") == false);
  REQUIRE(metadata.boolean("tokenizer.ggml.add_space_prefix") == true);
  REQUIRE(types[0] == 2);
  REQUIRE(types[1] == 3);
  REQUIRE(types[3] == 6);
  REQUIRE(texts[4377] == "<human>");
  REQUIRE(types[4377] == 4);  // user-defined
  REQUIRE(texts[4379] == "<pad>");
  REQUIRE(types[4379] == 3);  // special: control
  REQUIRE(texts[4389] == "[PAD4389]");
  REQUIRE(types[4389] == 5);  // unused
  REQUIRE(scores[4389] == -10000.0f);
  const Tokenizer plain = tokenizer_of(without_records(metadata));
  REQUIRE(plain.pad_id() == 4379);
  REQUIRE(plain.is_special(4379));
  REQUIRE(plain.vocabulary_size() == 4380);
  CHECK(error_of([&] { ziya::gguf::set_vocabulary(metadata, files, 4379); }) == "ZIYA-525");
  files.erase("tokenizer.model");
  CHECK(error_of([&] { ziya::gguf::set_vocabulary(metadata, files, 4390); }) == "ZIYA-301");
}

TEST_CASE("gguf vocabulary: keys of other writers", "[text]") {
  const Tokenizer tokenizer = tokenizer_of(Small().metadata());
  REQUIRE(tokenizer.vocabulary_size() == 7);  // without the padding row
  REQUIRE(tokenizer.encode("a<x>b") == Ids{1, 4, 5, 6, 4, 3});
  REQUIRE_FALSE(tokenizer.is_special(6));
  Metadata metadata = Small().metadata();
  metadata.set_bool("tokenizer.ggml.add_space_prefix", false);
  metadata.set_bool("tokenizer.ggml.add_bos_token", false);
  metadata.set_bool("tokenizer.ggml.add_eos_token", true);
  REQUIRE(tokenizer_of(metadata).encode("a") == Ids{5, 2});
  metadata.set_bool("tokenizer.ggml.remove_extra_whitespaces", true);
  REQUIRE(tokenizer_of(metadata).encode("a  a") == Ids{5, 4, 5, 2});
  REQUIRE(tokenizer.encode("\xE4")[2] == 0);  // no bytes in this vocabulary: unknown
  metadata.set_bytes("tokenizer.ggml.precompiled_charsmap", "junk");
  REQUIRE(error_of([&] { (void)tokenizer_of(metadata); }) == "ZIYA-302");
}

TEST_CASE("gguf vocabulary: what contradicts itself is refused", "[text]") {
  using Catch::Contains;
  Small small;
  small.model = "gpt2";
  CHECK_THAT(why(small.metadata()), Contains("ZIYA-257") && Contains("\"gpt2\""));
  CHECK_THAT(why(Metadata("empty")), Contains("ZIYA-258"));
  small = {};
  small.scores.pop_back();
  CHECK_THAT(why(small.metadata()), Contains("8 tokens, 7 scores and 8 types"));
  small = {};
  small.types[5] = 7;
  CHECK_THAT(why(small.metadata()), Contains("token 5 has the unknown type 7"));
  small = {};
  small.types = {3, 3, 3, 3, 3, 3, 3, 3};
  CHECK_THAT(why(small.metadata()), Contains("no pieces"));
  small = {};
  small.texts[6] = "\xFF";
  CHECK_THAT(why(small.metadata()), Contains("token 6 is not UTF-8"));
  small = {};
  small.texts[7] = small.texts[6];
  small.types[7] = 4;
  CHECK_THAT(why(small.metadata()), Contains("token 7 is there twice"));
  small = {};
  small.texts[1] = "\xFF";
  CHECK_THAT(why(small.metadata()), Contains("token 1 is not UTF-8"));
  Metadata metadata = Small().metadata();
  metadata.set_u32("tokenizer.ggml.eos_token_id", 8);
  CHECK_THAT(why(metadata), Contains("eos_token_id is 8 of 7 tokens"));
  metadata = Small().metadata();
  metadata.set_u32("ziya.tokenizer.pieces", 9);
  CHECK_THAT(why(metadata), Contains("ziya.tokenizer.pieces is 9 of 8"));
  metadata = Small().metadata();
  metadata.set_u32("tokenizer.ggml.scores", 9);
  CHECK_THAT(why(metadata), Contains("ZIYA-252"));
}

}  // namespace gguf_vocabulary_test
