// SPDX-License-Identifier: Apache-2.0
// Adapters beside a model: PEFT's logits (reference/lora_golden.py), and what does not fit.
#include "ziya/model/lora_adapter.hpp"

#include <catch2/catch.hpp>
#include <cmath>

#include "model/fixture.hpp"
#include "model/ziya_tiny.hpp"
#include "support/errors.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/backend/cpu/quantize/dequantise_row.hpp"
#include "ziya/io/pytorch_writer.hpp"
#include "ziya/io/safetensors_writer.hpp"
#include "ziya/model/lora_attach.hpp"

namespace lora_adapter_test {

namespace fs = std::filesystem;
using test::TemporaryDirectory;
using ziya::CpuModel;
using ziya::DType;
using ziya::LoraAdapter;
using ziya::Shape;

const fs::path golden_lora = ZIYA_TEST_DATA "/lora";

std::vector<float> logits_of(const CpuModel& model, const std::vector<std::int32_t>& ids) {
  auto ctx = fixture::machines().front().context();
  auto cache = fixture::make_cache(model);
  const auto hidden = fixture::hidden(model, ctx, fixture::Rows(ids, 0, ids.size()), cache);
  return fixture::copy(fixture::logits(model, ctx, hidden));
}

double error_of(const CpuModel& model, const std::string& name) {
  const auto file = ziya::Checkpoint::open(golden_lora / (name + "-logits.safetensors"));
  const auto ids = golden::values<std::int32_t>(file, "ids");
  const auto right = golden::values<float>(file, "logits");
  return golden::error(logits_of(model, ids), right,
                       static_cast<std::size_t>(model.shape().vocabulary));
}

const std::string layer0 = "base_model.model.model.layers.0.";

/// An adapter with a config and tensors of zeros.
struct Adapter : TemporaryDirectory {
  explicit Adapter(const std::string& config,
                   const std::vector<ziya::TensorSpec>& tensors = {
                       {layer0 + "self_attn.q_proj.lora_A.weight", DType::f32, {2, 32}},
                       {layer0 + "self_attn.q_proj.lora_B.weight", DType::f32, {32, 2}}}) {
    file("adapter_config.json", config);
    ziya::SafetensorsWriter writer(path() / "adapter_model.safetensors", tensors);
    for (const auto& tensor : writer.tensors()) {
      writer.write(tensor.name, std::vector<std::byte>(static_cast<std::size_t>(tensor.bytes())));
    }
    writer.commit();
  }
};

const std::string one_target =
    R"("target_modules": "model\\.layers\\.0\\.self_attn\\.q_proj", "r": 2)";

TEST_CASE("an adapter beside the model gives PEFT's logits", "[lora]") {
  for (const char* name : {"plain", "patterns"}) {
    INFO(name);
    const auto model = CpuModel::load(golden_lora / "base", {.adapters = {golden_lora / name}});
    CHECK(error_of(model, name) < 1e-4);
    CHECK(error_of(CpuModel::load(golden_lora / "base"), name) > 1e-2);
  }
  const auto biased =
      CpuModel::load(golden_lora / "biased", {.adapters = {golden_lora / "biases"}});
  CHECK(error_of(biased, "biases") < 1e-4);
}

TEST_CASE("an adapter stands beside weights of any type and of GGUF's order of rows", "[lora]") {
  const auto model = CpuModel::load(golden_lora / "base",
                                    {.dtype = DType::bf16, .adapters = {golden_lora / "patterns"}});
  CHECK(error_of(model, "patterns") < 0.1);  // of the rounded base

  const auto shape = ziya::read_llama_shape(golden_lora / "base");
  const auto checkpoint = ziya::Checkpoint::open(golden_lora / "base");
  auto weights = ziya::LlamaLoader(checkpoint, shape, DType::f32).load();
  for (auto& layer : weights.layers) {
    layer.attention.pairing = ziya::RopePairing::interleaved;
    for (auto* linear : {&layer.attention.q, &layer.attention.k}) {
      const auto& weight = linear->weight;
      const auto* data = reinterpret_cast<const float*>(weight.data);
      const std::vector<float> rows(data, data + weight.rows * weight.columns);
      linear->weight = ziya::detail::weight_of(
          ziya::detail::halves_to_pairs(rows, weight.columns, 8), weight.rows, weight.columns);
    }
  }
  ziya::attach_lora(weights, LoraAdapter::open(golden_lora / "patterns"));
  CHECK(error_of(CpuModel(shape, std::move(weights)), "patterns") < 1e-4);
}

/// The numbers that the blocks stand for, in f32.
void widen(ziya::nn::Linear<ziya::Cpu>& linear) {
  const auto weight = linear.weight;
  std::vector<float> values(static_cast<std::size_t>(weight.rows * weight.columns));
  ziya::quantize::dequantise_row(weight.dtype, weight.data, values.data(),
                                 weight.rows * weight.columns);
  linear.weight = ziya::detail::weight_of(std::move(values), weight.rows, weight.columns);
}

/// On the values of every layer of the miniature, of rank 1.
void write_tiny_adapter(const fs::path& folder, std::int64_t layers, std::int64_t width) {
  std::vector<ziya::TensorSpec> specs;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const std::string module =
        "base_model.model.model.layers." + std::to_string(layer) + ".self_attn.v_proj.lora_";
    specs.push_back({module + "A.weight", DType::f32, {1, width}});
    specs.push_back({module + "B.weight", DType::f32, {width, 1}});
  }
  ziya::SafetensorsWriter writer(folder / "adapter_model.safetensors", specs);
  for (const auto& tensor : writer.tensors()) {
    std::vector<float> values;
    for (std::int64_t i = 0; i < width; ++i) {
      values.push_back(std::sin(static_cast<float>(i * (1 + std::ssize(values)))) * 0.2f);
    }
    writer.write(tensor.name, std::as_bytes(std::span(values)));
  }
  writer.commit();
  fixture::write_file(folder / "adapter_config.json",
                      R"({"target_modules": ["v_proj"], "r": 1, "lora_alpha": 1})");
}

TEST_CASE("an adapter adds to quantised weights what it adds to their numbers", "[lora]") {
  const auto& tiny = fixture::ZiyaTiny::instance();
  const auto shape = ziya::read_llama_shape(tiny.folder());
  const auto checkpoint = ziya::Checkpoint::open(tiny.folder());
  const TemporaryDirectory folder;
  write_tiny_adapter(folder.path(), shape.layers, shape.hidden);
  const std::vector<std::int32_t> ids{1, 300, 17, 1200, 5};
  const auto vocabulary = static_cast<std::size_t>(shape.vocabulary);
  for (const DType type : {DType::q4_0, DType::q8_0, DType::q4_k}) {
    CAPTURE(ziya::name(type));
    const auto logits = [&](bool wide, bool adapted) {
      auto weights = ziya::LlamaLoader(checkpoint, shape, type).load();
      REQUIRE(weights.layers[0].attention.v.weight.dtype == type);
      for (auto& layer : weights.layers) {
        auto& attention = layer.attention;
        for (auto* linear : {&attention.q, &attention.k, &attention.v, &attention.o,
                             &layer.mlp.gate, &layer.mlp.up, &layer.mlp.down}) {
          if (wide) widen(*linear);
        }
      }
      if (adapted) ziya::attach_lora(weights, LoraAdapter::open(folder.path()));
      return logits_of(CpuModel(shape, std::move(weights)), ids);
    };
    const auto beside = logits(false, true);
    CHECK(golden::error(beside, logits(true, true), vocabulary) < 0.03);  // activations of 8 bits
    CHECK(golden::error(beside, logits(false, false), vocabulary) > 0.1);
  }
}

TEST_CASE("two adapters add up, in any order", "[lora]") {
  const auto load = [](std::vector<fs::path> adapters) {
    return CpuModel::load(golden_lora / "base", {.adapters = std::move(adapters)});
  };
  const fs::path a = golden_lora / "plain", b = golden_lora / "patterns";
  const std::vector<std::int32_t> ids{1, 7, 3};
  const auto ab = logits_of(load({a, b}), ids), ba = logits_of(load({b, a}), ids);
  CHECK(golden::error(ab, ba, 40) < 1e-5);
  CHECK(golden::error(ab, logits_of(load({a}), ids), 40) > 1e-2);
  CHECK(golden::error(ab, logits_of(load({b}), ids), 40) > 1e-3);
}

TEST_CASE("what cannot stand beside a model says that it can be merged", "[lora]") {
  const auto load = [](const char* name) {
    return CpuModel::load(golden_lora / "base", {.adapters = {golden_lora / name}});
  };
  REQUIRE_ERROR(load("vocabulary"), "ZIYA-622", "merge the adapter to change the vocabulary");
  REQUIRE_ERROR(load("embedding"), "ZIYA-622", "ziya merge-lora");
}

TEST_CASE("an adapter for another model is refused by its shapes", "[lora]") {
  const auto load = [](const fs::path& adapter) {
    return CpuModel::load(golden_lora / "base", {.adapters = {adapter}});
  };
  REQUIRE_NOTHROW(load(Adapter("{" + one_target + "}").path()));
  const std::string q = layer0 + "self_attn.q_proj.lora_";
  const Adapter wide("{" + one_target + "}", {{q + "A.weight", DType::f32, {2, 40}},
                                              {q + "B.weight", DType::f32, {40, 2}}});
  REQUIRE_ERROR(load(wide.path()), "ZIYA-622", "(40, 40)");
  const std::string far = "base_model.model.model.layers.7.self_attn.q_proj.lora_";
  const Adapter deep("{" + one_target + "}", {{far + "A.weight", DType::f32, {2, 32}},
                                              {far + "B.weight", DType::f32, {32, 2}}});
  REQUIRE_ERROR(load(deep.path()), "ZIYA-622", "layers.7");
  const Adapter few(R"({"target_modules": ["q_proj"], "r": 2})");
  REQUIRE_ERROR(load(few.path()), "ZIYA-623", "layers.1.self_attn.q_proj");
  REQUIRE_NOTHROW(load(
      Adapter(R"({"target_modules": ["q_proj"], "r": 2, "layers_to_transform": [0]})").path()));
}

TEST_CASE("an adapter's file has to be what its config says", "[lora]") {
  const auto open = [](const Adapter& adapter) { return LoraAdapter::open(adapter.path()); };
  const std::string q = layer0 + "self_attn.q_proj.";
  const auto with = [&](const std::vector<ziya::TensorSpec>& tensors) {
    return open(Adapter("{" + one_target + "}", tensors));
  };
  REQUIRE_ERROR(with({{q + "lora_A.weight", DType::f32, {2, 32}}}), "ZIYA-623", "only one");
  REQUIRE_ERROR(with({{q + "lora_A.weight", DType::f32, {2, 32}},
                      {q + "lora_B.weight", DType::f32, {32, 3}}}),
                "ZIYA-623", "(32, 3)");
  REQUIRE_ERROR(with({{q + "lora_A.weight", DType::f32, {3, 32}},
                      {q + "lora_B.weight", DType::f32, {32, 3}}}),
                "ZIYA-623", "rank 3");
  REQUIRE_ERROR(with({{q + "lora_A.weight", DType::i32, {2, 32}}}), "ZIYA-623", "i32");
  REQUIRE_ERROR(with({{"model.q.lora_A.weight", DType::f32, {2, 32}}}), "ZIYA-623", "PEFT");
  REQUIRE_ERROR(with({{q + "weight", DType::f32, {32, 32}}}), "ZIYA-623", "modules_to_save");
  REQUIRE_ERROR(with({{q + "lora_magnitude_vector", DType::f32, {32}}}), "ZIYA-621",
                "lora_magnitude_vector");
  const TemporaryDirectory empty;
  REQUIRE_ERROR(LoraAdapter::open(empty.path()), "ZIYA-201", "adapter_model.safetensors");
  const Adapter no_config("{}");
  fs::remove(no_config / "adapter_config.json");
  REQUIRE_ERROR(open(no_config), "ZIYA-201", "adapter_config.json");
}

TEST_CASE("adapter_config.json is read as PEFT means it", "[lora]") {
  const auto config = ziya::parse_lora_config(
      R"({"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "mlp.up_proj"],
          "rank_pattern": {"layers.1.self_attn.q_proj": 4, "up_proj": 8},
          "alpha_pattern": {"^q_proj": 1, ".*k_proj": 3}, "modules_to_save": ["lm_head"],
          "exclude_modules": ["layers.3.mlp.up_proj"], "base_model_name_or_path": "a/Ziya-13B"})",
      "test");
  CHECK(config.rank_of("model.layers.0.self_attn.q_proj") == 16);
  CHECK(config.rank_of("model.layers.1.self_attn.q_proj") == 4);
  CHECK(config.scale_of("model.layers.1.self_attn.q_proj") == 8);
  CHECK(config.scale_of("model.layers.2.mlp.up_proj") == 4);
  CHECK(config.scale_of("model.layers.2.self_attn.k_proj") == 3.0 / 16);
  CHECK(config.targets_module("model.layers.2.mlp.up_proj"));
  CHECK(!config.targets_module("model.layers.3.mlp.up_proj"));
  CHECK(!config.targets_module("model.layers.2.mlp.xup_proj"));
  CHECK(config.saves_module("lm_head"));
  const auto stable = ziya::parse_lora_config(
      R"({"r": 16, "lora_alpha": 8, "use_rslora": true, "target_modules": "all-linear"})", "test");
  CHECK(stable.scale_of("x") == 2);
  CHECK(stable.targets_module("model.layers.3.mlp.up_proj"));
  CHECK(!stable.targets_module("lm_head"));

  const auto adapter = LoraAdapter::open(golden_lora / "plain");
  CHECK(adapter.base_mismatch({"base"}).empty());
  CHECK(adapter.base_mismatch({"other", "Fixtures/BASE/"}).empty());
  CHECK_THAT(adapter.base_mismatch({"llama"}), Catch::Contains("fixtures/base"));
}

TEST_CASE("what adapter_config.json may not say is named", "[lora]") {
  const auto parse = [](const std::string& members) {
    const bool targeted = members.find("target_modules") != std::string::npos;
    return ziya::parse_lora_config(
        "{" + members + (targeted ? "}" : R"(, "target_modules": ["q_proj"]})"), "the config");
  };
  const auto unsupported = [&](const char* members, const char* what) {
    INFO(members);
    REQUIRE_ERROR(parse(members), "ZIYA-621", what);
  };
  unsupported(R"("use_dora": true)", "use_dora");
  unsupported(R"("fan_in_fan_out": true)", "fan_in_fan_out");
  unsupported(R"("peft_type": "IA3")", "IA3");
  unsupported(R"("lora_bias": true)", "lora_bias");
  unsupported(R"("trainable_token_indices": [1, 2])", "trainable_token_indices");
  unsupported(R"("layer_replication": [[0, 4]])", "layer_replication");
  unsupported(R"("init_lora_weights": "pissa_niter_4")", "pissa");
  unsupported(R"("target_modules": "(?i)q")", "(?");
  const auto malformed = [&](const char* members, const char* what) {
    INFO(members);
    REQUIRE_ERROR(parse(members), "ZIYA-620", what);
  };
  malformed(R"("r": 0)", "r is");
  malformed(R"("lora_alpha": -1)", "lora_alpha");
  malformed(R"("bias": "some")", "bias");
  malformed(R"("target_modules": [])", "target_modules");
  malformed(R"("target_modules": [1])", "target_modules");
  malformed(R"("rank_pattern": {"q": "x"})", "rank_pattern");
  malformed(R"("rank_pattern": {"q": 0.5})", "rank_pattern");
  malformed(R"("modules_to_save": "lm_head")", "modules_to_save");
  malformed(R"("layers_to_transform": ["a"])", "layers_to_transform");
  REQUIRE_ERROR(ziya::parse_lora_config("[]", "x"), "ZIYA-620", "object");
  REQUIRE_ERROR(ziya::parse_lora_config("{", "x"), "ZIYA-230", "x");
  const auto both = parse(R"("rank_pattern": {"q_proj": 2, ".*_proj": 4})");
  REQUIRE_ERROR(both.rank_of("a.q_proj"), "ZIYA-621", "a.q_proj");
}

}  // namespace lora_adapter_test
