// SPDX-License-Identifier: Apache-2.0
#include "ziya/generate/generation_config_file.hpp"

#include <catch2/catch.hpp>

#include "model/fixture.hpp"

namespace generation_config_test {

using namespace ziya;

GenerationConfig load(const std::string& config, const std::string& generation) {
  const fixture::TemporaryFolder folder;
  if (!config.empty()) fixture::write_file(folder.path() / "config.json", config);
  if (!generation.empty())
    fixture::write_file(folder.path() / "generation_config.json", generation);
  return GenerationConfig::load(folder.path());
}

TEST_CASE("the defaults are the model card's") {
  const GenerationConfig config = load("", "");
  CHECK(config.max_new_tokens == 1024);
  CHECK(config.do_sample);
  CHECK(config.temperature == 1.0f);
  CHECK(config.top_k == 50);
  CHECK(config.top_p == 0.85f);
  CHECK(config.repetition_penalty == 1.0f);
  CHECK(config.eos_ids.empty());
  CHECK_FALSE((config.bos_id.has_value() || config.pad_id.has_value()));
}

TEST_CASE("what generation_config.json says holds, then config.json, then the defaults") {
  const std::string ids = R"({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})";
  CHECK(load(ids, "").eos_ids == std::vector<std::int32_t>{2});
  CHECK(load(ids, "").bos_id == 1);
  CHECK(load(ids, "").pad_id == 0);
  CHECK(load(ids, R"({"eos_token_id": [7, 9]})").eos_ids == std::vector<std::int32_t>{7, 9});
  CHECK(load(ids, R"({"eos_token_id": null})").eos_ids == std::vector<std::int32_t>{2});
  CHECK(load(ids, R"({"pad_token_id": -1})").pad_id == 0);  // old LLaMA's way of saying none
  const GenerationConfig config =
      load(ids, R"({"do_sample": false, "temperature": 0.7, "top_k": 20, "top_p": 0.5,
                    "repetition_penalty": 1.18, "max_new_tokens": 128, "max_length": 20,
                    "transformers_version": "4.29.0"})");
  CHECK_FALSE(config.do_sample);
  CHECK(config.temperature == 0.7f);
  CHECK(config.top_k == 20);
  CHECK(config.top_p == 0.5f);
  CHECK(config.repetition_penalty == 1.18f);
  CHECK(config.max_new_tokens == 128);
  CHECK(load("", R"({"temperature": 1, "top_k": null})").top_k == 50);
  CHECK(load("", R"({"stop_strings": "a"})").stop == std::vector<std::string>{"a"});
  CHECK(load("", R"({"stop_strings": ["a", "b"]})").stop == std::vector<std::string>{"a", "b"});
  const auto biases = load("", R"({"sequence_bias": [[[5], 1], [[3, 4], 2], [[5], -3]]})");
  CHECK(biases.sequence_bias == std::vector<SequenceBiasEntry>{{{3, 4}, 2}, {{5}, -3}});
}

TEST_CASE("the published files of ziya-tiny and stories") {
  const auto tiny =
      GenerationConfig::load(std::filesystem::path(ZIYA_EXAMPLES) / "ziya-tiny/delta");
  CHECK(tiny.eos_ids == std::vector<std::int32_t>{2});
  CHECK(tiny.pad_id == 0);
  CHECK(tiny.top_p == 0.85f);
  const auto stories = golden::shared("stories260K-hf");
  if (!stories.empty()) {
    CHECK(GenerationConfig::load(stories).eos_ids == std::vector<std::int32_t>{2});
  }
}

TEST_CASE("values of other kinds are refused, with file and key") {
  for (const char* text :
       {R"({"eos_token_id": "2"})", R"({"eos_token_id": -5})", R"({"eos_token_id": [2, null]})",
        R"({"bos_token_id": 1.5})", R"({"eos_token_id": 99999999999})", R"({"top_k": 1.5})",
        R"({"top_k": 99999999999})", R"({"do_sample": 1})", R"({"temperature": "hot"})", "[]", "{",
        "3", R"({"stop_strings": [1]})", R"({"stop_strings": 1})"}) {
    INFO(text);
    try {
      (void)load("", text);
      FAIL("accepted");
    } catch (const FormatError& error) {
      CHECK(std::string(error.what()).find("generation_config.json") != std::string::npos);
    }
  }
  CHECK_THROWS_AS(load("{", ""), FormatError);
  for (const char* text : {R"({"temperature": 0})", R"({"top_p": 1.5})", R"({"top_k": -1})",
                           R"({"repetition_penalty": 0})", R"({"max_new_tokens": -1})"}) {
    INFO(text);
    CHECK_THROWS_AS(load("", text), ArgumentError);
  }
  // Settings that greedy decoding does not use are not looked at.
  CHECK_FALSE(load("", R"({"do_sample": false, "temperature": 0})").do_sample);
}

}  // namespace generation_config_test
