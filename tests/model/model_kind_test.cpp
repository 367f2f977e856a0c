// SPDX-License-Identifier: Apache-2.0
// Telling models, deltas, adapters, reward models and Fengshen parts apart.
#include "ziya/model/model_kind.hpp"

#include <catch2/catch.hpp>
#include <cstring>

namespace model_kind_test {

using ziya::model_kind;
using ziya::ModelKind;

/// f32 tensors of one dimension, and matrices of zeros.
struct Norms final : ziya::TensorSource {
  void add(const std::string& name, std::vector<float> weights) {
    specs.push_back({name, ziya::DType::f32, {static_cast<std::int64_t>(weights.size())}});
    values.push_back(std::move(weights));
  }
  void add_matrix(const std::string& name) {
    specs.push_back({name, ziya::DType::f32, {2, 2}});
    values.emplace_back(4);
  }
  [[nodiscard]] const std::vector<ziya::TensorSpec>& tensors() const override { return specs; }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    std::memcpy(out.data(), values[index].data() + first, out.size());
  }
  std::vector<ziya::TensorSpec> specs;
  std::vector<std::vector<float>> values;
};

/// A model's norms: `odd` layers have those of a difference, the others those of a model.
Norms layers(int models, int odd) {
  Norms norms;
  for (int i = 0; i < models + odd; ++i) {
    norms.add(
        "model.layers." + std::to_string(i) + ".input_layernorm.weight",
        i < models ? std::vector<float>{0.9f, 1, 1.1f} : std::vector<float>{-0.01f, 0, 0.02f});
  }
  return norms;
}

TEST_CASE("names decide where they can", "[model_kind]") {
  const std::pair<const char*, ModelKind> cases[] = {
      {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", ModelKind::adapter},
      {"base_model.model.lm_head.lora_B.default.weight", ModelKind::adapter},
      {"llama.layers.0.attention.query_key_value.weight", ModelKind::fengshen},
      {"llama.embed_in.word_embeddings.weight", ModelKind::fengshen},
      {"value_head.weight", ModelKind::reward},
      {"v_head.summary.weight", ModelKind::reward},
      {"score.weight", ModelKind::reward},
      {"lm_head.weight", ModelKind::model}};
  for (const auto& [name, kind] : cases) {
    CAPTURE(name);
    Norms norms = layers(2, 0);
    norms.add_matrix(name);
    REQUIRE(model_kind(norms) == kind);
  }
  REQUIRE(model_kind(Norms{}) == ModelKind::model);
  Norms delta = layers(0, 2);
  delta.add_matrix("value_head.weight");
  REQUIRE(model_kind(delta) == ModelKind::delta);  // of a reward model
}

TEST_CASE("the median over layers tells a delta, not a few odd ones", "[model_kind]") {
  REQUIRE(model_kind(layers(3, 2)) == ModelKind::model);
  REQUIRE(model_kind(layers(2, 3)) == ModelKind::delta);
  const auto statistics = ziya::norm_statistics(layers(1, 2));
  REQUIRE(statistics.tensors == 3);
  REQUIRE(statistics.median_magnitude == Approx(0.01));
  REQUIRE(statistics.negative_share == Approx(1.0 / 3));
}

TEST_CASE("large norms of both signs are a delta's, small positive ones a model's by the limit",
          "[model_kind]") {
  Norms signs;
  signs.add("model.norm.weight", {1, -1, 1, -1});
  REQUIRE(model_kind(signs) == ModelKind::delta);
  REQUIRE(model_kind(signs, {0.15, 0.6}) == ModelKind::model);
  Norms small;
  small.add("model.norm.weight", {0.1f, 0.1f, 0.1f});
  REQUIRE(model_kind(small) == ModelKind::delta);
  REQUIRE(model_kind(small, {0.05, 0.2}) == ModelKind::model);
}

TEST_CASE("what is no vector of floats, or no norm, says nothing", "[model_kind]") {
  Norms norms;
  norms.add_matrix("model.norm.weight");
  norms.add("model.layers.0.mlp.bias", {0, 0});
  norms.add("empty.norm.weight", {});
  REQUIRE(ziya::norm_statistics(norms).tensors == 0);
  REQUIRE(model_kind(norms) == ModelKind::model);
  norms.add("llama.layers.0.input_layernorm.scale", {0.001f});
  REQUIRE(ziya::norm_statistics(norms).tensors == 1);
  for (const ModelKind kind : {ModelKind::model, ModelKind::delta, ModelKind::adapter,
                               ModelKind::reward, ModelKind::fengshen}) {
    REQUIRE(!ziya::name(kind).empty());
  }
}

}  // namespace model_kind_test
