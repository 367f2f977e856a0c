// SPDX-License-Identifier: Apache-2.0
// Ops on both devices, one body each, against loops in double.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "cuda/devices.hpp"
#include "cuda/products.hpp"
#include "support/contexts.hpp"
#include "support/errors.hpp"
#include "ziya/core/label.hpp"
#include "ziya/nn/linear.hpp"
#include "ziya/ops/add_bias.hpp"
#include "ziya/ops/cross_entropy.hpp"
#include "ziya/ops/embedding.hpp"
#include "ziya/ops/matmul.hpp"
#include "ziya/ops/rms_norm.hpp"
#include "ziya/ops/rope.hpp"
#include "ziya/ops/silu_mul.hpp"
#include "ziya/ops/softmax.hpp"
#include "ziya/ops/top_k.hpp"

namespace ops_test {

using namespace test;
namespace ops = ziya::ops;
using ziya::View;

constexpr std::array stored_types{DType::f32, DType::f16, DType::bf16};

double at(const std::vector<float>& values, std::int64_t i) {
  return static_cast<double>(values[static_cast<std::size_t>(i)]);
}

struct Size {
  std::int64_t rows, columns;
};
constexpr std::array sizes{Size{1, 8}, Size{3, 65}, Size{2, 256}, Size{5, 5120}, Size{130, 88}};

ZIYA_TEST_ON_DEVICES("cuda: embedding", "[cuda][small][race]") {
  on_device<TestType>([]<class Device, class T>(Context<Device>& ctx, T) {
    for (const DType dtype : stored_types) {
      const auto table = random_matrix(dtype, 11, 72, 1);
      const std::vector<std::int32_t> ids{3, 0, 10, 3};
      auto y = poisoned<T, Device>({4, 72});
      ops::embedding(ctx, y.view(), ziya::weight_on<Device>(table.weight), ids);
      std::vector<double> expected;
      for (const std::int32_t id : ids) {
        for (std::int64_t j = 0; j < 72; ++j) expected.push_back(table.at(id, j));
      }
      CHECK(row_error(values_of(y), expected, 72) < tolerance<T>);
    }
  });
}

ZIYA_TEST_ON_DEVICES("cuda: rms_norm", "[cuda][small][race]") {
  on_device<TestType>([]<class Device, class T>(Context<Device>& ctx, T) {
    for (const Size& s : sizes) {
      CAPTURE(s.rows, s.columns);
      auto x = random_values(s.rows * s.columns, 1);
      auto weight = random_values(s.columns, 3);
      const Shape shape{s.rows, s.columns};
      const auto there = on<T, Device>(x, shape);
      const auto w = on<float, Device>(weight, Shape{s.columns});
      const auto norm = [&](const std::vector<double>& v) {
        std::vector<double> y;
        for (std::int64_t i = 0; i < s.rows; ++i) {
          double squares = 0;
          for (std::int64_t j = 0; j < s.columns; ++j) {
            squares += std::pow(v[static_cast<std::size_t>(i * s.columns + j)], 2);
          }
          const double scale = 1 / std::sqrt(squares / static_cast<double>(s.columns) + 1e-6);
          for (std::int64_t j = 0; j < s.columns; ++j) {
            y.push_back(v[static_cast<std::size_t>(i * s.columns + j)] * scale * at(weight, j));
          }
        }
        return y;
      };
      auto y = poisoned<T, Device>(shape);
      ops::rms_norm(ctx, y.view(), there.view(), w.view(), 1e-6f);
      CHECK(row_error(values_of(y), norm({x.begin(), x.end()}), s.columns) < tolerance<T>);
    }
  });
}

ZIYA_TEST_ON_DEVICES("cuda: a row is normalised to the same bits alone and among many",
                     "[cuda][small][norm]") {
  on_device<TestType>([]<class Device, class T>(Context<Device>& ctx, T) {
    for (const std::int64_t columns : {65, 88, 256, 5120, 8456}) {
      CAPTURE(columns);
      constexpr std::int64_t rows = 600;  // more than a few
      auto x = random_values(rows * columns, 1), weight = random_values(columns, 2);
      const auto there = on<T, Device>(x, {rows, columns});
      const auto w = on<float, Device>(weight, {columns});
      auto y = poisoned<T, Device>({rows, columns}), alone = poisoned<T, Device>({1, columns});
      ops::rms_norm(ctx, y.view(), there.view(), w.view(), 1e-6f);
      const auto all = values_of(y);
      for (const std::int64_t row : {0, 599}) {
        ops::rms_norm<Device, T>(ctx, alone.view(), there.view().row_range(row, 1), w.view(),
                                 1e-6f);
        CHECK(values_of(alone) ==
              std::vector<float>(all.begin() + row * columns, all.begin() + (row + 1) * columns));
      }
    }
  });
}

ZIYA_TEST_ON_DEVICES("cuda: silu_mul, add_bias, softmax", "[cuda][small][race]") {
  on_device<TestType>([]<class Device, class T>(Context<Device>& ctx, T) {
    for (const Size& s : sizes) {
      CAPTURE(s.rows, s.columns);
      const Shape shape{s.rows, s.columns};
      auto gate = random_values(s.rows * s.columns, 1, 4),
           up = random_values(s.rows * s.columns, 2);
      auto bias = random_values(s.columns, 3);
      const auto g = on<T, Device>(gate, shape), u = on<T, Device>(up, shape);
      const auto b = on<float, Device>(bias, Shape{s.columns});
      auto y = poisoned<T, Device>(shape);
      ops::silu_mul(ctx, y.view(), g.view(), u.view());
      std::vector<double> expected;
      for (std::size_t i = 0; i < gate.size(); ++i) {
        const double v = gate[i];
        expected.push_back(v / (1 + std::exp(-v)) * static_cast<double>(up[i]));
      }
      CHECK(row_error(values_of(y), expected, s.columns) < tolerance<T>);

      auto biased = on<T, Device>(up, shape);
      ops::add_bias(ctx, biased.view(), b.view());
      for (std::size_t i = 0; i < up.size(); ++i) {
        expected[i] =
            static_cast<double>(up[i]) + at(bias, static_cast<std::int64_t>(i) % s.columns);
      }
      CHECK(row_error(values_of(biased), expected, s.columns) < tolerance<T>);

      y = poisoned<T, Device>(shape);
      ops::softmax(ctx, y.view(), g.view());
      for (std::int64_t i = 0; i < s.rows; ++i) {
        double sum = 0;
        for (std::int64_t j = 0; j < s.columns; ++j) sum += std::exp(at(gate, i * s.columns + j));
        for (std::int64_t j = 0; j < s.columns; ++j) {
          expected[static_cast<std::size_t>(i * s.columns + j)] =
              std::exp(at(gate, i * s.columns + j)) / sum;
        }
      }
      CHECK(row_error(values_of(y), expected, s.columns) < tolerance<T>);
    }
  });
}

ZIYA_TEST_ON_DEVICES("cuda: cross_entropy", "[cuda][small][race]") {
  on_device<TestType>([]<class Device, class T>(Context<Device>& ctx, T) {
    for (const Size& s : sizes) {
      CAPTURE(s.rows, s.columns);
      auto logits = random_values(s.rows * s.columns, 1, 20);
      const auto x = on<T, Device>(logits, {s.rows, s.columns});
      std::vector<std::int32_t> labels;
      std::vector<double> expected;
      for (std::int64_t i = 0; i < s.rows; ++i) {
        const std::int64_t label = (i * 37 + 5) % s.columns;
        double sum = 0;
        for (std::int64_t j = 0; j < s.columns; ++j) sum += std::exp(at(logits, i * s.columns + j));
        const bool ignored = i % 3 == 1;
        labels.push_back(ignored ? ziya::ignored_label : static_cast<std::int32_t>(label));
        expected.push_back(ignored ? 0 : std::log(sum) - at(logits, i * s.columns + label));
      }
      auto loss = poisoned<T, Device>(Shape{s.rows});
      ops::cross_entropy(ctx, loss.view(), View<const T, Device>(x.view()), labels);
      CHECK(row_error(values_of(loss), expected, 1) < tolerance<T>);
    }
    // Greater than what e^x holds; a class that cannot be; a part of wider rows.
    std::vector<float> extreme{9, 3e4f, 0, 9, 9, -INFINITY, 5, 9};
    const auto x = on<T, Device>(extreme, {2, 4});
    auto loss = poisoned<T, Device>(Shape{2});
    ops::cross_entropy(ctx, loss.view(), View<const T, Device>(x.view()).column_range(1, 2),
                       std::vector<std::int32_t>{1, 1});
    CHECK(values_of(loss) == std::vector<float>{extreme[1], 0});
  });
}

ZIYA_TEST_ON_DEVICES("cuda: rope in both pairings", "[cuda][small][race]") {
  on_device<TestType>([]<class Device, class T>(Context<Device>& ctx, T) {
    const std::vector<std::int32_t> positions{0, 1, 17, 2047, 5};
    for (const std::int64_t head_dim : {2, 8, 64, 88, 128}) {
      for (const auto pairing : {ziya::RopePairing::halves, ziya::RopePairing::interleaved}) {
        const std::int64_t heads = 3, width = heads * head_dim;
        std::vector<float> frequencies;
        for (std::int64_t i = 0; i < head_dim / 2; ++i) {
          frequencies.push_back(static_cast<float>(
              std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim))));
        }
        auto x = random_values(5 * width, 1);
        auto turned = on<T, Device>(x, {5, heads, head_dim});
        std::vector<double> expected(x.begin(), x.end());
        for (std::int64_t t = 0; t < 5; ++t) {
          for (std::int64_t h = 0; h < heads; ++h) {
            for (std::int64_t i = 0; i < head_dim / 2; ++i) {
              const bool halves = pairing == ziya::RopePairing::halves;
              const std::int64_t base = t * width + h * head_dim;
              const std::int64_t p = base + (halves ? i : 2 * i);
              const std::int64_t q = p + (halves ? head_dim / 2 : 1);
              const float angle = static_cast<float>(positions[static_cast<std::size_t>(t)]) *
                                  frequencies[static_cast<std::size_t>(i)];
              const double c = std::cos(static_cast<double>(angle));
              const double s = std::sin(static_cast<double>(angle));
              expected[static_cast<std::size_t>(p)] = at(x, p) * c - at(x, q) * s;
              expected[static_cast<std::size_t>(q)] = at(x, q) * c + at(x, p) * s;
            }
          }
        }
        const ziya::RopeTable<Device> table(frequencies);
        ops::rope(ctx, turned.view(), positions, table, pairing);
        CAPTURE(head_dim, static_cast<int>(pairing));
        CHECK(row_error(values_of(turned), expected, width) < tolerance<T>);
      }
    }
  });
}

struct ProductCase {
  std::int64_t tokens, in, out;
};

template <class TestType>
void check_matmul(std::span<const ProductCase> cases) {
  on_device<TestType>([&]<class Device, class T>(Context<Device>& ctx, T) {
    for (const DType dtype : stored_types) {
      for (const ProductCase& c : cases) {
        INFO(name(dtype) << " " << c.tokens << " x " << c.in << " x " << c.out);
        auto values = random_values(c.tokens * c.in, 1);
        const auto x = on<T, Device>(values, {c.tokens, c.in});
        if constexpr (std::is_same_v<Device, Cpu>) values = as_met(ctx.isa(), dtype, values);
        const auto w = random_matrix(dtype, c.out, c.in, 2),
                   w2 = random_matrix(dtype, c.out, c.in, 3);
        const auto on_device = ziya::weight_on<Device>(w.weight);
        const auto on_device2 = ziya::weight_on<Device>(w2.weight);
        const auto product = [&](const StoredMatrix& m) {
          std::vector<double> y;
          for (std::int64_t t = 0; t < c.tokens; ++t) {
            for (std::int64_t o = 0; o < c.out; ++o) {
              double sum = 0;
              for (std::int64_t i = 0; i < c.in; ++i) {
                // A weight of another type is first rounded to that of 16-bit activations.
                const auto weight = static_cast<float>(m.at(o, i));
                sum += at(values, t * c.in + i) *
                       static_cast<double>(ziya::to_float(from_float<T>(weight)));
              }
              y.push_back(sum);
            }
          }
          return y;
        };
        check_products_of<T, Device>(ctx, x, on_device, on_device2, product(w), product(w2),
                                     2 * tolerance<T>, op_tolerance);
      }
    }
  });
}

// Matrix × vector with whole packs and tails, up to four tokens.
ZIYA_TEST_ON_DEVICES("cuda: matmul, plain, added, many, gated, from every stored type",
                     "[cuda][small]") {
  check_matmul<TestType>(std::array{ProductCase{1, 64, 8}, ProductCase{1, 5120, 33},
                                    ProductCase{1, 24, 7}, ProductCase{1, 264, 2100},
                                    ProductCase{3, 65, 7}, ProductCase{4, 256, 40}});
}
ZIYA_TEST_ON_DEVICES("cuda: a norm within products of one token is the norm, bit for bit",
                     "[cuda][small][race][norm]") {
  on_device<TestType>([]<class Device, class T>(Context<Device>& ctx, T) {
    for (const auto& [in, out] : {Size{8, 5}, Size{264, 900}, Size{5120, 40}, Size{8456, 16}}) {
      CAPTURE(in, out);
      const auto place = [&](std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
        return ziya::weight_on<Device>(
            random_matrix(ziya::dtype_of<T>, rows, columns, seed).weight);
      };
      auto values = random_values(in, 1), factors = random_values(in, 2);
      const auto x = on<T, Device>(values, {1, in});
      const auto norm = on<float, Device>(factors, {in});
      const auto q = place(out, in, 3), k = place(3, in, 4), v = place(out, in, 5),
                 down = place(in, out, 6);
      auto n = poisoned<T, Device>({1, in});
      ops::rms_norm(ctx, n.view(), x.view(), norm.view(), 1e-5f);

      const auto results = [&] {
        return std::array{poisoned<T, Device>({1, out}), poisoned<T, Device>({1, 3}),
                          poisoned<T, Device>({1, out})};
      };
      auto apart = results(), together = results();
      const std::array<const Weight<Device>*, 3> ws{&q, &k, &v};
      const auto views = [](auto& tensors) {
        return std::array<View<T, Device>, 3>{tensors[0].view(), tensors[1].view(),
                                              tensors[2].view()};
      };
      ops::matmul_many<Device, T>(ctx, views(apart), n.view(), ws);
      ops::norm_matmul_many<Device, T>(ctx, views(together), x.view(), norm.view(), 1e-5f, ws);
      for (std::size_t i = 0; i < 3; ++i) CHECK(values_of(together[i]) == values_of(apart[i]));

      auto gated = poisoned<T, Device>({1, out});
      auto expected = on<T, Device>(values, {1, in}), y = on<T, Device>(values, {1, in});
      ops::matmul_silu_mul(ctx, gated.view(), n.view(), q, v);
      ops::matmul_add(ctx, expected.view(), gated.view(), down);
      ops::gated_mlp<Device, T>(ctx, y.view(), y.view(), norm.view(), 1e-5f, q, v, down);
      CHECK(values_of(y) == values_of(expected));
    }
  });
}
ZIYA_TEST_ON_DEVICES("cuda: matmul of more tokens from every stored type",
                     "[cuda][small][library]") {
  check_matmul<TestType>(
      std::array{ProductCase{5, 512, 64}, ProductCase{17, 129, 33}, ProductCase{70, 88, 72}});
}

/// A weight of random numbers that come again after 65,537 of them.
template <class T>
Weight<Cuda> wide_weight(std::int64_t out, std::int64_t in) {
  const auto values = random_values(65537, 2, 0.03);
  std::vector<T> some;
  for (const float value : values) some.push_back(from_float<T>(value));
  auto memory = std::make_shared<Tensor<T>>(Shape{out, in});
  for (std::int64_t i = 0; i < out * in; ++i) {
    memory->data()[i] = some[static_cast<std::size_t>(i) % some.size()];
  }
  return ziya::weight_on<Cuda>(Weight<Cpu>{
      ziya::dtype_of<T>, out, in, reinterpret_cast<const std::byte*>(memory->data()), memory});
}

TEMPLATE_TEST_CASE("cuda: the fastest algorithms give the bits of the library's first choice",
                   "[cuda][library]", float, Half, BFloat16) {
  if (!gpu()) return;
  using T = TestType;
  // Lengths of prompts in one class and in several, met in another order by each context.
  const std::vector<std::int64_t> some{300, 5, 512, 8, 64, 37, 280};
  Context<Cuda> first({.tried_algorithms = 1}), forwards, backwards;
  for (const auto [in, out] :
       {std::array<std::int64_t, 2>{5120, 5120}, {5120, 13824}, {13824, 5120}, {64, 40}}) {
    const auto w = wide_weight<T>(out, in);
    auto values = random_values(512 * in, 1);
    const auto x = on<T, Cuda>(values, {512, in});
    const auto products = [&](Context<Cuda>& ctx, std::int64_t tokens) {
      const auto rows = View<const T, Cuda>(x.view()).row_range(0, tokens);
      auto y = poisoned<T, Cuda>({tokens, out});
      ops::matmul(ctx, y.view(), rows, w);
      auto result = values_of(y);
      ops::matmul_add(ctx, y.view(), rows, w);
      for (const float value : values_of(y)) result.push_back(value);
      return result;
    };
    std::map<std::int64_t, std::vector<float>> found;
    for (const std::int64_t tokens : some) found[tokens] = products(forwards, tokens);
    for (auto tokens = some.rbegin(); tokens != some.rend(); ++tokens) {
      CAPTURE(in, out, *tokens);
      CHECK((products(backwards, *tokens) == found[*tokens]));
      CHECK((products(first, *tokens) == found[*tokens]));
    }
  }
}

TEST_CASE("cuda: fingerprints tell single bits and places apart", "[cuda][small]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  Tensor<std::uint64_t, Cuda> sum(Shape{1});
  const auto of = [&](std::vector<std::uint16_t> words, std::int64_t stride) {
    Tensor<std::uint16_t> host(Shape{std::ssize(words)});
    std::copy(words.begin(), words.end(), host.data());
    const auto there = host.to<Cuda>();
    return ziya::cuda::fingerprint<std::uint16_t>(ctx.stream(), sum.data(), there.data(), 2, 3,
                                                  stride);
  };
  const auto expected = of({1, 2, 3, 4, 5, 6}, 3);
  CHECK(of({1, 2, 3, 99, 4, 5, 6}, 4) == expected);  // what lies between rows does not count
  CHECK(of({1, 2, 3, 4, 5, 7}, 3) != expected);
  CHECK(of({2, 1, 3, 4, 5, 6}, 3) != expected);
}

TEST_CASE("cuda: top_k", "[cuda][small][race]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  Context<Cpu> cpu({.threads = 1});
  for (const std::int64_t count : {1, 50, 39424}) {
    auto values = random_values(count, 4);
    for (std::size_t i = 0; i < values.size(); i += 7) values[i] = 0.5f;  // equal values
    if (count > 10) values[3] = std::nanf(""), values[5] = -INFINITY;
    Tensor<float> host(Shape{count});
    std::copy(values.begin(), values.end(), host.data());
    const auto row = host.to<Cuda>();
    const auto k = static_cast<std::size_t>(std::min<std::int64_t>(count, 60));
    std::vector<std::int32_t> ids(k), expected_ids(k);
    std::vector<float> best(k), expected(k);
    ops::top_k(ctx, ids, best, row.view());
    ops::top_k(cpu, expected_ids, expected, host.view());
    CHECK(ids == expected_ids);
  }
}

TEST_CASE("cuda: what the system reports is an error", "[cuda][small]") {
  REQUIRE_ERROR(ziya::cuda::check(cudaErrorIllegalAddress, "copy"), "ZIYA-150", "cuda: copy: ");
  REQUIRE_ERROR(Context<Cuda>({.device = 99}), "ZIYA-151", "GPU 99");
}

TEST_CASE("cuda: partial sums of ranks are added in 32 bits only", "[cuda][small]") {
  if (!gpu()) return;
  Context<Cuda> ctx;
  auto values = random_values(8 * 8, 1);
  ziya::Communicator ranks;
  ranks.size = 2;
  const auto w = random_matrix(DType::f16, 8, 8, 2);
  ziya::nn::Linear<Cuda> linear;
  linear.weight = weight_on<Cuda>(w.weight);
  linear.communicator = &ranks;
  linear.split = ziya::nn::Split::columns;
  const auto x = on<Half, Cuda>(values, {8, 8});
  auto y = poisoned<Half, Cuda>({8, 8});
  REQUIRE_ERROR(linear.forward<Half>(ctx, y.view(), x.view()), "ZIYA-155", "f16");
}

TEST_CASE("cuda: what does not fit is said", "[cuda][small][race]") {
  if (!gpu()) return;
  try {
    const Tensor<std::byte, Cuda> huge(Shape{std::int64_t{1} << 45});
    FAIL("no error");
  } catch (const ziya::BackendError& error) {
    CHECK(error.id() == "ZIYA-152");
    CHECK(std::string(error.what()).find("needs 33554432 MiB, free are ") != std::string::npos);
  }
  Context<Cuda> ctx;  // the failure is not reported again
  auto values = random_values(8, 1);
  auto y = on<float, Cuda>(values, {1, 8});
  ops::softmax(ctx, y.view(), y.view());
  ctx.synchronize();
}

}  // namespace ops_test
