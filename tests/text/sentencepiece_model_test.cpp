// SPDX-License-Identifier: Apache-2.0
// Malformed and hostile tokenizer.model files: an error, never a crash of the library behind.
#include "ziya/text/sentencepiece_model.hpp"

#include <cmath>
#include <cstring>
#include <random>

#include "golden.hpp"
#include "ziya/text/sentencepiece_encoder.hpp"

namespace sentencepiece_model_test {

using namespace ziya_test;
using ziya::append_protobuf_bytes;
using ziya::SentencePieceEncoder;
using ziya::SentencePieceModel;
using ziya::Tokenizer;
using ziya::TokenizerMode;

std::string number(std::uint64_t field, std::uint64_t value) {
  std::string result(1, static_cast<char>(field << 3));
  if (field > 15)
    result = {static_cast<char>((field << 3 & 0x7F) | 0x80), static_cast<char>(field >> 4)};
  for (; value >= 0x80; value >>= 7) result += static_cast<char>(value | 0x80);
  return result + static_cast<char>(value);
}

std::string real(std::uint64_t field, float value) {
  std::string result(1, static_cast<char>(field << 3 | 5));
  result.resize(5);
  std::memcpy(result.data() + 1, &value, 4);
  return result;
}

std::string bytes(std::uint64_t field, const std::string& contents) {
  std::string result;
  append_protobuf_bytes(result, field, contents);
  return result;
}

std::string piece(const std::string& text, int type = 1, float score = 0) {
  return bytes(1, bytes(1, text) + real(2, score) +
                      (type == 1 ? "" : number(3, static_cast<unsigned>(type))));
}

/// A BPE model with one unknown piece and a few letters.
const std::string small = piece("<unk>", 2) + piece("<s>", 3) + piece("</s>", 3) +
                          piece("\xE2\x96\x81") + piece("a") + piece("b") + piece("ab", 1, 1) +
                          bytes(2, number(3, 2)) + bytes(3, number(3, 1) + number(4, 0));

/// The id of the error of loading `model`, "" when it loads; then it must also encode and decode.
std::string load_error(const std::string& model) {
  return error_of([&] {
    const SentencePieceModel checked(model, "model");
    const SentencePieceEncoder encoder(checked.serialize(), "model");
    std::vector<std::int32_t> ids;
    encoder.encode("a ab 你好 \xFF\xE4 x", ids);
    for (const std::int32_t id : ids) REQUIRE((id >= 0 && id < encoder.size()));
    (void)encoder.decode(ids);
  });
}

/// Normalisation rules with one key "a" → "b", or with one unit of the double array replaced.
std::string rules(std::size_t index = 9999, std::uint32_t unit = 0,
                  std::string texts = {"b\0", 2}) {
  std::vector<std::uint32_t> units(512, 1);        // 1: a label that no search asks for here
  units[0] = 256 << 10;                            // root → the block at 256
  units[256 ^ 'a'] = 'a' | 1 << 8 | (0x60 << 10);  // "a" ends a key; its value lies 0x60 away
  units[256 ^ 'a' ^ 0x60] = 1u << 31;              // the value: text at 0
  if (index < units.size()) units[index] = unit;
  std::string result(4 + 4 * units.size(), '\0');
  const std::uint32_t size = static_cast<std::uint32_t>(4 * units.size());
  std::memcpy(result.data(), &size, 4);
  std::memcpy(result.data() + 4, units.data(), 4 * units.size());
  return result + texts;
}

std::string with_rules(const std::string& charsmap) { return small + bytes(3, bytes(2, charsmap)); }

TEST_CASE("sentencepiece model: a small one works", "[text]") {
  CHECK(load_error(small) == "");
  const SentencePieceModel model(small, "model");
  CHECK(model.pieces().size() == 7);
  CHECK(model.add_dummy_prefix());
  CHECK_FALSE(model.remove_extra_whitespaces());
  CHECK(model.serialize() == small);
  const SentencePieceEncoder encoder(model.serialize(), "model");
  Ids ids;
  encoder.encode("ab", ids);
  CHECK(ids == Ids{3, 6});
  CHECK(encoder.find("ab") == 6);
  CHECK_FALSE(encoder.find("abc"));
}

TEST_CASE("sentencepiece model: what is refused", "[text]") {
  CHECK(load_error("") == "ZIYA-302");
  CHECK(load_error("{\"version\": 1}") == "ZIYA-302");
  CHECK(load_error("AAAA 0\nAQ== 1\n") == "ZIYA-302");      // another tokenizer's file of that name
  CHECK(load_error(bytes(2, number(3, 2))) == "ZIYA-302");  // no pieces
  CHECK(load_error(piece("a")) == "ZIYA-302");              // no unknown piece
  CHECK(load_error(small + piece("<unk2>", 2)) == "ZIYA-302");  // two of them
  CHECK(load_error(small + piece("ab")) == "ZIYA-302");         // twice the same
  CHECK(load_error(small + piece("")) == "ZIYA-302");
  CHECK(load_error(small + piece(std::string("x\0y", 3), 4)) == "ZIYA-302");
  CHECK(load_error(small + piece("\xFFzz", 4)) == "");  // any other bytes will do
  CHECK(load_error(small + piece("c", 7)) == "ZIYA-302");
  CHECK(load_error(small + piece("c", 1, NAN)) == "ZIYA-302");
  CHECK(load_error(small + piece("c", 1, INFINITY)) == "ZIYA-302");
  CHECK(load_error(small + piece("<0x41>", 6)) == "ZIYA-302");       // bytes without byte fallback
  CHECK(load_error(small + bytes(2, number(35, 1))) == "ZIYA-302");  // byte fallback, no bytes
  CHECK(load_error(small + bytes(2, number(3, 5))) == "ZIYA-302");
  CHECK(load_error(small + bytes(2, number(24, 1))) == "ZIYA-304");
  CHECK(load_error(small + bytes(5, bytes(2, "x"))) == "ZIYA-304");
  CHECK(load_error(small + piece(std::string(4097, 'a'), 5)) == "ZIYA-302");
  CHECK(load_error(small + bytes(1, bytes(1, "c") + number(2, 3))) == "ZIYA-302");  // no float
  CHECK(load_error(small + '\x0A') == "ZIYA-302");
  CHECK(load_error(small + "\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01") == "ZIYA-302");
  CHECK(load_error(small + std::string(1, '\0')) == "ZIYA-302");  // field 0
  CHECK(load_error(small + "\x0B") == "ZIYA-302");                // a group
  CHECK(load_error(small + std::string(11, '\xFF')) == "ZIYA-302");
  CHECK(load_error(small + "\x51"
                           "12345678"
                           "\x55"
                           "1234") == "");  // unknown fields pass
  std::string many;
  for (int i = 0; i < (1 << 20) + 1; ++i) many += piece(std::to_string(i));
  CHECK(load_error(many) == "ZIYA-302");
  CHECK(error_of([&] { SentencePieceModel(std::string((64 << 20) + 1, ' '), "model"); }) ==
        "ZIYA-302");
}

TEST_CASE("sentencepiece model: a piece merged from many unused ones", "[text]") {
  // The library takes such a piece apart again by recursion, one level per character.
  std::string model = small;
  for (std::size_t n = 3; n <= 2000; ++n) {
    model += piece(std::string(n, 'a'), 5, static_cast<float>(n));
  }
  model += piece("aa", 5);
  const SentencePieceModel checked(model, "model");
  const SentencePieceEncoder encoder(checked.serialize(), "model");
  Ids ids;
  encoder.encode(std::string(1999, 'a'), ids);
  CHECK(ids.size() == 2000);
}

TEST_CASE("sentencepiece model: self-tests are not run", "[text]") {
  // A failing one would make the library print.
  const std::string failing = bytes(4, bytes(1, bytes(1, "a") + bytes(2, "b")));
  CHECK(load_error(small + failing) == "");
  CHECK(SentencePieceModel(small + failing, "model").serialize() == small);
}

TEST_CASE("sentencepiece model: normalisation rules are followed only inside themselves",
          "[text]") {
  CHECK(load_error(with_rules(rules())) == "");
  {
    const SentencePieceModel model(with_rules(rules()), "model");
    const SentencePieceEncoder encoder(model.serialize(), "model");
    Ids ids;
    encoder.encode("a", ids);
    CHECK(ids == Ids{3, 5});  // "a" was written "b"
  }
  CHECK(load_error(with_rules("\x01")) == "ZIYA-302");
  CHECK(load_error(with_rules(std::string(3000, '\0'))) == "ZIYA-302");
  CHECK(load_error(with_rules(std::string("\xFF\xFF\xFF\xFF", 4) + std::string(3000, '\0'))) ==
        "ZIYA-302");
  CHECK(load_error(with_rules(rules(9999, 0, "b"))) == "ZIYA-302");        // no end
  CHECK(load_error(with_rules(rules(0, 0x1FFFFFu << 10))) == "ZIYA-302");  // root leads outside
  CHECK(load_error(with_rules(rules(256 ^ 'a', 'a' | 512u << 10))) == "ZIYA-302");
  CHECK(load_error(with_rules(rules(256 ^ 'a', 'a' | 0x200 | 2u << 10))) == "ZIYA-302");
  CHECK(load_error(with_rules(rules(256 ^ 'a' ^ 0x60, 1u << 31 | 2))) == "ZIYA-302");
}

TEST_CASE("sentencepiece model: cut and corrupted copies of a real one", "[text]") {
  const std::string whole = read_file(tiny_folder / "tokenizer.model");
  CHECK(load_error(whole) == "");
  std::mt19937 random(11);
  std::size_t refused = 0;
  for (int i = 0; i < 200; ++i) {
    // A cut between two fields leaves a smaller model, which is a model.
    if (!load_error(whole.substr(0, random() % whole.size())).empty()) ++refused;
  }
  CHECK(refused > 150);
  for (int i = 0; i < 300; ++i) {
    std::string model = whole;
    for (unsigned n = 1 + random() % 4; n > 0; --n) {
      // Mostly in the last part, which holds the specifications.
      const std::size_t at =
          random() % 2 == 0 ? random() % model.size() : model.size() - 1 - random() % 400;
      model[at] = static_cast<char>(random());
    }
    const std::string error = load_error(model);
    CHECK((error == "" || error == "ZIYA-302" || error == "ZIYA-304" || error == "ZIYA-313"));
  }
}

TEST_CASE("sentencepiece model: tokens that it knows itself are text in plain mode", "[text]") {
  ScratchFolder folder;
  std::string model = small;
  for (const char c : std::string("<>bot"))
    model += piece(std::string(1, c) + (c == 'b' ? "b" : ""));
  model += piece("<bot>", 4) + piece("aba", 4);
  folder.write("tokenizer.model", model);
  folder.write("special_tokens_map.json", R"({"additional_special_tokens": ["<bot>"]})");
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  const std::int32_t bot = *tokenizer.id_of("<bot>");
  CHECK(tokenizer.is_special(bot));
  const Ids legacy = tokenizer.encode("a<bot>b", {.add_bos = false});
  CHECK(std::ranges::count(legacy, bot) == 1);
  const Ids plain = tokenizer.encode("a<bot>b", {TokenizerMode::plain, false, false});
  CHECK(std::ranges::count(plain, bot) == 0);
  CHECK(plain.size() > 5);
  // A user-defined piece that is no token stays what the model says.
  const Ids other = tokenizer.encode("aba", {TokenizerMode::plain, false, false});
  CHECK(std::ranges::count(other, *tokenizer.id_of("aba")) == 1);
}

TEST_CASE("sentencepiece model: decoding without a dummy prefix, and with spaces joined",
          "[text]") {
  const std::string pieces = piece("<unk>", 2) + piece("<s>", 3) + piece("</s>", 3) +
                             piece("\xE2\x96\x81") +
                             piece(
                                 "\xE2\x96\x81"
                                 "a") +
                             piece("\xE2\x96\x81\xE2\x96\x81") + piece("b");
  std::mt19937 random(2);
  for (const auto& [prefix, join] : {std::pair{0, 0}, {0, 1}, {1, 0}, {1, 1}}) {
    ScratchFolder folder;
    folder.write("tokenizer.model", pieces + bytes(2, number(3, 2)) +
                                        bytes(3, number(3, static_cast<unsigned>(prefix)) +
                                                     number(4, static_cast<unsigned>(join))));
    const Tokenizer tokenizer = Tokenizer::load(folder.path());
    const SentencePieceModel model(read_file(folder.path() / "tokenizer.model"), "model");
    const SentencePieceEncoder encoder(model.serialize(), "model");
    for (int round = 0; round < 300; ++round) {
      Ids ids;
      for (int n = 0; n < 5; ++n) ids.push_back(1 + static_cast<int>(random() % 6));
      CAPTURE(prefix, join, ids);
      CHECK(tokenizer.decode(ids, {.skip_special = true}) == encoder.decode(ids));
    }
  }
}

TEST_CASE("sentencepiece encoder: a text too long is refused", "[text]") {
  const SentencePieceModel model(small, "model");
  const SentencePieceEncoder encoder(model.serialize(), "model");
  const std::string_view long_text(small.data(), SentencePieceEncoder::max_text_bytes + 1);
  Ids ids;
  CHECK(error_of([&] { encoder.encode(long_text, ids); }) == "ZIYA-311");  // refused unread
}

}  // namespace sentencepiece_model_test
