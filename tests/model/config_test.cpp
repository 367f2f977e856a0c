// SPDX-License-Identifier: Apache-2.0
// config.json: what it may leave out, what it may not, and what contradicts the tensors.
#include <catch2/catch.hpp>

#include "model/fixture.hpp"
#include "support/errors.hpp"

namespace config_test {

using namespace ziya;
using nlohmann::json;

json minimal() {
  return {{"hidden_size", 64},
          {"intermediate_size", 108},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"vocab_size", 192}};
}
json with(const char* key, json value) {
  json config = minimal();
  config[key] = std::move(value);
  return config;
}
LlamaShape parse(const json& config) { return parse_llama_shape(config.dump(), "config.json"); }

/// The error that reading gives; it has to name the file and `named`.
std::string refused(const json& config, const std::string& named) {
  try {
    (void)parse(config);
  } catch (const Error& error) {
    const std::string what = error.what();
    INFO(what);
    CHECK(what.find("config.json") == 0);
    CHECK(what.find(named) != std::string::npos);
    return error.id();
  }
  return "accepted";
}

TEST_CASE("what a config may leave out has the reference's defaults") {
  const LlamaShape shape = parse(minimal());
  CHECK(shape.kv_heads == 4);
  CHECK(shape.head_dim == 16);
  CHECK(shape.max_positions == 2048);
  CHECK(shape.rms_eps == 1e-6);
  CHECK(shape.rope_base == 10000.0);
  CHECK(shape.rope_scaling.kind == RopeScaling::Kind::none);
  CHECK_FALSE((shape.tied_head || shape.attention_bias || shape.mlp_bias));
  // null means absent, as Transformers writes it
  for (const char* key : {"num_key_value_heads", "head_dim", "rope_scaling", "rms_norm_eps"}) {
    CHECK(parse(with(key, nullptr)) == shape);
  }
  // unknown and irrelevant fields, class names included, do not matter
  CHECK(parse(with("architectures", {"LLaMAForCausalLM"})) == shape);
  CHECK(parse(with("torch_dtype", "float16")) == shape);
  CHECK(parse(with("use_cache", false)) == shape);
}

TEST_CASE("the published Ziya config") {
  const LlamaShape shape = parse({{"architectures", {"LlamaForCausalLM"}},
                                  {"model_type", "llama"},
                                  {"hidden_act", "silu"},
                                  {"hidden_size", 5120},
                                  {"intermediate_size", 13824},
                                  {"num_hidden_layers", 40},
                                  {"num_attention_heads", 40},
                                  {"rms_norm_eps", 1e-06},
                                  {"max_position_embeddings", 2048},
                                  {"tie_word_embeddings", false},
                                  {"vocab_size", 39424}});
  CHECK(shape.parameters() == 13'091'886'080);
  CHECK(shape.parameters_read_per_token() == 12'890'035'200);
  CHECK(shape.cache_bytes_per_token(DType::f16) == 819'200);
  CHECK(shape.cache_bytes_per_token(DType::q8_0) == 435'200);
}

TEST_CASE("every required field: missing, of another kind, out of range") {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "vocab_size"}) {
    INFO(key);
    json config = minimal();
    config.erase(key);
    CHECK(refused(config, key) == "ZIYA-412");
    CHECK(refused(with(key, nullptr), key) == "ZIYA-412");
    for (const json& value : {json(0), json(-64), json("64"), json(64.5), json::array({64}),
                              json(true), json(std::int64_t{1} << 40), json(1e300)}) {
      INFO(value.dump());
      CHECK(refused(with(key, value), key) == "ZIYA-413");
    }
  }
}

TEST_CASE("optional fields out of their domain") {
  CHECK(refused(with("rms_norm_eps", 0), "rms_norm_eps") == "ZIYA-413");
  CHECK(refused(with("rms_norm_eps", -1e-6), "rms_norm_eps") == "ZIYA-413");
  CHECK(refused(with("rms_norm_eps", "1e-6"), "rms_norm_eps") == "ZIYA-413");
  CHECK(refused(with("rope_theta", 0), "rope_theta") == "ZIYA-413");
  CHECK(refused(with("rope_theta", "10000"), "rope_theta") == "ZIYA-413");
  CHECK(refused(with("tie_word_embeddings", 1), "tie_word_embeddings") == "ZIYA-413");
  CHECK(refused(with("max_position_embeddings", 0), "max_position_embeddings") == "ZIYA-413");
  CHECK(refused(with("head_dim", 0), "head_dim") == "ZIYA-413");
}

TEST_CASE("fields that contradict one another") {
  CHECK(refused(with("num_attention_heads", 5), "num_attention_heads") == "ZIYA-414");
  CHECK(refused(with("num_key_value_heads", 3), "num_key_value_heads") == "ZIYA-414");
  CHECK(refused(with("num_key_value_heads", 8), "num_key_value_heads") == "ZIYA-414");
  CHECK(refused(with("head_dim", 15), "head_dim") == "ZIYA-414");
}

TEST_CASE("what the library does not do is refused by name, not ignored") {
  CHECK(refused(with("hidden_act", "gelu"), "gelu") == "ZIYA-415");
  CHECK(refused(with("model_type", "mistral"), "mistral") == "ZIYA-415");
  CHECK(refused(with("sliding_window", 4096), "sliding_window") == "ZIYA-415");
  CHECK(refused(with("quantization_config", {{"bits", 4}}), "quantization_config") == "ZIYA-415");
  CHECK(refused(with("rope_scaling", {{"type", "yarn"}, {"factor", 2.0}}), "yarn") == "ZIYA-415");
  CHECK(refused(with("partial_rotary_factor", 0.5), "partial_rotary_factor") == "ZIYA-415");
}

TEST_CASE("rotary scaling in the spellings of all versions of Transformers") {
  const auto kind = [](const json& config) { return parse(config).rope_scaling.kind; };
  using Kind = RopeScaling::Kind;
  for (const char* spelling : {"type", "rope_type"}) {
    CHECK(kind(with("rope_scaling", {{spelling, "linear"}, {"factor", 2.0}})) == Kind::linear);
    CHECK(kind(with("rope_scaling", {{spelling, "dynamic"}, {"factor", 4}})) == Kind::dynamic);
    CHECK(kind(with("rope_scaling", {{spelling, "default"}})) == Kind::none);
  }
  const json joined{{"rope_type", "llama3"},   {"rope_theta", 5e5},
                    {"factor", 8.0},           {"low_freq_factor", 1.0},
                    {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  const LlamaShape shape = parse(with("rope_parameters", joined));
  CHECK(shape.rope_base == 5e5);
  CHECK(shape.rope_scaling == RopeScaling{Kind::llama3, 8.0, 1.0, 4.0, 8192});
  CHECK(parse(with("rope_parameters", {{"rope_theta", 3e4}, {"rope_type", "default"}})).rope_base ==
        3e4);
  for (const char* key :
       {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    json part = joined;
    part.erase(key);
    CHECK(refused(with("rope_parameters", part), key) == "ZIYA-412");
    part[key] = "8";
    CHECK(refused(with("rope_parameters", part), key) == "ZIYA-413");
  }
  CHECK(refused(with("rope_scaling", {{"type", "linear"}}), "factor") == "ZIYA-412");
  CHECK(refused(with("rope_scaling", {{"type", "linear"}, {"factor", 0.5}}), "factor") ==
        "ZIYA-413");
  CHECK(refused(with("rope_scaling", {{"factor", 2.0}}), "rope_scaling") == "ZIYA-412");
  CHECK(refused(with("rope_scaling", "linear"), "rope_scaling") == "ZIYA-413");
  CHECK(refused(with("rope_scaling", {{"type", 3}, {"factor", 2.0}}), "rope_scaling") ==
        "ZIYA-413");
}

TEST_CASE("text that is no config") {
  for (const char* text : {"", "{", "[]", "3", "null", "{\"hidden_size\": 64, \"hidden_size\": 32}",
                           "{\"hidden_size\": NaN}", "\xff\xfe"}) {
    INFO(text);
    CHECK_THROWS_AS(parse_llama_shape(text, "config.json"), Error);
  }
  CHECK_THROWS_AS(parse_llama_shape(std::string(100'000, '['), "config.json"), Error);
  REQUIRE_ERROR(parse_llama_shape("[]", "config.json"), "ZIYA-411", "expected an object");
  const fixture::TemporaryFolder folder;
  CHECK_THROWS_AS(read_llama_shape(folder.path()), IoError);
}

/// A whole model folder, changed by `change`, and the error that loading it gives.
std::string load_error(const std::function<void(fixture::Tensors&, json&)>& change) {
  const json& entry = fixture::case_named("plain");
  fixture::Tensors tensors = fixture::case_weights(entry, DType::f16);
  json config = entry.at("config");
  change(tensors, config);
  const fixture::TemporaryFolder folder;
  fixture::write_weights(folder.path(), tensors);
  fixture::write_file(folder.path() / "config.json", config.dump());
  try {
    (void)CpuModel::load(folder.path());
  } catch (const Error& error) {
    return error.what();
  }
  return "loaded";
}

TEST_CASE("a config that contradicts the tensors") {
  using fixture::Tensors;
  const auto has = [](const std::string& text, std::initializer_list<const char*> parts) {
    INFO(text);
    for (const char* part : parts) CHECK(text.find(part) != std::string::npos);
  };
  const auto set = [](const char* key, json value) {
    return load_error([=](Tensors&, json& config) { config[key] = value; });
  };
  CHECK(load_error([](Tensors&, json&) {}) == "loaded");
  has(set("vocab_size", 200), {"model.embed_tokens.weight", "(192, 64)", "(200, 64)", "ZIYA-432"});
  has(set("hidden_size", 32), {"ZIYA-432"});
  has(set("intermediate_size", 112), {"gate_proj", "(108, 64)", "(112, 64)", "ZIYA-432"});
  has(set("num_hidden_layers", 3), {"model.layers.2.", "missing", "ZIYA-431"});
  has(set("num_hidden_layers", 1), {"model.layers.1.", "no place", "ZIYA-435"});
  has(set("num_key_value_heads", 2), {"k_proj", "ZIYA-432"});
  has(set("head_dim", 32), {"q_proj", "ZIYA-432"});
  has(set("attention_bias", true), {"bias", "missing", "ZIYA-431"});
  has(set("mlp_bias", true), {"bias", "missing", "ZIYA-431"});
  CHECK(set("vocab_size", -1) == "loaded");  // old configs; the embedding decides
  has(load_error([](Tensors& tensors, json&) { tensors.erase("lm_head.weight"); }),
      {"lm_head.weight", "missing", "ZIYA-431"});
  has(load_error([](Tensors& tensors, json&) {
        tensors["model.layers.0.self_attn.q_proj.bias"] =
            fixture::stored(Shape{64}, std::vector<float>(64), DType::f16);
      }),
      {"q_proj.bias", "no place", "ZIYA-435"});
  has(load_error([](Tensors& tensors, json&) { tensors["model.norm.weight"].dtype = DType::i16; }),
      {"model.norm.weight", "i16", "ZIYA-433"});
}

TEST_CASE("stored inverse frequencies are ignored, differences are refused") {
  CHECK(load_error([](fixture::Tensors& tensors, json&) {
          tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] =
              fixture::stored(Shape{8}, std::vector<float>(8, 123.0f), DType::f32);
        }) == "loaded");
  const std::string delta = load_error([](fixture::Tensors& tensors, json&) {
    for (auto& [name, tensor] : tensors) {  // the kind is told from all norms, not one
      if (name.ends_with("norm.weight")) {
        tensor = fixture::stored(Shape{64}, std::vector<float>(64, 0.01f), DType::f16);
      }
    }
  });
  INFO(delta);
  CHECK(delta.find("delta") != std::string::npos);
  CHECK(delta.find("ziya merge-delta") != std::string::npos);
}

}  // namespace config_test
