// SPDX-License-Identifier: Apache-2.0
// Shapes from GGUF metadata, what is refused by name, and llama.cpp's own files run.
#include "ziya/model/gguf_config.hpp"

#include <catch2/catch.hpp>
#include <functional>

#include "model/fixture.hpp"
#include "support/errors.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/io/gguf_writer.hpp"

namespace gguf_config_test {

using namespace ziya;
using gguf::Metadata;

/// A file with the keys of a model of 2 layers and its embedding; `change` may change them.
struct File {
  Metadata metadata{"keys"};
  std::vector<TensorSpec> tensors{{"model.embed_tokens.weight", DType::f16, Shape{10, 8}}};
  std::vector<float> factors;

  File() {
    LlamaShape shape;
    shape.hidden = 8, shape.intermediate = 12, shape.layers = 2, shape.query_heads = 2;
    shape.kv_heads = 1, shape.head_dim = 4, shape.vocabulary = 10, shape.max_positions = 64;
    shape.rms_eps = 1e-5;
    gguf::set_shape(metadata, shape);
  }
  std::filesystem::path write(const fixture::TemporaryFolder& folder) const {
    auto specs = tensors;
    if (!factors.empty()) {
      specs.push_back({std::string(gguf::rope_factors), DType::f32,
                       Shape{static_cast<std::int64_t>(factors.size())}});
    }
    GgufWriter writer(folder.path() / "m.gguf", specs, metadata);
    for (const TensorSpec& tensor : writer.tensors()) {
      std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes()));
      if (tensor.name == gguf::rope_factors) {
        std::memcpy(bytes.data(), factors.data(), bytes.size());
      }
      writer.write(tensor.name, bytes);
    }
    writer.commit();
    return folder.path() / "m.gguf";
  }
  [[nodiscard]] LlamaShape shape() const {
    const fixture::TemporaryFolder folder;
    return read_llama_shape(write(folder));
  }
};

std::string why(const std::function<void(Metadata&)>& change) {
  File file;
  change(file.metadata);
  return test::error_of([&] { (void)file.shape(); });
}

TEST_CASE("gguf config: the shape that was written comes back", "[model]") {
  File file;
  LlamaShape expected;
  expected.hidden = 8, expected.intermediate = 12, expected.layers = 2, expected.query_heads = 2;
  expected.kv_heads = 1, expected.head_dim = 4, expected.vocabulary = 10;
  expected.max_positions = 64, expected.rms_eps = 1e-5, expected.tied_head = true;
  expected.rope_pairing = RopePairing::interleaved;
  expected.rope_scaling.original_max_positions = 64;
  CHECK(file.shape() == expected);
  file.tensors.push_back({"lm_head.weight", DType::f16, Shape{10, 8}});
  file.tensors.push_back({"model.layers.0.self_attn.q_proj.bias", DType::f32, Shape{8}});
  file.tensors.push_back({"model.layers.0.mlp.gate_proj.bias", DType::f32, Shape{12}});
  expected.tied_head = false, expected.attention_bias = expected.mlp_bias = true;
  CHECK(file.shape() == expected);
  expected.head_dim = 6;
  File wide;
  for (const char* key :
       {"attention.key_length", "attention.value_length", "rope.dimension_count"}) {
    wide.metadata.set_u32(std::string("llama.") + key, 6);
  }
  CHECK(wide.shape().head_dim == 6);
  wide.metadata.set_text("llama.rope.scaling.type", "linear");
  wide.metadata.set_f32("llama.rope.scaling.factor", 4);
  CHECK(wide.shape().rope_scaling.kind == RopeScaling::Kind::linear);
  CHECK(wide.shape().rope_scaling.factor == 4);
  File old;
  old.metadata.set_f32("llama.rope.scale_linear", 2);
  CHECK(old.shape().rope_scaling.factor == 2);
  old.metadata.set_f32("llama.rope.scale_linear", 1);
  CHECK(old.shape().rope_scaling.kind == RopeScaling::Kind::none);
}

TEST_CASE("gguf config: the factors of llama3 are recognised, others refused", "[model]") {
  File file;
  RopeScaling scaling{RopeScaling::Kind::llama3, 8, 1, 4, 8192};
  for (const char* key :
       {"attention.key_length", "attention.value_length", "rope.dimension_count"}) {
    file.metadata.set_u32(std::string("llama.") + key, 128);
  }
  file.factors = gguf::ConfigMaker::rope_divisors(128, 10000, scaling);
  CHECK(file.factors.front() == 1.0f);
  CHECK(file.factors.back() == Approx(8.0f));
  CHECK(file.shape().rope_scaling.kind == RopeScaling::Kind::llama3);
  CHECK(file.shape().rope_scaling.factor == Approx(8));
  CHECK(file.shape().rope_scaling.original_max_positions == 8192);
  file.factors[3] = 1.5f;
  REQUIRE_ERROR(file.shape(), "ZIYA-257", "rope_freqs.weight");
  // Our own files say which scaling it was.
  scaling = {RopeScaling::Kind::llama3, 4, 2, 8, 100};
  LlamaShape shape = File().shape();
  shape.rope_scaling = scaling;
  File own;
  gguf::set_shape(own.metadata, shape);
  own.factors = gguf::ConfigMaker::rope_divisors(4, 10000, scaling);
  CHECK(own.shape().rope_scaling == scaling);
  shape.rope_scaling.kind = RopeScaling::Kind::dynamic;
  REQUIRE_ERROR(gguf::set_shape(own.metadata, shape), "ZIYA-259", "dynamic");
}

TEST_CASE("gguf config: what is not supported is refused by name", "[model]") {
  using Catch::Contains;
  const auto with = [](const char* key, auto value) {
    return why([&](Metadata& metadata) {
      if constexpr (std::is_same_v<decltype(value), int>) metadata.set_u32(key, value);
      if constexpr (std::is_same_v<decltype(value), double>) metadata.set_f32(key, value);
      if constexpr (std::is_same_v<decltype(value), bool>) metadata.set_bool(key, value);
      if constexpr (std::is_same_v<decltype(value), const char*>) metadata.set_text(key, value);
    });
  };
  CHECK_THAT(with("general.architecture", "qwen2"), Contains("ZIYA-257") && Contains("\"qwen2\""));
  CHECK_THAT(with("llama.expert_count", 8), Contains("llama.expert_count is not supported"));
  CHECK_THAT(with("llama.attention.sliding_window", 512), Contains("sliding_window"));
  CHECK_THAT(with("llama.logit_scale", 0.5), Contains("logit_scale"));
  CHECK_THAT(with("llama.attention.causal", false), Contains("causal"));
  CHECK_THAT(with("llama.rope.scaling.type", "yarn"), Contains("\"yarn\" is not supported"));
  CHECK_THAT(with("llama.rope.dimension_count", 2), Contains("rope.dimension_count is 2"));
  CHECK_THAT(with("llama.attention.value_length", 2), Contains("value_length is 2"));
  CHECK_THAT(with("llama.block_count", 0), Contains("ZIYA-413"));
  CHECK_THAT(with("llama.block_count", "2"), Contains("ZIYA-252"));
  CHECK_THAT(why([](Metadata& metadata) {
               Metadata rest("keys");
               for (const auto& [key, value] : metadata.entries()) {
                 if (key != "llama.context_length") rest.set(key, value);
               }
               metadata = rest;
             }),
             Contains("ZIYA-412") && Contains("llama.context_length is missing"));
}

TEST_CASE("gguf config: generation defaults", "[model]") {
  File file;
  file.metadata.set_u32("tokenizer.ggml.bos_token_id", 1);
  file.metadata.set_u32("tokenizer.ggml.eos_token_id", 2);
  file.metadata.set_u32("tokenizer.ggml.padding_token_id", 0xffffffff);
  {
    const fixture::TemporaryFolder folder;
    const auto config = GenerationConfig::load(file.write(folder));
    CHECK(config.eos_ids == std::vector<std::int32_t>{2});
    CHECK(config.bos_id == 1);
    CHECK_FALSE(config.pad_id);
    CHECK(GenerationConfig::load(folder.path()).eos_ids == config.eos_ids);
  }
  file.metadata.set_u32("tokenizer.ggml.eot_token_id", 3);
  file.metadata.set_text("ziya.generation_config.json", R"({"top_k": 7, "pad_token_id": 0})");
  {
    const fixture::TemporaryFolder folder;
    const auto config = GenerationConfig::load(file.write(folder));
    CHECK(config.eos_ids == std::vector<std::int32_t>{2, 3});
    CHECK(config.top_k == 7);
    CHECK(config.pad_id == 0);
  }
  file.metadata.set_text("ziya.generation_config.json", "[]");
  const fixture::TemporaryFolder folder;
  REQUIRE_ERROR(GenerationConfig::load(file.write(folder)), "ZIYA-257", "no object");
}

TEST_CASE("gguf config: tensors that have no place are refused", "[model]") {
  File file;
  const fixture::TemporaryFolder folder;
  const auto path = file.write(folder);
  REQUIRE_ERROR(CpuModel::load(path), "ZIYA-431", "input_layernorm.weight");
  std::string bytes;
  {
    std::ifstream in(path, std::ios::binary);
    bytes = {std::istreambuf_iterator<char>(in), {}};
  }
  const std::string name = "token_embd.weight";
  bytes.replace(bytes.find(name), name.size(), "blk.0.ffn_exps.wt");
  fixture::write_file(path, bytes);
  REQUIRE_ERROR(CpuModel::load(path), "ZIYA-435", "blk.0.ffn_exps.wt");
}

TEST_CASE("gguf config: llama.cpp's own files give the reference's ids", "[model]") {
  const auto folder = golden::shared("stories260K-gguf");
  if (folder.empty()) return;
  const nlohmann::json reference =
      read_json_file(folder.parent_path() / "stories260K-hf" / "reference.json");
  const auto expected = reference.at("greedy_from_bos").get<std::vector<std::int32_t>>();
  for (const char* file : {"stories260K.f32.gguf", "stories260K.F16.gguf"}) {
    const CpuModel model = CpuModel::load(folder / file);
    CHECK(model.shape().rope_pairing == RopePairing::interleaved);
    CHECK(model.shape().max_positions == 128);
    Context<Cpu> ctx;
    const std::size_t count = std::min<std::size_t>(expected.size() - 1, 120);
    const auto ids = fixture::greedy(model, ctx, {1}, count);
    CHECK(std::equal(ids.begin(), ids.end(), expected.begin() + 1));
  }
}

}  // namespace gguf_config_test
