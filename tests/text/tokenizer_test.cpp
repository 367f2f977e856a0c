// SPDX-License-Identifier: Apache-2.0
// The tokenizer against SentencePiece and Transformers, string by string.
#include "ziya/text/tokenizer.hpp"

#include <array>
#include <random>
#include <thread>

#include "golden.hpp"
#include "ziya/text/detokenizer.hpp"
#include "ziya/text/prompt.hpp"

namespace tokenizer_test {

using namespace ziya_test;
using ziya::Tokenizer;
using ziya::TokenizerMode;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

/// One tokenizer with what it must give; `texts` is empty when the tokenizer is absent.
struct Fixture {
  explicit Fixture(const std::string& name) {
    const std::filesystem::path folder = tokenizer_folder(name);
    if (folder.empty()) return;
    expected = golden(name);
    INFO("the tokenizer changed: run tests/reference/tokenizer_golden.py");
    REQUIRE(std::filesystem::file_size(folder / "tokenizer.model") ==
            expected.at("model_bytes").get<std::uintmax_t>());
    tokenizer = Tokenizer::load(folder);
    const nlohmann::json strings = golden("strings");
    texts = strings.at("texts").get<std::vector<std::string>>();
    for (const auto& hex : strings.at("broken")) broken.push_back(from_hex(hex));
  }

  Ids plain(std::size_t i) const { return expected.at("plain").at(i).get<Ids>(); }
  Ids legacy(std::size_t i) const {
    const nlohmann::json& other = expected.at("legacy");
    if (other.contains(std::to_string(i))) return other.at(std::to_string(i)).get<Ids>();
    Ids ids = plain(i);
    ids.insert(ids.begin(), 1);
    return ids;
  }
  Ids newer(std::size_t i) const {
    const nlohmann::json& other = expected.at("newer");
    return other.contains(std::to_string(i)) ? other.at(std::to_string(i)).get<Ids>() : legacy(i);
  }

  nlohmann::json expected;
  std::optional<Tokenizer> tokenizer;
  std::vector<std::string> texts, broken;
};

void check_ids(const std::string& name) {
  const Fixture fixture(name);
  if (!fixture.tokenizer) return;
  const Tokenizer& tokenizer = *fixture.tokenizer;
  REQUIRE(fixture.texts.size() == 1000);
  std::size_t wrong = 0;
  const auto compare = [&](const std::string& text, const Ids& got, const Ids& expected) {
    if (got == expected) return;
    ++wrong;
    CAPTURE(text, got, expected);
    CHECK(false);
  };
  for (std::size_t i = 0; i < fixture.texts.size() && wrong < 10; ++i) {
    const std::string& text = fixture.texts[i];
    compare(text, tokenizer.encode(text, {TokenizerMode::plain, false, false}), fixture.plain(i));
    compare(text, tokenizer.encode(text), fixture.legacy(i));
    compare(text, tokenizer.encode(text, {.mode = TokenizerMode::transformers}), fixture.newer(i));
  }
  for (std::size_t i = 0; i < fixture.broken.size(); ++i) {
    compare(fixture.broken[i],
            tokenizer.encode(fixture.broken[i], {TokenizerMode::plain, false, false}),
            fixture.expected.at("broken").at(i).get<Ids>());
  }
  CHECK(wrong == 0);
}

void check_reference_decode(const std::string& name) {
  const Fixture fixture(name);
  if (!fixture.tokenizer) return;
  const nlohmann::json& decode = fixture.expected.at("decode");
  std::vector<Ids> sequences = decode.at("ids").get<std::vector<Ids>>();
  for (const std::size_t i : decode.at("strings").get<std::vector<std::size_t>>()) {
    sequences.push_back(fixture.legacy(i));
  }
  REQUIRE(sequences.size() == decode.at("texts").size());
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const auto text = decode.at("texts").at(i).get<std::string>();
    const nlohmann::json& other = decode.at("skipped");
    const std::string skipped = other.value(std::to_string(i), text);
    CAPTURE(sequences[i]);
    CHECK(fixture.tokenizer->decode(sequences[i], {.spaces_around_added = true}) == text);
    CHECK(fixture.tokenizer->decode(
              sequences[i], {.skip_special = true, .spaces_around_added = true}) == skipped);
  }
}

TEST_CASE("tokenizer: ids of ziya-tiny", "[text]") { check_ids("ziya-tiny"); }
TEST_CASE("tokenizer: ids of Ziya's own shape", "[text]") { check_ids("ziya-like"); }
TEST_CASE("tokenizer: ids of LLaMA", "[text]") { check_ids("llama"); }
TEST_CASE("tokenizer: ids of stories260K", "[text]") { check_ids("stories260K"); }

TEST_CASE("tokenizer: the reference's texts of ziya-tiny", "[text]") {
  check_reference_decode("ziya-tiny");
}
TEST_CASE("tokenizer: the reference's texts of Ziya's own shape", "[text]") {
  check_reference_decode("ziya-like");
}
TEST_CASE("tokenizer: the reference's texts of LLaMA", "[text]") {
  check_reference_decode("llama");
}
TEST_CASE("tokenizer: the reference's texts of stories260K", "[text]") {
  check_reference_decode("stories260K");
}

TEST_CASE("tokenizer: the encodings published with stories260K", "[text]") {
  const auto folder = tokenizer_folder("stories260K");
  if (folder.empty()) return;
  const Tokenizer tokenizer = Tokenizer::load(folder);
  const nlohmann::json reference = ziya::read_json_file(folder / "reference.json");
  REQUIRE(reference.at("encode").size() > 5);
  for (const auto& entry : reference.at("encode")) {
    const auto text = entry.at("text").get<std::string>();
    const Ids ids = tokenizer.encode(text, {.add_bos = false});
    CHECK(ids == entry.at("ids").get<Ids>());
    CHECK(tokenizer.decode(ids) == text);
  }
}

TEST_CASE("tokenizer: Ziya's prompt becomes the ids it was trained with", "[text]") {
  const auto folder = tokenizer_folder("ziya-like");
  if (folder.empty()) return;
  const Tokenizer tokenizer = Tokenizer::load(folder);
  CHECK(tokenizer.vocabulary_size() == 39410);
  CHECK(tokenizer.bos_id() == 1);
  CHECK(tokenizer.eos_id() == 2);
  CHECK(tokenizer.unk_id() == 0);
  CHECK_FALSE(tokenizer.pad_id().has_value());
  CHECK(tokenizer.id_of("<human>") == 39408);
  CHECK(tokenizer.id_of("<bot>") == 39409);
  CHECK(tokenizer.id_of("<0x0A>") == 13);
  CHECK(tokenizer.id_of("\xE2\x96\x81:") == 584);
  const Ids ids = tokenizer.encode("<human>:你好\n<bot>:");
  REQUIRE(ids.size() == 7);
  CHECK(Ids{ids[0], ids[1], ids[2], ids[5], ids[6]} == Ids{1, 39408, 584, 39409, 584});
  const Ids newer = tokenizer.encode("<human>:你好\n<bot>:", {.mode = TokenizerMode::transformers});
  CHECK(newer.size() == 8);
  CHECK(newer[5] == 13);
}

TEST_CASE("tokenizer: exact decoding", "[text]") {
  const Fixture fixture("ziya-tiny");
  const Tokenizer& tokenizer = *fixture.tokenizer;
  SECTION("plain text comes back byte for byte") {
    for (std::size_t i = 0; i < fixture.texts.size(); ++i) {
      std::string text = fixture.texts[i];
      // Two characters mean a space to SentencePiece, so one of them comes back as the other.
      for (std::size_t at; (at = text.find("\xE2\x96\x81")) != std::string::npos;) {
        text.replace(at, 3, " ");
      }
      CHECK(tokenizer.decode(fixture.plain(i)) == text);
      Ids with_bos = fixture.plain(i);
      with_bos.insert(with_bos.begin(), 1);
      CHECK(tokenizer.decode(with_bos) == "<s>" + text);
      CHECK(tokenizer.decode(with_bos, {.skip_special = true}) == text);
      // Without tokens, the ids that go on keep the space that encoding put in front.
      if (!text.empty())
        CHECK(tokenizer.decode(fixture.plain(i), {.continues = true}) == " " + text);
    }
  }
  SECTION("pieces joined, whatever the ids") {
    std::mt19937 random(5);
    std::uniform_int_distribution<std::int32_t> any(0, tokenizer.vocabulary_size() - 1);
    for (int round = 0; round < 500; ++round) {
      std::string expected;
      Ids ids{*tokenizer.id_of("<human>")};  // what follows an added token keeps its space
      expected = "<human>";
      for (int n = 0; n < 20; ++n) {
        ids.push_back(n % 3 == 0 ? 3 + any(random) % 256 : any(random));
        std::string piece = tokenizer.piece(ids.back());
        if (ids.back() >= 3 && ids.back() < 259) {
          piece = static_cast<char>(ids.back() - 3);
        }
        for (std::size_t at; (at = piece.find("\xE2\x96\x81")) != std::string::npos;) {
          piece.replace(at, 3, " ");
        }
        expected += piece;
      }
      CHECK(tokenizer.decode(ids) == expected);
    }
  }
  SECTION("as SentencePiece, where it has no opinion of its own") {
    const ziya::SentencePieceModel model(read_file(tiny_folder / "tokenizer.model"), "model");
    const ziya::SentencePieceEncoder encoder(model.serialize(), "model");
    std::mt19937 random(6);
    std::uniform_int_distribution<std::int32_t> any(259, encoder.size() - 1);
    const std::int32_t space = *encoder.find("\xE2\x96\x81");
    for (int round = 0; round < 2000; ++round) {
      Ids ids;
      for (int n = 0; n < 6; ++n) {
        const unsigned kind = random() % 4;
        if (kind == 0) ids.push_back(space);
        if (kind == 1) ids.push_back(3 + static_cast<int>(random() % 128));  // an ASCII byte
        if (kind == 2) ids.push_back(1 + static_cast<int>(random() % 2));
        if (kind == 3) ids.push_back(any(random));
      }
      CAPTURE(ids);
      CHECK(tokenizer.decode(ids, {.skip_special = true}) == encoder.decode(ids));
    }
  }
  SECTION("bytes that are not UTF-8 stay what they are") {
    const Ids ids{3 + 0xE4, 3 + 0xBD, 3 + 0xA0, 3 + 0xFF, 3 + 0xE4};
    CHECK(tokenizer.decode(ids) == "\xE4\xBD\xA0\xFF\xE4");
    CHECK(tokenizer.decode(ids, {.spaces_around_added = true}) == "你\uFFFD\uFFFD");
  }
}

TEST_CASE("tokenizer: streamed pieces joined are the whole decode", "[text]") {
  const Fixture fixture("ziya-tiny");
  const Tokenizer& tokenizer = *fixture.tokenizer;
  std::vector<Ids> sequences;
  for (std::size_t i = 0; i < fixture.texts.size(); ++i) sequences.push_back(fixture.legacy(i));
  for (const auto& ids : fixture.expected.at("decode").at("ids")) sequences.push_back(ids);
  for (const Ids& ids : sequences) {
    for (const bool skip : {false, true}) {
      for (const bool continues : {false, true}) {
        const ziya::DecodeOptions options{.skip_special = skip, .continues = continues};
        ziya::Detokenizer detokenizer(tokenizer, options);
        std::string joined;
        for (const std::int32_t id : ids) joined += detokenizer.push(id);
        joined += detokenizer.finish();
        CHECK(joined == tokenizer.decode(ids, options));
      }
    }
  }
  SECTION("a text of whole characters is streamed in whole characters") {
    for (std::size_t i = 0; i < fixture.texts.size(); ++i) {
      ziya::Detokenizer detokenizer(tokenizer);
      for (const std::int32_t id : fixture.plain(i)) {
        if (!ziya::is_valid_utf8(detokenizer.push(id))) CHECK(false);
      }
      CHECK(detokenizer.finish().empty());
    }
  }
  CHECK(error_of([&] { ziya::Detokenizer(tokenizer, {.spaces_around_added = true}); }) ==
        "ZIYA-314");
}

TEST_CASE("tokenizer: ids outside the vocabulary are refused by name", "[text]") {
  const Tokenizer tokenizer = Tokenizer::load(tiny_folder);
  const std::int32_t size = tokenizer.vocabulary_size();
  for (const std::int32_t id : {-1, size, size + 13, INT32_MAX, INT32_MIN}) {
    CHECK_FALSE(tokenizer.contains(id));
    CHECK_FALSE(tokenizer.is_special(id));
    CHECK_FALSE(tokenizer.is_added(id));
    CHECK(error_of([&] { (void)tokenizer.decode(Ids{1, id}); }) == "ZIYA-310");
    CHECK(error_of([&] { (void)tokenizer.decode(Ids{id}, {.spaces_around_added = true}); }) ==
          "ZIYA-310");
    CHECK(error_of([&] { (void)tokenizer.piece(id); }) == "ZIYA-310");
  }
  CHECK_THROWS_WITH(tokenizer.decode(Ids{99999}), Catch::Contains("99999"));
  CHECK(tokenizer.contains(size - 1));
  CHECK(tokenizer.is_added(size - 1));
  CHECK_FALSE(tokenizer.is_special(size - 1));
  CHECK(tokenizer.is_special(tokenizer.bos_id()));
  CHECK_FALSE(tokenizer.id_of("no such token"));
  CHECK_FALSE(tokenizer.id_of(""));
}

TEST_CASE("tokenizer: bos and eos", "[text]") {
  const Tokenizer tokenizer = Tokenizer::load(tiny_folder);
  CHECK(tokenizer.encode("") == Ids{1});
  CHECK(tokenizer.encode("", {.add_bos = false}).empty());
  CHECK(tokenizer.encode("", {.add_eos = true}) == Ids{1, 2});
  CHECK(tokenizer.encode("</s>", {.add_bos = false}) == Ids{2});
  CHECK(tokenizer.encode("</s>", {TokenizerMode::plain, false, false}) != Ids{2});
}

TEST_CASE("tokenizer: two threads share one", "[text]") {
  const Fixture fixture("ziya-tiny");
  std::array<std::size_t, 2> wrong{};
  const auto work = [&](std::size_t thread) {
    const Tokenizer tokenizer = *fixture.tokenizer;
    for (std::size_t i = thread; i < fixture.texts.size(); ++i) {
      const Ids ids = tokenizer.encode(fixture.texts[i]);
      if (ids != fixture.legacy(i)) ++wrong[thread];
      if (tokenizer.decode(ids, {.spaces_around_added = true}).empty()) ++wrong[thread];
    }
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  CHECK(wrong == std::array<std::size_t, 2>{});
}

}  // namespace tokenizer_test
