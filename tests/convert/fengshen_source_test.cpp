// SPDX-License-Identifier: Apache-2.0
// The Fengshen layout in both directions, bit for bit as PyTorch splits and joins it
// (reference/layouts_golden.py).
#include "ziya/convert/fengshen_source.hpp"

#include <catch2/catch.hpp>
#include <cmath>

#include "convert/sources.hpp"
#include "support/errors.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/convert/fengshen_writer.hpp"

namespace fengshen_source_test {

namespace fs = std::filesystem;
using test::TemporaryDirectory;

const fs::path golden = ZIYA_TEST_DATA "/layouts/fengshen";

std::string parts_name(int parts) { return "parts-" + std::to_string(parts); }

TEST_CASE("Fengshen parts are joined into Hugging Face's tensors", "[fengshen]") {
  for (const int parts : {1, 2, 4}) {
    INFO(parts << " parts");
    const auto model = ziya::open_fengshen_model(golden / parts_name(parts));
    test::require_same(*model.tensors, golden / "hf" / "model.safetensors");
    REQUIRE(ziya::parse_llama_shape(model.files.at("config.json"), "ours") ==
            ziya::read_llama_shape(golden / "hf"));
  }
  const auto alone = ziya::open_fengshen_model(golden / "parts-1" / "part_0");
  test::require_same(*alone.tensors, golden / "hf" / "model.safetensors");
}

TEST_CASE("models are split into the parts that PyTorch makes", "[fengshen]") {
  const auto model = ziya::open_hf_model(golden / "hf");
  const auto shape = ziya::read_llama_shape(golden / "hf");
  for (const int parts : {1, 2, 4}) {
    const ziya::fengshen::Splitter splitter(model.tensors, shape, parts);
    for (int part = 0; part < parts; ++part) {
      INFO("part " << part << " of " << parts);
      const auto expected =
          ziya::Checkpoint::open(golden / parts_name(parts) / ("part_" + std::to_string(part)));
      const auto source = splitter.part(part);
      REQUIRE(source->tensors().size() == expected.tensors().size());
      for (std::size_t i = 0; i < source->tensors().size(); ++i) {
        const auto& tensor = source->tensors()[i];
        INFO(tensor.name);
        const auto* found = expected.find(tensor.name);
        REQUIRE(found != nullptr);
        REQUIRE(found->shape == tensor.shape);
        REQUIRE(found->dtype == tensor.dtype);
        const auto got = test::whole(*source, i);
        std::vector<std::byte> right(got.size());
        expected.read(tensor.name, right);
        if (tensor.name.ends_with("inv_freq")) {  // PyTorch's power function may differ in a bit
          const auto *a = reinterpret_cast<const float*>(got.data()),
                     *b = reinterpret_cast<const float*>(right.data());
          for (int k = 0; k < 3; ++k) REQUIRE(std::abs(a[k] - b[k]) <= 1e-6f * b[k]);
        } else {
          const bool same = got == right;
          REQUIRE(same);
        }
      }
    }
  }
}

TEST_CASE("there and back again changes no bit, whatever the number of parts and files",
          "[fengshen]") {
  const auto model = ziya::open_hf_model(golden / "hf");
  for (const int parts : {1, 2, 4}) {
    const TemporaryDirectory folder;
    ziya::ConvertOptions options;
    options.max_shard_bytes = parts == 2 ? 1500 : 4'000'000'000;
    std::int64_t told = 0;
    options.progress = [&](const ziya::ProgressEvent& event) {
      REQUIRE(event.bytes <= event.total);
      told = event.bytes;
    };
    const auto report = ziya::write_fengshen_model(model, folder / "fs", parts, options);
    REQUIRE(told == report.bytes);
    REQUIRE((parts == 2 ? report.files > 4 : report.files == parts));
    REQUIRE(ziya::is_fengshen_folder(folder / "fs"));
    const auto back = ziya::open_fengshen_model(folder / "fs");
    test::require_same(*back.tensors, golden / "hf" / "model.safetensors");
    REQUIRE(ziya::parse_llama_shape(back.files.at("config.json"), "ours") ==
            ziya::read_llama_shape(golden / "hf"));
    REQUIRE_ERROR(ziya::write_fengshen_model(model, folder / "fs", parts), "ZIYA-208", "exists");
  }
}

TEST_CASE("what cannot be split is refused with the reason", "[fengshen]") {
  const auto model = ziya::open_hf_model(golden / "hf");
  auto shape = ziya::read_llama_shape(golden / "hf");
  const auto split = [&](int parts) {
    return ziya::fengshen::Splitter(model.tensors, shape, parts);
  };
  REQUIRE_ERROR(split(0), "ZIYA-618", "number of parts");
  REQUIRE_ERROR(split(3), "ZIYA-618", "num_attention_heads 4 does not divide into 3 parts");
  REQUIRE_ERROR(split(8), "ZIYA-618", "num_attention_heads");
  shape.kv_heads = 2;
  REQUIRE_ERROR(split(2), "ZIYA-618", "num_key_value_heads 2");
  shape.kv_heads = 4;
  shape.layers = 3;
  REQUIRE_ERROR(split(2).part(0), "ZIYA-618", "model.layers.2.");
}

TEST_CASE("Fengshen folders that are incomplete are refused with the reason", "[fengshen]") {
  const TemporaryDirectory folder;
  fs::copy(golden / "parts-4", folder / "a", fs::copy_options::recursive);
  fs::remove_all(folder / "a" / "part_1");
  REQUIRE_ERROR(ziya::open_fengshen_model(folder / "a"), "ZIYA-617", "part_1 is missing");
  fs::copy(golden / "parts-2" / "part_1", folder / "a" / "part_1", fs::copy_options::recursive);
  REQUIRE_ERROR(ziya::open_fengshen_model(folder / "a"), "ZIYA-617", "in part 1");
  fs::copy(golden / "parts-4", folder / "b", fs::copy_options::recursive);
  fs::remove_all(folder / "b" / "part_3");
  REQUIRE_ERROR(ziya::open_fengshen_model(folder / "b"), "ZIYA-617", "3 parts");
  fs::copy(golden / "parts-2", folder / "c", fs::copy_options::recursive);
  folder.file("c/config.json", R"({"hidden_size": 24, "intermediate_size": 20, "vocab_size": 16,
      "num_hidden_layers": 3, "num_attention_heads": 4})");
  REQUIRE_ERROR(ziya::open_fengshen_model(folder / "c"), "ZIYA-617", "llama.layers.2.");
  REQUIRE_ERROR(ziya::open_fengshen_model(golden / "hf"), "ZIYA-617", "llama.embed_in");
}

}  // namespace fengshen_source_test
