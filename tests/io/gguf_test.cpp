// SPDX-License-Identifier: Apache-2.0
// GGUF files: every kind of value and tensor, each rule of the format broken once.
#include "ziya/io/gguf.hpp"

#include <catch2/catch.hpp>
#include <limits>

#include "io/gguf_builder.hpp"
#include "support/errors.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/gguf_names.hpp"
#include "ziya/io/tensor_source.hpp"

namespace gguf_test {

using namespace test;
using ziya::Checkpoint;
using ziya::DType;
using ziya::Shape;

struct Reader {
  TemporaryDirectory folder;
  ziya::gguf::Contents operator()(const std::string& bytes) const {
    return ziya::gguf::read_contents(ziya::InputFile(folder.file("a.gguf", bytes)));
  }
  ziya::gguf::Contents operator()(const GgufFile& file) const { return (*this)(file.bytes()); }
  /// A file with one key.
  ziya::gguf::Contents key(const std::string& key) const {
    GgufFile file;
    file.keys = {key};
    return (*this)(file);
  }
  /// A file of 256 bytes of data with these tensors.
  ziya::gguf::Contents tensors(std::vector<std::string> entries) const {
    GgufFile file;
    file.tensors = std::move(entries);
    file.data = std::string(256, 'x');
    return (*this)(file);
  }
};

std::string counted(std::size_t bytes) {
  std::string data;
  for (std::size_t i = 0; i < bytes; ++i) data += static_cast<char>(i * 7 + 3);
  return data;
}

TEST_CASE("gguf: values of every type", "[gguf]") {
  const Reader read;
  GgufFile file;
  file.version = GENERATE(2u, 3u);
  file.keys = {text("u8") + u32(0) + le(200, 1),
               text("i8") + u32(1) + le(200, 1),
               text("u16") + u32(2) + le(60000, 2),
               text("i16") + u32(3) + le(60000, 2),
               key_u32("u32", 4'000'000'000),
               text("i32") + u32(5) + u32(4'000'000'000),
               key_f32("f32", 1e-5f),
               key_bool("bool", true),
               key_text("text", "文本"),
               text("u64") + u32(10) + u64(1),
               text("i64") + u32(11) + u64(~std::uint64_t{0}),
               text("f64") + u32(12) + u64(std::bit_cast<std::uint64_t>(0.1)),
               key_array("texts", 8, {text("a"), text(""), text("bc")}),
               key_array("floats", 6, {f32(1.5f), f32(-2)}),
               key_array("i32s", 5, {u32(7), u32(0xffffffff)}),
               key_array("bytes", 0, {"a", "b"}),
               key_array("arrays", 9, {u32(8) + u64(1) + text("x"), u32(4) + u64(0)}),
               text("huge") + u32(10) + u64(~std::uint64_t{0})};
  const ziya::gguf::Metadata metadata = read(file).metadata;
  REQUIRE(metadata.integer("u8") == 200);
  REQUIRE(metadata.integer("i8") == -56);
  REQUIRE(metadata.integer("u16") == 60000);
  REQUIRE(metadata.integer("i16") == -5536);
  REQUIRE(metadata.integer("u32") == 4'000'000'000);
  REQUIRE(metadata.integer("i32") == -294'967'296);
  REQUIRE(metadata.integer("u64") == 1);
  REQUIRE(metadata.integer("i64") == -1);
  REQUIRE(metadata.real("f32") == 1e-5);  // not 9.99999975e-6
  REQUIRE(metadata.real("f64") == 0.1);
  REQUIRE(metadata.boolean("bool") == true);
  REQUIRE(metadata.text("text") == "文本");
  REQUIRE(metadata.texts("texts") == std::vector<std::string>{"a", "", "bc"});
  REQUIRE(metadata.floats("floats") == std::vector<float>{1.5f, -2});
  REQUIRE(metadata.integers("i32s") == std::vector<std::int64_t>{7, -1});
  REQUIRE(metadata.bytes("bytes") == "ab");
  REQUIRE(metadata.find("arrays")->count == 2);
  REQUIRE(metadata.entries().size() == 18);
  REQUIRE_FALSE(metadata.integer("absent"));
  REQUIRE_FALSE(metadata.texts("absent"));
  REQUIRE_ERROR(metadata.integer("text"), "ZIYA-252", "text is string, expected an integer");
  REQUIRE_ERROR(metadata.integer("huge"), "ZIYA-252", "smaller");
  REQUIRE_ERROR(metadata.real("u32"), "ZIYA-252", "fraction");
  REQUIRE_ERROR(metadata.boolean("u8"), "ZIYA-252", "true or false");
  REQUIRE_ERROR(metadata.text("texts"), "ZIYA-252", "array of string, expected a string");
  REQUIRE_ERROR(metadata.texts("floats"), "ZIYA-252", "array of f32");
  REQUIRE_ERROR(metadata.texts("text"), "ZIYA-252", "array");
  REQUIRE_ERROR(metadata.floats("i32s"), "ZIYA-252", "f32 numbers");
  REQUIRE_ERROR(metadata.integers("floats"), "ZIYA-252", "integers");
  REQUIRE_ERROR(metadata.bytes("i32s"), "ZIYA-252", "bytes");
}

TEST_CASE("gguf: tensors have their slowest dimension first, and their place", "[gguf]") {
  const Reader read;
  GgufFile file;
  file.keys = {key_u32("general.alignment", 64)};
  file.alignment = 64;
  file.tensors = {tensor("b", {32, 2}, 8, 64), tensor("a", {3, 5}, 0, 192), tensor("c", {}, 0, 0)};
  file.data = std::string(192 + 60, 'x');
  const auto contents = read(file);
  REQUIRE(contents.tensors.size() == 3);
  REQUIRE(contents.tensors[0].name == "b");
  REQUIRE(contents.tensors[0].dtype == DType::q8_0);
  REQUIRE(contents.tensors[0].shape == Shape{2, 32});
  REQUIRE(contents.tensors[0].bytes() == 68);
  REQUIRE(contents.tensors[1].shape == Shape{5, 3});
  REQUIRE(contents.tensors[1].offset % 64 == 0);
  REQUIRE(contents.tensors[1].offset - contents.tensors[0].offset == 128);
  REQUIRE(contents.tensors[2].shape.elements() == 1);
}

TEST_CASE("gguf: types are known by number, others are refused by name", "[gguf]") {
  const Reader read;
  for (int i = 0; i < ziya::dtype_count; ++i) {
    const auto dtype = static_cast<DType>(i);
    const auto* type = ziya::gguf::tensor_type(dtype);
    if (dtype == DType::u8 || dtype == DType::boolean || dtype == DType::f8_e4m3) {
      REQUIRE(type == nullptr);
      continue;
    }
    const auto extent = static_cast<std::uint64_t>(ziya::info(dtype).block_elements);
    REQUIRE(read.tensors({tensor("w", {extent}, type->number, 0)}).tensors[0].dtype == dtype);
  }
  REQUIRE_ERROR(read.tensors({tensor("w", {256}, 23, 0)}), "ZIYA-254", "tensor w has type IQ4_XS");
  REQUIRE_ERROR(read.tensors({tensor("w", {256}, 4, 0)}), "ZIYA-254", "Q4_2");
  REQUIRE_ERROR(read.tensors({tensor("w", {256}, 999, 0)}), "ZIYA-254", "number 999");
}

TEST_CASE("gguf: what is no GGUF file of a known version is refused", "[gguf]") {
  const Reader read;
  REQUIRE_ERROR(read(""), "ZIYA-250", "a.gguf: is not a GGUF file");
  REQUIRE_ERROR(read("GGUF"), "ZIYA-250", "is not a GGUF file");
  REQUIRE_ERROR(read("GGML" + std::string(40, '\0')), "ZIYA-250", "is not a GGUF file");
  GgufFile file;
  file.version = 1;
  REQUIRE_ERROR(read(file), "ZIYA-250", "version 1, expected version 2 or 3");
  file.version = 3u << 24;
  REQUIRE_ERROR(read(file), "ZIYA-250", "big-endian");
  file.version = 3;
  REQUIRE(read(file).tensors.empty());
  REQUIRE_FALSE(ziya::gguf::is_gguf(read.folder / "absent"));
  REQUIRE_FALSE(ziya::gguf::is_gguf(read.folder.path()));
}

TEST_CASE("gguf: damaged metadata is refused", "[gguf]") {
  const Reader read;
  const auto most = std::numeric_limits<std::uint64_t>::max();
  REQUIRE_ERROR(read("GGUF" + u32(3) + u64(most) + u64(0)), "ZIYA-251", "tensors");
  REQUIRE_ERROR(read("GGUF" + u32(3) + u64(0) + u64(most)), "ZIYA-251", "keys");
  REQUIRE_ERROR(read("GGUF" + u32(3) + u64(0) + u64(1)), "ZIYA-251", "truncated");
  REQUIRE_ERROR(read.key(u64(most)), "ZIYA-251", "a key of");
  REQUIRE_ERROR(read.key(u64(60000)), "ZIYA-251", "truncated");
  REQUIRE_ERROR(read.key(text("k") + u32(13) + u32(0)), "ZIYA-251", "unknown type 13");
  REQUIRE_ERROR(read.key(text("k") + u32(8) + u64(most)), "ZIYA-251", "at most");
  REQUIRE_ERROR(read.key(text("k") + u32(8) + u64(100)), "ZIYA-251", "k of 100 bytes");
  REQUIRE_ERROR(read.key(text("k") + u32(9) + u32(4) + u64(most)), "ZIYA-251", "truncated");
  REQUIRE_ERROR(read.key(text("k") + u32(9) + u32(12) + u64(most / 8 + 2)), "ZIYA-251", "left");
  REQUIRE_ERROR(read.key(text("k") + u32(9) + u32(8) + u64(most)), "ZIYA-251", "left");
  REQUIRE_ERROR(read.key(text("k") + u32(9) + u32(77) + u64(0)), "ZIYA-251", "unknown type 77");
  std::string nested;
  for (int i = 0; i < 5; ++i) nested += u32(9) + u64(1);
  REQUIRE_ERROR(read.key(text("k") + u32(9) + nested + u32(0) + u64(0)), "ZIYA-251", "nested");
  GgufFile twice;
  twice.keys = {key_u32("k", 1), key_u32("k", 1)};
  REQUIRE_ERROR(read(twice), "ZIYA-251", "k occurs twice");
  REQUIRE_ERROR(read.key(key_u32("general.alignment", 24)), "ZIYA-251", "power of two");
  REQUIRE_ERROR(read.key(key_u32("general.alignment", 0)), "ZIYA-251", "power of two");
  REQUIRE_ERROR(read.key(key_text("general.alignment", "32")), "ZIYA-252", "an integer");
}

TEST_CASE("gguf: tensors that do not fit their file are refused by name", "[gguf]") {
  const Reader read;
  const auto most = std::numeric_limits<std::uint64_t>::max();
  const std::string good = tensor("w", {8, 4}, 0, 0);
  REQUIRE(read.tensors({good}).tensors[0].shape == Shape{4, 8});
  REQUIRE_ERROR(read.tensors({text(std::string(300, 'n'))}), "ZIYA-251", "name of a tensor");
  REQUIRE_ERROR(read.tensors({tensor("w", {1, 1, 1, 1, 1}, 0, 0)}), "ZIYA-253", "5 dimensions");
  REQUIRE_ERROR(read.tensors({tensor("w", {most}, 0, 0)}), "ZIYA-253", "extent");
  REQUIRE_ERROR(read.tensors({tensor("w", {1u << 31, 1u << 31, 4}, 0, 0)}), "ZIYA-253", "w: ");
  REQUIRE_ERROR(read.tensors({tensor("w", {33}, 8, 0)}), "ZIYA-253", "no whole blocks of Q8_0");
  REQUIRE_ERROR(read.tensors({tensor("w", {8}, 0, most)}), "ZIYA-253", "truncated");
  REQUIRE_ERROR(read.tensors({tensor("w", {8}, 0, 33)}), "ZIYA-253", "aligned to 32");
  REQUIRE_ERROR(read.tensors({tensor("w", {64}, 0, 32)}), "ZIYA-253", "beyond the file");
  REQUIRE_ERROR(read.tensors({tensor("w", {64}, 0, 288)}), "ZIYA-253", "beyond the file");
  REQUIRE_ERROR(read.tensors({good, good}), "ZIYA-253", "named twice");
  REQUIRE_ERROR(read.tensors({good, tensor("v", {8}, 0, 96)}), "ZIYA-253", "v: overlaps tensor w");
  REQUIRE(read.tensors({good, tensor("v", {0}, 0, 96)}).tensors.size() == 2);
  REQUIRE(read.tensors({tensor("v", {8}, 0, 128), good}).tensors[0].name == "v");
}

TEST_CASE("gguf: no cut of a file does anything but an error", "[gguf]") {
  const Reader read;
  GgufFile file;
  file.keys = {key_text("general.architecture", "llama"),
               key_array("t", 8, {text("a"), text("b")})};
  file.tensors = {tensor("token_embd.weight", {32, 2}, 8, 0)};
  file.data = counted(68);
  const std::string whole = file.bytes();
  REQUIRE(read(whole).tensors.size() == 1);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    REQUIRE_THAT(error_of([&] { (void)read(whole.substr(0, size)); }), Catch::Contains("ZIYA-25"));
  }
}

TEST_CASE("gguf: names are translated both ways", "[gguf]") {
  using ziya::gguf::gguf_name;
  using ziya::gguf::hf_name;
  const std::pair<const char*, const char*> names[] = {
      {"token_embd.weight", "model.embed_tokens.weight"},
      {"output_norm.weight", "model.norm.weight"},
      {"output.weight", "lm_head.weight"},
      {"blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"},
      {"blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight"},
      {"blk.2.attn_k.bias", "model.layers.2.self_attn.k_proj.bias"},
      {"blk.3.attn_v.weight", "model.layers.3.self_attn.v_proj.weight"},
      {"blk.39.attn_output.weight", "model.layers.39.self_attn.o_proj.weight"},
      {"blk.4.ffn_norm.weight", "model.layers.4.post_attention_layernorm.weight"},
      {"blk.5.ffn_gate.weight", "model.layers.5.mlp.gate_proj.weight"},
      {"blk.6.ffn_up.weight", "model.layers.6.mlp.up_proj.weight"},
      {"blk.123.ffn_down.weight", "model.layers.123.mlp.down_proj.weight"}};
  for (const auto& [file, hf] : names) {
    REQUIRE(hf_name(file) == hf);
    REQUIRE(gguf_name(hf) == file);
  }
  for (const char* unknown :
       {"blk.0.ffn_gate_inp.weight", "blk.x.attn_q.weight", "blk.01.attn_q.weight",
        "blk..attn_q.weight", "blk.0", "nothing", "output.scale", "w"}) {
    REQUIRE(hf_name(unknown) == unknown);
  }
  REQUIRE_FALSE(gguf_name("model.layers.0.self_attn.rotary_emb.inv_freq"));
  REQUIRE_FALSE(gguf_name("visual.proj.weight"));
  REQUIRE(gguf_name("rope_freqs.weight") == "rope_freqs.weight");
  using ziya::gguf::order_of;
  REQUIRE(order_of("model.embed_tokens.weight") <
          order_of("model.layers.0.input_layernorm.weight"));
  REQUIRE(order_of("model.layers.2.mlp.down_proj.weight") <
          order_of("model.layers.10.input_layernorm.weight"));
  REQUIRE(order_of("model.layers.9.mlp.down_proj.weight") < order_of("model.norm.weight"));
  REQUIRE(order_of("model.norm.weight") < order_of("lm_head.weight"));
}

TEST_CASE("gguf: a checkpoint maps blocks in place and reads them in whole blocks", "[gguf]") {
  const TemporaryDirectory folder;
  GgufFile file;
  file.keys = {key_text("general.name", "a model"), key_text("ziya.merge", "rule"),
               key_text("ziya.generation_config.json", "y")};
  file.tensors = {tensor("blk.0.ffn_up.weight", {64, 3}, 2, 0),
                  tensor("output_norm.weight", {4}, 0, 128)};
  file.data = counted(128 + 16);
  const auto path = folder.file("m.gguf", file.bytes());
  const Checkpoint checkpoint = Checkpoint::open(path);
  REQUIRE(checkpoint.format() == ziya::CheckpointFormat::gguf);
  REQUIRE(name(checkpoint.format()) == "gguf");
  REQUIRE(checkpoint.gguf_metadata()->text("general.name") == "a model");
  REQUIRE(checkpoint.metadata() ==
          ziya::safetensors::Metadata{{"general.name", "a model"}, {"ziya.merge", "rule"}});
  const std::string up = "model.layers.0.mlp.up_proj.weight";
  const auto* info = checkpoint.find(up);
  REQUIRE(info != nullptr);
  REQUIRE(info->dtype == DType::q4_0);
  REQUIRE(info->shape == Shape{3, 64});
  REQUIRE(info->bytes() == 108);
  const auto mapped = checkpoint.map(up);
  REQUIRE(std::string(reinterpret_cast<const char*>(mapped.data), 108) == file.data.substr(0, 108));

  const auto text_of = [](const std::vector<std::byte>& bytes) {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  std::vector<std::byte> bytes(108);
  checkpoint.read(up, bytes);
  REQUIRE(text_of(bytes) == file.data.substr(0, 108));
  bytes.resize(54);
  checkpoint.read_elements(up, 32, 96, bytes);  // blocks 1 … 3
  REQUIRE(text_of(bytes) == file.data.substr(18, 54));
  bytes.resize(36);
  checkpoint.read(up, 0, 1, 2, bytes);  // the second row
  REQUIRE(text_of(bytes) == file.data.substr(36, 36));
  bytes.resize(54);
  checkpoint.read(up, 1, 32, 64, bytes);  // the second block of each row
  REQUIRE(text_of(bytes) ==
          file.data.substr(18, 18) + file.data.substr(54, 18) + file.data.substr(90, 18));
  const ziya::CheckpointSource source(checkpoint);
  REQUIRE(source.tensors()[0].name == up);
  bytes.resize(36);
  source.read(0, 64, bytes);
  REQUIRE(text_of(bytes) == file.data.substr(36, 36));

  REQUIRE_ERROR(checkpoint.read_elements(up, 16, 32, bytes), "ZIYA-238", "blocks of 32");
  REQUIRE_ERROR(checkpoint.read_elements(up, 0, 48, bytes), "ZIYA-238", "blocks of 32");
  REQUIRE_ERROR(checkpoint.read(up, 1, 0, 16, bytes), "ZIYA-238", "blocks of 32");
  REQUIRE_ERROR(checkpoint.read_elements(up, 0, 32, bytes), "ZIYA-238", "expected 18");

  // A folder with one GGUF file is that file; with two it is neither.
  REQUIRE(Checkpoint::exists(folder.path()));
  REQUIRE(Checkpoint::open(folder.path()).find(up) != nullptr);
  (void)folder.file("n.gguf", file.bytes());
  REQUIRE_FALSE(Checkpoint::exists(folder.path()));
  REQUIRE_ERROR(Checkpoint::open(folder.path()), "ZIYA-232", "several GGUF files");
}

TEST_CASE("gguf: one tensor under both of its names is refused", "[gguf]") {
  const TemporaryDirectory folder;
  GgufFile file;
  file.tensors = {tensor("output.weight", {4}, 0, 0), tensor("lm_head.weight", {4}, 0, 32)};
  file.data = std::string(64, 'x');
  REQUIRE_ERROR(Checkpoint::open(folder.file("a.gguf", file.bytes())), "ZIYA-253", "both");
}

TEST_CASE("gguf: a model in several files", "[gguf]") {
  const TemporaryDirectory folder;
  const auto put = [&](const std::string& name, const std::string& tensor_name,
                       std::vector<std::string> keys) {
    GgufFile file;
    file.keys = std::move(keys);
    file.tensors = {tensor(tensor_name, {4}, 0, 0)};
    file.data = std::string(16, tensor_name[0]);
    return folder.file(name, file.bytes());
  };
  const auto split = [](std::uint64_t number) {
    return std::vector{text("split.no") + u32(2) + le(number, 2),
                       text("split.count") + u32(2) + le(2, 2)};
  };
  const auto first = put("m-00001-of-00002.gguf", "output_norm.weight", split(0));
  REQUIRE_ERROR(Checkpoint::open(first), "ZIYA-256", "m-00002-of-00002.gguf: is missing");
  const auto second = put("m-00002-of-00002.gguf", "output.weight", split(1));
  for (const auto& path : {first, second, folder.path()}) {
    const Checkpoint checkpoint = Checkpoint::open(path);
    REQUIRE(checkpoint.files().size() == 2);
    REQUIRE(checkpoint.find("model.norm.weight") != nullptr);
    REQUIRE(checkpoint.find("lm_head.weight")->file.filename() == "m-00002-of-00002.gguf");
  }
  (void)put("m-00002-of-00002.gguf", "output.weight", split(0));
  REQUIRE_ERROR(Checkpoint::open(first), "ZIYA-256", "is file 1 of 2 by its metadata");
  (void)put("m-00002-of-00002.gguf", "output_norm.weight", split(1));
  REQUIRE_ERROR(Checkpoint::open(first), "ZIYA-256", "as another file");
  (void)folder.file("m-00002-of-00002.gguf", std::string(64, '\0'));
  REQUIRE_THAT(error_of([&] { (void)Checkpoint::open(first); }), Catch::Contains("ZIYA-2"));
  for (const char* none :
       {"m.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-0001-of-00002.gguf",
        "m-0000a-of-00002.gguf", "-00001-of-00001.gguf"}) {
    REQUIRE_FALSE(ziya::gguf::shard_of(none));
  }
}

}  // namespace gguf_test
