// SPDX-License-Identifier: Apache-2.0
// Quantised weights on the GPU against the floats that the CPU reads from the same blocks.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/devices.hpp"
#include "cuda/products.hpp"
#include "ziya/ops/embedding.hpp"
#include "ziya/ops/matmul.hpp"
#include "ziya/ops/quantize.hpp"
#include "ziya/ops/rms_norm.hpp"

namespace quantised_test {

using namespace test;
namespace ops = ziya::ops;
using ziya::View;

/// Random numbers in blocks, and what the blocks hold.
struct Quantised {
  Weight<Cpu> weight;
  std::vector<float> values;
};
Quantised quantised(DType dtype, std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  Context<Cpu> cpu({.threads = 2});
  Tensor<float> numbers(Shape{rows, columns});
  const auto random = random_values(rows * columns, seed);
  std::copy(random.begin(), random.end(), numbers.data());
  Quantised result{ops::quantise<Cpu>(cpu, dtype, numbers.view()), random};
  ops::dequantise(cpu, numbers.view(), result.weight);
  std::copy_n(numbers.data(), rows * columns, result.values.begin());
  return result;
}

std::vector<DType> quantised_types() {
  std::vector<DType> types;
  for (int i = static_cast<int>(DType::q4_0); i < ziya::dtype_count; ++i) {
    types.push_back(static_cast<DType>(i));
  }
  return types;
}

/// Columns that are `parts` whole blocks of 32 or 256 and whole panels or not.
std::int64_t columns_of(DType dtype, std::int64_t parts) {
  return parts * ziya::info(dtype).block_elements;
}

template <class T>
std::vector<float> rounded(const std::vector<float>& values) {
  std::vector<float> result;
  for (const float value : values) result.push_back(ziya::to_float(from_float<T>(value)));
  return result;
}

/// Blocks where a device reads them: on the CPU where they are.
template <class Device>
Weight<Device> placed(const Weight<Cpu>& weight) {
  if constexpr (std::is_same_v<Device, Cpu>) {
    return weight;
  } else {
    return ziya::weight_on<Device>(weight);
  }
}

/// On the CPU the reference path, which does not round activations to 8 bits.
template <class At, class Body>
void with_quantised(Body&& body) {
  on_device<At>(std::forward<Body>(body), ziya::Isa::eigen);
}

ZIYA_TEST_ON_DEVICES("cuda: quantised weights are read as on the CPU, to the bit",
                     "[cuda][small]") {
  with_quantised<TestType>([]<class Device, class T>(Context<Device>& ctx, T) {
    for (const DType dtype : quantised_types()) {
      for (const auto [rows, parts] :
           {std::array<std::int64_t, 2>{16, 8}, {7, 1}, {33, 5}, {48, 4}}) {
        INFO(name(dtype) << " " << rows << " x " << parts);
        const std::int64_t columns = columns_of(dtype, parts);
        const auto w = quantised(dtype, rows, columns, 5);
        const auto on_device = placed<Device>(w.weight);
        if constexpr (std::is_same_v<T, float>) {
          auto all = poisoned<T, Device>({rows, columns});
          ops::dequantise(ctx, all.view(), on_device);
          CHECK(values_of(all) == w.values);
        }
        const std::vector<std::int32_t> ids{3, 0, static_cast<std::int32_t>(rows - 1), 3};
        auto y = poisoned<T, Device>({4, columns});
        ops::embedding(ctx, y.view(), on_device, ids);
        std::vector<float> expected;
        for (const std::int32_t id : ids) {
          const auto row = w.values.begin() + id * columns;
          expected.insert(expected.end(), row, row + columns);
        }
        CHECK(values_of(y) == rounded<T>(expected));
      }
    }
  });
}

TEST_CASE("cuda: quantised weights of many pieces are read as on the CPU", "[cuda]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  for (const DType dtype : {DType::q8_0, DType::q4_0, DType::q4_k, DType::q2_k}) {
    INFO(name(dtype));
    const std::int64_t rows = 5003, columns = 5 * 1024;
    const auto w = quantised(dtype, rows, columns, 5);
    const auto on_device = ziya::weight_on<Cuda>(w.weight);
    auto all = poisoned<float, Cuda>({rows, columns});
    ops::dequantise(ctx, all.view(), on_device);
    CHECK((values_of(all) == w.values));
  }
}

struct Case {
  std::int64_t tokens, parts, out;
};

/// Σ_i x_ti w_oi in double, of rows of `in` columns.
template <class X>
std::vector<double> sums_of(const std::vector<X>& x, const std::vector<float>& w, std::int64_t in) {
  const auto width = static_cast<std::size_t>(in);
  std::vector<double> result;
  for (std::size_t t = 0; t < x.size() / width; ++t) {
    for (std::size_t o = 0; o < w.size() / width; ++o) {
      double sum = 0;
      for (std::size_t i = 0; i < width; ++i) {
        sum += static_cast<double>(x[t * width + i]) * static_cast<double>(w[o * width + i]);
      }
      result.push_back(sum);
    }
  }
  return result;
}

/// Plain, added, many and gated products of one shape against sums in double.
template <class T, class Device>
void check_products(Context<Device>& ctx, DType dtype, const Case& c) {
  const std::int64_t in = columns_of(dtype, c.parts);
  INFO(name(dtype) << " " << c.tokens << " x " << in << " x " << c.out);
  auto values = random_values(c.tokens * in, 1);
  const auto x = on<T, Device>(values, {c.tokens, in});
  const auto w = quantised(dtype, c.out, in, 2), w2 = quantised(dtype, c.out, in, 3);
  const auto on_device = placed<Device>(w.weight);
  const auto on_device2 = placed<Device>(w2.weight);
  check_products_of<T, Device>(ctx, x, on_device, on_device2, sums_of(values, w.values, in),
                               sums_of(values, w2.values, in), 3 * tolerance<T>, tolerance<T>);
}

/// No product of so many tokens is the library's, whatever the weights are stored in, on a GPU with
/// warpgroups.
template <class T>
constexpr std::int64_t own_tokens = std::is_same_v<T, float>  ? 9
                                    : std::is_same_v<T, Half> ? 256
                                                              : 20;

template <class TestType>
void check_all_products(bool of_library) {
  // One to a few tokens, several operands of eight, several passes.
  constexpr std::array cases{Case{1, 1, 8}, Case{1, 40, 33}, Case{2, 5, 16}, Case{3, 8, 40},
                             Case{4, 11, 16}, Case{5, 6, 19}, Case{8, 3, 17}, Case{9, 4, 48},
                             Case{16, 5, 23}, Case{33, 2, 7}, Case{64, 3, 21}, Case{70, 2, 24},
                             // The columns in several parts, several parts of rows and tokens.
                             Case{12, 24, 40}, Case{20, 24, 40}, Case{130, 2, 270}};
  with_quantised<TestType>([&]<class Device, class T>(Context<Device>& ctx, T) {
    for (const DType dtype : quantised_types()) {
      for (const Case& c : cases) {
        if ((c.tokens > own_tokens<T>) == of_library) check_products<T>(ctx, dtype, c);
      }
    }
  });
}

ZIYA_TEST_ON_DEVICES("cuda: products with quantised weights, plain, added, many, gated",
                     "[cuda][small]") {
  check_all_products<TestType>(false);
}
TEST_CASE("cuda: products of a few tokens with more rows than a block keeps the sums of",
          "[cuda]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  // 132 multiprocessors keep 67,584 rows of one token, 76,032 or 71,808 of several, half of that
  // gated and of 32 bits.
  for (const std::int64_t tokens : {1, 3}) {
    check_products<Half>(ctx, DType::q4_0, {tokens, 1, 90'001});
    check_products<ziya::BFloat16>(ctx, DType::q4_1, {tokens, 1, 90'001});
  }
  check_products<Half>(ctx, DType::q4_k, {4, 1, 80'003});
  check_products<float>(ctx, DType::q4_0, {2, 1, 40'003});
}

TEMPLATE_TEST_CASE("cuda: products with quantised weights of more tokens", "[cuda][small][library]",
                   OnCpu, OnGpuF32, OnGpuBf16) {
  check_all_products<TestType>(true);
}

/// norm(x) in double.
std::vector<double> normalised(const std::vector<float>& x, const std::vector<float>& factors,
                               double eps) {
  const std::size_t width = factors.size();
  std::vector<double> result;
  for (std::size_t first = 0; first < x.size(); first += width) {
    double squares = 0;
    for (std::size_t i = 0; i < width; ++i) squares += std::pow(x[first + i], 2.0);
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (std::size_t i = 0; i < width; ++i) {
      result.push_back(static_cast<double>(x[first + i]) * inverse *
                       static_cast<double>(factors[i]));
    }
  }
  return result;
}

/// Products of norm(x) against sums in double, and with a gated layer against the norm and its
/// products one by one: to the bit, but where digits of x · norm are divided in the end.
template <class T, class Device>
void check_norm_within(Context<Device>& ctx, DType dtype, const Case& c) {
  const std::int64_t in = columns_of(dtype, c.parts), out = columns_of(dtype, 1);
  INFO(name(dtype) << " " << c.tokens << " x " << in << " x " << c.out);
  auto values = random_values(c.tokens * in, 1), factors = random_values(in, 4);
  const Shape wide{c.tokens, in}, narrow{c.tokens, c.out}, between{c.tokens, out};
  for (std::size_t i = 0; i < values.size(); ++i) {  // each token has a root of its own
    values[i] *= static_cast<float>(1 << i / static_cast<std::size_t>(in) % 8);
  }
  const auto x = on<T, Device>(values, wide);
  const auto norm = on<float, Device>(factors, {in});
  const auto place = [&](std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
    return placed<Device>(quantised(dtype, rows, columns, seed).weight);
  };
  const auto first = quantised(dtype, c.out, in, 2);
  const auto q = placed<Device>(first.weight), k = place(c.out, in, 3), gate = place(out, in, 5),
             up = place(out, in, 6), down = place(in, out, 7);
  const std::array<const Weight<Device>*, 2> ws{&q, &k};
  constexpr float eps = 0.1f;  // so much beside a mean square of a third that it is seen
  const bool divided = std::is_same_v<Device, Cuda> && c.tokens <= (sizeof(T) == 4 ? 2 : 4);
  const auto same = [&](const Tensor<T, Device>& a, const Tensor<T, Device>& b,
                        std::int64_t columns, double tolerated) {
    const auto expected = values_of(b);
    if (!divided) return values_of(a) == expected;
    return row_error(values_of(a), {expected.begin(), expected.end()}, columns) < tolerated;
  };
  auto n = poisoned<T, Device>(wide);
  ops::rms_norm(ctx, n.view(), x.view(), norm.view(), eps);

  auto a = poisoned<T, Device>(narrow), b = poisoned<T, Device>(narrow);
  auto c1 = poisoned<T, Device>(narrow), c2 = poisoned<T, Device>(narrow);
  const std::array<View<T, Device>, 2> apart{a.view(), b.view()}, together{c1.view(), c2.view()};
  ops::matmul_many<Device, T>(ctx, apart, n.view(), ws);
  ops::norm_matmul_many<Device, T>(ctx, together, x.view(), norm.view(), eps, ws);
  CHECK(same(c1, a, c.out, 2 * tolerance<T>));
  CHECK(same(c2, b, c.out, 2 * tolerance<T>));
  const auto exact =
      sums_of(normalised(values, factors, static_cast<double>(eps)), first.values, in);
  CHECK(row_error(values_of(c1), exact, c.out) < (divided ? 1 : 2) * tolerance<T>);

  auto g = poisoned<T, Device>(between);
  auto expected = on<T, Device>(values, wide), y = on<T, Device>(values, wide);
  ops::matmul_silu_mul(ctx, g.view(), n.view(), gate, up);
  ops::matmul_add(ctx, expected.view(), g.view(), down);
  ops::gated_mlp<Device, T>(ctx, y.view(), y.view(), norm.view(), eps, gate, up, down);
  CHECK(same(y, expected, in, 3 * tolerance<T>));
}

ZIYA_TEST_ON_DEVICES("cuda: a norm within products of quantised weights is the norm",
                     "[cuda][small][norm]") {
  with_quantised<TestType>([]<class Device, class T>(Context<Device>& ctx, T) {
    for (const DType dtype : {DType::q4_0, DType::q8_0, DType::q5_1, DType::iq4_nl, DType::q2_k,
                              DType::q4_k, DType::q6_k}) {
      for (const Case& c : {Case{1, 1, 7}, Case{1, 20, 48}, Case{2, 5, 33}, Case{3, 33, 16},
                            Case{4, 9, 40}, Case{5, 3, 16}}) {
        check_norm_within<T>(ctx, dtype, c);
      }
    }
    // A span and a half, and more spans than a warp has lanes.
    check_norm_within<T>(ctx, DType::q4_0, {4, 12, 16});
    check_norm_within<T>(ctx, DType::q4_0, {2, 300, 16});
  });
}

TEST_CASE("cuda: norm, products and gate of more tokens", "[cuda][small][norm]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  for (const DType dtype : quantised_types()) {
    // Tiles of tokens of every size; panels that are even and odd in number.
    for (const Case& c : {Case{6, 7, 33}, Case{9, 3, 16}, Case{16, 40, 24}, Case{20, 11, 24},
                          Case{66, 5, 40}, Case{140, 3, 16}}) {
      check_norm_within<Half>(ctx, dtype, c);
    }
  }
}

/// Columns that end within a turn of a block's warps, and more than one turn.
TEST_CASE("cuda: products of few tokens whose columns and rows end anywhere", "[cuda][small]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  for (const DType dtype : quantised_types()) {
    // In 256 columns: 17 and a half or 18, 20, 23 and an eighth or 24, 54.
    for (const std::int64_t columns : {4480, 5120, 5920, 13824}) {
      const std::int64_t of_one = columns_of(dtype, 1), parts = (columns + of_one - 1) / of_one;
      for (const std::int64_t tokens : {1, 3}) {
        check_products<Half>(ctx, dtype, {tokens, parts, 40});
        check_norm_within<Half>(ctx, dtype, {tokens, parts, 19});
      }
      if (columns == 5920) check_norm_within<float>(ctx, dtype, {2, parts, 19});
    }
  }
  check_products<Half>(ctx, DType::q8_0, {1, 171, 2200});
  check_products<ziya::BFloat16>(ctx, DType::q4_k, {1, 23, 2200});
  check_products<ziya::BFloat16>(ctx, DType::q4_k, {4, 23, 2200});
}
/// With two turns of 20 warps, a multiprocessor keeps sums of at most 17 bands of Q6_K and of 8
/// gated ones; of these rows it has more, which repeat, so that few are compared with sums in
/// double.
TEST_CASE("cuda: products of few tokens with more columns and rows than a block has at a time",
          "[cuda]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  constexpr std::int64_t columns = 10'240, period = 480;
  const std::int64_t rows = (ctx.multiprocessors() * 16 * 17 + period - 1) / period * period;
  const auto repeated = [&](const Quantised& m) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(rows * m.weight.row_bytes()));
    for (std::int64_t i = 0; i < rows; i += period) {
      std::copy_n(m.weight.data, m.weight.bytes(),
                  bytes.begin() + static_cast<std::ptrdiff_t>(i * m.weight.row_bytes()));
    }
    auto all = m.weight;
    all.rows = rows, all.data = bytes.data();
    return placed<Cuda>(all);
  };
  const auto one = quantised(DType::q6_k, period, columns, 2),
             other = quantised(DType::q6_k, period, columns, 3);
  const auto w = repeated(one), w2 = repeated(other);
  const std::int64_t tokens = GENERATE(1, 3);
  auto values = random_values(tokens * columns, 1), factors = random_values(columns, 4);
  const auto x = on<Half, Cuda>(values, {tokens, columns});
  const auto norm = on<float, Cuda>(factors, {columns});
  auto y = poisoned<Half, Cuda>({tokens, rows});
  const auto check = [&](const std::vector<double>& expected) {
    const auto all = values_of(y);
    std::vector<float> first;
    for (std::int64_t t = 0; t < tokens; ++t) {
      const auto row = all.begin() + t * rows;
      first.insert(first.end(), row, row + period);
      for (std::int64_t i = 0; i < rows; ++i) {
        if (row[i] != row[i % period]) FAIL("token " << t << ", row " << i << ": " << row[i]);
      }
    }
    CHECK(row_error(first, expected, period) < 3 * tolerance<Half>);
  };
  const auto expected = sums_of(values, one.values, columns),
             second = sums_of(values, other.values, columns);
  ops::matmul(ctx, y.view(), x.view(), w);
  check(expected);

  auto z = poisoned<Half, Cuda>({tokens, rows});
  const std::array<View<Half, Cuda>, 2> ys{z.view(), y.view()};
  const std::array<const Weight<Cuda>*, 2> ws{&w2, &w};
  ops::norm_matmul_many<Cuda, Half>(ctx, ys, x.view(), norm.view(), 0.1f, ws);
  const auto n = normalised(values, factors, 0.1);
  check(sums_of(n, one.values, columns));
  std::swap(y, z);
  check(sums_of(n, other.values, columns));

  ops::matmul_silu_mul(ctx, y.view(), x.view(), w, w2);
  auto gated = expected;
  for (std::size_t i = 0; i < gated.size(); ++i) {
    gated[i] = expected[i] / (1 + std::exp(-expected[i])) * second[i];
  }
  check(gated);
}

// One type of each way to read scales, each kernel that shares memory between threads.
TEST_CASE("cuda: products with quantised weights, few of them", "[cuda][small][race]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  for (const DType dtype :
       {DType::q4_0, DType::q5_1, DType::q2_k, DType::q3_k, DType::q4_k, DType::q6_k}) {
    check_products<Half>(ctx, dtype, {2, 2, 24});
    check_products<Half>(ctx, dtype, {6, 2, 24});
    check_products<Half>(ctx, dtype, {6, 24, 24});
  }
  // One token: a turn and less, and two turns, which several have, too.
  for (const DType dtype :
       {DType::q4_0, DType::q5_1, DType::q2_k, DType::q3_k, DType::q4_k, DType::q6_k}) {
    check_products<Half>(ctx, dtype, {1, 2, 24});
  }
  check_products<Half>(ctx, DType::q4_k, {1, 23, 24});
  check_products<Half>(ctx, DType::q8_0, {1, 171, 24});
  check_norm_within<Half>(ctx, DType::q4_k, {3, 23, 24});
  check_products<Half>(ctx, DType::q4_1, {3, 171, 24});
  check_products<float>(ctx, DType::q6_k, {2, 1, 12'800});  // gated: more bands than are kept
  check_norm_within<Half>(ctx, DType::q4_0, {1, 11, 24});
  check_products<Half>(ctx, DType::q4_0, {12, 24, 24});
  check_products<Half>(ctx, DType::q4_0, {20, 24, 24});
  check_products<Half>(ctx, DType::q4_k, {66, 6, 24});
  check_products<float>(ctx, DType::q4_k, {1, 2, 24});
  check_norm_within<Half>(ctx, DType::q4_0, {3, 11, 24});
}

TEST_CASE("cuda: products of few tokens with rows of many turns, and of too many",
          "[cuda][small]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  check_products<Half>(ctx, DType::q4_0, {4, 1024, 16});
  check_products<float>(ctx, DType::q4_k, {2, 128, 16});
  check_products<ziya::BFloat16>(ctx, DType::q4_0, {4, 16'385, 16});  // 4097 panels
}

TEST_CASE("cuda: products give the same bits in every run", "[cuda]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  // Few tokens, then every size of a tile of tokens, whole and not; the columns of the weight in
  // several parts, whose blocks end in another order in every run.
  constexpr std::int64_t out = 640, columns = 5120;
  for (const DType dtype : quantised_types()) {
    const auto on_device = ziya::weight_on<Cuda>(quantised(dtype, out, columns, 2).weight);
    for (const std::int64_t tokens :
         {1, 2, 4, 5, 8, 9, 16, 17, 33, 64, 65, 128, 200, 384, 512, 768}) {
      INFO(name(dtype) << " " << tokens);
      auto values = random_values(tokens * columns, 1);
      const auto x = on<Half, Cuda>(values, {tokens, columns});
      std::vector<float> first;
      for (int run = 0; run < 8; ++run) {
        auto y = poisoned<Half, Cuda>({tokens, out});
        ops::matmul(ctx, y.view(), View<const Half, Cuda>(x.view()), on_device);
        const auto found = values_of(y);
        if (run == 0) first = found;
        CHECK(found == first);
      }
    }
  }
}

TEST_CASE("cuda: gated products of many tokens with quantised weights, part by part", "[cuda]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  // Gate and up together are more than are converted at a time: two parts of 4208 rows, which fill
  // two rounds of tiles on 132 multiprocessors.
  const std::int64_t tokens = 1528, rows = 8416, in = 4096;
  std::vector<float> x_values = random_values(tokens * in, 1);
  const auto x = on<Half, Cuda>(x_values, {tokens, in});
  const Quantised gate = quantised(DType::q4_0, rows, in, 2),
                  up = quantised(DType::q4_0, rows, in, 3);
  const auto on_gate = ziya::weight_on<Cuda>(gate.weight), on_up = ziya::weight_on<Cuda>(up.weight);
  auto y = poisoned<Half, Cuda>({tokens, rows});
  ops::matmul_silu_mul(ctx, y.view(), View<const Half, Cuda>(x.view()), on_gate, on_up);
  const auto found = values_of(y);
  for (const std::int64_t t :
       {std::int64_t{0}, std::int64_t{517}, std::int64_t{1020}, tokens - 1}) {
    std::vector<float> row;
    std::vector<double> expected;
    for (std::int64_t r = 0; r < rows; ++r) {
      double sums[2] = {};
      for (std::int64_t i = 0; i < in; ++i) {
        const double v = static_cast<double>(x_values[static_cast<std::size_t>(t * in + i)]);
        sums[0] += v * static_cast<double>(gate.values[static_cast<std::size_t>(r * in + i)]);
        sums[1] += v * static_cast<double>(up.values[static_cast<std::size_t>(r * in + i)]);
      }
      row.push_back(found[static_cast<std::size_t>(t * rows + r)]);
      expected.push_back(sums[0] / (1 + std::exp(-sums[0])) * sums[1]);
    }
    CHECK(row_error(row, expected, rows) < 3 * half_tolerance);
  }
}

ZIYA_TEST_ON_DEVICES("cuda: a token's product with quantised weights", "[cuda][small]") {
  constexpr std::int64_t tokens = 4, out = 40, in = 1280;
  const auto not_a_number = std::numeric_limits<float>::quiet_NaN();
  with_quantised<TestType>([&]<class Device, class T>(Context<Device>& ctx, T) {
    for (const DType dtype : quantised_types()) {
      INFO(name(dtype));
      const auto w = quantised(dtype, out, in, 2);
      const auto on_device = placed<Device>(w.weight);
      auto values = random_values(tokens * in, 1);
      const auto part = [&](std::int64_t token, std::int64_t begin, std::int64_t end) {
        return std::span(values).subspan(static_cast<std::size_t>(token * in + begin),
                                         static_cast<std::size_t>(end - begin));
      };
      for (float& v : part(0, 256, 1024)) v = 0;  // whole groups of zeros
      part(1, 700, 701)[0] = 1000;                // beside which the others are small
      part(2, 33, 34)[0] = not_a_number;
      const auto x = on<T, Device>(values, {tokens, in});
      auto y = poisoned<T, Device>({tokens, out}), again = poisoned<T, Device>({tokens, out});
      ops::matmul(ctx, y.view(), x.view(), on_device);
      ops::matmul(ctx, again.view(), x.view(), on_device);
      const auto all = values_of(y), repeated = values_of(again);
      for (std::int64_t t = 0; t < tokens; ++t) {
        INFO("token " << t);
        const auto row_of = [&](const std::vector<float>& from) {
          return std::vector<float>(from.begin() + t * out, from.begin() + (t + 1) * out);
        };
        const auto row = row_of(all);
        if (t == 2) {
          CHECK(std::all_of(row.begin(), row.end(), [](float v) { return std::isnan(v); }));
          continue;
        }
        CHECK(row == row_of(repeated));
        std::vector<double> expected;
        for (std::int64_t o = 0; o < out; ++o) {
          double sum = 0;
          for (std::int64_t i = 0; i < in; ++i) {
            sum += static_cast<double>(ziya::to_float(from_float<T>(part(t, i, i + 1)[0]))) *
                   static_cast<double>(w.values[static_cast<std::size_t>(o * in + i)]);
          }
          expected.push_back(sum);
        }
        CHECK(row_error(row, expected, out) < tolerance<T>);
        auto alone = poisoned<T, Device>({1, out});
        ops::matmul(ctx, alone.view(), View<const T, Device>(x.view()).row_range(t, 1), on_device);
        CHECK(row_error(values_of(alone), expected, out) < tolerance<T>);
      }
    }
  });
}

TEST_CASE("cuda: products of operands of different types, and of rows that are not aligned",
          "[cuda][small]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  const std::int64_t in = 256, out = 24, tokens = 3;
  const auto a = quantised(DType::q4_k, out, in, 1), b = quantised(DType::q6_k, out, in, 2);
  const auto wa = ziya::weight_on<Cuda>(a.weight), wb = ziya::weight_on<Cuda>(b.weight);
  auto values = random_values(tokens * (in + 1), 3);
  const auto wide = on<float, Cuda>(values, {tokens, in + 1});
  const View<const float, Cuda> x = wide.view().column_range(1, in);
  auto y = poisoned<float, Cuda>({tokens, out}), z = poisoned<float, Cuda>({tokens, out});
  const std::array<View<float, Cuda>, 2> ys{y.view(), z.view()};
  const std::array<const Weight<Cuda>*, 2> ws{&wa, &wb};
  ops::matmul_many<Cuda, float>(ctx, ys, x, ws);
  const auto expected = [&](const Quantised& m) {
    std::vector<double> sums;
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t o = 0; o < out; ++o) {
        double sum = 0;
        for (std::int64_t i = 0; i < in; ++i) {
          sum += static_cast<double>(values[static_cast<std::size_t>(t * (in + 1) + 1 + i)]) *
                 static_cast<double>(m.values[static_cast<std::size_t>(o * in + i)]);
        }
        sums.push_back(sum);
      }
    }
    return sums;
  };
  CHECK(row_error(values_of(y), expected(a), out) < op_tolerance);
  CHECK(row_error(values_of(z), expected(b), out) < op_tolerance);
}

}  // namespace quantised_test
