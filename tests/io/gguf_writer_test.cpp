// SPDX-License-Identifier: Apache-2.0
// Writing GGUF files: what is read back, byte by byte where the format says it, and misuse.
#include "ziya/io/gguf_writer.hpp"

#include <catch2/catch.hpp>

#include "io/gguf_builder.hpp"
#include "support/errors.hpp"
#include "support/fault.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/io/checkpoint.hpp"

namespace gguf_writer_test {

using namespace test;
using ziya::DType;
using ziya::GgufWriter;
using ziya::Shape;

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }
const std::string embedding = "model.embed_tokens.weight", norm = "model.norm.weight",
                  down = "model.layers.0.mlp.down_proj.weight";
const std::vector<ziya::TensorSpec> specs{{norm, DType::f32, Shape{3}},
                                          {down, DType::q8_0, Shape{2, 32}},
                                          {embedding, DType::f16, Shape{5, 2}}};

TEST_CASE("gguf writer: the file is what the format says", "[gguf]") {
  const TemporaryDirectory folder;
  ziya::gguf::Metadata metadata;
  metadata.set_text("general.architecture", "llama");
  metadata.set_u32("n", 7);
  metadata.set_f32("x", 0.5);
  metadata.set_bool("b", true);
  metadata.set_texts("t", {"a", ""});
  metadata.set_floats("f", {1});
  metadata.set_i32s("i", {-1});
  metadata.set_bytes("r", "xyz");
  GgufWriter writer(folder / "m.gguf", specs, metadata);
  REQUIRE(writer.tensors()[0].name == embedding);  // in the order of a forward pass
  REQUIRE(writer.tensors()[1].name == down);
  REQUIRE(writer.tensors()[2].name == norm);
  const std::string e(20, 'e'), d(68, 'd'), n(12, 'n');
  writer.write(embedding, bytes(e));
  writer.write(down, bytes(d.substr(0, 30)));
  writer.write(down, bytes(d.substr(30)));
  REQUIRE_FALSE(writer.complete());
  writer.write(norm, bytes(n));
  REQUIRE(writer.complete());
  REQUIRE_FALSE(std::filesystem::exists(folder / "m.gguf"));
  writer.commit();

  GgufFile expected;
  expected.keys = {key_text("general.architecture", "llama"),
                   key_u32("n", 7),
                   key_f32("x", 0.5f),
                   key_bool("b", true),
                   key_array("t", 8, {text("a"), text("")}),
                   key_array("f", 6, {f32(1)}),
                   key_array("i", 5, {u32(0xffffffff)}),
                   key_array("r", 0, {"x", "y", "z"})};
  expected.tensors = {tensor("token_embd.weight", {2, 5}, 1, 0),
                      tensor("blk.0.ffn_down.weight", {32, 2}, 8, 32),
                      tensor("output_norm.weight", {3}, 0, 128)};
  const auto padded = [](std::string data) {
    data.resize((data.size() + 31) / 32 * 32, '\0');
    return data;
  };
  expected.data = padded(e) + padded(d) + padded(n);
  REQUIRE(read_file(folder / "m.gguf") == expected.bytes());
  REQUIRE(count_entries(folder.path()) == 1);
  REQUIRE(ziya::Checkpoint::open(folder / "m.gguf").find(down)->shape == Shape{2, 32});
}

TEST_CASE("gguf writer: tensors without bytes need not be written", "[gguf]") {
  const TemporaryDirectory folder;
  GgufWriter none(folder / "none.gguf", {}, ziya::gguf::Metadata());
  none.commit();
  REQUIRE(read_file(folder / "none.gguf").size() == 32);
  GgufWriter empty(folder / "m.gguf", {{norm, DType::f32, Shape{0}}}, ziya::gguf::Metadata());
  empty.commit();
  REQUIRE(ziya::Checkpoint::open(folder / "m.gguf").tensors().size() == 1);
}

TEST_CASE("gguf writer: misuse is refused and leaves nothing", "[gguf]") {
  const TemporaryDirectory folder;
  const ziya::gguf::Metadata metadata;
  const auto plan = [&](std::vector<ziya::TensorSpec> tensors) {
    GgufWriter writer(folder / "m.gguf", std::move(tensors), metadata);
  };
  REQUIRE_ERROR(plan({{norm, DType::f32, {1}}, {norm, DType::f32, {1}}}), "ZIYA-255", "only one");
  REQUIRE_ERROR(plan({{"visual.w", DType::f32, {1}}}), "ZIYA-255", "visual.w has no name");
  REQUIRE_ERROR(plan({{norm, DType::boolean, {1}}}), "ZIYA-255", "bool");
  REQUIRE_ERROR(plan({{norm, DType::f32, {1, 1, 1, 1, 1}}}), "ZIYA-255", "4 dimensions");
  REQUIRE_ERROR(plan({{norm, DType::q4_k, {2, 128}}}), "ZIYA-255", "no whole blocks of Q4_K");
  {
    GgufWriter writer(folder / "m.gguf", specs, metadata);
    REQUIRE_ERROR(writer.write(norm, bytes("x")), "ZIYA-255", "not what comes next");
    REQUIRE_ERROR(writer.write(embedding, bytes(std::string(21, 'x'))), "ZIYA-255", "21 bytes");
    writer.write(embedding, bytes(std::string(20, 'x')));
    REQUIRE_ERROR(writer.write(embedding, bytes("x")), "ZIYA-255", "not what comes next");
    REQUIRE_ERROR(writer.commit(), "ZIYA-255", down + " was not written");
  }
  REQUIRE(count_entries(folder.path()) == 0);
}

TEST_CASE("gguf writer: metadata is filled in before the file gets its name", "[gguf]") {
  const TemporaryDirectory folder;
  ziya::gguf::Metadata metadata;
  metadata.set_text("general.architecture", "llama");
  metadata.set_text("hash", "0000");
  GgufWriter writer(folder / "m.gguf", {{norm, DType::f32, Shape{3}}}, metadata,
                    faulty(Fault::short_write));
  const std::string data(12, 'n');
  writer.write(norm, bytes(data));
  writer.finish();
  metadata.set_text("hash", "12345");
  metadata.set_text("more", std::string(64, 'x'));
  REQUIRE_ERROR(writer.patch(metadata), "ZIYA-642", "were reserved");
  ziya::gguf::Metadata known;
  known.set_text("general.architecture", "llama");
  known.set_text("hash", "abcd");
  writer.patch(known);
  REQUIRE_FALSE(std::filesystem::exists(folder / "m.gguf"));
  REQUIRE(std::filesystem::exists(writer.partial()));
  writer.commit();
  const auto file = ziya::Checkpoint::open(folder / "m.gguf");
  REQUIRE(file.gguf_metadata()->text("hash") == "abcd");
  std::vector<std::byte> read(12);
  file.read(norm, read);
  REQUIRE(std::string(reinterpret_cast<const char*>(read.data()), 12) == data);
}

}  // namespace gguf_writer_test
