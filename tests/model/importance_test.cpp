// SPDX-License-Identifier: Apache-2.0
// Mean squares of inputs against a loop over what the layers themselves were given.
#include "ziya/model/importance.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "model/ziya_tiny.hpp"
#include "support/errors.hpp"

namespace importance_test {

using namespace ziya;
using fixture::ZiyaTiny;

/// y = x · wᵀ in double.
std::vector<double> product(Context<Cpu>& ctx, const std::vector<double>& x, const Weight<Cpu>& w) {
  const Weight<Cpu> floats = ops::converted(ctx, DType::f32, w);
  const auto* values = reinterpret_cast<const float*>(floats.data);
  const auto columns = static_cast<std::size_t>(w.columns), rows = static_cast<std::size_t>(w.rows);
  std::vector<double> y(x.size() / columns * rows);
  for (std::size_t t = 0; t < x.size() / columns; ++t) {
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = 0; i < columns; ++i) {
        y[t * rows + r] += x[t * columns + i] * static_cast<double>(values[r * columns + i]);
      }
    }
  }
  return y;
}

std::vector<double> mean_squares(const std::vector<double>& x, std::size_t columns) {
  std::vector<double> means(columns);
  for (std::size_t i = 0; i < x.size(); ++i) means[i % columns] += x[i] * x[i];
  for (double& mean : means) mean /= static_cast<double>(x.size() / columns);
  return means;
}

void check_close(const std::vector<float>& found, const std::vector<double>& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(static_cast<double>(found[i]) == Approx(expected[i]).epsilon(1e-3).margin(1e-7));
  }
}

TEST_CASE("importance of the first layer and of the head is the formula's") {
  const ZiyaTiny& tiny = ZiyaTiny::instance();
  Context<Cpu> ctx({.threads = 2});
  const std::vector<std::int32_t> ids = tiny.expected().at("poems").at(2).at("prompt_ids");
  const Importance importance = input_mean_squares(ctx, tiny.model(), ids);
  const auto hidden = static_cast<std::size_t>(tiny.model().shape().hidden);
  const auto layers = static_cast<std::size_t>(tiny.model().shape().layers);
  REQUIRE(importance.size() == 7 * layers + 1);

  const LlamaLayer<Cpu>& layer = tiny.model().weights().layers.front();
  LlamaSaved<float, Cpu> saved;
  fixture::Rows rows(ids, 0, ids.size());
  Tensor<float> out(Shape{rows.batch().rows(), tiny.model().shape().hidden});
  tiny.model().forward(ctx, out.view(), rows.batch(), &saved);
  const auto normed = [&](const Tensor<float>& x, const nn::RmsNorm<Cpu>& norm) {
    std::vector<double> y(static_cast<std::size_t>(x.elements()));
    for (std::size_t t = 0; t < y.size() / hidden; ++t) {
      double squares = 0;
      for (std::size_t i = 0; i < hidden; ++i) {
        const double v = x.data()[t * hidden + i];
        squares += v * v;
      }
      const double rms = std::sqrt(squares / static_cast<double>(hidden) + double{norm.eps});
      for (std::size_t i = 0; i < hidden; ++i) {
        y[t * hidden + i] = x.data()[t * hidden + i] / rms * norm.weight.data()[i];
      }
    }
    return y;
  };
  const std::string prefix = "model.layers.0.";
  const auto attention_input = normed(saved.layers[0].input, layer.input_norm);
  for (const char* part : {"q", "k", "v"}) {
    check_close(importance.at(prefix + "self_attn." + part + "_proj.weight"),
                mean_squares(attention_input, hidden));
  }
  const auto mlp_input = normed(saved.layers[0].middle, layer.post_attention_norm);
  check_close(importance.at(prefix + "mlp.gate_proj.weight"), mean_squares(mlp_input, hidden));
  check_close(importance.at(prefix + "mlp.up_proj.weight"), mean_squares(mlp_input, hidden));
  std::vector<double> gate = product(ctx, mlp_input, layer.mlp.gate.weight);
  const std::vector<double> up = product(ctx, mlp_input, layer.mlp.up.weight);
  for (std::size_t i = 0; i < gate.size(); ++i)
    gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  check_close(importance.at(prefix + "mlp.down_proj.weight"),
              mean_squares(gate, static_cast<std::size_t>(layer.mlp.down.weight.columns)));
  const auto& heads = saved.layers[0].attention.heads;
  check_close(importance.at(prefix + "self_attn.o_proj.weight"),
              mean_squares({heads.data(), heads.data() + heads.elements()}, hidden));
  check_close(importance.at("lm_head.weight"),
              mean_squares(normed(saved.output, tiny.model().weights().final_norm), hidden));
}

TEST_CASE("a text of several windows is the mean of them; an empty one is refused") {
  const ZiyaTiny& tiny = ZiyaTiny::instance();
  Context<Cpu> ctx({.threads = 2});
  const std::vector<std::int32_t> ids = tiny.expected().at("poems").at(2).at("prompt_ids");
  std::vector<std::int32_t> twice = ids;
  twice.insert(twice.end(), ids.begin(), ids.end());
  std::int64_t done = 0;
  const Importance once = input_mean_squares(ctx, tiny.model(), ids);
  CalibrationOptions options{.context = static_cast<std::int64_t>(ids.size())};
  options.progress = [&](std::int64_t tokens, std::int64_t) { done = tokens; };
  const Importance both = input_mean_squares(ctx, tiny.model(), twice, options);
  REQUIRE(done == static_cast<std::int64_t>(twice.size()));
  for (const auto& [name, values] : once) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      REQUIRE(both.at(name)[i] == Approx(values[i]).epsilon(1e-5));
    }
  }
  REQUIRE_ERROR(input_mean_squares(ctx, tiny.model(), std::span<const std::int32_t>{}), "ZIYA-451",
                "no tokens");
  const std::atomic<bool> cancel{true};
  options.cancel = &cancel;
  REQUIRE_ERROR(input_mean_squares(ctx, tiny.model(), ids, options), "ZIYA-452", "cancelled");
}

}  // namespace importance_test
