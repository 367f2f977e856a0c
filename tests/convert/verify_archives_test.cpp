// SPDX-License-Identifier: Apache-2.0
// Checksums of archives: every byte of the data counts, files without checksums are passed over.
#include "ziya/convert/verify_archives.hpp"
#include "ziya/io/zip.hpp"

#include <catch2/catch.hpp>

#include "support/errors.hpp"
#include "support/temporary_directory.hpp"

namespace verify_archives_test {

const std::filesystem::path torch = ZIYA_TEST_DATA "/torch";

TEST_CASE("archives are intact until a byte of them is changed", "[verify_archives]") {
  std::int64_t done = 0, all = 0;
  const auto told = [&](std::int64_t so_far, std::int64_t total) { done = so_far, all = total; };
  REQUIRE(ziya::verify_archives({torch / "dtypes.bin", torch / "legacy.bin",
                                 torch / "expected.safetensors", torch / "views.bin"},
                                told) == 2);
  REQUIRE(done > all / 2);
  REQUIRE(all == static_cast<std::int64_t>(std::filesystem::file_size(torch / "dtypes.bin") +
                                           std::filesystem::file_size(torch / "views.bin")));

  const test::TemporaryDirectory folder;
  std::string bytes = test::read_file(torch / "module.bin");
  const ziya::InputFile file(folder.file("a.bin", bytes));
  for (const auto& entry : ziya::zip::read_directory(file)) {
    if (entry.bytes == 0) continue;
    auto& byte = bytes[static_cast<std::size_t>(entry.offset + entry.bytes / 2)];
    byte = static_cast<char>(byte ^ 0x10);
    const auto damaged = folder.file("b.bin", bytes);
    REQUIRE_ERROR(ziya::verify_archives({torch / "dtypes.bin", damaged}), "ZIYA-221", entry.name);
    byte = static_cast<char>(byte ^ 0x10);
  }
  const std::atomic<bool> cancel{true};
  REQUIRE_ERROR(ziya::verify_archives({torch / "dtypes.bin"}, {}, &cancel), "ZIYA-606",
                "cancelled");
}

}  // namespace verify_archives_test
