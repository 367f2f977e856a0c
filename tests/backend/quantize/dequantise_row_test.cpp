// SPDX-License-Identifier: Apache-2.0
#include "ziya/backend/cpu/quantize/dequantise_row.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

namespace dequantise_row_test {

std::vector<char> contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string upper(std::string_view name) {
  std::string result;
  for (const char c : name) result += static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return result;
}

TEST_CASE("reference blocks come out bit for bit as the reference gives them") {
  const std::filesystem::path folder = std::filesystem::path(ZIYA_SHARED_DATA) / "gguf-quants";
  if (!std::filesystem::exists(folder)) {
    std::cout << "SKIPPED: no " << folder << "\n";
    return;
  }
  for (int i = 0; i < ziya::dtype_count; ++i) {
    const auto dtype = static_cast<ziya::DType>(i);
    if (!is_quantised(dtype) && dtype != ziya::DType::f16 && dtype != ziya::DType::bf16) continue;
    INFO(name(dtype));
    std::vector<char> blocks = contents(folder / (upper(name(dtype)) + ".blocks"));
    const std::vector<char> expected = contents(folder / (upper(name(dtype)) + ".f32"));
    const auto count = static_cast<std::int64_t>(expected.size() / sizeof(float));
    REQUIRE(count == 8 * 256);
    REQUIRE(static_cast<std::int64_t>(blocks.size()) == bytes_of(dtype, count));
    for (const std::size_t misaligned : {0u, 1u}) {
      blocks.insert(blocks.begin(), misaligned, '\0');
      const auto* bytes = reinterpret_cast<const std::byte*>(blocks.data()) + misaligned;
      std::vector<float> values(static_cast<std::size_t>(count));
      ziya::quantize::dequantise_row(dtype, bytes, values.data(), count);
      REQUIRE(std::memcmp(values.data(), expected.data(), expected.size()) == 0);

      std::vector<float> pieces(static_cast<std::size_t>(count));
      ziya::quantize::for_each_chunk(dtype, bytes, count, 1,
                                     [&](std::int64_t first, const float* chunk, std::int64_t n) {
                                       std::copy_n(chunk, n, pieces.begin() + first);
                                     });
      REQUIRE(pieces == values);
    }
  }
}

TEST_CASE("bytes with a scale per row are integers times the scale") {
  const std::int8_t values[4] = {-128, -1, 0, 127};
  float out[4];
  ziya::quantize::dequantise_row(ziya::DType::i8, reinterpret_cast<const std::byte*>(values), out,
                                 4, 0.25f);
  REQUIRE(out[0] == -32.0f);
  REQUIRE(out[1] == -0.25f);
  REQUIRE(out[2] == 0.0f);
  REQUIRE(out[3] == 31.75f);
}

}  // namespace dequantise_row_test
