// SPDX-License-Identifier: Apache-2.0
// The miniature with its matrices in every type: it recites, and computes what its own weights as
// floats give.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "model/ziya_tiny.hpp"
#include "support/errors.hpp"
#include "ziya/generate/generator.hpp"
#include "ziya/ops/matmul.hpp"
#include "ziya/ops/quantize.hpp"

namespace quantised_test {

using namespace ziya;
using fixture::Rows;
using fixture::ZiyaTiny;

CpuModel tiny_as(DType dtype) {
  return CpuModel::load(ZiyaTiny::instance().folder(), {.dtype = dtype});
}

/// The miniature with the numbers that `dtype` holds, all as floats.
CpuModel tiny_through(Context<Cpu>& ctx, DType dtype) {
  const ZiyaTiny& tiny = ZiyaTiny::instance();
  LlamaWeights<Cpu> weights =
      LlamaLoader(Checkpoint::open(tiny.folder()), tiny.model().shape(), dtype).load();
  const auto widen = [&](Weight<Cpu>& weight) {
    REQUIRE(weight.dtype == dtype);
    weight = ops::converted(ctx, DType::f32, weight);
  };
  widen(weights.embedding);
  widen(weights.head.weight);
  for (auto& layer : weights.layers) {
    for (auto* linear : {&layer.attention.q, &layer.attention.k, &layer.attention.v,
                         &layer.attention.o, &layer.mlp.gate, &layer.mlp.up, &layer.mlp.down}) {
      widen(linear->weight);
    }
  }
  return CpuModel(tiny.model().shape(), std::move(weights));
}

std::vector<DType> types() {
  std::vector<DType> result{DType::i8};
  for (int i = static_cast<int>(DType::q4_0); i < dtype_count; ++i) {
    result.push_back(static_cast<DType>(i));
  }
  return result;
}

std::size_t recited(Context<Cpu>& ctx, const CpuModel& model, std::size_t count) {
  const ZiyaTiny& tiny = ZiyaTiny::instance();
  std::vector<std::vector<std::int32_t>> prompts;
  const auto& poems = tiny.expected().at("poems");
  for (std::size_t i = 0; i < count; ++i) prompts.push_back(poems.at(i).at("prompt_ids"));
  Generator generator(ctx, model, tiny.tokenizer());
  const auto results = generator.generate_batch(prompts, {.do_sample = false});
  std::size_t right = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::vector<std::int32_t> answer = poems.at(i).at("answer_ids");
    right += results[i].generated_ids == answer ? 1 : 0;
  }
  return right;
}

TEST_CASE("the miniature recites its poems in every type from Q4_0 up") {
  Context<Cpu> ctx({.threads = 2});
  const std::size_t poems = ZiyaTiny::instance().expected().at("poems").size();
  for (const DType dtype : types()) {
    INFO(name(dtype));
    const CpuModel model = tiny_as(dtype);
    const std::size_t right = recited(ctx, model, poems);
    INFO(right << " of " << poems);
    if (dtype != DType::q2_k && dtype != DType::q3_k) {
      CHECK(right == poems);
    } else {
      CHECK(right * (dtype == DType::q3_k ? 2 : 10) > poems);
    }
  }
}

TEST_CASE("the reference path of every type gives what its numbers as floats give") {
  const ZiyaTiny& tiny = ZiyaTiny::instance();
  const std::vector<std::int32_t> prompt = tiny.expected().at("poems").at(3).at("prompt_ids");
  for (const Isa isa : {Isa::baseline, Isa::eigen}) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    for (const DType dtype : types()) {
      INFO(name(isa) << ", " << name(dtype));
      const CpuModel model = tiny_as(dtype), floats = tiny_through(ctx, dtype);
      Rows rows(prompt, 0, prompt.size());
      Tensor<float> found(Shape{rows.batch().rows(), model.shape().hidden});
      Tensor<float> expected(found.shape());
      model.forward(ctx, found.view(), rows.batch());
      floats.forward(ctx, expected.view(), rows.batch());
      for (std::int64_t r = 0; r < found.view().rows(); ++r) {
        double difference = 0, largest = 0;
        for (std::int64_t i = 0; i < found.view().columns(); ++i) {
          const double a = found.view().row(r)[i], b = expected.view().row(r)[i];
          difference = std::max(difference, std::fabs(a - b));
          largest = std::max(largest, std::fabs(b));
        }
        CHECK(difference < 1e-4 * largest);
      }
    }
  }
}

TEST_CASE("8-bit floats are refused on the CPU") {
  REQUIRE_ERROR(tiny_as(DType::f8_e4m3), "ZIYA-157", "GPU");
  Context<Cpu> ctx({.threads = 1});
  const float scale = 1;
  Tensor<float> x(Shape{1, 4}), y(Shape{1, 1});
  const std::byte codes[4] = {};
  const Weight<Cpu> weight{DType::f8_e4m3, 1, 4, codes, nullptr, &scale};
  REQUIRE_ERROR(ops::matmul(ctx, y.view(), x.view(), weight), "ZIYA-113", "f8_e4m3");
}

TEST_CASE("rows that whole blocks do not divide are refused by name") {
  REQUIRE_THROWS_AS(CpuModel::load(golden::folder("models") / "grouped_llama3-bf16-safetensors",
                                   {.dtype = DType::q4_k}),
                    ShapeError);
}

}  // namespace quantised_test
