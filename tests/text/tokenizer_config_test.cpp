// SPDX-License-Identifier: Apache-2.0
// The JSON files beside a tokenizer.model: every spelling in use, and every contradiction.
#include "ziya/text/tokenizer_config.hpp"

#include "golden.hpp"

namespace tokenizer_config_test {

using namespace ziya_test;
using ziya::Tokenizer;
using ziya::TokenizerMode;

/// The bundled pieces with other JSON files beside them.
ScratchFolder& folder_with(ScratchFolder& folder, const nlohmann::json& files) {
  std::filesystem::copy(tiny_folder / "tokenizer.model", folder.path() / "tokenizer.model");
  for (const auto& [name, document] : files.items()) {
    folder.write(name, document.is_string() ? document.get<std::string>() : document.dump());
  }
  return folder;
}

std::string load_error(const nlohmann::json& files) {
  ScratchFolder folder;
  folder_with(folder, files);
  return error_of([&] { Tokenizer::load(folder.path()); });
}

std::int32_t piece_count() {
  static const auto count = golden("ziya-tiny").at("pieces").get<std::int32_t>();
  return count;
}

TEST_CASE("tokenizer config: the spellings in use, against both generations", "[text]") {
  const nlohmann::json variants = golden("variants");
  const auto texts = variants.at("texts").get<std::vector<std::string>>();
  REQUIRE(variants.at("cases").size() > 10);
  for (const auto& entry : variants.at("cases")) {
    const auto name = entry.at("name").get<std::string>();
    ScratchFolder folder;
    const Tokenizer tokenizer = Tokenizer::load(folder_with(folder, entry.at("files")).path());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      CAPTURE(name, texts[i]);
      CHECK(tokenizer.encode(texts[i], {.mode = TokenizerMode::transformers}) ==
            entry.at("newer").at(i).get<Ids>());
      if (!entry.contains("legacy")) continue;
      const Ids ids = tokenizer.encode(texts[i]);
      CHECK(ids == entry.at("legacy").at(i).get<Ids>());
      CHECK(tokenizer.decode(ids, {.spaces_around_added = true}) ==
            entry.at("decoded").at(i).get<std::string>());
    }
  }
}

TEST_CASE("tokenizer config: an end that the tokenizer does not have cannot be added", "[text]") {
  std::string model = read_file(tiny_folder / "tokenizer.model");
  for (const std::string piece : {"\n\x03<s>", "\n\x04</s>"}) {
    const std::size_t type = model.find(piece) + piece.size() + 6;  // behind the score
    REQUIRE(model.at(type) == 3);
    model[type] = 1;  // NORMAL instead of CONTROL
  }
  ScratchFolder folder;
  folder.write("tokenizer.model", model);
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  REQUIRE(tokenizer.bos_id() == -1);
  CHECK(tokenizer.encode("", {.add_bos = false}).empty());
  CHECK(error_of([&] { (void)tokenizer.encode("a"); }) == "ZIYA-312");
  CHECK(error_of([&] { (void)tokenizer.encode("a", {.add_bos = false, .add_eos = true}); }) ==
        "ZIYA-312");
}

TEST_CASE("tokenizer config: special tokens and their ids", "[text]") {
  const std::int32_t n = piece_count();
  ScratchFolder folder;
  folder_with(folder,
              {{"added_tokens.json", {{"<human>", n}, {"<bot>", n + 1}}},
               {"tokenizer_config.json", {{"bos_token", ""}, {"eos_token", ""}}},
               {"special_tokens_map.json", {{"pad_token", "[PAD]"}, {"unk_token", "<unk>"}}}});
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  CHECK(tokenizer.bos_id() == 1);  // "" means the model's own
  CHECK(tokenizer.eos_id() == 2);
  CHECK(tokenizer.unk_id() == 0);
  CHECK(tokenizer.pad_id() == n + 2);  // numbered after the others, as in the reference
  CHECK(tokenizer.vocabulary_size() == n + 3);
  CHECK(tokenizer.is_special(n + 2));
  CHECK_FALSE(tokenizer.is_special(n));
  CHECK(tokenizer.piece(n + 2) == "[PAD]");
  CHECK(tokenizer.decode(Ids{n + 2, n + 2, 1}, {.skip_special = true}).empty());

  ScratchFolder other;
  folder_with(other, {{"tokenizer_config.json", {{"eos_token", "<0x0A>"}, {"unk_token", "<?>"}}}});
  const Tokenizer odd = Tokenizer::load(other.path());
  CHECK(odd.eos_id() == 13);
  CHECK(odd.unk_id() == 0);  // nothing but the model's own piece stands for unknown text
  CHECK(odd.vocabulary_size() == n);
}

TEST_CASE("tokenizer config: contradictions are refused", "[text]") {
  const std::int32_t n = piece_count();
  const auto added = [](const nlohmann::json& tokens) {
    return load_error({{"added_tokens.json", tokens}});
  };
  CHECK(added({{"<a>", n}}) == "");
  CHECK(added({{"<a>", n}, {"<b>", n + 1}}) == "");
  CHECK(added({{"<a>", n}, {"<b>", n}}) == "ZIYA-303");  // one id, two tokens
  CHECK(added({{"<a>", n + 1}}) == "ZIYA-303");          // a gap
  CHECK(added({{"<a>", n}, {"<b>", n + 2}}) == "ZIYA-303");
  CHECK(added({{"<a>", 5}}) == "ZIYA-303");   // the id of a piece
  CHECK(added({{"</s>", n}}) == "ZIYA-303");  // a piece with another id
  CHECK(added({{"</s>", 2}}) == "");
  CHECK(added({{"<a>", -1}}) == "ZIYA-303");
  CHECK(added({{"<a>", 2147483647}}) == "ZIYA-303");
  CHECK(added({{"<a>", 4294967296}}) == "ZIYA-231");
  CHECK(added({{"<a>", 1e30}}) == "ZIYA-231");
  CHECK(added({{"<a>", "7"}}) == "ZIYA-231");
  CHECK(added({{"<a>", nullptr}}) == "ZIYA-231");
  CHECK(added({{"", n}}) == "ZIYA-303");
  CHECK(added("[]") == "ZIYA-303");
  CHECK(added("{") == "ZIYA-230");
  CHECK(added("{\"<a>\":1,\"<a>\":2}") == "ZIYA-230");

  const auto config = [](const nlohmann::json& document) {
    return load_error({{"tokenizer_config.json", document}});
  };
  CHECK(config("null") == "ZIYA-303");
  CHECK(config({{"add_bos_token", 1}}) == "ZIYA-231");
  CHECK(config({{"sp_model_kwargs", {{"enable_sampling", true}}}}) == "ZIYA-304");
  CHECK(config({{"sp_model_kwargs", nlohmann::json::object()}}) == "");
  CHECK(config({{"bos_token", 1}}) == "ZIYA-303");
  CHECK(config({{"bos_token", {{"lstrip", true}}}}) == "ZIYA-231");
  CHECK(config({{"bos_token", {{"content", "<s>"}, {"lstrip", "yes"}}}}) == "ZIYA-231");
  CHECK(config({{"additional_special_tokens", "<a>"}}) == "ZIYA-303");
  CHECK(config({{"additional_special_tokens", {"<a>", 3}}}) == "ZIYA-303");
  CHECK(config({{"additional_special_tokens", {""}}}) == "ZIYA-303");

  const auto decoder = [&](const nlohmann::json& document) {
    return config({{"added_tokens_decoder", document}});
  };
  const std::string id = std::to_string(n);
  CHECK(decoder({{id, {{"content", "<a>"}}}}) == "");
  CHECK(decoder("[]") == "ZIYA-303");
  CHECK(decoder({{"x", {{"content", "<a>"}}}}) == "ZIYA-303");
  CHECK(decoder({{"0" + id, {{"content", "<a>"}}}}) == "ZIYA-303");
  CHECK(decoder({{"-1", {{"content", "<a>"}}}}) == "ZIYA-303");
  CHECK(decoder({{"99999999999", {{"content", "<a>"}}}}) == "ZIYA-303");
  CHECK(decoder({{id, {{"content", ""}}}}) == "ZIYA-303");
  CHECK(decoder({{"1", {{"content", "<a>"}}}}) == "ZIYA-303");
  CHECK(decoder({{id, {{"content", "<a>"}}}, {std::to_string(n + 1), {{"content", "<a>"}}}}) ==
        "ZIYA-303");

  // Both files name the token, with different ids; both give the id, to different tokens.
  const nlohmann::json says_a = {{"added_tokens_decoder", {{id, {{"content", "<a>"}}}}}};
  const auto both = [&](const nlohmann::json& tokens) {
    return load_error({{"tokenizer_config.json", says_a}, {"added_tokens.json", tokens}});
  };
  CHECK(both({{"<a>", n}}) == "");
  CHECK(both({{"<a>", n + 1}}) == "ZIYA-303");
  CHECK(both({{"<b>", n}}) == "ZIYA-303");
}

TEST_CASE("tokenizer config: messages name the file and the token", "[text]") {
  ScratchFolder folder;
  folder_with(folder, {{"added_tokens.json", {{"<bot>", 7}}}});
  CHECK_THROWS_WITH(Tokenizer::load(folder.path()), Catch::Contains("added_tokens.json") &&
                                                        Catch::Contains("<bot>") &&
                                                        Catch::Contains("7"));
}

TEST_CASE("added tokens: the leftmost and longest wins", "[text]") {
  std::vector<ziya::AddedToken> list;
  for (const char* content : {"<a>", "<a>b", "bc", "  ", "中文", "\xFF"}) {
    ziya::AddedToken token;
    token.content = content;
    token.id = static_cast<std::int32_t>(list.size());
    list.push_back(token);
  }
  list[2].legacy = {true, true};
  const ziya::AddedTokens tokens(list);
  const auto split = [&](std::string_view text) {
    std::string shown;
    for (const auto& segment : tokens.split(text, ziya::SplitRule::legacy)) {
      shown += segment.token != nullptr ? "[" + segment.text + "]" : "(" + segment.text + ")";
    }
    return shown;
  };
  CHECK(split("") == "");
  CHECK(split("x") == "(x)");
  CHECK(split("<a>") == "[<a>]");
  CHECK(split("<a>bc") == "[<a>b](c)");
  CHECK(split("<a> bc ") == "[<a>][bc]");
  CHECK(split("<<a>a>") == "(<)[<a>](a>)");
  CHECK(split("x  y") == "(x)[  ](y)");
  CHECK(split("x  bcy") == "(x)[bc](y)");  // a token of white space is eaten by its neighbour
  CHECK(split("中中文文") == "(中)[中文](文)");
  CHECK(split("a\xFF\xFE") == "(a)[\xFF](\xFE)");
  CHECK(split("<a") == "(<a)");
  CHECK(ziya::AddedTokens().split("<a>", ziya::SplitRule::legacy).size() == 1);
}

TEST_CASE("tokenizer: what a folder without tokenizer.model is told", "[text]") {
  ScratchFolder folder;
  CHECK(error_of([&] { Tokenizer::load(folder.path()); }) == "ZIYA-301");
  folder.write("tokenizer.json", "{}");
  CHECK_THROWS_WITH(Tokenizer::load(folder.path()),
                    Catch::Contains("tokenizer.json") && Catch::Contains("tokenizer.model"));
  CHECK(error_of([&] { Tokenizer::load(folder.path() / "tokenizer.model"); }) == "ZIYA-201");
  CHECK(error_of([&] { Tokenizer::load("no-organisation/no-model"); }) == "ZIYA-235");
  folder.write("tokenizer.model",
               "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 499723\n");
  CHECK(error_of([&] { Tokenizer::load(folder.path()); }) == "ZIYA-234");
  CHECK_THROWS_WITH(Tokenizer::load(folder.path()), Catch::Contains("git lfs pull"));
}

TEST_CASE("tokenizer: the model file alone, and the folder of a hub cache", "[text]") {
  const Tokenizer whole = Tokenizer::load(tiny_folder);
  const Tokenizer by_file = Tokenizer::load(tiny_folder / "tokenizer.model");
  CHECK(by_file.vocabulary_size() == whole.vocabulary_size());  // its neighbours are read too
  ScratchFolder cache;
  const auto blobs = cache.path() / "blobs", snapshot = cache.path() / "snapshots/abc";
  std::filesystem::create_directories(blobs);
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_directories(cache.path() / "refs");
  cache.write("refs/main", "abc");
  for (const char* name : {"tokenizer.model", "added_tokens.json"}) {
    std::filesystem::copy(tiny_folder / name, blobs / name);
    std::filesystem::create_symlink(std::filesystem::path("../../blobs") / name, snapshot / name);
  }
  CHECK(Tokenizer::load(cache.path()).vocabulary_size() == whole.vocabulary_size());
}

}  // namespace tokenizer_config_test
