// SPDX-License-Identifier: Apache-2.0
// Hashes of files, and the published ones among them.
#include "ziya/convert/known_files.hpp"

#include <catch2/catch.hpp>
#include <set>

#include "support/temporary_directory.hpp"

namespace known_files_test {

TEST_CASE("a file's hash is sha256sum's", "[known_files]") {
  const test::TemporaryDirectory folder;
  REQUIRE(ziya::file_sha256(folder.file("a", "abc")) ==
          "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  std::int64_t last = 0;
  const ziya::StreamOptions options{.progress = [&](const auto& event) { last = event.bytes; }};
  const auto file = folder.file("large", std::string(9'000'000, 'x'));
  REQUIRE(ziya::file_sha256(file, options) == ziya::file_sha256(file));
  REQUIRE(last == 9'000'000);
}

TEST_CASE("the files whose hashes are public are known, others are not", "[known_files]") {
  std::set<std::string_view> names;
  for (const auto& file : ziya::known_files) {
    REQUIRE(file.sha256.size() == 64);
    REQUIRE(ziya::known_file(file.sha256) == file.what);
    names.insert(file.what);
  }
  REQUIRE(names.size() == ziya::known_files.size());
  const std::filesystem::path tokenizer = ZIYA_SHARED_DATA "/llama-tokenizer/tokenizer.model";
  if (std::filesystem::exists(tokenizer)) {
    REQUIRE(ziya::known_file(ziya::file_sha256(tokenizer)) == "LLaMA and LLaMA-2, tokenizer.model");
  }
  REQUIRE(!ziya::known_file(std::string(64, '0')));
}

}  // namespace known_files_test
