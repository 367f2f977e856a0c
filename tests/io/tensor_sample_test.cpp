// SPDX-License-Identifier: Apache-2.0
// Samples of tensors as numbers, and the statistics that checks are made of.
#include "ziya/io/tensor_sample.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>

#include "support/random.hpp"

namespace tensor_sample_test {

using ziya::DType;

/// Numbers stored in each type.
struct Numbers final : ziya::TensorSource {
  Numbers() {
    for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::f64, DType::i64}) {
      specs.push_back({std::string(name(type)), type, {4, 25}});
      bytes.emplace_back(static_cast<std::size_t>(specs.back().bytes()));
      for (std::size_t i = 0; i < values.size(); ++i) {
        std::byte* to =
            bytes.back().data() + i * static_cast<std::size_t>(ziya::info(type).block_bytes);
        if (type == DType::f64) {
          const auto wide = static_cast<double>(values[i]);
          std::memcpy(to, &wide, sizeof wide);
        } else if (type != DType::i64) {
          test::store(type, to, values[i]);
        }
      }
    }
  }
  [[nodiscard]] const std::vector<ziya::TensorSpec>& tensors() const override { return specs; }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    const std::byte* from = bytes[index].data() + ziya::bytes_of(specs[index].dtype, first);
    std::copy_n(from, out.size(), out.begin());
  }
  std::vector<float> values = test::random_values(100, 3, 2);
  std::vector<ziya::TensorSpec> specs;
  std::vector<std::vector<std::byte>> bytes;
};

TEST_CASE("samples are the elements asked for, widened", "[tensor_sample]") {
  const Numbers numbers;
  for (std::size_t index = 0; index < 4; ++index) {
    const DType type = numbers.specs[index].dtype;
    CAPTURE(name(type));
    const auto part = ziya::read_floats(numbers, index, 37, 41);
    REQUIRE(part.size() == 41);
    for (std::size_t i = 0; i < part.size(); ++i) {
      const float value = numbers.values[37 + i];
      REQUIRE(part[i] == (type == DType::f64 ? value : test::rounded(type, value)));
    }
    REQUIRE(ziya::read_floats(numbers, index, 100, 0).empty());
  }
  REQUIRE(ziya::read_floats(numbers, 4, 0, 10).empty());  // integers are no samples of weights
}

TEST_CASE("the median is the middle value, of two the lower", "[tensor_sample]") {
  REQUIRE(ziya::median({}) == 0);
  REQUIRE(ziya::median({-3}) == -3);
  REQUIRE(ziya::median({5, 1, 3}) == 3);
  REQUIRE(ziya::median({4, 1, 3, 2}) == 2);
  REQUIRE(ziya::median({7, 7, 1, 7, 100}) == 7);
}

TEST_CASE("the cosine is that of the formula", "[tensor_sample]") {
  const std::vector<float> x{3, 0, 4}, y{0, 2, 0}, z{-6, 0, -8}, w{1, 1, 1}, none{0, 0, 0};
  REQUIRE(ziya::cosine(x, x) == Approx(1));
  REQUIRE(ziya::cosine(x, y) == 0);
  REQUIRE(ziya::cosine(x, z) == Approx(-1));
  REQUIRE(ziya::cosine(x, w) == Approx(7 / (5 * std::sqrt(3.0))));
  REQUIRE(ziya::cosine(x, none) == 0);
  REQUIRE(ziya::cosine({}, {}) == 0);
  const std::vector<float> large{1e30f, 0}, small{1e-30f, 0};
  REQUIRE(ziya::cosine(large, small) == Approx(1));  // neither infinite nor lost
}

}  // namespace tensor_sample_test
