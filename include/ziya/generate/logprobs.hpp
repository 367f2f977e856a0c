// SPDX-License-Identifier: Apache-2.0
// How likely the model found a chosen token, and which it found likelier.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/generate/candidates.hpp"

ZIYA_NAMESPACE_BEGIN

/// log softmax of the model's own logits, before any processor.
struct TokenLogprobs {
  std::int32_t id = -1;
  double logprob = 0;
  std::vector<Candidate> top;  ///< the likeliest, best first, of equals the lower id first
};

/// @param logits one row   @param id the token chosen   @param count how many `top` has
inline TokenLogprobs token_logprobs(std::span<const float> logits, std::int32_t id, int count) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += std::exp(double{logit} - highest);
  const double log_sum = highest + std::log(total);
  TokenLogprobs result{id, logits[static_cast<std::size_t>(id)] - log_sum, {}};
  std::vector<std::int32_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  const auto middle =
      order.begin() + std::min<std::ptrdiff_t>(count, static_cast<std::ptrdiff_t>(order.size()));
  std::partial_sort(order.begin(), middle, order.end(), [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  });
  for (auto each = order.begin(); each != middle; ++each) {
    const double logprob = logits[static_cast<std::size_t>(*each)] - log_sum;
    result.top.push_back({*each, static_cast<float>(logprob)});
  }
  return result;
}

ZIYA_NAMESPACE_END
