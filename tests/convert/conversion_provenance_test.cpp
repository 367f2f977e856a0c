// SPDX-License-Identifier: Apache-2.0
// Conversions record the rule and the fingerprints of what was read and written, in every format.
#include "ziya/convert/conversion_provenance.hpp"

#include <catch2/catch.hpp>

#include "support/temporary_directory.hpp"
#include "ziya/convert/fengshen_writer.hpp"
#include "ziya/convert/gguf_model.hpp"
#include "ziya/convert/hf_writer.hpp"
#include "ziya/convert/lora_merge.hpp"
#include "ziya/convert/meta_source.hpp"
#include "ziya/convert/open_source.hpp"

namespace conversion_provenance_test {

namespace fs = std::filesystem;
using test::TemporaryDirectory;
using ziya::DType;

const fs::path tiny = ZIYA_EXAMPLES "/ziya-tiny";

std::string fingerprint_of(const fs::path& path) {
  return ziya::fingerprint(*ziya::open_source(path).source).model();
}

TEST_CASE("provenance: rule and fingerprints of both sides are in the metadata of every format",
          "[provenance]") {
  const TemporaryDirectory folder;
  const std::string before = fingerprint_of(tiny / "base");
  for (const auto type : {std::optional<DType>(), std::optional(DType::bf16)}) {
    ziya::ConvertOptions options;
    options.type = type;
    options.overwrite = true;
    options.max_shard_bytes = 3'000'000;
    const auto hf = ziya::open_hf_model(tiny / "base");
    ziya::write_hf_model(hf, folder / "hf", options);
    ziya::write_hf_model(ziya::open_meta_model(tiny / "llama/3M"), folder / "meta", options);
    ziya::write_gguf_model(hf, folder / "m.gguf", options);
    ziya::write_fengshen_model(hf, folder / "fengshen", 2, options);
    for (const char* name : {"hf", "meta", "m.gguf", "fengshen"}) {
      CAPTURE(name);
      const auto opened = ziya::open_source(folder / name);
      REQUIRE(opened.metadata.at("ziya.convert").starts_with(
          type ? "weights rounded to bf16" : "weights as stored"));
      REQUIRE(opened.metadata.at("ziya.source.fingerprint") == before);
      REQUIRE(opened.metadata.at("ziya.fingerprint") ==
              ziya::fingerprint(*opened.source).model());
      REQUIRE(opened.metadata.at("ziya.version") == ZIYA_VERSION);
    }
  }
  // One more step: of the step before nothing is left but what is lasting.
  ziya::write_hf_model(ziya::open_gguf_model(folder / "m.gguf"), folder / "back");
  const auto back = ziya::open_source(folder / "back");
  REQUIRE(back.metadata.at("ziya.convert") == "weights as stored");
  REQUIRE(back.metadata.at("ziya.source.fingerprint") == fingerprint_of(folder / "m.gguf"));
}

TEST_CASE("provenance: what seals itself keeps its own, and gets the target's fingerprint",
          "[provenance]") {
  const fs::path lora = ZIYA_TEST_DATA "/lora";
  const TemporaryDirectory folder;
  const auto merged = ziya::merge_lora(ziya::open_hf_model(lora / "base"),
                                       ziya::LoraAdapter::open(lora / "plain"));
  ziya::write_hf_model(merged, folder / "hf");
  const auto opened = ziya::open_source(folder / "hf");
  REQUIRE(!opened.metadata.contains("ziya.convert"));
  REQUIRE(opened.metadata.at("ziya.adapter.1.base") == fingerprint_of(lora / "base"));
  REQUIRE(opened.metadata.at("ziya.fingerprint") == ziya::fingerprint(*opened.source).model());
}

}  // namespace conversion_provenance_test
