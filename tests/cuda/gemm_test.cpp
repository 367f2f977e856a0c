// SPDX-License-Identifier: Apache-2.0
// Products of many tokens, which go through tiles on a GPU that has them, against loops in double.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "cuda/devices.hpp"
#include "ziya/ops/matmul.hpp"
#include "ziya/ops/silu_mul.hpp"

namespace gemm_test {

using namespace test;
namespace ops = ziya::ops;
using ziya::View;

/// Two rounds of tiles, or more, on 132 multiprocessors but for eight tokens and rows, so that what
/// has edges is taken by tiles, of which the last pair is one; on other GPUs it may be the
/// library's.
struct Size {
  std::int64_t tokens, rows;
};
constexpr std::int64_t columns = 584;  // nine steps of 64, more than are under way, and one of 8
constexpr std::int64_t margin = 8;     // elements and rows beside what is read and written

/// Operands in the middle of wider rows, and what they should give for some tokens.
template <class T>
struct Operands {
  std::vector<float> x_values;
  std::vector<std::vector<float>> w_values;
  Tensor<T, Cuda> x;
  std::vector<Tensor<T, Cuda>> w;
  std::int64_t tokens;
  std::vector<std::int64_t> checked;  ///< of every eight rows that a warp has

  Operands(std::int64_t token_count, const std::vector<std::int64_t>& rows)
      : x_values(random_values(token_count * (columns + 2 * margin), 1)), tokens(token_count) {
    for (std::size_t i = 0; i < x_values.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i) % (columns + 2 * margin);
      if (at < margin || at >= columns + margin) {
        x_values[i] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    x = on<T, Cuda>(x_values, {tokens, columns + 2 * margin});
    for (const std::int64_t count : rows) {
      w_values.push_back(random_values(count * columns, 2 + w_values.size()));
      w.push_back(on<T, Cuda>(w_values.back(), {count, columns}));
    }
    for (std::int64_t t = 0; t < tokens; t += 37) checked.push_back(t);
    checked.push_back(tokens - 1);
  }
  [[nodiscard]] View<const T, Cuda> view() const { return x.view().column_range(margin, columns); }
  [[nodiscard]] Weight<Cuda> weight(std::size_t n) const {
    return {ziya::dtype_of<T>, w[n].shape()[0], columns,
            reinterpret_cast<const std::byte*>(w[n].data()), nullptr};
  }
  [[nodiscard]] double sum(std::size_t n, std::int64_t token, std::int64_t row) const {
    const float* a = x_values.data() + token * (columns + 2 * margin) + margin;
    const float* b = w_values[n].data() + row * columns;
    double result = 0;
    for (std::int64_t i = 0; i < columns; ++i) {
      result += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    }
    return result;
  }
};

/// Results in the middle of more and wider rows.
template <class T>
struct Results {
  Tensor<T, Cuda> y;
  std::int64_t tokens, rows;

  Results(std::int64_t token_count, std::int64_t row_count)
      : y(poisoned<T, Cuda>({token_count + 2 * margin, row_count + 2 * margin})),
        tokens(token_count),
        rows(row_count) {}
  [[nodiscard]] View<T, Cuda> view() {
    return y.view().row_range(margin, tokens).column_range(margin, rows);
  }

  /// Rows of `of.checked` are `expected(token, row)`, and what is around all rows is untouched.
  template <class Expected>
  void check(const Operands<T>& of, double most, Expected&& expected) const {
    const auto values = values_of(y);
    const std::int64_t stride = rows + 2 * margin;
    bool around = true;
    for (std::int64_t t = 0; t < tokens + 2 * margin; ++t) {
      const bool outside = t < margin || t >= tokens + margin;
      for (std::int64_t i = 0; i < stride; ++i) {
        if (!outside && i >= margin && i < rows + margin) continue;
        around = around && values[static_cast<std::size_t>(t * stride + i)] == -77;
      }
    }
    CHECK(around);
    double worst = 0;
    for (const std::int64_t t : of.checked) {
      std::vector<float> found(static_cast<std::size_t>(rows));
      std::vector<double> wanted(found.size());
      for (std::int64_t r = 0; r < rows; ++r) {
        found[static_cast<std::size_t>(r)] =
            values[static_cast<std::size_t>((t + margin) * stride + margin + r)];
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
  const Operands<T> of(size.tokens, {size.rows});
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
  check_stored<TestType>(ctx, {504, 25144});  // 131 tiles of 256 × 192
  check_stored<TestType>(ctx, {248, 33528});  // 131 tiles of 128 × 256
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
  // 33, 16 and 16 tiles of 192 rows, so that two pairs of tiles have rows of two weights.
  const std::vector<std::int64_t> rows{6328, 3064, 3056};
  const Operands<T> of(504, rows);
  Results<T> q(504, rows[0]), k(504, rows[1]), v(504, rows[2]);
  const std::array<Weight<Cuda>, 3> w{of.weight(0), of.weight(1), of.weight(2)};
  const std::array<View<T, Cuda>, 3> ys{q.view(), k.view(), v.view()};
  const std::array<const Weight<Cuda>*, 3> ws{&w[0], &w[1], &w[2]};
  ops::matmul_many<Cuda, T>(ctx, ys, of.view(), ws);
  q.check(of, tolerance<T>, [&](auto t, auto r) { return of.sum(0, t, r); });
  k.check(of, tolerance<T>, [&](auto t, auto r) { return of.sum(1, t, r); });
  v.check(of, tolerance<T>, [&](auto t, auto r) { return of.sum(2, t, r); });
}

TEMPLATE_TEST_CASE("cuda: products of many tokens added to what is there", "[cuda][small]", Half,
                   BFloat16) {
  using T = TestType;
  if (!gpu()) return;
  Context<Cuda> ctx;
  const Size size{504, 20952};  // 131 tiles of 256 × 160
  const Operands<T> of(size.tokens, {size.rows, size.rows});
  Results<T> y(size.tokens, size.rows);
  ops::matmul(ctx, y.view(), of.view(), of.weight(0));
  ops::matmul_add(ctx, y.view(), of.view(), of.weight(1));
  y.check(of, 2 * tolerance<T>, [&](auto t, auto r) { return of.sum(0, t, r) + of.sum(1, t, r); });
}

template <class T>
std::vector<float> check_gated(Context<Cuda>& ctx, const Operands<T>& of, std::int64_t rows) {
  INFO(of.tokens << " " << rows);
  Results<T> y(of.tokens, rows);
  ops::matmul_silu_mul(ctx, y.view(), of.view(), of.weight(0), of.weight(1));
  y.check(of, 3 * tolerance<T>, [&](auto t, auto r) {
    const double gate = of.sum(0, t, r);
    return gate / (1 + std::exp(-gate)) * of.sum(1, t, r);
  });
  return values_of(y.y);
}

TEMPLATE_TEST_CASE("cuda: gated products of many tokens", "[cuda][small]", Half, BFloat16) {
  using T = TestType;
  if (!gpu()) return;
  Context<Cuda> ctx;
  // 131 tiles with 72 and with 96 rows of gate and up.
  check_gated<T>(ctx, Operands<T>(504, {9424, 9424}), 9424);
  const Size size{504, 12568};
  const Operands<T> of(size.tokens, {size.rows, size.rows});
  const auto together = check_gated<T>(ctx, of, size.rows);
  // Single products of this size are made of tiles, too, and give the same bits.
  Results<T> gate(size.tokens, size.rows), up(size.tokens, size.rows);
  ops::matmul(ctx, gate.view(), of.view(), of.weight(0));
  ops::matmul(ctx, up.view(), of.view(), of.weight(1));
  ops::silu_mul(ctx, gate.view(), View<const T, Cuda>(gate.view()), View<const T, Cuda>(up.view()));
  CHECK(together == values_of(gate.y));
}

}  // namespace gemm_test
