// SPDX-License-Identifier: Apache-2.0
// Which type each tensor gets, and that a source quantised on its way gives the same bytes however
// it is cut.
#include "ziya/convert/quantised_source.hpp"

#include <catch2/catch.hpp>
#include <cmath>

#include "support/errors.hpp"
#include "support/random.hpp"
#include "ziya/convert/stream.hpp"

namespace quantised_source_test {

using ziya::DType;
using ziya::QuantisationPlan;
using ziya::TensorSpec;

/// A model of `layers` layers whose attention is `width` wide and whose MLP is `inner` wide.
std::vector<TensorSpec> model(std::int64_t layers, std::int64_t width, std::int64_t inner,
                              bool tied = false) {
  std::vector<TensorSpec> tensors{{"model.embed_tokens.weight", DType::f16, {512, width}}};
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    tensors.push_back({layer + "input_layernorm.weight", DType::f16, {width}});
    for (const char* part : {"q", "k", "v", "o"}) {
      tensors.push_back({layer + "self_attn." + part + "_proj.weight", DType::f16, {width, width}});
    }
    tensors.push_back({layer + "mlp.gate_proj.weight", DType::f16, {inner, width}});
    tensors.push_back({layer + "mlp.up_proj.weight", DType::f16, {inner, width}});
    tensors.push_back({layer + "mlp.down_proj.weight", DType::f16, {width, inner}});
  }
  tensors.push_back({"model.norm.weight", DType::f16, {width}});
  if (!tied) tensors.push_back({"lm_head.weight", DType::f16, {512, width}});
  return tensors;
}

/// Types by the ends of names.
DType type_of(const std::vector<TensorSpec>& tensors, const QuantisationPlan& plan,
              const std::string& end) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].name.ends_with(end)) return plan.tensors()[i].type;
  }
  FAIL("no tensor " << end);
  return DType::boolean;
}

/// Normally distributed enough: sums of uniform numbers.
class RandomSource final : public ziya::TensorSource {
 public:
  explicit RandomSource(std::vector<TensorSpec> specs) : specs_(std::move(specs)) {
    for (const TensorSpec& spec : specs_) {
      values.push_back(test::random_values(spec.shape.elements(), values.size() + 1, 0.05));
    }
  }
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override { return specs_; }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    const auto count =
        static_cast<std::int64_t>(out.size()) / info(specs_[index].dtype).block_bytes;
    ziya::quantize::quantise_row(specs_[index].dtype, values[index].data() + first, out.data(),
                                 count);
  }
  std::vector<std::vector<float>> values;

 private:
  std::vector<TensorSpec> specs_;
};

struct Sink {
  std::vector<TensorSpec> specs;
  std::vector<std::byte> bytes{};
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const { return specs; }
  void write(std::string_view, std::span<const std::byte> data) {
    bytes.insert(bytes.end(), data.begin(), data.end());
  }
};

std::vector<std::byte> streamed(const ziya::QuantisedSource& source, int threads) {
  Sink sink{source.tensors()};
  ziya::stream(sink, source, {.threads = threads});
  return sink.bytes;
}

TEST_CASE("plain types: norms are f32, the head is q6_k, the rest is the type", "[plan]") {
  const auto tensors = model(4, 256, 768);
  for (const std::string name : {"q4_0", "q5_1", "q2_k", "iq4_nl", "q4_k"}) {
    const QuantisationPlan plan(ziya::quantisation_mix(name), tensors);
    const DType type = *ziya::dtype_from_name(name);
    CHECK(type_of(tensors, plan, "input_layernorm.weight") == DType::f32);
    CHECK(type_of(tensors, plan, "model.norm.weight") == DType::f32);
    CHECK(type_of(tensors, plan, "lm_head.weight") == DType::q6_k);
    CHECK(type_of(tensors, plan, "embed_tokens.weight") == type);
    CHECK(type_of(tensors, plan, "2.mlp.down_proj.weight") == type);
  }
  const QuantisationPlan eight(ziya::quantisation_mix("q8_0"), tensors);
  CHECK(type_of(tensors, eight, "lm_head.weight") == DType::q8_0);
  const QuantisationPlan half(ziya::quantisation_mix("f16"), tensors);
  CHECK(type_of(tensors, half, "lm_head.weight") == DType::f16);
  CHECK(type_of(tensors, half, "model.norm.weight") == DType::f32);
}

TEST_CASE("a tied embedding is the head", "[plan]") {
  const auto tensors = model(4, 256, 768, true);
  const QuantisationPlan plan(ziya::quantisation_mix("q4_0"), tensors);
  CHECK(type_of(tensors, plan, "embed_tokens.weight") == DType::q6_k);
}

TEST_CASE("rows that a type does not divide fall back as llama.cpp's do", "[plan]") {
  // What stories260K-gguf holds: rows of 64 and of 172, head apart.
  const auto tensors = model(5, 64, 172);
  const std::pair<const char*, DType> cases[] = {{"q6_k", DType::q8_0},
                                                 {"q5_k_m", DType::q5_1},
                                                 {"q4_k_m", DType::q5_0},
                                                 {"q2_k", DType::iq4_nl},
                                                 {"q3_k", DType::iq4_nl}};
  for (const auto& [name, expected] : cases) {
    INFO(name);
    const QuantisationPlan plan(ziya::quantisation_mix(name), tensors);
    CHECK(type_of(tensors, plan, "lm_head.weight") == DType::q8_0);
    CHECK(type_of(tensors, plan, "embed_tokens.weight") == expected);
    CHECK(type_of(tensors, plan, "0.self_attn.k_proj.weight") == expected);
    CHECK(type_of(tensors, plan, "0.mlp.up_proj.weight") == expected);
    CHECK(type_of(tensors, plan, "0.mlp.down_proj.weight") == DType::f16);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const bool matrix = tensors[i].shape.rank() == 2;
      CHECK((plan.tensors()[i].reason.find("not whole blocks") != std::string::npos) == matrix);
    }
  }
}

TEST_CASE("mixtures give values and MLP outputs of some layers more bits", "[plan]") {
  const auto tensors = model(16, 256, 768);
  const QuantisationPlan plan(ziya::quantisation_mix("q4_k_m"), tensors);
  const std::vector<int> sensitive{0, 1, 4, 7, 10, 13, 14, 15};  // eighths, and every third
  for (int layer = 0; layer < 16; ++layer) {
    const bool more = std::find(sensitive.begin(), sensitive.end(), layer) != sensitive.end();
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    CHECK((type_of(tensors, plan, prefix + "self_attn.v_proj.weight") == DType::q6_k) == more);
    CHECK((type_of(tensors, plan, prefix + "mlp.down_proj.weight") == DType::q6_k) == more);
    CHECK(type_of(tensors, plan, prefix + "self_attn.q_proj.weight") == DType::q4_k);
  }
  const QuantisationPlan three(ziya::quantisation_mix("q3_k_m"), tensors);
  CHECK(type_of(tensors, three, "layers.1.self_attn.v_proj.weight") == DType::q5_k);
  CHECK(type_of(tensors, three, "layers.5.self_attn.v_proj.weight") == DType::q4_k);
  CHECK(type_of(tensors, three, "layers.0.mlp.down_proj.weight") == DType::q5_k);
  CHECK(type_of(tensors, three, "layers.5.mlp.up_proj.weight") == DType::q3_k);
}

TEST_CASE("patterns keep what they match", "[plan]") {
  const auto tensors = model(2, 256, 768);
  const QuantisationPlan plan(ziya::quantisation_mix("q4_0"), tensors, {"v_proj", "*.1.mlp.*"});
  CHECK(type_of(tensors, plan, "0.self_attn.v_proj.weight") == DType::f16);
  CHECK(type_of(tensors, plan, "1.mlp.up_proj.weight") == DType::f16);
  CHECK(type_of(tensors, plan, "0.mlp.up_proj.weight") == DType::q4_0);
  CHECK(ziya::matches("*a?c*", "xxabcxx"));
  CHECK_FALSE(ziya::matches("a?c", "xabc"));
}

TEST_CASE("int8, fp8 and unknown types are refused, with what to take instead", "[plan]") {
  REQUIRE_ERROR(ziya::quantisation_mix("int8"), "ZIYA-131", "q8_0");
  REQUIRE_ERROR(ziya::quantisation_mix("fp8"), "ZIYA-131", "q8_0");
  REQUIRE_ERROR(ziya::quantisation_mix("q9_z"), "ZIYA-131", "q4_k_m");
  REQUIRE_ERROR(ziya::quantisation_mix("boolean"), "ZIYA-131", "q4_0");
}

TEST_CASE("a quantised source gives the same bytes however it is cut", "[quantise]") {
  const auto random = std::make_shared<const RandomSource>(model(1, 256, 512));
  const QuantisationPlan plan(ziya::quantisation_mix("q4_k_m"), random->tensors());
  ziya::Importance importance;
  importance["model.layers.0.mlp.up_proj.weight"] = test::random_values(256, 9, 1.0);
  for (float& value : importance.begin()->second) value *= value;
  const ziya::QuantisedSource source(random, plan, importance);
  const std::vector<std::byte> all = streamed(source, 1);
  REQUIRE(streamed(source, 5) == all);

  std::size_t at = 0;
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    const TensorSpec& spec = source.tensors()[i];
    const auto values = random->values[i];
    const std::int64_t piece = spec.shape.rank() == 2 ? spec.shape[1] : spec.shape.elements();
    for (std::int64_t first = 0; first < spec.shape.elements(); first += piece) {
      std::vector<std::byte> row(static_cast<std::size_t>(bytes_of(spec.dtype, piece)));
      source.read(i, first, row);
      REQUIRE(std::equal(row.begin(), row.end(), all.begin() + static_cast<std::ptrdiff_t>(at)));
      at += row.size();
    }
  }
  REQUIRE(at == all.size());
}

TEST_CASE("the report holds the error of each tensor", "[quantise]") {
  const auto random = std::make_shared<const RandomSource>(model(1, 256, 512));
  const QuantisationPlan plan(ziya::quantisation_mix("q4_0"), random->tensors());
  const ziya::QuantisedSource source(random, plan);
  const std::vector<std::byte> all = streamed(source, 2);
  std::size_t at = 0;
  for (std::size_t i = 0; i < source.report().size(); ++i) {
    const ziya::QuantisedTensor& line = source.report()[i];
    INFO(line.name);
    std::vector<float> back(static_cast<std::size_t>(line.elements));
    ziya::quantize::dequantise_row(line.to, all.data() + at, back.data(), line.elements);
    at += static_cast<std::size_t>(line.bytes);
    double error = 0;
    for (std::size_t e = 0; e < back.size(); ++e) {
      const double x = ziya::to_float(ziya::to_half(random->values[i][e]));
      error += (x - back[e]) * (x - back[e]);
    }
    CHECK(line.rmse() == Approx(std::sqrt(error / static_cast<double>(line.elements))));
    CHECK((line.to == DType::f32) == (line.rmse() == 0));
    CHECK(line.relative_rmse() < 0.1);
  }
  REQUIRE(at == all.size());
}

TEST_CASE("importance of another model, and numbers that are not finite, are refused",
          "[quantise]") {
  const auto random = std::make_shared<RandomSource>(model(1, 256, 512));
  const QuantisationPlan plan(ziya::quantisation_mix("q4_0"), random->tensors());
  ziya::Importance importance;
  importance["lm_head.weight"] = std::vector<float>(64, 1.0f);
  REQUIRE_ERROR(ziya::QuantisedSource(random, plan, importance), "ZIYA-132", "lm_head.weight");

  random->values[2][300] = INFINITY;
  const ziya::QuantisedSource source(random, plan);
  REQUIRE_ERROR(streamed(source, 2), "ZIYA-130",
                "element 300 of tensor " + random->tensors()[2].name);
}

}  // namespace quantised_source_test
