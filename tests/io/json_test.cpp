// SPDX-License-Identifier: Apache-2.0
// JSON within bounds, and typed access to it.
#include "ziya/io/json.hpp"

#include <catch2/catch.hpp>

#include "support/errors.hpp"
#include "support/temporary_directory.hpp"

namespace json_test {

using ziya::parse_json;

TEST_CASE("documents are parsed, broken ones refused with the name of the file", "[json]") {
  REQUIRE(parse_json(R"({"a": [1, 2.5, "ü", null]})", "x.json")["a"][2] == "ü");
  for (const char* text : {"", "{", "[1,]", "{\"a\": nan}", "\"\xff\"", "1e999", "[1] 2", "'a'",
                           "{\"a\" 1}", "\xff\xfe"}) {
    INFO(text);
    REQUIRE_ERROR(parse_json(text, "x.json"), "ZIYA-230", "x.json");
  }
}

TEST_CASE("depth, size and number of values are bounded", "[json]") {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  REQUIRE(parse_json(nested(64), "x").is_array());
  REQUIRE_ERROR(parse_json("version https://git-lfs.github.com/spec/v1\noid", "x"), "ZIYA-234",
                "git lfs pull");
  REQUIRE_ERROR(parse_json(nested(66), "x"), "ZIYA-230", "deeper than 64");
  REQUIRE_ERROR(parse_json(nested(1'000'000), "x"), "ZIYA-230", "deeper than 64");
  REQUIRE_ERROR(parse_json("[1, 2]", "x", {.bytes = 5}), "ZIYA-230", "at most 5");
  REQUIRE_ERROR(parse_json("[1, 2, 3, 4]", "x", {.values = 3}), "ZIYA-230", "more than 3 values");
}

TEST_CASE("a repeated key is refused at every level, but only within one object", "[json]") {
  REQUIRE(parse_json(R"([{"a": 1}, {"a": {"a": 2}}])", "x").size() == 2);
  REQUIRE_ERROR(parse_json(R"({"a": 1, "a": 2})", "x"), "ZIYA-230", "\"a\" occurs twice");
  REQUIRE_ERROR(parse_json(R"([{"b": {"c": 1, "d": [], "c": 2}}])", "x"), "ZIYA-230", "\"c\"");
}

TEST_CASE("members are read by type, without losing anything", "[json]") {
  const auto json = parse_json(
      R"({"i": 3, "n": -1, "f": 2.5, "s": "text", "b": true, "big": 18446744073709551615, "z": null})",
      "x");
  REQUIRE(ziya::json_get<std::int64_t>(json, "i", "x") == 3);
  REQUIRE(ziya::json_get<double>(json, "i", "x") == 3.0);
  REQUIRE(ziya::json_get<std::string>(json, "s", "x") == "text");
  REQUIRE(ziya::json_get<bool>(json, "b", "x"));
  REQUIRE(ziya::json_get<std::int64_t>(json, "absent", "x", 7) == 7);
  REQUIRE(ziya::json_get<std::int64_t>(json, "z", "x", 7) == 7);
  REQUIRE_ERROR(ziya::json_get<std::int64_t>(json, "absent", "x"), "ZIYA-231", "has no \"absent\"");
  REQUIRE_ERROR(ziya::json_get<std::int64_t>(json, "f", "x"), "ZIYA-231", "expected an integer");
  REQUIRE_ERROR(ziya::json_get<std::int64_t>(json, "big", "x"), "ZIYA-231", "in range");
  REQUIRE_ERROR(ziya::json_get<std::uint32_t>(json, "n", "x"), "ZIYA-231", "in range");
  REQUIRE_ERROR(ziya::json_get<bool>(json, "i", "x"), "ZIYA-231", "true or false");
  REQUIRE_ERROR(ziya::json_get<double>(json, "s", "x"), "ZIYA-231", "expected a number");
  REQUIRE_ERROR(ziya::json_get<std::string>(json, "i", "x", ""), "ZIYA-231", "expected a string");
  REQUIRE_ERROR(ziya::json_get<bool>(json["i"], "a", "x"), "ZIYA-231", "has no");
}

TEST_CASE("text becomes a JSON string", "[json]") {
  REQUIRE(ziya::json_quote("a\"\n") == "\"a\\\"\\n\"");
  REQUIRE_ERROR(ziya::json_quote("\xff"), "ZIYA-239", "UTF-8");
}

TEST_CASE("a file's errors name the file", "[json]") {
  const test::TemporaryDirectory folder;
  REQUIRE_ERROR(ziya::read_json_file(folder.file("config.json", "{")), "ZIYA-230", "config.json");
  REQUIRE(ziya::read_json_file(folder.file("b.json", "[]")).empty());
}

}  // namespace json_test
