// SPDX-License-Identifier: Apache-2.0
// A sampling policy of one's own: a small value with one function.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <limits>
#include <string>
#include <string_view>
#include <ziya/ziya.hpp>

/// Draws among the tokens whose probability is at least `share` of the likeliest one's.
/// Source: Nguyen et al., "Min-p sampling", arXiv 2407.01082
class MinP {
 public:
  explicit MinP(float share) : cut_(std::log(share)) {}

  std::int32_t sample(ziya::Context<ziya::Cpu>&, ziya::View<const float, ziya::Cpu> logits,
                      ziya::SamplerState& state) const {
    const std::int64_t size = logits.elements();
    float best = -std::numeric_limits<float>::infinity();
    for (std::int64_t i = 0; i < size; ++i) best = std::max(best, logits.data()[i]);
    const auto weight = [&](std::int64_t i) {
      const float distance = logits.data()[i] - best;  // log of the ratio of probabilities
      return distance < cut_ ? 0.0 : std::exp(static_cast<double>(distance));
    };
    double total = 0;
    for (std::int64_t i = 0; i < size; ++i) total += weight(i);
    double rest = state.random.uniform() * total;
    std::int64_t last = 0;
    for (std::int64_t i = 0; i < size; ++i) {
      if (weight(i) == 0) continue;
      last = i;
      if ((rest -= weight(i)) < 0) break;
    }
    return static_cast<std::int32_t>(last);
  }

 private:
  float cut_;
};
static_assert(ziya::SamplingPolicy<MinP>);

int main(int count, char** arguments) try {
  const std::string model_path = count > 1 ? arguments[1] : "build/ziya-tiny";
  ziya::Context<ziya::Cpu> ctx;
  const auto tokenizer = ziya::Tokenizer::load(model_path);
  const auto model = ziya::CpuModel::load(model_path);
  ziya::Generator generator(ctx, model, tokenizer, MinP(0.1f));
  generator.generate(ziya::prompt::ziya("背诵孟浩然的《春晓》"), {.seed = 7},
                     [](std::string_view text) { std::cout << text << std::flush; });
  std::cout << '\n';
} catch (const ziya::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
