// SPDX-License-Identifier: Apache-2.0
// Metadata that is filled in after the data: only what has a place of its length, and nothing else.
#include "ziya/io/safetensors_metadata.hpp"

#include <catch2/catch.hpp>

#include "support/errors.hpp"
#include "support/fault.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/safetensors_file_writer.hpp"

namespace safetensors_metadata_test {

using test::Fault;
using test::faulty;
using ziya::safetensors::patch_metadata;

struct Written : test::TemporaryDirectory {
  Written() {
    ziya::SafetensorsWriter writer(path, {{"w", ziya::DType::u8, {5}}},
                                   {{"hash", "0000"}, {"other", "the \"hash\":\"0000\" of it"}},
                                   faulty(Fault::none));
    const std::string data = "bytes";
    writer.write("w", std::as_bytes(std::span(data)));
    writer.commit();
  }
  [[nodiscard]] ziya::safetensors::Metadata metadata() const {
    return ziya::Checkpoint::open(path).metadata();
  }
  std::filesystem::path path = *this / "model.safetensors";
};

TEST_CASE("safetensors metadata: values of the same length take the place", "[safetensors]") {
  const Written written;
  const std::string before = test::read_file(written.path);
  for (const Fault fault : {Fault::none, Fault::interrupted, Fault::short_write}) {
    patch_metadata(written.path, {{"hash", "12\""}}, faulty(fault));  // a quote takes two bytes
    REQUIRE(written.metadata().at("hash") == "12\"");
    patch_metadata(written.path, {{"hash", "abcd"}}, faulty(fault));
    REQUIRE(written.metadata().at("hash") == "abcd");
    REQUIRE(written.metadata().at("other") == "the \"hash\":\"0000\" of it");
    const std::string after = test::read_file(written.path);
    REQUIRE(after.size() == before.size());
    REQUIRE(after.substr(after.size() - 5) == "bytes");
  }
  patch_metadata(written.path, {}, faulty(Fault::none));
  REQUIRE(written.metadata().at("hash") == "abcd");
}

TEST_CASE("safetensors metadata: what has no place is refused and changes nothing",
          "[safetensors]") {
  const Written written;
  const std::string before = test::read_file(written.path);
  for (const char* value : {"", "123", "12345", "12\"4"}) {  // a quote takes two bytes
    REQUIRE_ERROR(patch_metadata(written.path, {{"hash", value}}), "ZIYA-642", "\"hash\"");
  }
  REQUIRE_ERROR(patch_metadata(written.path, {{"hash", "1234"}, {"more", "x"}}), "ZIYA-642",
                "\"more\"");
  REQUIRE(test::read_file(written.path) == before);
  REQUIRE_ERROR(patch_metadata(written.file("text", "no safetensors file at all"), {}), "ZIYA-642",
                "is no safetensors file");
  REQUIRE_ERROR(patch_metadata(written / "nowhere", {}), "ZIYA-201", "nowhere");
}

TEST_CASE("safetensors metadata: a failing disk is said", "[safetensors]") {
  const Written written;
  for (const Fault fault : {Fault::disk_full, Fault::zero_write, Fault::io_error}) {
    REQUIRE_ERROR(patch_metadata(written.path, {{"hash", "1234"}}, faulty(fault)), "ZIYA-206",
                  "header");
  }
  REQUIRE_ERROR(patch_metadata(written.path, {{"hash", "1234"}}, faulty(Fault::sync_fails)),
                "ZIYA-206", "brought to the disk");
  patch_metadata(written.path, {{"hash", "1234"}},
                 faulty(Fault::none));  // and again, once it works
  REQUIRE(written.metadata().at("hash") == "1234");
}

}  // namespace safetensors_metadata_test
