// SPDX-License-Identifier: Apache-2.0
// 8-bit floats on the GPU: how rows become them, products, and a model of them.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "cuda/devices.hpp"
#include "cuda/products.hpp"
#include "support/errors.hpp"
#include "ziya/ops/matmul.hpp"
#include "ziya/ops/quantised_on.hpp"
#include "ziya/ops/quantize.hpp"
#include "ziya/ops/rms_norm.hpp"

namespace float8_test {

using namespace test;
namespace ops = ziya::ops;
using ziya::View;

/// The number of a code: (1 + f/8) 2^(e−7), f/8 2^−6 where e is 0, NaN where all bits are set.
double number_of(int code) {
  const int exponent = (code >> 3) & 15, fraction = code & 7;
  const double sign = (code & 128) != 0 ? -1 : 1;
  if ((code & 127) == 127) return std::numeric_limits<double>::quiet_NaN();
  return sign *
         (exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10));
}

/// The nearest code, of two the even one; beyond 448 that of 448. NaN: 127 without a sign.
int code_of(float value) {
  if (std::isnan(value)) return 127;
  static const std::vector<double> numbers = [] {  // greater codes are greater numbers
    std::vector<double> result;
    for (int code = 0; code < 127; ++code) result.push_back(number_of(code));
    return result;
  }();
  const double magnitude = std::min(std::fabs(static_cast<double>(value)), numbers.back());
  const auto above = std::lower_bound(numbers.begin(), numbers.end(), magnitude);
  auto best = static_cast<int>(above - numbers.begin());
  if (best > 0) {
    const double up = *above - magnitude,
                 down = magnitude - numbers[static_cast<std::size_t>(best) - 1];
    if (down < up || (down == up && best % 2 != 0)) --best;
  }
  return best | (std::signbit(value) ? 128 : 0);
}

/// Rows as they should become.
struct Rounded {
  std::vector<int> codes;
  std::vector<float> scales;
  std::vector<double> numbers;  ///< scale · number
};
Rounded rounded(const std::vector<float>& values, std::int64_t columns) {
  Rounded result;
  for (std::size_t row = 0; row < values.size(); row += static_cast<std::size_t>(columns)) {
    float largest = 0;
    for (std::int64_t i = 0; i < columns; ++i) {
      largest = std::fmax(largest, std::fabs(values[row + static_cast<std::size_t>(i)]));
    }
    const float inverse = largest > 1e-30f ? 448 / largest : 0;
    result.scales.push_back(largest / 448);
    for (std::int64_t i = 0; i < columns; ++i) {
      const int code = code_of(values[row + static_cast<std::size_t>(i)] * inverse);
      result.codes.push_back(code);
      result.numbers.push_back(number_of(code) * static_cast<double>(result.scales.back()));
    }
  }
  return result;
}

template <class T>
Weight<Cuda> on_gpu(std::vector<float>& values, std::int64_t columns) {
  const auto rows = static_cast<std::int64_t>(values.size()) / columns;
  const auto host = std::make_shared<const Tensor<T>>(on<T, Cpu>(values, {rows, columns}));
  ziya::Staging<Cuda> staging;
  const Weight<Cpu> weight{ziya::dtype_of<T>, rows, columns,
                           reinterpret_cast<const std::byte*>(host->data()), host};
  const auto result = ops::float8_on<Cuda>(weight, staging);
  staging.finish();
  return result;
}

/// Random rows, some of them far larger than others, and their numbers on the GPU.
struct Matrix {
  Weight<Cuda> weight;
  Rounded expected;
};
Matrix random_float8(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  auto values = random_values(rows * columns, seed);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < columns; ++i) {
      values[static_cast<std::size_t>(r * columns + i)] *= r % 3 == 0 ? 0.01f : 1.0f;
    }
  }
  const auto weight = on_gpu<float>(values, columns);
  return {weight, rounded(values, columns)};
}

template <class Body>
void for_each_type(Body&& body) {
  if (!gpu()) return;
  Context<Cuda> ctx;
  {
    INFO("f32");
    body(ctx, float{});
  }
  {
    INFO("f16");
    body(ctx, Half{});
  }
  INFO("bf16");
  body(ctx, BFloat16{});
}

TEST_CASE("cuda: all codes of 8-bit floats", "[cuda][small]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  Tensor<std::byte> codes(Shape{512});
  for (int i = 0; i < 512; ++i) codes.data()[i] = static_cast<std::byte>(i % 256);
  Tensor<float> factors(Shape{2});
  factors.data()[0] = 1, factors.data()[1] = 0.75f;
  const auto bytes = codes.to<Cuda>();
  const auto scales = factors.to<Cuda>();
  const Weight<Cuda> weight{DType::f8_e4m3, 2, 256, bytes.data(), nullptr, scales.data()};
  auto y = poisoned<float, Cuda>({2, 256});
  ops::dequantise(ctx, y.view(), weight);
  const auto found = values_of(y);
  for (int i = 0; i < 512; ++i) {
    const double expected = number_of(i % 256) * (i < 256 ? 1 : 0.75);
    const double value = static_cast<double>(found[static_cast<std::size_t>(i)]);
    if (std::isnan(expected) ? !std::isnan(value)
                             : value != expected || std::signbit(value) != std::signbit(expected)) {
      FAIL_CHECK("code " << i % 256 << " is " << value << ", expected " << expected);
    }
  }
}

TEST_CASE("cuda: rows are rounded to the nearest 8-bit floats", "[cuda][small][race]") {
  for_each_type([]<class T>(Context<Cuda>&, T) {
    for (const std::int64_t columns : {1, 13, 512, 5120, 20000}) {
      CAPTURE(columns);
      std::vector<float> values;
      const auto row = [&](auto&& element) {
        for (std::int64_t i = 0; i < columns; ++i) values.push_back(element(i));
      };
      const auto random = random_values(columns, 7);
      row([&](std::int64_t i) { return random[static_cast<std::size_t>(i)]; });
      // 448 first, so that nothing is scaled: numbers, the middles between them, and their
      // neighbours in 16 bits.
      row([&](std::int64_t i) {
        if (i == 0) return 448.0f;
        const auto code = static_cast<int>(i / 6 % 126);
        const double low = number_of(code), middle = (low + number_of(code + 1)) / 2;
        const double near = middle * (i % 3 == 0 ? 1 - 0x1p-7 : i % 3 == 1 ? 1 : 1 + 0x1p-7);
        return static_cast<float>((i % 6 < 3 ? near : low) * (i % 2 == 0 ? 1 : -1));
      });
      row([](std::int64_t i) { return i % 2 == 0 ? 0.0f : -0.0f; });
      row([](std::int64_t i) { return i % 5 == 1 ? std::nanf("") : static_cast<float>(i % 9); });
      row([](std::int64_t i) { return i % 5 == 0 ? INFINITY : static_cast<float>(i % 9); });
      row([](std::int64_t i) { return static_cast<float>(i % 3) * 2e-31f; });
      const auto weight = on_gpu<T>(values, columns);
      const Rounded expected = rounded(values, columns);
      std::vector<std::uint8_t> codes(values.size());
      ziya::copy(Cpu{}, codes.data(), Cuda{}, weight.data, codes.size());
      std::vector<float> scales(expected.scales.size());
      ziya::copy(Cpu{}, scales.data(), Cuda{}, weight.row_scales, scales.size() * sizeof(float));
      CHECK(scales == expected.scales);
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < codes.size(); ++i) {
        const bool nan = (expected.codes[i] & 127) == 127;
        wrong += nan ? (codes[i] & 127) != 127 : codes[i] != expected.codes[i];
      }
      CHECK(wrong == 0);
    }
  });
}

TEST_CASE("cuda: matrices of many pieces become 8-bit floats", "[cuda]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  const std::int64_t rows = 5003, columns = 1024;
  auto values = random_values(rows * columns, 3);
  const auto weight = on_gpu<Half>(values, columns);
  auto y = poisoned<float, Cuda>({rows, columns});
  ops::dequantise(ctx, y.view(), weight);
  const auto expected = rounded(values, columns).numbers;
  CHECK(row_error(values_of(y), expected, columns) < op_tolerance);
}

struct Case {
  std::int64_t tokens, in, out;
};

/// x · wᵀ of rows of doubles.
std::vector<double> product(const std::vector<double>& x, const std::vector<double>& w,
                            std::int64_t in) {
  std::vector<double> y;
  for (std::size_t t = 0; t < x.size(); t += static_cast<std::size_t>(in)) {
    for (std::size_t o = 0; o < w.size(); o += static_cast<std::size_t>(in)) {
      double sum = 0;
      for (std::size_t i = 0; i < static_cast<std::size_t>(in); ++i) sum += x[t + i] * w[o + i];
      y.push_back(sum);
    }
  }
  return y;
}

// Odd widths among them.
constexpr std::array product_cases{Case{1, 64, 16},      Case{1, 5120, 40},   Case{3, 65, 7},
                                   Case{4, 256, 48},     Case{5, 512, 64},    Case{8, 2064, 33},
                                   Case{9, 416, 37},     Case{16, 1008, 160}, Case{33, 48, 96},
                                   Case{130, 5120, 272}, Case{17, 129, 33},   Case{70, 88, 72}};

/// Tokens that meet 8-bit floats as they are; more become 8-bit floats for the library.
template <class T>
constexpr std::int64_t as_they_are = sizeof(T) == 2 ? 16 : 4;

void check_products(bool of_library) {
  for_each_type([&]<class T>(Context<Cuda>& ctx, T) {
    for (const Case& c : product_cases) {
      if ((c.tokens > as_they_are<T>) != of_library) continue;
      INFO(c.tokens << " x " << c.in << " x " << c.out);
      auto values = random_values(c.tokens * c.in, 1);
      const auto x = on<T, Cuda>(values, {c.tokens, c.in});
      const auto w = random_float8(c.out, c.in, 2), w2 = random_float8(c.out, c.in, 3);
      std::vector<double> rows(values.begin(), values.end());
      const bool in_8_bits = of_library && c.in % 16 == 0 && c.out % 16 == 0;
      if (in_8_bits) rows = rounded(values, c.in).numbers;
      // The tensor cores keep 14 bits of a sum of 8-bit floats.
      const double plain = std::max(tolerance<T>, in_8_bits ? 1e-2 : 0.0);
      check_products_of<T, Cuda>(ctx, x, w.weight, w2.weight,
                                 product(rows, w.expected.numbers, c.in),
                                 product(rows, w2.expected.numbers, c.in), 3 * plain, plain, plain);
    }
  });
}

TEST_CASE("cuda: products of a few tokens with 8-bit floats, plain, added, many, gated",
          "[cuda][small]") {
  check_products(false);
}
TEST_CASE("cuda: products with 8-bit floats, plain, added, many, gated", "[cuda][small][library]") {
  check_products(true);
}

TEST_CASE("cuda: a gated layer of 8-bit floats is its parts", "[cuda][small][library]") {
  for_each_type([]<class T>(Context<Cuda>& ctx, T) {
    for (const std::int64_t tokens : {1, 5, 16, 40}) {
      for (const auto [width, between] : {std::array<std::int64_t, 2>{64, 176}, {40, 72}}) {
        CAPTURE(tokens, width, between);
        // Whole numbers, whose squares add up to the same sum in any order.
        auto values = random_values(tokens * width, 1), factors = random_values(width, 5);
        for (float& value : values) value = std::round(4 * value);
        const auto x = on<T, Cuda>(values, {tokens, width});
        const auto norm = on<float, Cuda>(factors, {width});
        const auto gate = random_float8(between, width, 2), up = random_float8(between, width, 3),
                   down = random_float8(width, between, 4);
        auto product = poisoned<T, Cuda>({tokens, between});
        auto n = poisoned<T, Cuda>({tokens, width});
        auto expected = on<T, Cuda>(values, {tokens, width});
        auto y = on<T, Cuda>(values, {tokens, width});
        ops::rms_norm(ctx, n.view(), x.view(), norm.view(), 1e-5f);
        ops::matmul_silu_mul(ctx, product.view(), n.view(), gate.weight, up.weight);
        ops::matmul_add(ctx, expected.view(), product.view(), down.weight);
        ops::gated_mlp(ctx, y.view(), x.view(), norm.view(), 1e-5f, gate.weight, up.weight,
                       down.weight);
        CHECK(values_of(y) == values_of(expected));
      }
    }
  });
}

ZIYA_TEST_ON_DEVICES("cuda: a norm before products is its parts", "[cuda][small][library]") {
  on_device<TestType>([]<class Device, class T>(Context<Device>& ctx, T) {
    const auto check = [&](std::int64_t tokens, const Weight<Device>& gate,
                           const Weight<Device>& up, const Weight<Device>& down, double most) {
      auto values = random_values(tokens * gate.columns, 1);
      auto factors = random_values(gate.columns, 2);
      const auto x = on<T, Device>(values, {tokens, gate.columns});
      const auto norm = on<float, Device>(factors, {gate.columns});
      const Shape in = x.shape(), wide{tokens, gate.rows};
      auto n = poisoned<T, Device>(in);
      auto y = on<T, Device>(values, in), z = on<T, Device>(values, in);
      auto g = poisoned<T, Device>(wide), u = poisoned<T, Device>(wide);
      auto g2 = poisoned<T, Device>(wide), u2 = poisoned<T, Device>(wide);
      const std::array<View<T, Device>, 2> ys{g.view(), u.view()}, ys2{g2.view(), u2.view()};
      const std::array<const Weight<Device>*, 2> ws{&gate, &up};
      const auto close = [&](const auto& a, const auto& b) {
        const auto of_b = values_of(b);
        CHECK(row_error(values_of(a), {of_b.begin(), of_b.end()}, a.shape()[1]) < most);
      };
      ops::rms_norm(ctx, n.view(), x.view(), norm.view(), 1e-5f);
      ops::matmul_many<Device, T>(ctx, ys, n.view(), ws);
      ops::norm_matmul_many<Device, T>(ctx, ys2, x.view(), norm.view(), 1e-5f, ws);
      close(g2, g);
      close(u2, u);
      ops::matmul_silu_mul(ctx, g.view(), n.view(), gate, up);
      ops::matmul_add(ctx, y.view(), g.view(), down);
      ops::gated_mlp(ctx, z.view(), x.view(), norm.view(), 1e-5f, gate, up, down);
      close(z, y);
    };
    const auto matrix = [](std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
      auto values = random_values(rows * columns, seed);
      const auto host =
          std::make_shared<const Tensor<Half>>(on<Half, Cpu>(values, {rows, columns}));
      return ziya::weight_on<Device>(Weight<Cpu>{
          DType::f16, rows, columns, reinterpret_cast<const std::byte*>(host->data()), host});
    };
    check(40, matrix(96, 64, 3), matrix(96, 64, 4), matrix(64, 96, 5), tolerance<T>);
    if constexpr (std::is_same_v<Device, Cuda>) {
      for (const std::int64_t tokens : {3, 40}) {
        for (const std::int64_t width : {64, 16400}) {
          CAPTURE(tokens, width);
          check(tokens, random_float8(96, width, 3).weight, random_float8(96, width, 4).weight,
                random_float8(width, 96, 5).weight, 2e-2);
        }
      }
    }
  });
}

TEST_CASE("cuda: products of 8-bit floats give the same bits in every run", "[cuda]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  const auto w = random_float8(640, 5120, 2);
  for (const std::int64_t tokens : {1, 8, 13, 17, 200}) {
    auto values = random_values(tokens * 5120, 1);
    const auto x = on<Half, Cuda>(values, {tokens, 5120});
    std::vector<float> first;
    for (int run = 0; run < 6; ++run) {
      auto y = poisoned<Half, Cuda>({tokens, 640});
      ops::matmul(ctx, y.view(), x.view(), w.weight);
      if (run == 0) first = values_of(y);
      CHECK(values_of(y) == first);
    }
  }
}

TEST_CASE("cuda: what cannot become 8-bit floats is said", "[cuda][small]") {
  if (!gpu()) return;
  Context<Cpu> cpu({.threads = 1});
  Tensor<float> numbers(Shape{4, 64});
  std::fill_n(numbers.data(), 4 * 64, 1.0f);
  const auto blocks = ops::quantise<Cpu>(cpu, DType::q8_0, numbers.view());
  ziya::Staging<Cuda> staging;
  REQUIRE_ERROR(ops::float8_on<Cuda>(blocks, staging), "ZIYA-153", "q8_0");
}

}  // namespace float8_test
