// SPDX-License-Identifier: Apache-2.0
// Meta's layout becomes Hugging Face's, bit for bit as PyTorch does it
// (reference/layouts_golden.py).
#include "ziya/convert/meta_source.hpp"

#include <catch2/catch.hpp>
#include <fstream>
#include <thread>

#include "convert/sources.hpp"
#include "support/errors.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/convert/checklist.hpp"
#include "ziya/model/llama_config.hpp"
#include "ziya/text/tokenizer.hpp"

namespace meta_source_test {

namespace fs = std::filesystem;
using test::TemporaryDirectory;
using ziya::DType;

const fs::path golden = ZIYA_TEST_DATA "/layouts/meta";

std::shared_ptr<const ziya::TensorSource> source_of(const fs::path& folder) {
  return ziya::MetaReader(ziya::find_meta_folder(folder)).source();
}

/// A copy of a golden folder that a test may damage.
struct Copy : TemporaryDirectory {
  explicit Copy(const std::string& name) {
    fs::copy(golden / name, path(), fs::copy_options::recursive);
  }
  void replace(const std::string& from, const std::string& to) const {
    std::string text = test::read_file(path() / "params.json");
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    file("params.json", text.replace(at, from.size(), to));
  }
};

TEST_CASE("Meta shards are joined and permuted as PyTorch does it", "[meta]") {
  for (const char* name : {"one", "two", "four", "rows"}) {
    INFO(name);
    test::require_same(*source_of(golden / name), golden / name / "expected.safetensors");
  }
}

TEST_CASE("rotary tables are passed over in layers too, other strange tensors are not", "[meta]") {
  const auto shard = ziya::Checkpoint::open(golden / "rows" / "consolidated.00.pth");
  REQUIRE(shard.find("layers.0.attention.inner_attention.rope.freqs") != nullptr);
  REQUIRE(shard.find("rope.freqs") == nullptr);
  const auto source = source_of(golden / "rows");  // not refused
  for (const auto& tensor : source->tensors()) {
    REQUIRE(tensor.name.find("freq") == std::string::npos);
  }
}

TEST_CASE("Meta folders of the shared checkpoint, one and two shards, are that checkpoint",
          "[meta]") {
  const fs::path shared = ZIYA_SHARED_DATA;
  if (!fs::exists(shared / "torch-fixtures/meta")) {
    WARN("SKIPPED: no " << shared.string());
    return;
  }
  const auto expected = ziya::Checkpoint::open(shared / "stories260K-hf");
  for (const char* name : {"meta", "meta-mp2"}) {
    INFO(name);
    const auto source = source_of(shared / "torch-fixtures" / name);
    for (std::size_t i = 0; i < source->tensors().size(); ++i) {
      const auto& tensor = source->tensors()[i];
      INFO(tensor.name);
      // The fixture's output.weight is the embedding, to which the checkpoint ties its head.
      const std::string stored =
          tensor.name == "lm_head.weight" ? "model.embed_tokens.weight" : tensor.name;
      REQUIRE(expected.find(stored) != nullptr);
      std::vector<std::byte> right(static_cast<std::size_t>(tensor.bytes()));
      expected.read(stored, right);
      const bool same = test::whole(*source, i) == right;
      REQUIRE(same);
    }
  }
}

TEST_CASE("a Meta source is read by several threads at once", "[meta]") {
  const auto source = source_of(golden / "two");
  const auto expected = ziya::Checkpoint::open(golden / "two" / "expected.safetensors");
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int round = 0; round < 5; ++round) {
        for (std::size_t i = 0; i < source->tensors().size(); ++i) {
          const auto got = test::whole(*source, i);
          std::vector<std::byte> right(got.size());
          expected.read(source->tensors()[i].name, right);
          wrong += got == right ? 0 : 1;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  REQUIRE(wrong == 0);
}

TEST_CASE("a Meta folder is found with and without the model's size, the tokenizer in either place",
          "[meta]") {
  const TemporaryDirectory folder;
  fs::copy(golden / "two", folder / "13B", fs::copy_options::recursive);
  REQUIRE_ERROR(ziya::find_meta_folder(folder.path()), "ZIYA-612", "--model-size: 13B");
  REQUIRE(ziya::find_meta_folder(folder.path(), "13B").shards.size() == 2);
  REQUIRE(ziya::find_meta_folder(folder / "13B", "13B").shards.size() == 2);
  REQUIRE(ziya::find_meta_folder(folder / "13B").tokenizer.empty());
  REQUIRE_ERROR(ziya::open_meta_model(folder / "13B"), "ZIYA-616", "tokenizer.model");
  folder.file("tokenizer.model", "above");
  const auto read = [&] { return ziya::open_meta_model(folder / "13B").files; };
  REQUIRE(read().at("tokenizer.model") == "above");
  folder.file("13B/tokenizer.model", "beside");
  REQUIRE(read().at("tokenizer.model") == "beside");
  REQUIRE(ziya::find_meta_folder(folder / "13B").checklist == folder / "13B" / "checklist.chk");
}

TEST_CASE("config.json says what params.json and the shards say", "[meta]") {
  const auto shape_of = [](const char* name, ziya::MetaOptions options = {}) {
    options.needs_tokenizer = false;
    const auto model = ziya::open_meta_model(golden / name, options);
    const auto json = nlohmann::json::parse(model.files.at("config.json"));
    REQUIRE(json["bos_token_id"] == 1);
    REQUIRE(json["eos_token_id"] == 2);
    REQUIRE(json["pad_token_id"] == 0);
    REQUIRE(json["architectures"][0] == "LlamaForCausalLM");
    return ziya::parse_llama_shape(model.files.at("config.json"), "config.json");
  };
  const auto one = shape_of("one"), two = shape_of("two"), four = shape_of("four");
  REQUIRE(one.intermediate == 84);
  REQUIRE(one.vocabulary == 41);
  REQUIRE(one.kv_heads == 1);
  REQUIRE(one.rms_eps == 1e-6);
  REQUIRE(one.max_positions == 4096);  // grouped queries: not LLaMA-1
  REQUIRE(two.intermediate == 90);
  REQUIRE(two.max_positions == 4096);
  REQUIRE(two.rms_eps == 1e-5);
  REQUIRE(four.rope_base == 1e6);
  REQUIRE(four.kv_heads == 4);
  REQUIRE(four.max_positions == 16384);
  REQUIRE(shape_of("rows").max_positions == 2048);
  ziya::MetaOptions options;
  options.max_positions = 4000;
  REQUIRE(shape_of("rows", options).max_positions == 4000);
  struct Published {
    std::int64_t dim, layers, heads, intermediate;
  };
  for (const Published& size : {Published{4096, 32, 32, 11008}, Published{5120, 40, 40, 13824},
                                Published{6656, 60, 52, 17920}, Published{8192, 80, 64, 22016}}) {
    const std::string text = R"({"dim": )" + std::to_string(size.dim) + R"(, "n_layers": )" +
                             std::to_string(size.layers) + R"(, "n_heads": )" +
                             std::to_string(size.heads) + R"(, "multiple_of": 256})";
    REQUIRE(ziya::parse_meta_params(text, "LLaMA-1").intermediate() == size.intermediate);
  }
  REQUIRE(ziya::parse_meta_params(R"({"dim": 8192, "n_layers": 80, "n_heads": 64, "n_kv_heads": 8,
                                      "multiple_of": 4096, "ffn_dim_multiplier": 1.3})",
                                  "70B")
              .intermediate() == 28672);
}

TEST_CASE("the tokenizer's files that a conversion adds change no encoding", "[meta]") {
  const fs::path shared = ZIYA_SHARED_DATA "/llama-tokenizer/tokenizer.model";
  if (!fs::exists(shared)) {
    WARN("SKIPPED: no " << shared.string());
    return;
  }
  const TemporaryDirectory folder;
  fs::create_directories(folder / "bare");
  fs::copy_file(shared, folder / "bare" / "tokenizer.model");
  fs::copy_file(shared, folder / "tokenizer.model");
  for (const auto& [name, text] : ziya::hf_side_files()) folder.file(name, text);
  const auto bare = ziya::Tokenizer::load(folder / "bare"),
             full = ziya::Tokenizer::load(folder.path());
  REQUIRE(full.contains(31999));
  REQUIRE(!full.contains(32000));
  for (const char* text : {"", " a  b", "<s>x</s> y", "<unk>", "你好\n", "\t1234", "<human>:a"}) {
    INFO(text);
    for (const auto mode : {ziya::TokenizerMode::legacy, ziya::TokenizerMode::plain}) {
      REQUIRE(bare.encode(text, {.mode = mode}) == full.encode(text, {.mode = mode}));
    }
  }
}

TEST_CASE("Meta shards that are missing or do not fit one another are named", "[meta]") {
  {
    const Copy copy("four");
    fs::remove(copy / "consolidated.01.pth");
    REQUIRE_ERROR(source_of(copy.path()), "ZIYA-613", "consolidated.01.pth");
  }
  {
    const Copy copy("four");  // the last is missing: shapes tell
    fs::remove(copy / "consolidated.03.pth");
    REQUIRE_ERROR(source_of(copy.path()), "ZIYA-614", "params.json");
  }
  {
    const Copy copy("two");
    fs::copy_file(golden / "rows" / "consolidated.01.pth", copy / "consolidated.01.pth",
                  fs::copy_options::overwrite_existing);
    REQUIRE_ERROR(source_of(copy.path()), "ZIYA-613", "consolidated.01.pth");
  }
  {
    const Copy copy("two");
    const auto whole = fs::file_size(copy / "consolidated.01.pth");
    fs::resize_file(copy / "consolidated.01.pth", whole / 2);
    REQUIRE_ERROR(source_of(copy.path()), "ZIYA-220", "consolidated.01.pth");
  }
  const TemporaryDirectory empty;
  REQUIRE_ERROR(source_of(empty.path()), "ZIYA-612", "consolidated.00.pth");
  const Copy copy("one");
  fs::remove(copy / "params.json");
  REQUIRE_ERROR(source_of(copy.path()), "ZIYA-612", "params.json");
}

TEST_CASE("a params.json that is wrong or contradicts the weights is refused", "[meta]") {
  const auto refused = [](const char* from, const char* to, const char* part) {
    const Copy copy("two");
    copy.replace(from, to);
    INFO(from << " -> " << to);
    REQUIRE_ERROR(source_of(copy.path()), "ZIYA-614", part);
  };
  refused("\"multiple_of\": 10", "\"multiple_of\": 16", "multiple_of");
  refused("\"ffn_dim_multiplier\": 1.3", "\"ffn_dim_multiplier\": 1.0", "ffn_dim_multiplier");
  refused("\"dim\": 24", "\"dim\": 28", "28");
  refused("\"dim\": 24", "\"dim\": 25", "n_heads");
  refused("\"n_heads\": 4", "\"n_heads\": 6", "(8, 24)");
  refused("\"n_kv_heads\": 2", "\"n_kv_heads\": 3", "n_kv_heads");
  refused("\"n_kv_heads\": 2", "\"n_kv_heads\": 4", "attention.wk");
  refused("\"vocab_size\": -1", "\"vocab_size\": 40", "38 rows");
  refused("\"norm_eps\": 1e-05", "\"norm_eps\": -1", "norm_eps");
  refused("\"dim\": 24", "\"dim\": 24, \"use_scaled_rope\": true", "use_scaled_rope");
  const auto unfit = [](const char* from, const char* to, const char* part) {
    const Copy copy("two");
    copy.replace(from, to);
    REQUIRE_ERROR(source_of(copy.path()), "ZIYA-613", part);
  };
  unfit("\"n_layers\": 2", "\"n_layers\": 3", "layers.2.");
  unfit("\"n_layers\": 2", "\"n_layers\": 1", "layers.1.");
  const Copy copy("two");
  copy.file("params.json", "{}");
  REQUIRE_ERROR(source_of(copy.path()), "ZIYA-231", "dim");
  copy.file("params.json", "[1]");
  REQUIRE_ERROR(source_of(copy.path()), "ZIYA-231", "dim");
}

TEST_CASE("checklist.chk is compared with the files it lists", "[meta]") {
  for (const char* name : {"one", "two", "four"}) {
    REQUIRE(ziya::verify_checklist(golden / name / "checklist.chk") >= 2);
  }
  const Copy copy("two");
  const auto list = copy / "checklist.chk";
  std::int64_t told = 0;
  ziya::verify_checklist(list, {}, [&](std::int64_t done, std::int64_t all) {
    REQUIRE(done <= all);
    told = done;
  });
  REQUIRE(told > 1000);
  {
    std::fstream shard(copy / "consolidated.01.pth",
                       std::ios::in | std::ios::out | std::ios::binary);
    shard.seekp(700);
    shard.put('!');
  }
  REQUIRE_ERROR(ziya::verify_checklist(list), "ZIYA-615", "consolidated.01.pth");
  REQUIRE(ziya::verify_checklist(
              list, [](const std::string& file) { return file != "consolidated.01.pth"; }) == 2);
  fs::remove(copy / "consolidated.01.pth");
  REQUIRE_ERROR(ziya::verify_checklist(list), "ZIYA-615", "missing");
  copy.file("checklist.chk", "no sum  params.json\n");
  REQUIRE_ERROR(ziya::verify_checklist(list), "ZIYA-615", "MD5");
  copy.file("checklist.chk", std::string(32, 'a') + "  ../params.json\n");
  REQUIRE_ERROR(ziya::verify_checklist(list), "ZIYA-615", "MD5");
  const std::atomic<bool> cancel{true};
  REQUIRE_ERROR(ziya::verify_checklist(golden / "one" / "checklist.chk", {}, {}, &cancel),
                "ZIYA-606", "cancelled");
}

}  // namespace meta_source_test
