// SPDX-License-Identifier: Apache-2.0
// How well a model predicts a text, and how far its predictions are from another model's.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/view.hpp"
#include "ziya/model/batch.hpp"
#include "ziya/nn/kv_cache.hpp"
#include "ziya/ops/embedding.hpp"

ZIYA_NAMESPACE_BEGIN

/// How a long text is cut into windows, and which of their tokens count.
enum class PerplexityMethod {
  /// llama.cpp's: windows that do not overlap, each with bos in place of its first token; the
  /// tokens of the second half count, predicted from at least half a window. The rest of the text
  /// is left out.
  llama_cpp,
  /// That of Transformers' documentation: a window begins every `stride` tokens; what earlier
  /// windows have counted is context only. Windows count by their tokens less one.
  strided
};

struct PerplexityProgress {
  std::int64_t window = 0, windows = 0;
  double perplexity = 0;  ///< so far
};

struct PerplexityOptions {
  PerplexityMethod method = PerplexityMethod::llama_cpp;
  std::int64_t context = 512;  ///< tokens of a window
  std::int64_t stride = 256;   ///< of the strided method
  std::int32_t bos = -1;       ///< of llama.cpp's method; negative: windows begin with their token
  std::int64_t windows = 0;    ///< at most so many; 0: all
  std::function<void(const PerplexityProgress&)> progress{};
  const std::atomic<bool>* cancel = nullptr;
};

struct PerplexityResult {
  double perplexity = 0;     ///< e^(mean negative log-likelihood)
  double uncertainty = 0;    ///< its standard error, from the spread of the tokens
  std::int64_t tokens = 0;   ///< that count
  std::int64_t windows = 0;  ///< that they lie in
  // Of a comparison with another model's predictions p; q are the model's own.
  double kl_divergence = 0;  ///< mean over tokens of Σ p ln(p / q), in nats
  double top_agreement = 0;  ///< share of tokens whose likeliest prediction is the same
  double other_perplexity = 0;
};

namespace detail {

/// One window: ids [begin, end) of the text, of which targets [score, end) count.
struct PerplexityWindow {
  std::int64_t begin, end, score;
};

inline std::vector<PerplexityWindow> perplexity_windows(std::int64_t tokens,
                                                        const PerplexityOptions& options) {
  const auto refuse = [](const std::string& what) {
    throw ArgumentError("ZIYA-560", "perplexity: " + what);
  };
  const std::int64_t context = options.context;
  if (context < 4)
    refuse("a context of " + std::to_string(context) + " tokens, expected 4 or more");
  std::vector<PerplexityWindow> windows;
  if (options.method == PerplexityMethod::llama_cpp) {
    if (tokens < context) {
      refuse("the text has " + std::to_string(tokens) + " tokens, one window needs " +
             std::to_string(context));
    }
    for (std::int64_t begin = 0; begin + context <= tokens; begin += context) {
      windows.push_back({begin, begin + context, begin + context / 2 + 1});
    }
  } else {
    if (options.stride < 1 || options.stride > context) {
      refuse("a stride of " + std::to_string(options.stride) + " with a context of " +
             std::to_string(context));
    }
    if (tokens < 2)
      refuse("the text has " + std::to_string(tokens) + " tokens, expected 2 or more");
    std::int64_t counted = 1;  // nothing predicts the first token
    for (std::int64_t begin = 0; counted < tokens; begin += options.stride) {
      const std::int64_t end = std::min(begin + context, tokens);
      windows.push_back({begin, end, counted});
      counted = end;
    }
  }
  while (options.windows > 0 && std::ssize(windows) > options.windows) windows.pop_back();
  return windows;
}

/// ln Σ e^x of a row.
inline double log_sum_exp(const float* x, std::int64_t count) {
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, x[i]);
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(std::exp(x[i] - largest));
  return static_cast<double>(largest) + std::log(sum);
}

/// What logits say of the token that follows.
struct PerplexityScore {
  double likelihood = 0;             ///< ln q(token)
  double other = 0, divergence = 0;  ///< ln p(token), Σ p ln(p / q)
  bool agrees = false;               ///< p and q have the same maximum
};

/// @param q logits of the model   @param p of another model, or null
inline PerplexityScore perplexity_score(const float* q, const float* p, std::int64_t vocabulary,
                                        std::int32_t token) {
  PerplexityScore score;
  const double q_total = log_sum_exp(q, vocabulary);
  score.likelihood = static_cast<double>(q[token]) - q_total;
  if (p == nullptr) return score;
  const double p_total = log_sum_exp(p, vocabulary);
  score.other = static_cast<double>(p[token]) - p_total;
  for (std::int64_t v = 0; v < vocabulary; ++v) {
    const double log_p = static_cast<double>(p[v]) - p_total;
    score.divergence += std::exp(log_p) * (log_p - (static_cast<double>(q[v]) - q_total));
  }
  score.agrees = std::max_element(p, p + vocabulary) - p == std::max_element(q, q + vocabulary) - q;
  return score;
}

/// Logits of the positions that predict the window's counted tokens, a few at a time:
/// f(first, logits) with logits (n, vocabulary) in host memory.
template <class Model, class F>
void window_logits(Context<typename Model::Device>& ctx, const Model& model,
                   std::span<const std::int32_t> ids, std::int64_t first_output, F&& f) {
  using Device = typename Model::Device;
  using T = typename Model::T;
  constexpr std::int64_t at_once = 64;
  const auto rows = static_cast<std::int64_t>(ids.size());
  std::vector<std::int32_t> positions(ids.size()), outputs;
  const std::vector<std::int32_t> slots(ids.size(), 0);
  for (std::size_t i = 0; i < ids.size(); ++i) positions[i] = static_cast<std::int32_t>(i);
  for (std::int64_t i = first_output; i + 1 < rows; ++i) {
    outputs.push_back(static_cast<std::int32_t>(i));
  }
  Batch<T, Device> batch;
  batch.ids = ids;
  batch.positions = positions;
  batch.slots = slots;
  batch.outputs = outputs;
  const auto count = static_cast<std::int64_t>(outputs.size());
  Tensor<T, Device> hidden(Shape{count, model.shape().hidden});
  if constexpr (requires { model.forward(ctx, hidden.view(), batch); }) {
    model.forward(ctx, hidden.view(), batch);
  } else {
    KvCache<Device> cache(model.shape().cache_shape(), {.max_tokens = rows});
    model.forward(ctx, hidden.view(), batch, cache);
  }
  for (std::int64_t first = 0; first < count; first += at_once) {
    const std::int64_t n = std::min(at_once, count - first);
    Tensor<float, Device> logits(Shape{n, model.shape().vocabulary});
    model.logits(ctx, logits.view(), View<const T, Device>(hidden.view().row_range(first, n)));
    f(first, logits.template to<Cpu>());
  }
}

/// Scores of the window's counted tokens, in order.   @param host its threads compare the rows
template <class Model>
std::vector<PerplexityScore> window_scores(Context<typename Model::Device>& ctx, Context<Cpu>& host,
                                           const Model& model, const Model* other,
                                           std::span<const std::int32_t> ids,
                                           const PerplexityWindow& window,
                                           const PerplexityOptions& options) {
  std::vector<std::int32_t> input(ids.begin() + window.begin, ids.begin() + window.end);
  if (options.method == PerplexityMethod::llama_cpp && options.bos >= 0) {
    input.front() = options.bos;
  }
  const std::int64_t first_output = window.score - window.begin - 1;
  std::vector<Tensor<float>> kept;  // the other model's logits
  if (other != nullptr) {
    window_logits(ctx, *other, input, first_output,
                  [&](std::int64_t, Tensor<float> logits) { kept.push_back(std::move(logits)); });
  }
  std::vector<PerplexityScore> scores(static_cast<std::size_t>(window.end - window.score));
  std::size_t part = 0;
  window_logits(
      ctx, model, input, first_output, [&](std::int64_t first, const Tensor<float>& logits) {
        const Tensor<float>* reference = other != nullptr ? &kept[part++] : nullptr;
        host.parallel_for(logits.view().rows(), [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t r = begin; r < end; ++r) {
            const float* p = reference != nullptr ? reference->view().row(r) : nullptr;
            scores[static_cast<std::size_t>(first + r)] =
                perplexity_score(logits.view().row(r), p, model.shape().vocabulary,
                                 ids[static_cast<std::size_t>(window.score + first + r)]);
          }
        });
      });
  return scores;
}

/// Sums over windows, which are added in their order.
struct PerplexitySums {
  std::int64_t windows = 0, tokens = 0, agreements = 0;
  double sum = 0, squares = 0, divergence = 0;
  double weights = 0, weighted = 0, other_weighted = 0;  ///< of the windows' means

  /// @param less_one whether the window weighs one token less than it counts
  void add(const std::vector<PerplexityScore>& scores, bool less_one) {
    double window_sum = 0, other_sum = 0;
    for (const PerplexityScore& score : scores) {
      window_sum -= score.likelihood;
      squares += score.likelihood * score.likelihood;
      other_sum -= score.other;
      divergence += score.divergence;
      agreements += score.agrees ? 1 : 0;
    }
    sum += window_sum;
    ++windows;
    tokens += static_cast<std::int64_t>(scores.size());
    const auto count = static_cast<double>(scores.size());
    const double weight = less_one ? count - 1 : count;
    weights += weight;
    weighted += window_sum / count * weight;
    other_weighted += other_sum / count * weight;
  }

  [[nodiscard]] double perplexity() const { return std::exp(weighted / weights); }

  /// @param compared whether there was another model
  [[nodiscard]] PerplexityResult result(bool compared) const {
    PerplexityResult result{.perplexity = perplexity(), .tokens = tokens, .windows = windows};
    const auto count = static_cast<double>(tokens);
    const double mean = sum / count, variance = squares / count - mean * mean;
    if (count > 1 && variance > 0) {
      result.uncertainty = std::sqrt(variance / (count - 1)) * result.perplexity;
    }
    if (compared) {
      result.kl_divergence = divergence / count;
      result.top_agreement = static_cast<double>(agreements) / count;
      result.other_perplexity = std::exp(other_weighted / weights);
    }
    return result;
  }
};

}  // namespace detail

/// Perplexity of `ids`, the tokens of one text; with `other`, the divergence from its predictions
/// as well. Scores are summed in order, so the result does not depend on the number of threads.
/// @param ids with bos first, as the method's origin has it
/// @param other a model with the same vocabulary, or null
/// @throws ArgumentError ZIYA-560 for a text that is too short, a window or stride that makes no
/// sense, or another vocabulary; Error ZIYA-561 when cancelled
template <class Model>
PerplexityResult perplexity(Context<typename Model::Device>& ctx, const Model& model,
                            std::span<const std::int32_t> ids,
                            const PerplexityOptions& options = {}, const Model* other = nullptr) {
  const auto windows = detail::perplexity_windows(static_cast<std::int64_t>(ids.size()), options);
  const std::int64_t vocabulary = model.shape().vocabulary;
  if (other != nullptr && other->shape().vocabulary != vocabulary) {
    throw ArgumentError("ZIYA-560", "perplexity: the other model has " +
                                        std::to_string(other->shape().vocabulary) +
                                        " tokens, expected " + std::to_string(vocabulary));
  }
  // Rows of logits are scored on the host, by the threads of its own context where there is one.
  std::unique_ptr<Context<Cpu>> own;
  Context<Cpu>* host = nullptr;
  if constexpr (std::is_same_v<typename Model::Device, Cpu>) {
    host = &ctx;
  } else {
    own = std::make_unique<Context<Cpu>>();
    host = own.get();
  }
  detail::PerplexitySums sums;
  for (const detail::PerplexityWindow& window : windows) {
    if (options.cancel != nullptr && options.cancel->load(std::memory_order_relaxed)) {
      throw Error("ZIYA-561", "perplexity: cancelled");
    }
    // Transformers' loop takes one token off each window but the first, whose first token it is.
    const bool less_one = options.method == PerplexityMethod::strided && window.begin > 0;
    sums.add(detail::window_scores(ctx, *host, model, other, ids, window, options), less_one);
    if (options.progress) {
      options.progress(
          {sums.windows, static_cast<std::int64_t>(windows.size()), sums.perplexity()});
    }
  }
  return sums.result(other != nullptr);
}

ZIYA_NAMESPACE_END
