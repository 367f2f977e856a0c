// SPDX-License-Identifier: Apache-2.0
// Headers of safetensors files: the format's rules, each broken once.
#include "ziya/io/safetensors.hpp"

#include <catch2/catch.hpp>

#include "support/errors.hpp"
#include "support/temporary_directory.hpp"

namespace safetensors_test {

std::string with_length(const std::string& json, std::uint64_t length) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(length >> (8 * i) & 0xff);
  return text + json;
}
std::string file_of(const std::string& json, std::size_t data_bytes) {
  return with_length(json, json.size()) + std::string(data_bytes, 'x');
}

struct Reader {
  test::TemporaryDirectory folder;
  ziya::safetensors::Contents operator()(const std::string& bytes) const {
    return ziya::safetensors::read_contents(ziya::InputFile(folder.file("a.safetensors", bytes)));
  }
};

TEST_CASE("tensors come in the order of the data, with metadata", "[safetensors]") {
  const Reader read;
  const std::string json = R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
                           R"("__metadata__":{"format":"pt"},)"
                           R"("empty":{"dtype":"I64","shape":[0,7],"data_offsets":[16,16]},)"
                           R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   )";
  const auto contents = read(file_of(json, 16));
  REQUIRE(contents.metadata.at("format") == "pt");
  REQUIRE(contents.tensors.size() == 3);
  REQUIRE(contents.tensors[0].name == "a");
  REQUIRE(contents.tensors[0].shape.rank() == 0);
  REQUIRE(contents.tensors[1].dtype == ziya::DType::bf16);
  REQUIRE(contents.tensors[1].shape == ziya::Shape{2, 3});
  REQUIRE(contents.tensors[1].offset == static_cast<std::int64_t>(8 + json.size() + 4));
  REQUIRE(contents.tensors[2].bytes() == 0);
}

TEST_CASE("all ten types are known by the format's names", "[safetensors]") {
  const Reader read;
  for (int i = 0; i <= static_cast<int>(ziya::DType::boolean); ++i) {
    const auto dtype = static_cast<ziya::DType>(i);
    const auto bytes = static_cast<std::size_t>(ziya::info(dtype).block_bytes);
    const auto contents = read(
        file_of("{\"a\":{\"dtype\":\"" + std::string(ziya::safetensors::dtype_name(dtype)) +
                    "\",\"shape\":[3],\"data_offsets\":[0," + std::to_string(3 * bytes) + "]}}",
                3 * bytes));
    REQUIRE(contents.tensors[0].dtype == dtype);
  }
}

TEST_CASE("damaged files are refused", "[safetensors]") {
  const Reader read;
  REQUIRE_ERROR(read(""), "ZIYA-210", "a.safetensors");
  REQUIRE_ERROR(read("12345678"), "ZIYA-210", "is not a safetensors file");
  REQUIRE_ERROR(read(with_length("[]     ", 2)), "ZIYA-210", "JSON object");
  REQUIRE_ERROR(read(with_length("{}", 100'000'001)), "ZIYA-210", "100 MB");
  REQUIRE_ERROR(read(with_length("{}", ~std::uint64_t{0})), "ZIYA-210", "100 MB");
  REQUIRE_ERROR(read(with_length("{}", 3)), "ZIYA-213", "truncated");
  REQUIRE_ERROR(read(with_length("{ \"a\"  ", 7)), "ZIYA-230", "not JSON");
  REQUIRE_ERROR(read(file_of("{}", 1)), "ZIYA-213", "tensors end at");
}

TEST_CASE("entries that contradict the format are refused by tensor", "[safetensors]") {
  const Reader read;
  const auto entry = [&](const std::string& body, std::size_t bytes = 8) {
    return read(file_of("{\"w\":" + body + "}", bytes));
  };
  const std::string good = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  REQUIRE(entry(good).tensors.size() == 1);
  REQUIRE_ERROR(entry("3"), "ZIYA-231", "tensor w");
  REQUIRE_ERROR(entry(R"({"shape":[2],"data_offsets":[0,8]})"), "ZIYA-231", "dtype");
  REQUIRE_ERROR(entry(R"({"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]})"), "ZIYA-212",
                "tensor w: dtype \"F8_E4M3\"");
  REQUIRE_ERROR(entry(R"({"dtype":"F32","data_offsets":[0,8]})"), "ZIYA-211", "\"shape\"");
  REQUIRE_ERROR(entry(R"({"dtype":"F32","shape":[2],"data_offsets":0})"), "ZIYA-211",
                "\"data_offsets\"");
  for (const char* shape : {"-2", "2.0", "\"2\"", "9223372036854775808", "null"}) {
    REQUIRE_ERROR(
        entry("{\"dtype\":\"F32\",\"shape\":[" + std::string(shape) + "],\"data_offsets\":[0,8]}"),
        "ZIYA-211", "something else than sizes");
  }
  REQUIRE_ERROR(entry(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})"),
                "ZIYA-211", "more elements");
  REQUIRE_ERROR(entry(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]})"),
                "ZIYA-211", "more than 8 dimensions");
  for (const char* offsets : {"[0,12]", "[8,0]", "[0]", "[0,8,8]", "[0,9223372036854775807]"}) {
    REQUIRE_ERROR(
        entry("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" + std::string(offsets) + "}"),
        "ZIYA-213", "do not lie within");
  }
  REQUIRE_ERROR(entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})"), "ZIYA-213",
                "has 8 bytes, expected 4 for f32 (1)");
  REQUIRE_ERROR(entry(good, 12), "ZIYA-213", "bytes, but its tensors end at");
  REQUIRE_ERROR(read(file_of("{\"w\":" + good + ",\"w\":" + good + "}", 8)), "ZIYA-230", "\"w\"");
  const std::string half = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  REQUIRE_ERROR(read(file_of("{\"v\":" + half + ",\"w\":" + good + "}", 8)), "ZIYA-213",
                "overlaps");
  REQUIRE_ERROR(read(file_of(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8)),
                "ZIYA-213", "unused bytes");
  REQUIRE_ERROR(read(file_of(R"({"__metadata__":[]})", 0)), "ZIYA-211", "__metadata__");
  REQUIRE_ERROR(read(file_of(R"({"__metadata__":{"a":1}})", 0)), "ZIYA-211", "\"a\"");
}

}  // namespace safetensors_test
