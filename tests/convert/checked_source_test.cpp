// SPDX-License-Identifier: Apache-2.0
// Checksums of archives are compared while tensors are read, whatever the pieces and their order.
#include "ziya/convert/checked_source.hpp"

#include <catch2/catch.hpp>
#include <thread>

#include "support/errors.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/core/random.hpp"

namespace checked_source_test {

namespace fs = std::filesystem;
using test::TemporaryDirectory;
using ziya::Checkpoint;

const fs::path torch = ZIYA_TEST_DATA "/torch";

std::vector<std::byte> random_bytes(std::size_t count) {
  ziya::Random random{.seed = count + 1};
  std::vector<std::byte> bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random.uniform() * 256);
  return bytes;
}

/// From the definition: the remainder of the message's polynomial, bit by bit.
std::uint32_t remainder(std::span<const std::byte> bytes) {
  std::uint32_t crc = ~std::uint32_t{0};
  for (const std::byte b : bytes) {
    crc ^= std::to_integer<std::uint32_t>(b);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc % 2 * 0xEDB88320u);
  }
  return ~crc;
}

TEST_CASE("crc32: carry-less products and tables give the remainder", "[crc32]") {
  const auto bytes = random_bytes(3000);
  for (std::size_t count = 0; count < 700; ++count) {
    const auto part = std::span(bytes).subspan(count % 17, count);
    const std::uint32_t right = remainder(part);
    REQUIRE(ziya::crc32(part) == right);
    REQUIRE(ziya::ops::crc32(part) == right);
    const auto more = std::span(bytes).subspan(count % 17 + count, 900);
    REQUIRE(ziya::ops::crc32(more, right) ==
            remainder(std::span(bytes).subspan(count % 17, count + 900)));
  }
}

TEST_CASE("crc32: the sum over pieces is that of the whole", "[crc32]") {
  const auto bytes = random_bytes(200'000);
  std::uint32_t sum = 0;
  std::size_t begin = 0;
  for (const std::size_t end : {1u, 3u, 259u, 70'000u, 135'537u, 200'000u}) {
    sum ^= ziya::crc32_followed(ziya::crc32(std::span(bytes).subspan(begin, end - begin)),
                                bytes.size() - end);
    begin = end;
  }
  REQUIRE(sum == remainder(bytes));
  // As far as a shard of 1 TB: x^(8n) is the n-fold product.
  const std::uint64_t far = (std::uint64_t{1} << 40) + 12345;
  REQUIRE(ziya::crc32_followed(ziya::crc32_followed(7, far), 1000) ==
          ziya::crc32_followed(7, far + 1000));
  REQUIRE(ziya::crc32_followed(9, far) == ziya::crc32_product(9, ziya::crc32_power(8 * far)));
}

/// Reads all tensors in pieces of random sizes, in random order, some twice.
void read_in_pieces(const ziya::TensorSource& source, std::uint64_t seed) {
  ziya::Random random{.seed = seed};
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    const ziya::TensorSpec& tensor = source.tensors()[i];
    const std::int64_t all = tensor.shape.elements();
    std::vector<std::pair<std::int64_t, std::int64_t>> pieces;
    for (std::int64_t first = 0; first < all;) {
      const auto count = std::min(
          all - first, 1 + static_cast<std::int64_t>(random.uniform() * static_cast<double>(all) / 3));
      pieces.emplace_back(first, count);
      if (random.uniform() < 0.3) pieces.emplace_back(std::max<std::int64_t>(first - 1, 0), count);
      first += count;
    }
    for (std::size_t k = pieces.size(); k > 1; --k) {
      std::swap(pieces[k - 1], pieces[static_cast<std::size_t>(random.uniform() *
                                                               static_cast<double>(k))]);
    }
    for (const auto& [first, count] : pieces) {
      std::vector<std::byte> out(static_cast<std::size_t>(bytes_of(tensor.dtype, count)));
      source.read(i, first, out);
    }
  }
}

TEST_CASE("checked source: good archives pass and any changed byte of a tensor does not",
          "[checked_source]") {
  const TemporaryDirectory folder;
  for (const char* name : {"dtypes.bin", "views.bin", "module.bin", "legacy.bin"}) {
    CAPTURE(name);
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      REQUIRE_NOTHROW(read_in_pieces(*ziya::checked(Checkpoint::open(torch / name)), seed));
    }
    std::string bytes = test::read_file(torch / name);
    const ziya::InputFile file(torch / name);
    if (!ziya::detail::is_archive(file)) continue;
    int damaged = 0;
    for (const auto& entry : ziya::zip::read_directory(file)) {
      if (entry.bytes == 0 || entry.name.find("/data/") == std::string::npos) continue;
      for (const std::int64_t at : {std::int64_t{0}, entry.bytes / 2, entry.bytes - 1}) {
        auto& byte = bytes[static_cast<std::size_t>(entry.offset + at)];
        byte = static_cast<char>(byte ^ 1);
        folder.file("x.bin", bytes);
        const auto source = ziya::checked(Checkpoint::open(folder / "x.bin"));
        REQUIRE_ERROR(read_in_pieces(*source, 3), "ZIYA-221", entry.name);
        byte = static_cast<char>(byte ^ 1);
        ++damaged;
      }
    }
    REQUIRE(damaged > 0);
  }
}

TEST_CASE("checked source: threads that read pieces of one tensor find its damage once all is read",
          "[checked_source]") {
  const TemporaryDirectory folder;
  std::string bytes = test::read_file(torch / "dtypes.bin");
  const auto read_by_threads = [&](const fs::path& path) {
    const auto source = ziya::checked(Checkpoint::open(path));
    std::atomic<int> refused{0};
    for (std::size_t i = 0; i < source->tensors().size(); ++i) {
      const std::int64_t all = source->tensors()[i].shape.elements();
      std::vector<std::thread> threads;
      std::atomic<std::int64_t> next{0};
      for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&] {
          for (std::int64_t at = next++; at < all; at = next++) {
            std::vector<std::byte> out(
                static_cast<std::size_t>(bytes_of(source->tensors()[i].dtype, 1)));
            try {
              source->read(i, at, out);
            } catch (const ziya::FormatError&) {
              ++refused;
            }
          }
        });
      }
      for (auto& thread : threads) thread.join();
    }
    return refused.load();
  };
  REQUIRE(read_by_threads(torch / "dtypes.bin") == 0);
  const ziya::InputFile file(torch / "dtypes.bin");
  for (const auto& entry : ziya::zip::read_directory(file)) {
    if (entry.bytes == 0 || entry.name.find("/data/") == std::string::npos) continue;
    auto& byte = bytes[static_cast<std::size_t>(entry.offset + entry.bytes / 2)];
    byte = static_cast<char>(byte ^ 0x40);
    REQUIRE(read_by_threads(folder.file("x.bin", bytes)) > 0);
    byte = static_cast<char>(byte ^ 0x40);
  }
}

TEST_CASE("checked source: an archive that records no checksums is no damaged one",
          "[checked_source]") {
  std::string bytes = test::read_file(torch / "dtypes.bin");
  // As torch.serialization.set_crc32_options(False) writes it: every number in the directory is 0.
  for (std::size_t at = 0; (at = bytes.find("PK\x01\x02", at)) != std::string::npos; ++at) {
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at) + 16, 4, '\0');
  }
  const TemporaryDirectory folder;
  const auto path = folder.file("x.bin", bytes);
  REQUIRE_NOTHROW(read_in_pieces(*ziya::checked(Checkpoint::open(path)), 1));
  REQUIRE(ziya::verify_archives({path}) == 0);
}

}  // namespace checked_source_test
