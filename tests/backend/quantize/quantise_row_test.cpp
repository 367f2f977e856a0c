// SPDX-License-Identifier: Apache-2.0
#include "ziya/backend/cpu/quantize/quantise_row.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>
#include <vector>

#include "ziya/core/random.hpp"
#include "ziya/io/checkpoint.hpp"

namespace quantise_row_test {

namespace fs = std::filesystem;

using ziya::DType;

std::vector<DType> quantised_types() {
  std::vector<DType> types;
  for (int i = 0; i < ziya::dtype_count; ++i) {
    if (is_quantised(static_cast<DType>(i))) types.push_back(static_cast<DType>(i));
  }
  return types;
}

std::vector<float> through(DType dtype, const std::vector<float>& x,
                           const float* importance = nullptr) {
  const auto count = static_cast<std::int64_t>(x.size());
  std::vector<std::byte> bytes(static_cast<std::size_t>(bytes_of(dtype, count)));
  ziya::quantize::quantise_row(dtype, x.data(), bytes.data(), count, importance);
  std::vector<float> y(x.size());
  ziya::quantize::dequantise_row(dtype, bytes.data(), y.data(), count);
  return y;
}

double mean_square_error(const std::vector<float>& x, const std::vector<float>& y,
                         const float* weights = nullptr) {
  double sum = 0, total = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double weight = weights != nullptr ? static_cast<double>(weights[i]) : 1;
    const double error = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    sum += weight * error * error;
    total += weight;
  }
  return sum / total;
}

/// The same 2^20 values as tests/reference/quantise_golden.py makes.
std::vector<float> made_up(const std::string& distribution) {
  ziya::Random random{.seed = 7};
  std::vector<float> values(1 << 20);
  for (float& value : values) {
    const double u = random.uniform(), v = random.uniform(), s = random.uniform();
    const double normal = std::sqrt(-2 * std::log(1 - u)) * std::cos(2 * std::numbers::pi * v);
    double x = normal * (s < 0.01 ? 10 : 1);
    if (distribution == "normal") x = normal;
    if (distribution == "laplace") x = -(v < 0.5 ? 1 : -1) * std::log(1 - u);
    if (distribution == "uniform") x = 2 * u - 1;
    value = static_cast<float>(0.02 * x);
  }
  return values;
}

std::vector<float> matrices(const fs::path& model) {
  const ziya::Checkpoint checkpoint = ziya::Checkpoint::open(model);
  std::vector<float> values;
  for (const ziya::TensorInfo& tensor : checkpoint.tensors()) {
    if (tensor.shape.rank() != 2) continue;
    const ziya::MappedTensor mapped = checkpoint.map(tensor.name);
    const std::size_t before = values.size();
    values.resize(before + static_cast<std::size_t>(tensor.shape.elements()));
    ziya::quantize::dequantise_row(mapped.dtype, mapped.data, values.data() + before,
                                   tensor.shape.elements());
  }
  values.resize(values.size() / 256 * 256);
  return values;
}

TEST_CASE("the mean squared error of every type is no larger than llama.cpp's own") {
  std::ifstream file(fs::path(ZIYA_TEST_DATA) / "golden/quantise/mse.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  for (const auto& [data, types] : golden.at("mse").items()) {
    std::vector<float> x;
    if (data == "ziya-tiny") {
      x = matrices(fs::path(ZIYA_EXAMPLES) / "ziya-tiny/base");
    } else if (data == "stories260K") {
      if (!fs::exists(ZIYA_SHARED_DATA)) {
        std::cout << "SKIPPED: no " << ZIYA_SHARED_DATA << "\n";
        continue;
      }
      x = matrices(fs::path(ZIYA_SHARED_DATA) / "stories260K-hf");
    } else {
      x = made_up(data);
    }
    REQUIRE(types.size() == quantised_types().size());
    for (const DType dtype : quantised_types()) {
      const double theirs = types.at(std::string(name(dtype))).get<double>();
      const double ours = mean_square_error(x, through(dtype, x));
      INFO(data << ", " << name(dtype) << ": " << ours / theirs << " of llama.cpp's error");
      CHECK(ours <= theirs);
      CHECK(ours > 0.6 * theirs);  // the comparison is of the same data
    }
  }
}

TEST_CASE("what a type can hold exactly comes back exactly") {
  for (const DType dtype : quantised_types()) {
    INFO(name(dtype));
    const std::vector<float> zeros(512, 0.0f);
    REQUIRE(through(dtype, zeros) == zeros);
    std::vector<float> two(512);
    for (std::size_t i = 0; i < two.size(); ++i) two[i] = i % 3 == 0 ? -0.5f : 0.0f;
    const std::vector<float> back = through(dtype, two);
    for (std::size_t i = 0; i < two.size(); ++i) REQUIRE(back[i] == Approx(two[i]).margin(5e-3));
  }
}

TEST_CASE("the largest and smallest floats give finite blocks") {
  for (const DType dtype : quantised_types()) {
    for (const float size : {3e38f, 1e10f, 65504.0f, 1e-7f, 1e-20f, 1e-42f}) {
      INFO(name(dtype) << ", " << size);
      std::vector<float> x(512);
      for (std::size_t i = 0; i < x.size(); ++i) {
        x[i] = size * (static_cast<float>(i * 37 % 101) / 50.0f - 1.0f);
      }
      for (const float value : through(dtype, x)) REQUIRE(std::isfinite(value));
    }
  }
}

TEST_CASE("all of one sign, a constant and a single spike stay near") {
  for (const DType dtype : quantised_types()) {
    INFO(name(dtype));
    std::vector<float> positive(256), constant(256, 0.731f), spike(256, 0.0f);
    for (std::size_t i = 0; i < 256; ++i) positive[i] = 1.0f + 0.001f * static_cast<float>(i);
    spike[77] = -3.0f;
    for (const auto& x : {positive, constant, spike}) {
      const std::vector<float> y = through(dtype, x);
      for (std::size_t i = 0; i < 256; ++i) REQUIRE(std::fabs(y[i] - x[i]) < 0.3);
    }
  }
}

TEST_CASE("importance moves the error to where it costs less") {
  const std::vector<float> x = [] {
    std::vector<float> all = made_up("normal");
    all.resize(1 << 16);
    return all;
  }();
  std::vector<float> importance(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) importance[i] = i % 8 == 0 ? 20.0f : 0.2f;
  for (const DType dtype : quantised_types()) {
    INFO(name(dtype));
    const std::vector<float> plain = through(dtype, x);
    const std::vector<float> weighted = through(dtype, x, importance.data());
    CHECK(mean_square_error(x, weighted, importance.data()) <
          0.99 * mean_square_error(x, plain, importance.data()));
    CHECK(mean_square_error(x, weighted) > mean_square_error(x, plain));
  }
}

TEST_CASE("importance of nothing but zeros, or not finite, counts as none") {
  const std::vector<float> x = [] {
    std::vector<float> all = made_up("laplace");
    all.resize(512);
    return all;
  }();
  const std::vector<float> zeros(512, 0.0f), infinite(512, INFINITY);
  for (const DType dtype : quantised_types()) {
    INFO(name(dtype));
    REQUIRE(through(dtype, x, zeros.data()) == through(dtype, x));
    REQUIRE(through(dtype, x, infinite.data()) == through(dtype, x));
  }
}

TEST_CASE("a row of i8 is rounded to the nearest of 255 steps") {
  const std::vector<float> x{1.0f, -2.54f, 0.005f, 0.011f, 2.0f};
  std::int8_t q[5];
  const float scale = ziya::quantize::quantise_i8_row(x.data(), q, 5);
  REQUIRE(scale == Approx(0.02));
  REQUIRE(std::vector<int>(q, q + 5) == std::vector<int>{50, -127, 0, 1, 100});
}

}  // namespace quantise_row_test
