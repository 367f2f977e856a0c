// SPDX-License-Identifier: Apache-2.0
// Linear layers: bias, low-rank updates, and parts of a weight on several ranks.
#include "ziya/nn/linear.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "ziya/core/random.hpp"

namespace linear_test {

using ziya::Cpu;
using ziya::DType;
using ziya::Shape;
using ziya::Tensor;
using ziya::Weight;

constexpr int tokens = 3, in = 20, out = 12, rank = 4;

std::vector<float> random_values(std::size_t count, std::uint64_t seed) {
  ziya::Random random{.seed = seed};
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.uniform() * 2 - 1);
  return values;
}

Weight<Cpu> weight_of(const std::vector<float>& values, int rows, int columns) {
  return {DType::f32, rows, columns, reinterpret_cast<const std::byte*>(values.data()), nullptr};
}

double product(const std::vector<float>& x, const std::vector<float>& w, int t, int o, int width) {
  double sum = 0;
  for (int i = 0; i < width; ++i) {
    sum += static_cast<double>(x[static_cast<std::size_t>(t * width + i)]) *
           static_cast<double>(w[static_cast<std::size_t>(o * width + i)]);
  }
  return sum;
}

struct Fixture {
  std::vector<float> x = random_values(tokens * in, 1), w = random_values(out * in, 2);
  ziya::Context<Cpu> ctx{{.threads = 2}};
  Tensor<float> y{Shape{tokens, out}};
  ziya::View<const float> input() const { return {x.data(), Shape{tokens, in}}; }
};

TEST_CASE("a linear layer adds its bias and its low-rank update", "[linear]") {
  Fixture f;
  const auto a = random_values(rank * in, 3), b = random_values(out * rank, 4);
  ziya::nn::Linear<Cpu> linear;
  linear.weight = weight_of(f.w, out, in);
  linear.bias = Tensor<float>(Shape{out});
  for (int o = 0; o < out; ++o) linear.bias.data()[o] = static_cast<float>(o);
  linear.lora = std::make_shared<ziya::nn::Lora<Cpu>>(
      ziya::nn::Lora<Cpu>{weight_of(a, rank, in), weight_of(b, out, rank)});
  linear.forward<float>(f.ctx, f.y, f.input());
  for (int t = 0; t < tokens; ++t) {
    for (int o = 0; o < out; ++o) {
      double expected = product(f.x, f.w, t, o, in) + o;
      for (int r = 0; r < rank; ++r) {
        expected += static_cast<double>(b[static_cast<std::size_t>(o * rank + r)]) *
                    product(f.x, a, t, r, in);
      }
      REQUIRE(f.y.data()[t * out + o] == Approx(expected).margin(1e-4));
    }
  }
  auto sum = random_values(tokens * out, 5);
  const auto before = sum;
  linear.add_to<float>(f.ctx, {sum.data(), Shape{tokens, out}}, f.input());
  for (std::size_t i = 0; i < sum.size(); ++i) {
    REQUIRE(sum[i] == Approx(before[i] + f.y.data()[i]).margin(1e-5));
  }
  std::map<std::string, std::int64_t> parameters;
  linear.visit("q_proj", [&](const std::string& name, const Weight<Cpu>& weight) {
    parameters[name] = weight.rows * weight.columns;
  });
  REQUIRE(parameters == std::map<std::string, std::int64_t>{{"q_proj.weight", out * in},
                                                            {"q_proj.bias", out},
                                                            {"q_proj.lora_A.weight", rank * in},
                                                            {"q_proj.lora_B.weight", out * rank}});
}

TEST_CASE("the parts of a weight split by columns add up over ranks", "[linear]") {
  Fixture f;
  constexpr int half = in / 2;
  // Rank 1's partial sums, which the communicator of rank 0 adds row by row.
  std::vector<float> other(tokens * out);
  for (int t = 0; t < tokens; ++t) {
    for (int o = 0; o < out; ++o) {
      double sum = 0;
      for (int i = half; i < in; ++i) {
        sum += static_cast<double>(f.x[static_cast<std::size_t>(t * in + i)]) *
               static_cast<double>(f.w[static_cast<std::size_t>(o * in + i)]);
      }
      other[static_cast<std::size_t>(t * out + o)] = static_cast<float>(sum);
    }
  }
  struct Peer {
    const float* rows;
    int calls = 0;
  } peer{other.data()};
  ziya::Communicator communicator;
  communicator.self = &peer;
  communicator.size = 2;
  communicator.all_reduce_sum = [](void* self, float* data, std::int64_t count) {
    auto& there = *static_cast<Peer*>(self);
    for (std::int64_t i = 0; i < count; ++i) data[i] += there.rows[there.calls * count + i];
    ++there.calls;
  };
  std::vector<float> left;
  for (int o = 0; o < out; ++o) {
    left.insert(left.end(), f.w.begin() + o * in, f.w.begin() + o * in + half);
  }
  ziya::nn::Linear<Cpu> linear;
  linear.weight = weight_of(left, out, half);
  linear.communicator = &communicator;
  linear.split = ziya::nn::Split::columns;
  linear.forward<float>(f.ctx, f.y, f.input().column_range(0, half));
  REQUIRE(peer.calls == tokens);
  for (int t = 0; t < tokens; ++t) {
    for (int o = 0; o < out; ++o) {
      REQUIRE(f.y.data()[t * out + o] == Approx(product(f.x, f.w, t, o, in)).margin(1e-4));
    }
  }
  // What a part adds to, each rank has: it counts once, with rank 0.
  for (const int of : {0, 1}) {
    CAPTURE(of);
    communicator.rank = of;
    peer.calls = 0;
    auto sum = random_values(tokens * out, 5);
    const auto before = sum;
    linear.add_to<float>(f.ctx, {sum.data(), Shape{tokens, out}}, f.input().column_range(0, half));
    for (std::size_t i = 0; i < sum.size(); ++i) {
      const float there = of == 0 ? before[i] : 0.0f;
      REQUIRE(sum[i] == Approx(there + f.y.data()[i]).margin(1e-5));
    }
  }
}

TEST_CASE("a linear layer refuses inputs and biases of another width", "[linear]") {
  Fixture f;
  ziya::nn::Linear<Cpu> linear;
  linear.weight = weight_of(f.w, out, in);
  REQUIRE_THROWS_AS(linear.forward<float>(f.ctx, f.y, f.input().column_range(0, in - 1)),
                    ziya::ShapeError);
  linear.bias = Tensor<float>(Shape{out + 1});
  REQUIRE_THROWS_AS(linear.forward<float>(f.ctx, f.y, f.input()), ziya::ShapeError);
}

}  // namespace linear_test
