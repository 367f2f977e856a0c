// SPDX-License-Identifier: Apache-2.0
// Whether a delta was made from this base: found out from samples, before anything is written.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/base_grid.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/tensor_sample.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/llama_names.hpp"
#include "ziya/model/model_kind.hpp"

ZIYA_NAMESPACE_BEGIN

/// What is still taken for a base and its delta; docs/merging.md says how each was found.
struct MergeLimits {
  double embedding_cosine = 0.5;  ///< median over rows that base and delta share, at least
  double off_grid = 0.02;         ///< share of elements that cannot come from this base, at most
  double pairing = 0.75;  ///< r(2i, 2i+1) − r(i, i+d/2) of q's and k's row norms, at most; counts
                          ///< only where the delta's numbers say nothing about its base
  KindLimits kind{};
  double same_row = 0.8;  ///< cosine from which rows of both embeddings are of the same token
};

/// Something about a merge that a person should know; `id` is the error's under --strict.
struct MergeFinding {
  std::string id, text;
};

namespace detail {

inline std::string percent(double share) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f %%", share * 100);
  return text.data();
}
inline std::string fixed(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.2f", value);
  return text.data();
}

/// "1, 2, 3, …" @param numbers ascending
inline std::string listed(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(numbers.size(), 6); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(numbers[i]);
  }
  return numbers.size() > 6 ? text + ", …" : text;
}

}  // namespace detail

/// Compares samples of a base and a delta that plan_delta accepts.
class MergeCheck {
 public:
  /// @param heads of queries, to find heads in q's and k's rows; 0: head size 128 is assumed
  MergeCheck(const TensorSource& base, const TensorSource& delta, std::int64_t heads,
             MergeLimits limits = {})
      : base_(base), delta_(delta), heads_(heads), limits_(limits) {}

  /// Everything that speaks against merging the two; empty for a base and its delta.
  /// @throws IoError, FormatError from reading
  [[nodiscard]] std::vector<MergeFinding> run() const {
    std::vector<MergeFinding> findings;
    check_embedding(findings);
    if (!check_grid(findings)) check_pairing(findings);
    return findings;
  }

  /// Median cosine between the rows of the embedding that both have.
  [[nodiscard]] double embedding_cosine() const {
    const auto [b, d] = both(llama_names::embedding);
    if (!valid(b, d)) return 1;
    const std::int64_t width = base_.tensors()[b].shape[1], rows = shared_rows(b, d);
    std::vector<double> values;
    for (const std::int64_t row : spread(rows, 64)) {
      const auto x = read_floats(base_, b, row * width, width);
      const auto y = read_floats(delta_, d, row * width, width);
      if (cosine(x, x) > 0 && cosine(y, y) > 0) values.push_back(cosine(x, y));
    }
    return values.empty() ? 1 : median(std::move(values));
  }

  /// Correlation of the logarithms of row norms, mean over heads, median over sampled layers and
  /// over q and k: r(2i, 2i+1) − r(i, i+d/2). High where rows stand in Meta's order.
  [[nodiscard]] double pairing() const {
    std::vector<double> values;
    const std::int64_t layers = layer_count();
    for (const std::int64_t layer : spread(layers, 4)) {
      for (const char* part : {"self_attn.q_proj.weight", "self_attn.k_proj.weight"}) {
        const std::size_t i = find_tensor(base_, llama_names::of_layer(layer, part));
        if (i == base_.tensors().size() || base_.tensors()[i].shape.rank() != 2) continue;
        values.push_back(pairing_of(i));
      }
    }
    return median(std::move(values));
  }

 private:
  using Pair = std::pair<std::size_t, std::size_t>;  // of the tensor in base and delta

  [[nodiscard]] Pair both(std::string_view name) const {
    return {find_tensor(base_, name), find_tensor(delta_, name)};
  }
  [[nodiscard]] bool valid(std::size_t b, std::size_t d) const {
    return b < base_.tensors().size() && d < delta_.tensors().size() &&
           base_.tensors()[b].shape.rank() == 2 && delta_.tensors()[d].shape.rank() == 2 &&
           base_.tensors()[b].shape[1] == delta_.tensors()[d].shape[1];
  }
  [[nodiscard]] std::int64_t shared_rows(std::size_t b, std::size_t d) const {
    return std::min(base_.tensors()[b].shape[0], delta_.tensors()[d].shape[0]);
  }
  [[nodiscard]] std::int64_t layer_count() const {
    std::int64_t count = 0;
    while (find_tensor(base_, llama_names::of_layer(count, "self_attn.q_proj.weight")) !=
           base_.tensors().size()) {
      ++count;
    }
    return count;
  }
  /// At most `count` of [0, all), evenly.
  static std::vector<std::int64_t> spread(std::int64_t all, std::int64_t count) {
    std::vector<std::int64_t> result;
    for (std::int64_t i = 0; i < std::min(all, count); ++i) {
      result.push_back(all <= count ? i : (2 * i + 1) * all / (2 * count));
    }
    return result;
  }

  void check_embedding(std::vector<MergeFinding>& findings) const {
    const double value = embedding_cosine();
    if (value >= limits_.embedding_cosine) return;
    findings.push_back(
        {"ZIYA-650",
         "the embedding rows that base and delta share differ (median cosine " +
             detail::fixed(value) + ", expected at least " +
             detail::fixed(limits_.embedding_cosine) + ")" +
             (rows_elsewhere() ? ": the base has them in another order, so it belongs to another "
                                 "tokenizer"
                               : ": the base is of another family, or has another tokenizer")});
  }
  /// Whether rows of the delta's embedding are found at other places of the base's.
  [[nodiscard]] bool rows_elsewhere() const {
    const auto [b, d] = both(llama_names::embedding);
    const std::int64_t width = base_.tensors()[b].shape[1], rows = base_.tensors()[b].shape[0];
    const std::vector<std::int64_t> sampled = spread(shared_rows(b, d), 8);
    std::vector<std::vector<float>> wanted;
    for (const std::int64_t row : sampled) {
      wanted.push_back(read_floats(delta_, d, row * width, width));
    }
    std::vector<bool> found(sampled.size());
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto values = read_floats(base_, b, row * width, width);
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        found[i] = found[i] || cosine(values, wanted[i]) > limits_.same_row;
      }
    }
    return std::ranges::count(found, true) * 2 > static_cast<std::ptrdiff_t>(found.size());
  }

  /// False when the delta's numbers say nothing. See BaseGrid.
  [[nodiscard]] bool check_grid(std::vector<MergeFinding>& findings) const {
    const BaseGrid grid(base_, delta_, limits_.off_grid, heads_);
    const GridVerdict verdict = grid.judge(layer_count());
    if (!verdict.applies) return false;
    const auto add = [&](const char* id, const std::string& text) {
      findings.push_back({id, text});
    };
    const std::string rule = " (" + detail::percent(verdict.worst) +
                             " of the sampled numbers cannot be differences to this base, expected "
                             "at most " +
                             detail::percent(limits_.off_grid) + ")";
    if (verdict.unpermuted) {
      add("ZIYA-651",
          "the base's q and k have their rows in Meta's order: its conversion left out "
          "the permutation; convert it again" +
              rule);
    }
    if (!verdict.swapped.empty()) {
      std::string text = "layers of the base are swapped:";
      for (const auto& [layer, place] : verdict.swapped) {
        text += " layer " + std::to_string(layer) + " is at " + std::to_string(place) + ",";
      }
      text.pop_back();
      add("ZIYA-652", text + rule);
    }
    if (!verdict.shuffled.empty()) {
      add("ZIYA-654", "rows of the base stand in another order in " + verdict.shuffled + rule);
    }
    if (verdict.another_base) {
      add("ZIYA-653",
          "the delta was made from another base, or with other rounding: no layer fits" + rule);
    } else if (!verdict.unexplained.empty()) {
      add("ZIYA-653", "the base is not the one the delta was made from in layers " +
                          detail::listed(verdict.unexplained) + rule);
    }
    return true;
  }

  void check_pairing(std::vector<MergeFinding>& findings) const {
    const double value = pairing();
    if (!(value > limits_.pairing)) return;
    findings.push_back({"ZIYA-651",
                        "the base's q and k seem to have their rows in Meta's order (row "
                        "norms of pairs: " +
                            detail::fixed(value) + ", expected at most " +
                            detail::fixed(limits_.pairing) + "); convert it again"});
  }

  [[nodiscard]] double pairing_of(std::size_t index) const {
    const Shape& shape = base_.tensors()[index].shape;
    const std::int64_t rows = shape[0], width = shape[1];
    const std::int64_t head = head_size(rows, width);
    if (head < 4 || rows % head != 0) return 0;
    const std::int64_t taken = std::min<std::int64_t>(width, 1024);
    std::vector<double> norms;
    for (std::int64_t row = 0; row < rows; ++row) {
      double sum = 1e-20;
      for (const float w : read_floats(base_, index, row * width, taken)) {
        sum += static_cast<double>(w) * static_cast<double>(w);
      }
      norms.push_back(std::log(sum));
    }
    double difference = 0;
    for (std::int64_t first = 0; first < rows; first += head) {
      std::vector<double> low, high, even, odd;
      for (std::int64_t i = 0; i < head; ++i) {
        const double norm = norms[static_cast<std::size_t>(first + i)];
        (i < head / 2 ? low : high).push_back(norm);
        (i % 2 == 0 ? even : odd).push_back(norm);
      }
      difference += correlation(even, odd) - correlation(low, high);
    }
    return difference / static_cast<double>(rows / head);
  }
  [[nodiscard]] std::int64_t head_size(std::int64_t rows, std::int64_t width) const {
    const std::int64_t size = heads_ > 0 ? width / heads_ : 128;
    return std::min(size, rows);
  }
  static double correlation(const std::vector<double>& x, const std::vector<double>& y) {
    const auto n = static_cast<double>(x.size());
    double mx = 0, my = 0, xy = 0, xx = 0, yy = 0;
    for (std::size_t i = 0; i < x.size(); ++i) mx += x[i] / n, my += y[i] / n;
    for (std::size_t i = 0; i < x.size(); ++i) {
      xy += (x[i] - mx) * (y[i] - my), xx += (x[i] - mx) * (x[i] - mx);
      yy += (y[i] - my) * (y[i] - my);
    }
    return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
  }

  const TensorSource& base_;
  const TensorSource& delta_;
  std::int64_t heads_;
  MergeLimits limits_;
};

ZIYA_NAMESPACE_END
