// SPDX-License-Identifier: Apache-2.0
// Folders to GGUF files and back: equal bits, and the ids that llama.cpp continues with.
#include "ziya/convert/gguf_model.hpp"

#include <catch2/catch.hpp>

#include "model/ziya_tiny.hpp"
#include "support/errors.hpp"
#include "support/fault.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/convert/hf_writer.hpp"

namespace gguf_model_test {

using namespace ziya;
using test::TemporaryDirectory;

/// Converts to GGUF and back and compares every tensor with the one it began as.
void check_round_trip(const std::filesystem::path& folder, DType type) {
  const TemporaryDirectory scratch;
  ConvertOptions options;
  options.type = type;
  write_gguf_model(open_hf_model(folder), scratch / "m.gguf", options);
  write_hf_model(open_gguf_model(scratch / "m.gguf"), scratch / "back", options);
  const auto before = fixture::read_all(folder), after = fixture::read_all(scratch / "back");
  for (const auto& [name, tensor] : before) {
    if (name.find("inv_freq") != std::string::npos) continue;
    CAPTURE(name);
    REQUIRE(after.contains(name));
    REQUIRE(after.at(name).shape == tensor.shape);
    REQUIRE(after.at(name).dtype == type);
    REQUIRE(after.at(name).bytes ==
            fixture::stored(tensor.shape, fixture::widened(tensor), type).bytes);
  }
  LlamaShape expected = read_llama_shape(folder);
  CHECK(read_llama_shape(scratch / "back") == expected);
  expected.rope_pairing = RopePairing::interleaved;
  CHECK(read_llama_shape(scratch / "m.gguf") == expected);
}

/// A folder of a golden case, with a tokenizer of as many pieces as the model has rows.
void write_case(const std::filesystem::path& folder, const std::string& name, DType type) {
  fixture::write_case(folder, name, type);
  std::vector<SentencePieceModel::Piece> pieces{
      {"<unk>", SentencePieceModel::PieceType::unknown, 0}};
  for (int i = 0; i < 5; ++i) {
    pieces.push_back({"p" + std::to_string(i), SentencePieceModel::PieceType::normal, -1});
  }
  fixture::write_file(folder / "tokenizer.model", SentencePieceModel::assemble(pieces, ""));
}

TEST_CASE("gguf model: what keeps its order of rows is mapped, q and k are copies", "[convert]") {
  const TemporaryDirectory scratch;
  const auto& tiny = fixture::ZiyaTiny::instance();
  ConvertOptions options;
  options.type = DType::f16;
  write_gguf_model(open_hf_model(tiny.folder()), scratch / "m.gguf", options);
  const auto tensors = open_gguf_model(scratch / "m.gguf").tensors;
  std::size_t copies = 0;
  for (std::size_t i = 0; i < tensors->tensors().size(); ++i) {
    const TensorSpec& tensor = tensors->tensors()[i];
    CAPTURE(tensor.name);
    const MappedTensor once = tensors->map(i), twice = tensors->map(i);
    const bool copied = once.data != twice.data;
    copies += copied;
    REQUIRE(copied == (tensor.name.find("q_proj") != std::string::npos ||
                       tensor.name.find("k_proj") != std::string::npos));
    std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes())), again(bytes.size());
    tensors->read(i, 0, bytes);
    tensors->read_mapped(once.data, again);
    REQUIRE(bytes == again);
    REQUIRE(std::equal(bytes.begin(), bytes.end(), once.data));
  }
  REQUIRE(copies > 0);
}

TEST_CASE("gguf model: there and back changes no bit", "[convert]") {
  const auto& tiny = fixture::ZiyaTiny::instance();
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    check_round_trip(tiny.folder(), type);
  }
  for (const auto& entry : fixture::cases()) {
    const TemporaryDirectory folder;
    const auto name = entry.at("name").get<std::string>();
    CAPTURE(name);
    write_case(folder.path(), name, DType::f16);
    if (read_llama_shape(folder.path()).rope_scaling.kind == RopeScaling::Kind::dynamic) {
      REQUIRE_ERROR(write_gguf_model(open_hf_model(folder.path()), folder / "m.gguf"), "ZIYA-259",
                    "dynamic");
      continue;
    }
    check_round_trip(folder.path(), DType::f16);
  }
}

TEST_CASE("gguf model: the hidden states are those of the folder", "[convert]") {
  for (const auto& entry : fixture::cases()) {
    const TemporaryDirectory folder;
    const auto name = entry.at("name").get<std::string>();
    CAPTURE(name);
    write_case(folder.path(), name, DType::f32);
    const CpuModel model = CpuModel::load(folder.path());
    if (model.shape().rope_scaling.kind == RopeScaling::Kind::dynamic) continue;
    write_gguf_model(open_hf_model(folder.path()), folder / "m.gguf");
    const CpuModel other = CpuModel::load(folder / "m.gguf");
    const std::vector<std::int32_t> ids{1, 5, 9, 2, 7, 30, 11, 4, 8, 3, 6, 12};
    Context<Cpu> ctx;
    KvCache<Cpu> one = fixture::make_cache(model), two = fixture::make_cache(other);
    const auto a = fixture::hidden(model, ctx, fixture::Rows(ids, 0, ids.size()), one);
    const auto b = fixture::hidden(other, ctx, fixture::Rows(ids, 0, ids.size()), two);
    // The elements of a head come in another order, so sums may be rounded otherwise.
    CHECK(golden::error(fixture::copy(b), fixture::copy(a),
                        static_cast<std::size_t>(model.shape().hidden)) < 1e-5);
  }
}

TEST_CASE("gguf model: our loader continues as llama.cpp does", "[convert]") {
  const nlohmann::json golden = read_json_file(golden::folder("gguf") / "llama_cpp.json");
  for (const auto& [name, cases] : golden.at("models").items()) {
    const auto folder = name == "ziya-tiny" ? fixture::ZiyaTiny::instance().folder()
                                            : golden::shared("stories260K-hf");
    if (folder.empty()) continue;
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      const TemporaryDirectory scratch;
      ConvertOptions options;
      options.type = type;
      write_gguf_model(open_hf_model(folder), scratch / "m.gguf", options);
      const CpuModel model = CpuModel::load(scratch / "m.gguf");
      Context<Cpu> ctx;
      int found = 0;
      for (const auto& entry : cases) {
        if (entry.at("type") != ziya::name(type)) continue;
        const auto expected = entry.at("ids").get<std::vector<std::int32_t>>();
        CAPTURE(name, ziya::name(type));
        CHECK(fixture::greedy(model, ctx, entry.at("prompt_ids"), expected.size()) == expected);
        ++found;
      }
      CHECK(found > 1);
    }
  }
}

TEST_CASE("gguf model: bytes do not depend on the number of threads", "[convert]") {
  const TemporaryDirectory scratch;
  std::vector<std::string> files;
  for (const int threads : {1, 5}) {
    ConvertOptions options;
    options.threads = threads;
    options.overwrite = true;
    options.type = DType::bf16;
    const auto report = write_gguf_model(open_hf_model(fixture::ZiyaTiny::instance().folder()),
                                         scratch / "m.gguf", options);
    CHECK(report.tensors == 30);
    files.push_back(test::read_file(scratch / "m.gguf"));
  }
  CHECK(files[0] == files[1]);
}

TEST_CASE("gguf model: rows in pieces of any size are the rows in one piece", "[convert]") {
  const auto& tiny = fixture::ZiyaTiny::instance();
  const auto checkpoint = std::make_shared<const CheckpointSource>(Checkpoint::open(tiny.folder()));
  const GgufSource source(checkpoint, tiny.model().shape(), RopePairing::interleaved);
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    const TensorSpec& tensor = source.tensors()[i];
    if (tensor.name != "model.layers.1.self_attn.k_proj.weight") continue;
    std::vector<std::byte> whole(static_cast<std::size_t>(tensor.bytes())), pieces;
    source.read(i, 0, whole);
    const std::int64_t elements = tensor.shape.elements();
    for (std::int64_t first = 0, step = 1; first < elements; first += step, step = step * 3 + 1) {
      step = std::min(step, elements - first);
      std::vector<std::byte> piece(static_cast<std::size_t>(step * 2));
      source.read(i, first, piece);
      pieces.insert(pieces.end(), piece.begin(), piece.end());
    }
    CHECK(pieces == whole);
    // Row 1 of a head of 64 rows is row 32 of the folder's.
    std::vector<std::byte> stored(whole.size());
    Checkpoint::open(tiny.folder()).read(tensor.name, stored);
    const auto row = static_cast<std::size_t>(tensor.shape[1] * 2);
    CHECK(std::equal(stored.begin() + 32 * static_cast<std::ptrdiff_t>(row),
                     stored.begin() + 33 * static_cast<std::ptrdiff_t>(row),
                     whole.begin() + static_cast<std::ptrdiff_t>(row)));
  }
}

TEST_CASE("gguf model: quantised tensors become what they stand for", "[convert]") {
  const auto folder = golden::shared("stories260K-gguf");
  if (folder.empty()) return;
  const TemporaryDirectory scratch;
  const ModelSource model = open_gguf_model(folder / "stories260K.Q6_K.gguf");
  REQUIRE_ERROR(write_hf_model(model, scratch / "hf"), "ZIYA-608", "choose --type");
  ConvertOptions options;
  options.type = DType::f32;
  write_hf_model(model, scratch / "hf", options);
  const auto got = fixture::read_all(scratch / "hf");
  for (const auto& [name, tensor] : fixture::read_all(folder.parent_path() / "stories260K-hf")) {
    const auto expected = fixture::widened(tensor), values = fixture::widened(got.at(name));
    CAPTURE(name);
    double difference = 0, square = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      difference += std::pow(double{values[i]} - double{expected[i]}, 2);
      square += std::pow(double{expected[i]}, 2);
    }
    CHECK(std::sqrt(difference / square) < 0.02);
  }
}

TEST_CASE("gguf model: what cannot be written is refused, and nothing is left", "[convert]") {
  const TemporaryDirectory scratch;
  const ModelSource model = open_hf_model(fixture::ZiyaTiny::instance().folder());
  const auto target = scratch.file("m.gguf", "old");
  REQUIRE_ERROR(write_gguf_model(model, target), "ZIYA-208", "exists already");
  REQUIRE_ERROR(write_gguf_model(model, scratch.path()), "ZIYA-208", "exists already");
  ConvertOptions options;
  options.overwrite = true;
  options.hooks = test::faulty(test::Fault::disk_full, 500'000);
  REQUIRE_ERROR(write_gguf_model(model, target, options), "ZIYA-206", "m.gguf");
  options.hooks = {};
  const std::atomic<bool> cancel{true};
  options.cancel = &cancel;
  REQUIRE_ERROR(write_gguf_model(model, target, options), "ZIYA-606", "cancelled");
  CHECK(test::read_file(target) == "old");
  CHECK(test::count_entries(scratch.path()) == 1);
  ModelSource broken = model;
  broken.files.erase("config.json");
  REQUIRE_ERROR(write_gguf_model(broken, scratch / "n.gguf"), "ZIYA-412", "config.json");
  broken = model;
  broken.files.erase("tokenizer.model");
  REQUIRE_ERROR(write_gguf_model(broken, scratch / "n.gguf"), "ZIYA-301", "tokenizer.model");
  broken = model;
  auto config = parse_json(model.files.at("config.json"), "config");
  config["num_hidden_layers"] = 4;
  broken.files["config.json"] = config.dump();
  REQUIRE_ERROR(write_gguf_model(broken, scratch / "n.gguf"), "ZIYA-431", "model.layers.3");
  config["num_hidden_layers"] = 3;
  config["num_attention_heads"] = 8;
  config["head_dim"] = 64;
  broken.files["config.json"] = config.dump();
  REQUIRE_ERROR(write_gguf_model(broken, scratch / "n.gguf"), "ZIYA-432", "expected 512 rows");
  broken = model;
  broken.identity.clear();
  options = {};
  options.resume = true;
  REQUIRE_ERROR(write_gguf_model(broken, scratch / "n.gguf", options), "ZIYA-644", "made from");
  write_gguf_model(model, scratch / "n.gguf", options);  // nothing is there yet
  REQUIRE_ERROR(open_hf_model(scratch / "n.gguf"), "ZIYA-260", "n.gguf");
  REQUIRE_ERROR(open_gguf_model(fixture::ZiyaTiny::instance().folder()), "ZIYA-250", "not a GGUF");
}

}  // namespace gguf_model_test
