// SPDX-License-Identifier: Apache-2.0
// The streamed forward pass: the whole model's likelihoods, and garbage told from a model.
#include "ziya/convert/forward_check.hpp"

#include <catch2/catch.hpp>

#include "support/errors.hpp"
#include "ziya/convert/merge_pair.hpp"

namespace forward_check_test {

TEST_CASE("layer by layer gives the perplexity of the whole", "[forward_check]") {
  const std::filesystem::path tiny = ZIYA_EXAMPLES "/ziya-tiny";
  const auto pair = ziya::MergePair::open(tiny / "base", tiny / "delta");
  const auto tokenizer = ziya::Tokenizer::load(tiny / "delta");
  const auto ids = ziya::forward_check_ids(tokenizer);
  REQUIRE(ids.size() == 128);
  const ziya::LlamaShape shape = ziya::read_llama_shape(tiny / "delta");
  ziya::Context<ziya::Cpu> ctx;
  const auto check = ziya::streamed_perplexity(ctx, pair.merged(), shape, ids);
  REQUIRE(check.tokens == 127);

  const auto model = ziya::CpuModel::load(pair.merged(), shape);
  std::vector<std::int32_t> positions, slots(ids.size(), 0);
  for (std::int32_t i = 0; i < 128; ++i) positions.push_back(i);
  ziya::Tensor<float> hidden(ziya::Shape{128, shape.hidden});
  ziya::Tensor<float> logits(ziya::Shape{128, shape.vocabulary});
  ziya::Batch<float, ziya::Cpu> batch;
  batch.ids = ids;
  batch.positions = positions;
  batch.slots = slots;
  batch.outputs = positions;
  model.forward(ctx, hidden.view(), batch);
  model.logits(ctx, logits.view(), ziya::View<const float, ziya::Cpu>(hidden.view()));
  double sum = 0;
  for (std::int64_t i = 0; i < 127; ++i) {
    const float* row = logits.data() + i * shape.vocabulary;
    double total = 0;
    for (std::int64_t k = 0; k < shape.vocabulary; ++k) total += std::exp(double(row[k]));
    sum += std::log(total) - double(row[ids[static_cast<std::size_t>(i + 1)]]);
  }
  REQUIRE(check.perplexity == Approx(std::exp(sum / 127)).epsilon(1e-5));
  REQUIRE(check.perplexity < 200);
  REQUIRE_ERROR(ziya::streamed_perplexity(ctx, pair.merged(), shape, std::span(ids).first(1)),
                "ZIYA-521", "less than two");
  REQUIRE(ziya::perplexity_finding(check, 1000).empty());
  const auto garbage = ziya::streamed_perplexity(ctx, pair.delta.source, shape, ids);
  REQUIRE(garbage.perplexity > 1000);
  REQUIRE(ziya::perplexity_finding(garbage, 1000).at(0).id == "ZIYA-655");
}

/// A base with its first and last layer exchanged, or rows of q and k in Meta's order.
struct Mistaken final : ziya::TensorSource {
  std::shared_ptr<const ziya::TensorSource> right;
  bool swaps;

  [[nodiscard]] const std::vector<ziya::TensorSpec>& tensors() const override {
    return right->tensors();
  }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    std::string name = tensors()[index].name;
    if (swaps && name.find(".layers.") != std::string::npos) {
      char& layer = name[name.find(".layers.") + 8];
      if (layer != '1') layer = layer == '0' ? '2' : '0';
      return right->read(find_tensor(*right, name), first, out);
    }
    if (swaps || (name.find("q_proj") == std::string::npos &&
                  name.find("k_proj") == std::string::npos)) {
      return right->read(index, first, out);
    }
    const std::size_t columns = static_cast<std::size_t>(tensors()[index].shape[1]);
    std::vector<std::byte> whole(static_cast<std::size_t>(tensors()[index].bytes()));
    right->read(index, 0, whole);
    for (std::size_t i = 0; i < out.size(); i += 2) {
      const std::size_t at = static_cast<std::size_t>(first) + i / 2, in = at / columns % 64;
      const std::size_t row = at / columns - in + in / 2 + in % 2 * 32;
      std::copy_n(whole.data() + (row * columns + at % columns) * 2, 2, out.data() + i);
    }
  }
};

TEST_CASE("a base with q and k in Meta's order, or with swapped layers, makes no model",
          "[forward_check]") {
  const std::filesystem::path tiny = ZIYA_EXAMPLES "/ziya-tiny";
  const auto pair = ziya::MergePair::open(tiny / "base", tiny / "delta");
  const auto ids = ziya::forward_check_ids(ziya::Tokenizer::load(tiny / "delta"));
  const ziya::LlamaShape shape = ziya::read_llama_shape(tiny / "delta");
  ziya::Context<ziya::Cpu> ctx;
  const double right = ziya::streamed_perplexity(ctx, pair.merged(), shape, ids).perplexity;
  for (const bool swaps : {false, true}) {
    const auto mistaken = std::make_shared<Mistaken>();
    mistaken->right = pair.base.source;
    mistaken->swaps = swaps;
    const auto merged =
        std::make_shared<const ziya::MergedSource>(mistaken, pair.delta.source, pair.tensors);
    const auto check = ziya::streamed_perplexity(ctx, merged, shape, ids);
    CAPTURE(swaps, right, check.perplexity);
    REQUIRE(check.perplexity > 3 * right);
    REQUIRE(ziya::perplexity_finding(check, 2 * right).at(0).id == "ZIYA-655");
  }
}

}  // namespace forward_check_test
