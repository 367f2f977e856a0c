// SPDX-License-Identifier: Apache-2.0
// Adapters merged into a model: PEFT's tensors (reference/lora_golden.py).
#include "ziya/convert/lora_merge.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>

#include "convert/sources.hpp"
#include "support/errors.hpp"
#include "support/fault.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/convert/fengshen_source.hpp"
#include "ziya/convert/fengshen_writer.hpp"
#include "ziya/convert/gguf_model.hpp"
#include "ziya/convert/hf_writer.hpp"

namespace lora_merge_test {

namespace fs = std::filesystem;
using test::TemporaryDirectory;
using ziya::DType;
using ziya::LoraAdapter;

const fs::path golden = ZIYA_TEST_DATA "/lora";

ziya::ModelSource merged(const std::string& base, const std::string& adapter) {
  return ziya::merge_lora(ziya::open_hf_model(golden / base), LoraAdapter::open(golden / adapter));
}

/// Halves between two halves; their bits are ordered like the numbers within a sign.
int steps(std::uint16_t a, std::uint16_t b) {
  const auto ordered = [](std::uint16_t bits) {
    return (bits & 0x8000) != 0 ? -static_cast<int>(bits & 0x7fff) : static_cast<int>(bits);
  };
  return std::abs(ordered(a) - ordered(b));
}

TEST_CASE("merged weights are PEFT's, rounded once", "[lora]") {
  for (const char* name : {"plain", "patterns", "vocabulary", "embedding"}) {
    const auto model = merged("base", name);
    const auto expected =
        ziya::Checkpoint::open(golden / (name + std::string("-merged.safetensors")));
    REQUIRE(model.tensors->tensors().size() == expected.tensors().size());
    std::int64_t all = 0, different = 0;
    for (std::size_t i = 0; i < model.tensors->tensors().size(); ++i) {
      const auto& tensor = model.tensors->tensors()[i];
      INFO(name << ": " << tensor.name);
      REQUIRE(expected.find(tensor.name) != nullptr);
      REQUIRE(expected.find(tensor.name)->shape == tensor.shape);
      REQUIRE(tensor.dtype == DType::f16);
      const auto bytes = test::whole(*model.tensors, i);
      std::vector<std::byte> right(bytes.size());
      expected.read(tensor.name, right);
      const auto *a = reinterpret_cast<const std::uint16_t*>(bytes.data()),
                 *b = reinterpret_cast<const std::uint16_t*>(right.data());
      int worst = 0;  // PEFT adds the products up in another order: the last bit may differ
      for (std::size_t k = 0; k < bytes.size() / 2; ++k) {
        worst = std::max(worst, steps(a[k], b[k]));
        different += a[k] != b[k] ? 1 : 0;
        ++all;
      }
      REQUIRE(worst <= 1);
    }
    INFO(name << ": " << different << " of " << all << " differ in the last bit");
    REQUIRE(different * 1000 < all);
  }
}

TEST_CASE("biases that an adapter trained come with it", "[lora]") {
  const auto model = merged("biased", "biases");
  const auto expected = ziya::Checkpoint::open(golden / "biases-merged.safetensors");
  REQUIRE(model.tensors->tensors().size() == expected.tensors().size());
  for (std::size_t i = 0; i < model.tensors->tensors().size(); ++i) {
    const auto& tensor = model.tensors->tensors()[i];
    INFO(tensor.name);
    const auto bytes = test::whole(*model.tensors, i);
    std::vector<std::byte> right(bytes.size());
    expected.read(tensor.name, right);
    const auto *a = reinterpret_cast<const float*>(bytes.data()),
               *b = reinterpret_cast<const float*>(right.data());
    for (std::size_t k = 0; k < bytes.size() / 4; ++k) {
      if (!(std::abs(a[k] - b[k]) <= 2e-6f * std::max(1.0f, std::abs(b[k])))) FAIL(a[k] << b[k]);
    }
  }
}

TEST_CASE("any range of a merged tensor is a range of the whole, and the rest is untouched",
          "[lora]") {
  for (const char* name : {"patterns", "embedding"}) {
    const TemporaryDirectory folder;
    const auto model = merged("base", name);
    ziya::write_hf_model(model, folder / "out");
    test::require_same(*model.tensors, folder / "out");
  }
  const auto model = merged("base", "plain");
  const auto base = ziya::Checkpoint::open(golden / "base");
  int untouched = 0;
  for (std::size_t i = 0; i < model.tensors->tensors().size(); ++i) {
    const auto& tensor = model.tensors->tensors()[i];
    if (tensor.name.find("q_proj") != std::string::npos ||
        tensor.name.find("v_proj") != std::string::npos) {
      continue;
    }
    const auto bytes = test::whole(*model.tensors, i);
    std::vector<std::byte> right(bytes.size());
    base.read(tensor.name, right);
    const bool same = bytes == right;
    REQUIRE(same);
    ++untouched;
  }
  REQUIRE(untouched == 17);
}

TEST_CASE("a merged vocabulary is the adapter's, in the weights and in config.json", "[lora]") {
  const auto model = merged("base", "vocabulary");
  REQUIRE(nlohmann::json::parse(model.files.at("config.json"))["vocab_size"] == 43);
  const auto other = merged("base", "plain");
  REQUIRE(other.files.at("config.json") == test::read_file(golden / "base" / "config.json"));
  REQUIRE(ziya::base_names(other.name, "") == std::vector<std::string>{"base"});
  REQUIRE(ziya::base_names("base", R"({"_name_or_path": "hub/llama"})") ==
          std::vector<std::string>{"base", "hub/llama"});
}

TEST_CASE("a tied head becomes its own where the adapter changes one of the two", "[lora]") {
  const TemporaryDirectory folder;
  auto base = ziya::open_hf_model(golden / "base");
  auto config = nlohmann::json::parse(base.files.at("config.json"));
  config["tie_word_embeddings"] = true;
  struct Tied final : ziya::TensorSource {
    explicit Tied(std::shared_ptr<const TensorSource> from) : source(std::move(from)) {
      for (std::size_t i = 0; i < source->tensors().size(); ++i) {
        if (source->tensors()[i].name == "lm_head.weight") continue;
        specs.push_back(source->tensors()[i]);
        indices.push_back(i);
      }
    }
    [[nodiscard]] const std::vector<ziya::TensorSpec>& tensors() const override { return specs; }
    void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
      source->read(indices.at(index), first, out);
    }
    std::shared_ptr<const TensorSource> source;
    std::vector<ziya::TensorSpec> specs;
    std::vector<std::size_t> indices;
  };
  base.tensors = std::make_shared<Tied>(base.tensors);
  base.files["config.json"] = config.dump();
  const auto plain = ziya::merge_lora(base, LoraAdapter::open(golden / "plain"));
  REQUIRE(plain.tensors->tensors().size() == base.tensors->tensors().size());
  const auto changed = ziya::merge_lora(base, LoraAdapter::open(golden / "embedding"));
  REQUIRE(changed.tensors->tensors().back().name == "lm_head.weight");
  REQUIRE(nlohmann::json::parse(changed.files.at("config.json"))["tie_word_embeddings"] == false);
}

TEST_CASE("an adapter of another model is not merged", "[lora]") {
  const auto tiny = ziya::open_hf_model(ZIYA_EXAMPLES "/ziya-tiny/base");
  REQUIRE_ERROR(ziya::merge_lora(tiny, LoraAdapter::open(golden / "plain")), "ZIYA-622", "q_proj");
  REQUIRE_ERROR(merged("base", "biases"), "ZIYA-622", "bias");
}

TEST_CASE("an adapter is merged once, and what was merged is recorded", "[lora]") {
  const TemporaryDirectory folder;
  const auto base = ziya::open_hf_model(golden / "base");
  const auto plain = LoraAdapter::open(golden / "plain"),
             patterns = LoraAdapter::open(golden / "patterns");
  ziya::write_hf_model(ziya::merge_lora(base, plain), folder / "one");
  const auto one = ziya::open_hf_model(folder / "one");
  const auto fingerprint_of = [](const ziya::TensorSource& source) {
    return ziya::fingerprint(source).model();
  };
  const std::string of_plain = fingerprint_of(ziya::CheckpointSource(plain.checkpoint()));
  REQUIRE(one.provenance.at("ziya.adapter.1") == of_plain);
  REQUIRE(one.provenance.at("ziya.adapter.1.base") == fingerprint_of(*base.tensors));
  REQUIRE(one.provenance.contains("ziya.adapter.rule"));
  REQUIRE_ERROR(ziya::merge_lora(one, plain), "ZIYA-625", "already");

  ziya::write_hf_model(ziya::merge_lora(one, patterns), folder / "two");
  const auto two = ziya::open_hf_model(folder / "two");
  REQUIRE(two.provenance.at("ziya.adapter.1") == of_plain);
  REQUIRE(two.provenance.at("ziya.adapter.2") ==
          fingerprint_of(ziya::CheckpointSource(patterns.checkpoint())));
  REQUIRE(two.provenance.at("ziya.adapter.2.base") == fingerprint_of(*one.tensors));
  for (const auto& adapter : {plain, patterns}) {
    REQUIRE_ERROR(ziya::merge_lora(two, adapter), "ZIYA-625", adapter.name());
  }
  ziya::write_hf_model(two, folder / "copied", {.type = DType::f32});
  REQUIRE(ziya::open_hf_model(folder / "copied").provenance == two.provenance);
}

/// A low-rank update of the first layer's down projection of ziya-tiny's base, whose columns the
/// parts of the Fengshen layout share out.
LoraAdapter adapter_of_columns(const fs::path& folder) {
  fs::create_directories(folder);
  const auto base = ziya::Checkpoint::open(ZIYA_EXAMPLES "/ziya-tiny/base");
  const std::string module = "layers.0.mlp.down_proj";
  const ziya::Shape shape = base.find("model." + module + ".weight")->shape;
  const std::string prefix = "base_model.model.model." + module + ".lora_";
  ziya::SafetensorsWriter writer(folder / "adapter_model.safetensors",
                                 {{prefix + "A.weight", DType::f32, {1, shape[1]}},
                                  {prefix + "B.weight", DType::f32, {shape[0], 1}}});
  for (const std::int64_t size : {shape[1], shape[0]}) {
    const std::vector<float> values(static_cast<std::size_t>(size), 0.125f);
    writer.write(prefix + (writer.written_tensors() == 0 ? "A.weight" : "B.weight"),
                 std::as_bytes(std::span(values)));
  }
  writer.commit();
  ziya::write_text_file(folder / "adapter_config.json",
                        R"({"peft_type": "LORA", "r": 1, "lora_alpha": 1,
                            "target_modules": ["down_proj"], "layers_to_transform": [0]})");
  return LoraAdapter::open(folder);
}

TEST_CASE("whatever is written, and after an interruption, the base's hash is recorded", "[lora]") {
  const TemporaryDirectory folder;
  const auto adapter = adapter_of_columns(folder / "adapter");
  const auto base = ziya::open_hf_model(ZIYA_EXAMPLES "/ziya-tiny/base");
  const std::string of_base = ziya::fingerprint(*base.tensors).model();
  const auto recorded = [&](const ziya::ModelSource& model) {
    REQUIRE(model.provenance.at("ziya.adapter.1.base") == of_base);
    REQUIRE_ERROR(ziya::merge_lora(model, adapter), "ZIYA-625", "already");
  };
  ziya::write_gguf_model(ziya::merge_lora(base, adapter), folder / "m.gguf");
  recorded(ziya::open_gguf_model(folder / "m.gguf"));

  ziya::ConvertOptions options;
  options.max_shard_bytes = 300'000;
  options.keep_unfinished = options.resume = true;
  const auto write = [&](const char* name) {
    ziya::write_fengshen_model(ziya::merge_lora(base, adapter), folder / name, 2, options);
    recorded(ziya::open_fengshen_model(folder / name));
  };
  options.threads = 1;
  write("whole");
  options.threads = 5;
  std::int64_t size = 0;
  for (const auto& file : fs::recursive_directory_iterator(folder / "whole")) {
    if (file.is_regular_file()) size += static_cast<std::int64_t>(file.file_size());
  }
  // The first part is there but for one shard, which a bad byte spoils, and much of the second.
  options.hooks = test::faulty(test::Fault::disk_full, size * 4 / 5);
  REQUIRE_ERROR(write("again"), "ZIYA-206", "again");
  options.hooks = {};
  fs::path shard;
  for (const auto& file : fs::directory_iterator(folder / "again.partial" / "part_0")) {
    if (file.path().extension() == ".bin") shard = std::max(shard, file.path());
  }
  std::string bytes = test::read_file(shard);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  std::ofstream(shard, std::ios::binary) << bytes;
  write("again");
  for (const auto& file : fs::recursive_directory_iterator(folder / "whole")) {
    if (!file.is_regular_file()) continue;
    const auto relative = fs::relative(file.path(), folder / "whole");
    const bool same = test::read_file(file.path()) == test::read_file(folder / "again" / relative);
    INFO(relative);
    REQUIRE(same);
  }
}

}  // namespace lora_merge_test
