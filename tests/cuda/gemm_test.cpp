// SPDX-License-Identifier: Apache-2.0
// Products of many tokens, which go through tiles on a GPU that has them, against loops in double.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/devices.hpp"
#include "ziya/ops/matmul.hpp"
#include "ziya/ops/silu_mul.hpp"

namespace gemm_test {

using namespace test;
namespace ops = ziya::ops;
using ziya::View;

/// Two rounds of tiles, or more, on 132 multiprocessors but for eight tokens and rows, so that what
/// has edges is taken by tiles; on other GPUs it may be the library's.
struct Size {
  std::int64_t tokens, rows;
};
constexpr std::int64_t columns = 72;  // a step of 64 and one of 8
constexpr std::int64_t margin = 8;    // elements beside what is read and written

/// Operands in the middle of wider rows, and what they should give for some tokens.
template <class T>
struct Operands {
  std::vector<float> x_values, w_values[2];
  Tensor<T, Cuda> x, w[2];
  std::int64_t tokens, rows;
  std::vector<std::int64_t> checked;

  Operands(std::int64_t token_count, std::int64_t row_count)
      : x_values(random_values(token_count * (columns + 2 * margin), 1)),
        w_values{random_values(row_count * columns, 2), random_values(row_count * columns, 3)},
        x(on<T, Cuda>(x_values, {token_count, columns + 2 * margin})),
        w{on<T, Cuda>(w_values[0], {row_count, columns}),
          on<T, Cuda>(w_values[1], {row_count, columns})},
        tokens(token_count),
        rows(row_count) {
    for (std::int64_t t = 0; t < tokens; t += 61) checked.push_back(t);
    checked.push_back(tokens - 1);
  }
  [[nodiscard]] View<const T, Cuda> view() const { return x.view().column_range(margin, columns); }
  [[nodiscard]] Weight<Cuda> weight(int n) const {
    return {ziya::dtype_of<T>, rows, columns, reinterpret_cast<const std::byte*>(w[n].data()),
            nullptr};
  }
  [[nodiscard]] double sum(int n, std::int64_t token, std::int64_t row) const {
    const float* a = x_values.data() + token * (columns + 2 * margin) + margin;
    const float* b = w_values[n].data() + row * columns;
    double result = 0;
    for (std::int64_t i = 0; i < columns; ++i) {
      result += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    }
    return result;
  }
};

/// Results in the middle of wider rows.
template <class T>
struct Results {
  Tensor<T, Cuda> y;
  std::int64_t tokens, rows;

  Results(std::int64_t token_count, std::int64_t row_count)
      : y(poisoned<T, Cuda>({token_count, row_count + 2 * margin})),
        tokens(token_count),
        rows(row_count) {}
  [[nodiscard]] View<T, Cuda> view() { return y.view().column_range(margin, rows); }

  /// Rows of `of.checked` are `expected(token, row)`, and what is beside all rows is untouched.
  template <class Expected>
  void check(const Operands<T>& of, double most, Expected&& expected) const {
    const auto values = values_of(y);
    const std::int64_t stride = rows + 2 * margin;
    bool beside = true;
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t i = 0; i < margin; ++i) {
        beside = beside && values[static_cast<std::size_t>(t * stride + i)] == -77 &&
                 values[static_cast<std::size_t>((t + 1) * stride - 1 - i)] == -77;
      }
    }
    CHECK(beside);
    double worst = 0;
    for (const std::int64_t t : of.checked) {
      std::vector<float> found(static_cast<std::size_t>(rows));
      std::vector<double> wanted(found.size());
      for (std::int64_t r = 0; r < rows; ++r) {
        found[static_cast<std::size_t>(r)] =
            values[static_cast<std::size_t>(t * stride + margin + r)];
        wanted[static_cast<std::size_t>(r)] = expected(t, r);
      }
      worst = std::max(worst, row_error(found, wanted, rows));
    }
    CHECK(worst < most);
  }
};

template <class T>
void check_stored(Context<Cuda>& ctx, const Size& size) {
  INFO(size.tokens << " " << size.rows);
  const Operands<T> of(size.tokens, size.rows);
  Results<T> y(size.tokens, size.rows);
  ops::matmul(ctx, y.view(), of.view(), of.weight(0));
  y.check(of, tolerance<T>, [&](auto t, auto r) { return of.sum(0, t, r); });
  const auto once = values_of(y.y);
  ops::matmul(ctx, y.view(), of.view(), of.weight(0));
  CHECK(values_of(y.y) == once);
}

TEMPLATE_TEST_CASE("cuda: products of many tokens", "[cuda][small]", Half, BFloat16) {
  if (!gpu()) return;
  Context<Cuda> ctx;
  check_stored<TestType>(ctx, {504, 25336});  // tiles of 256 × 192
  check_stored<TestType>(ctx, {248, 33784});  // tiles of 128 × 256
}

TEMPLATE_TEST_CASE("cuda: products of more tokens than meet the weights at a time", "[cuda]", Half,
                   BFloat16) {
  if (!gpu()) return;
  Context<Cuda> ctx;
  check_stored<TestType>(ctx, {2552, 12664});
}

TEMPLATE_TEST_CASE("cuda: products of many tokens with several weights", "[cuda][small]", Half,
                   BFloat16) {
  using T = TestType;
  if (!gpu()) return;
  Context<Cuda> ctx;
  // 41 tiles of 192 rows each, so that a pair of tiles has rows of both, and the last one is alone.
  const Size size{504, 7864};
  const Operands<T> of(size.tokens, size.rows);
  Results<T> y(size.tokens, size.rows), z(size.tokens, size.rows), last(size.tokens, size.rows);
  const Weight<Cuda> first = of.weight(0), second = of.weight(1);
  const std::array<View<T, Cuda>, 3> ys{y.view(), z.view(), last.view()};
  const std::array<const Weight<Cuda>*, 3> ws{&first, &second, &first};
  ops::matmul_many<Cuda, T>(ctx, ys, of.view(), ws);
  y.check(of, tolerance<T>, [&](auto t, auto r) { return of.sum(0, t, r); });
  z.check(of, tolerance<T>, [&](auto t, auto r) { return of.sum(1, t, r); });
  CHECK(values_of(last.y) == values_of(y.y));
}

TEMPLATE_TEST_CASE("cuda: products of many tokens added to what is there", "[cuda][small]", Half,
                   BFloat16) {
  using T = TestType;
  if (!gpu()) return;
  Context<Cuda> ctx;
  const Size size{504, 21112};  // tiles of 256 × 160
  const Operands<T> of(size.tokens, size.rows);
  Results<T> y(size.tokens, size.rows);
  ops::matmul(ctx, y.view(), of.view(), of.weight(0));
  ops::matmul_add(ctx, y.view(), of.view(), of.weight(1));
  y.check(of, 2 * tolerance<T>, [&](auto t, auto r) { return of.sum(0, t, r) + of.sum(1, t, r); });
}

TEMPLATE_TEST_CASE("cuda: gated products of many tokens are those of single ops, bit for bit",
                   "[cuda][small]", Half, BFloat16) {
  using T = TestType;
  if (!gpu()) return;
  Context<Cuda> ctx;
  // 96 and 72 rows of gate and up in a tile.
  for (const Size size : {Size{504, 12664}, Size{504, 9496}}) {
    INFO(size.tokens << " " << size.rows);
    const Operands<T> of(size.tokens, size.rows);
    Results<T> y(size.tokens, size.rows);
    ops::matmul_silu_mul(ctx, y.view(), of.view(), of.weight(0), of.weight(1));
    y.check(of, 3 * tolerance<T>, [&](auto t, auto r) {
      const double gate = of.sum(0, t, r);
      return gate / (1 + std::exp(-gate)) * of.sum(1, t, r);
    });
    Results<T> gate(size.tokens, size.rows), up(size.tokens, size.rows);
    ops::matmul(ctx, gate.view(), of.view(), of.weight(0));
    ops::matmul(ctx, up.view(), of.view(), of.weight(1));
    ops::silu_mul(ctx, gate.view(), View<const T, Cuda>(gate.view()),
                  View<const T, Cuda>(up.view()));
    CHECK(values_of(y.y) == values_of(gate.y));
  }
}

}  // namespace gemm_test
