// SPDX-License-Identifier: Apache-2.0
// Checkpoints: shards and indices, slices, sharing between threads, and what is refused.
#include "ziya/io/checkpoint.hpp"

#include <catch2/catch.hpp>
#include <chrono>
#include <thread>

#include "io/zip_builder.hpp"
#include "support/errors.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/io/safetensors_writer.hpp"
#include "ziya/io/tensor_source.hpp"

namespace checkpoint_test {

using test::TemporaryDirectory;
using ziya::Checkpoint;
using ziya::DType;

/// A file of one tensor of bytes 0, 1, 2, …
void write_tensor(const std::filesystem::path& path, const std::string& name,
                  const ziya::Shape& shape) {
  ziya::SafetensorsWriter writer(path, {{name, DType::u8, shape}});
  std::vector<std::byte> data(static_cast<std::size_t>(shape.elements()));
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i);
  writer.write(name, data);
  writer.commit();
}

/// A folder with two shards: tensor a in 1.safetensors, b in 2.safetensors.
struct Sharded : TemporaryDirectory {
  Sharded() {
    write_tensor(*this / "1.safetensors", "a", {2, 3});
    write_tensor(*this / "2.safetensors", "b", {4});
  }
  Checkpoint open(const std::string& map, const std::string& rest = "") const {
    file("model.safetensors.index.json", "{\"weight_map\":{" + map + "}" + rest + "}");
    return Checkpoint::open(path());
  }
};

TEST_CASE("shards are found through the index, tensors sorted by name", "[checkpoint]") {
  const Sharded folder;
  const auto checkpoint = folder.open(R"("b":"2.safetensors","a":"1.safetensors")");
  REQUIRE(checkpoint.format() == ziya::CheckpointFormat::safetensors);
  REQUIRE(checkpoint.files().size() == 2);
  REQUIRE(checkpoint.bytes() == 10);
  REQUIRE(checkpoint.tensors()[0].name == "a");
  REQUIRE(checkpoint.tensors()[1].file.filename() == "2.safetensors");
  REQUIRE(checkpoint.find("b")->shape == ziya::Shape{4});
  REQUIRE(checkpoint.find("c") == nullptr);
  REQUIRE_ERROR(checkpoint.map("c"), "ZIYA-236", "no tensor \"c\"");
}

TEST_CASE("an index that does not agree with the shards is refused by tensor", "[checkpoint]") {
  const Sharded folder;
  const std::string a = R"("a":"1.safetensors")", b = R"("b":"2.safetensors")";
  REQUIRE_ERROR(folder.open(a + "," + b + R"(,"c":"2.safetensors")"), "ZIYA-233", "tensor c");
  REQUIRE_ERROR(folder.open(a + R"(,"b":"1.safetensors")"), "ZIYA-233", "tensor b");
  REQUIRE_ERROR(folder.open(a + "," + b + R"(,"c":"3.safetensors")"), "ZIYA-233",
                "names the shard 3.safetensors, which is missing");
  write_tensor(folder / "2.safetensors", "extra", {4});
  REQUIRE_ERROR(folder.open(a + R"(,"extra":"2.safetensors","b":"2.safetensors")"), "ZIYA-233",
                "tensor b");
  ziya::SafetensorsWriter writer(folder / "2.safetensors",
                                 {{"b", DType::u8, {0}}, {"extra", DType::u8, {0}}});
  writer.commit();
  REQUIRE_ERROR(folder.open(a + "," + b), "ZIYA-233", "holds tensor extra");
  for (const char* file :
       {"\"../x\"", "\"/etc/passwd\"", "\"..\"", "\"\"", "3", "\"a\\u0000b\"", "\"a\\\\b\""}) {
    REQUIRE_ERROR(folder.open("\"a\":" + std::string(file)), "ZIYA-233", "file of the same folder");
  }
  REQUIRE_ERROR(folder.open(""), "ZIYA-233", "weight_map");
  folder.file("model.safetensors.index.json", "[]");
  REQUIRE_ERROR(Checkpoint::open(folder.path()), "ZIYA-233", "weight_map");
  folder.file("model.safetensors.index.json", "{");
  REQUIRE_ERROR(Checkpoint::open(folder.path()), "ZIYA-230", "index.json");
}

TEST_CASE("safetensors is preferred, and a folder without weights is told", "[checkpoint]") {
  const TemporaryDirectory folder;
  folder.file("tokenizer.model", "x");
  REQUIRE(!Checkpoint::exists(folder.path()));
  REQUIRE(!Checkpoint::exists(folder / "absent"));
  REQUIRE_ERROR(Checkpoint::open(folder.path()), "ZIYA-232", "looked for model.safetensors, ");
  folder.file("other.bin", "x");
  REQUIRE_ERROR(Checkpoint::open(folder.path()), "ZIYA-232", "it holds other.bin");
  folder.file("consolidated.00.pth", "x");
  REQUIRE_ERROR(Checkpoint::open(folder.path()), "ZIYA-232", "ziya convert --from meta");
  std::filesystem::copy(ZIYA_TEST_DATA "/torch/module.bin", folder / "pytorch_model.bin");
  REQUIRE(Checkpoint::exists(folder.path()));
  REQUIRE(Checkpoint::open(folder.path()).format() == ziya::CheckpointFormat::pytorch);
  write_tensor(folder / "model.safetensors", "a", {3});
  REQUIRE(Checkpoint::open(folder.path()).format() == ziya::CheckpointFormat::safetensors);
  REQUIRE(Checkpoint::open(folder / "pytorch_model.bin").tensors().size() == 3);
  REQUIRE(name(ziya::CheckpointFormat::pytorch) == "pytorch");
}

TEST_CASE("files that are something else are named", "[checkpoint]") {
  const TemporaryDirectory folder;
  folder.file("model.safetensors",
              "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  REQUIRE_ERROR(Checkpoint::open(folder.path()), "ZIYA-234", "git lfs pull");
  REQUIRE_ERROR(Checkpoint::open(folder.file("a.bin", "GGUF\3\0\0\0")), "ZIYA-250", "GGUF");
  REQUIRE_ERROR(Checkpoint::open(folder.file("a.bin", "")), "ZIYA-237", "a.bin");
  REQUIRE_ERROR(Checkpoint::open(folder.file("a.bin", "hello")), "ZIYA-237", "no file of tensors");
  REQUIRE_ERROR(Checkpoint::open(folder.file("b.safetensors", "hello")), "ZIYA-210", "b.safe");
  std::filesystem::remove(folder / "model.safetensors");
  std::filesystem::create_symlink("../blobs/absent", folder / "model.safetensors");
  REQUIRE(Checkpoint::exists(folder.path()));
  REQUIRE_ERROR(Checkpoint::open(folder.path()), "ZIYA-201", "link to a missing file");
}

TEST_CASE("links as in a hub cache are followed", "[checkpoint]") {
  const TemporaryDirectory folder;
  std::filesystem::create_directories(folder / "blobs");
  std::filesystem::create_directories(folder / "snapshots/abc");
  folder.file("refs/main", "abc");
  write_tensor(folder / "blobs/123", "a", {3});
  std::filesystem::create_symlink("../../blobs/123", folder / "snapshots/abc/model.safetensors");
  REQUIRE(Checkpoint::open(folder.path()).tensors().size() == 1);
  REQUIRE(Checkpoint::open(folder / "snapshots/abc").tensors().size() == 1);
}

TEST_CASE("slices along any dimension, ranges of elements", "[checkpoint]") {
  const TemporaryDirectory folder;
  write_tensor(folder / "a.safetensors", "a", {2, 3, 4});
  const auto checkpoint = Checkpoint::open(folder / "a.safetensors");
  const auto slice = [&](int dim, std::int64_t begin, std::int64_t end, std::size_t size) {
    std::vector<std::byte> out(size);
    checkpoint.read("a", dim, begin, end, out);
    std::vector<int> values;
    for (const std::byte b : out) values.push_back(std::to_integer<int>(b));
    return values;
  };
  REQUIRE(slice(0, 1, 2, 12) == std::vector{12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23});
  REQUIRE(slice(1, 1, 2, 8) == std::vector{4, 5, 6, 7, 16, 17, 18, 19});
  REQUIRE(slice(2, 2, 4, 12) == std::vector{2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23});
  REQUIRE(slice(2, 3, 3, 0).empty());
  REQUIRE_ERROR(slice(3, 0, 1, 1), "ZIYA-238", "dimension 3");
  REQUIRE_ERROR(slice(-1, 0, 1, 1), "ZIYA-238", "dimension -1");
  REQUIRE_ERROR(slice(0, 0, 3, 36), "ZIYA-238", "[0, 3)");
  REQUIRE_ERROR(slice(0, 2, 1, 0), "ZIYA-238", "outside (2, 3, 4)");
  REQUIRE_ERROR(slice(0, 0, 1, 11), "ZIYA-238", "room for 11 bytes, expected 12");
  std::vector<std::byte> out(24);
  REQUIRE_ERROR(checkpoint.read_elements("a", 1, 24, out), "ZIYA-238", "of 24");
  REQUIRE_ERROR(checkpoint.read_elements("a", 0, 2, out), "ZIYA-238", "room for 24");
  REQUIRE_ERROR(checkpoint.read("b", out), "ZIYA-236", "\"b\"");
}

TEST_CASE("a mapped tensor outlives its checkpoint; a misaligned one is copied", "[checkpoint]") {
  const TemporaryDirectory folder;
  const std::string json = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  for (const std::size_t padding : {0, 1, 2, 3}) {
    const std::string header = json + std::string(padding, ' ');
    std::string bytes = test::little(header.size(), 8) + header;
    bytes += std::string("\0\0\x80\x3f\0\0\0\x40", 8);
    folder.file("a.safetensors", bytes);
    const auto mapped = Checkpoint::open(folder / "a.safetensors").map("a");
    REQUIRE(reinterpret_cast<std::uintptr_t>(mapped.data) % 4 == 0);
    const auto* values = reinterpret_cast<const float*>(mapped.data);
    REQUIRE(values[0] == 1.0f);
    REQUIRE(values[1] == 2.0f);
  }
}

TEST_CASE("mapped bytes are read from the file they lie in", "[checkpoint]") {
  const Sharded folder;
  const ziya::CheckpointSource source(folder.open(R"("b":"2.safetensors","a":"1.safetensors")"));
  const auto a = source.map(0), b = source.map(1);
  const auto read = [&](const std::byte* from, std::size_t bytes) {
    std::vector<std::byte> out(bytes);
    source.read_mapped(from, out);
    return std::vector<int>{std::to_integer<int>(out.front()), std::to_integer<int>(out.back())};
  };
  CHECK(read(a.data + 1, 5) == std::vector<int>{1, 5});
  CHECK(read(b.data, 4) == std::vector<int>{0, 3});
  const std::vector<std::byte> elsewhere{std::byte{7}, std::byte{8}};
  CHECK(read(elsewhere.data(), 2) == std::vector<int>{7, 8});
  std::filesystem::resize_file(folder / "2.safetensors", 20);
  REQUIRE_ERROR(read(b.data, 4), "ZIYA-203", "2.safetensors");
  CHECK(read(a.data + 1, 5) == std::vector<int>{1, 5});
}

TEST_CASE("a file cut off after opening is an exception", "[checkpoint]") {
  const TemporaryDirectory folder;
  write_tensor(folder / "a.safetensors", "a", {1000});
  const auto checkpoint = Checkpoint::open(folder / "a.safetensors");
  std::filesystem::resize_file(folder / "a.safetensors", 500);
  std::vector<std::byte> out(1000);
  REQUIRE_ERROR(checkpoint.read("a", out), "ZIYA-203", "a.safetensors");
  REQUIRE_ERROR(checkpoint.map("a"), "ZIYA-203", "a.safetensors");
}

TEST_CASE("a checkpoint is shared between threads", "[checkpoint]") {
  const TemporaryDirectory folder;
  write_tensor(folder / "a.safetensors", "a", {256});
  const auto checkpoint = Checkpoint::open(folder / "a.safetensors");
  std::vector<std::thread> threads;
  std::vector<std::shared_ptr<const void>> owners(4);
  for (std::size_t i = 0; i < owners.size(); ++i) {
    threads.emplace_back([&, i] {
      std::vector<std::byte> out(256);
      checkpoint.read("a", out);
      owners[i] = checkpoint.map("a").owner;
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& owner : owners) REQUIRE(owner == owners[0]);  // one mapping
}

TEST_CASE("a checkpoint of 13 billion parameters opens in less than 100 ms", "[checkpoint]") {
  const TemporaryDirectory folder;
  std::vector<std::vector<ziya::TensorSpec>> shards(3);
  constexpr std::int64_t hidden = 5120, intermediate = 13824, layers = 40;
  for (std::int64_t i = 0; i < layers; ++i) {
    auto& shard = shards[static_cast<std::size_t>(i * 3 / layers)];
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    for (const char* name : {"q", "k", "v", "o"}) {
      shard.push_back({layer + "self_attn." + name + "_proj.weight", DType::f16, {hidden, hidden}});
    }
    for (const char* name : {"gate", "up"}) {
      shard.push_back({layer + "mlp." + name + "_proj.weight", DType::f16, {intermediate, hidden}});
    }
    shard.push_back({layer + "mlp.down_proj.weight", DType::f16, {hidden, intermediate}});
    shard.push_back({layer + "input_layernorm.weight", DType::f16, {hidden}});
    shard.push_back({layer + "post_attention_layernorm.weight", DType::f16, {hidden}});
  }
  shards[0].push_back({"model.embed_tokens.weight", DType::f16, {39424, hidden}});
  shards[2].push_back({"lm_head.weight", DType::f16, {39424, hidden}});
  shards[2].push_back({"model.norm.weight", DType::f16, {hidden}});
  std::string map;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = std::to_string(i) + ".safetensors";
    const std::string header = ziya::safetensors::make_header(shards[i], {});
    std::int64_t bytes = static_cast<std::int64_t>(header.size());
    for (const auto& tensor : shards[i]) {
      bytes += tensor.bytes();
      map += ",\"" + tensor.name + "\":\"" + name + "\"";
    }
    std::filesystem::resize_file(folder.file(name, header), static_cast<std::uintmax_t>(bytes));
  }
  folder.file("model.safetensors.index.json", "{\"weight_map\":{" + map.substr(1) + "}}");
  const auto begin = std::chrono::steady_clock::now();
  const auto checkpoint = Checkpoint::open(folder.path());
  const auto elapsed = std::chrono::steady_clock::now() - begin;
  REQUIRE(checkpoint.bytes() == 2 * std::int64_t{13'091'886'080});
  REQUIRE(checkpoint.map("lm_head.weight").data != nullptr);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  REQUIRE(std::chrono::duration<double, std::milli>(elapsed).count() < 100);
#endif
}

}  // namespace checkpoint_test
