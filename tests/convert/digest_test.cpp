// SPDX-License-Identifier: Apache-2.0
#include "ziya/convert/digest.hpp"

#include <catch2/catch.hpp>
#include <string>

#include "support/errors.hpp"

namespace digest_test {

using namespace ziya;

TEST_CASE("digests are those of the standards' examples") {
  Sha256 sha;
  CHECK(sha.hex_value() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  sha.update("abc");
  CHECK(sha.hex_value() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Md5 md5;
  CHECK(md5.hex_value() == "d41d8cd98f00b204e9800998ecf8427e");
  md5.update("message digest");
  CHECK(md5.hex_value() == "f96b697d7cb7938d525a2f31aaf161d0");
}

TEST_CASE(
    "a digest does not depend on how its bytes arrive, and goes on after its value was asked") {
  const std::string text(100'000, 'z');
  Sha256 whole, pieces;
  whole.update(text);
  for (std::size_t i = 0; i < text.size(); i += 4093) {
    pieces.update(std::string_view(text).substr(i, 4093));
    if (i == 4093) CHECK(pieces.hex_value() != whole.hex_value());
  }
  CHECK(pieces.value() == whole.value());
  const Sha256 copy = pieces;
  pieces.update("more");
  CHECK(copy.value() == whole.value());
  CHECK(pieces.value() != whole.value());
}

TEST_CASE("a libcrypto that refuses an algorithm is an error") {
  // As where only a FIPS provider may answer and none is loaded.
  REQUIRE(EVP_set_default_properties(nullptr, "fips=yes") == 1);
  const std::string sha = test::error_of([] { const Sha256 hash; });
  const std::string md5 = test::error_of([] { const Md5 hash; });
  REQUIRE(EVP_set_default_properties(nullptr, "") == 1);
  CHECK_THAT(sha, Catch::Contains("[ZIYA-610]") && Catch::Contains("256 bits"));
  CHECK_THAT(md5, Catch::Contains("[ZIYA-610]") && Catch::Contains("128 bits"));
  CHECK(Sha256().hex_value().size() == 64);
}

}  // namespace digest_test
