// SPDX-License-Identifier: Apache-2.0
// One call for every layout: the same tensors, where they came from, and what is recorded of them.
#include "ziya/convert/open_source.hpp"

#include <catch2/catch.hpp>

#include "convert/sources.hpp"
#include "model/ziya_tiny.hpp"
#include "support/errors.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/convert/fingerprint.hpp"
#include "ziya/convert/gguf_model.hpp"

namespace open_source_test {

namespace fs = std::filesystem;
using test::TemporaryDirectory;
using ziya::open_source;

const fs::path data = ZIYA_TEST_DATA, tiny = ZIYA_EXAMPLES "/ziya-tiny";

TEST_CASE("open source: Meta's folder is the Hugging Face folder of the same weights",
          "[open_source]") {
  const auto meta = open_source(tiny / "llama/3M"), hf = open_source(tiny / "base");
  REQUIRE(meta.files.size() == 2);
  REQUIRE(meta.path.filename() == "3M");
  REQUIRE(meta.notes.size() == 1);
  REQUIRE(meta.notes[0].find("Meta's layout") != std::string::npos);
  REQUIRE(meta.metadata.empty());
  REQUIRE(hf.files.size() == 2);
  REQUIRE(hf.notes.empty());
  REQUIRE(ziya::fingerprint(*meta.source).model() == ziya::fingerprint(*hf.source).model());
  for (const char* name : {"one", "two", "four", "rows"}) {
    INFO(name);
    test::require_same(*open_source(data / "layouts/meta" / name).source,
                       data / "layouts/meta" / name / "expected.safetensors");
  }
}

TEST_CASE("open source: a GGUF file has Hugging Face's names and order of rows", "[open_source]") {
  const TemporaryDirectory folder;
  const auto& merged = fixture::ZiyaTiny::instance();
  ziya::write_gguf_model(ziya::open_hf_model(merged.folder()), folder / "m.gguf",
                         {.type = ziya::DType::f16});
  const auto gguf = open_source(folder / "m.gguf"), hf = open_source(merged.folder());
  REQUIRE(gguf.files == std::vector<fs::path>{fs::canonical(folder / "m.gguf")});
  for (const char* part : {"q_proj", "k_proj", "v_proj", "down_proj"}) {
    const std::string name = "model.layers.1." +
                             std::string(part == std::string("down_proj") ? "mlp." : "self_attn.") +
                             part + ".weight";
    INFO(name);
    REQUIRE(test::whole(*gguf.source, find_tensor(*gguf.source, name)) ==
            test::whole(*hf.source, find_tensor(*hf.source, name)));
  }
  REQUIRE(gguf.metadata.at("ziya.version") == ZIYA_VERSION);
}

TEST_CASE("open source: one file, and what stands beside files without metadata", "[open_source]") {
  const TemporaryDirectory folder;
  fs::copy(data / "merge/delta-views/pytorch_model.bin", folder / "pytorch_model.bin");
  REQUIRE(open_source(folder / "pytorch_model.bin").source->tensors().size() == 27);
  REQUIRE(open_source(folder.path()).metadata.empty());
  folder.file("ziya.json", R"({"ziya.merge": "a rule", "number": 3})");
  const auto opened = open_source(folder.path());
  REQUIRE(opened.metadata == ziya::safetensors::Metadata{{"ziya.merge", "a rule"}});
  REQUIRE(opened.files.size() == 1);
  folder.file("ziya.json", "{broken");
  REQUIRE_ERROR(open_source(folder.path()), "ZIYA-230", "ziya.json");
}

TEST_CASE("open source: what is not there or of no known layout is refused", "[open_source]") {
  const TemporaryDirectory folder;
  REQUIRE_THAT(test::error_of([&] { open_source(folder / "nowhere"); }),
               Catch::Contains("nowhere"));
  REQUIRE_THAT(test::error_of([&] { open_source(folder.path()); }), Catch::Contains("[ZIYA-"));
  folder.file("params.json", "{}");
  REQUIRE_ERROR(open_source(folder.path()), "ZIYA-612", "consolidated.00.pth");
  folder.file("model.gguf", "no GGUF");
  REQUIRE_THAT(test::error_of([&] { open_source(folder / "model.gguf"); }),
               Catch::Contains("[ZIYA-"));
}

}  // namespace open_source_test
