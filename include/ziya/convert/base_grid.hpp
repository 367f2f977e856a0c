// SPDX-License-Identifier: Apache-2.0
// What the last bits of a delta in half precision say about the base it was made from.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/io/tensor_sample.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/llama_names.hpp"

ZIYA_NAMESPACE_BEGIN

/// What BaseGrid found.
struct GridVerdict {
  bool applies = false;     ///< the delta's numbers are halves, so they say something
  double worst = 0;         ///< largest share of a sampled matrix that is off the grid
  bool unpermuted = false;  ///< q and k fit once their rows are permuted
  bool another_base = false;
  std::vector<std::pair<std::int64_t, std::int64_t>> swapped;  ///< layer, its place in the base
  std::string shuffled;                   ///< a tensor whose rows fit elsewhere
  std::vector<std::int64_t> unexplained;  ///< layers that fit nothing
};

/// With T and B halves, e = fp16(T − B) is a multiple of the spacing of halves at the smaller of
/// |T| and |B|: both are multiples of it, and rounding e only makes it coarser. So e against the
/// right base is on that grid without exception, whatever was trained; against an unrelated base of
/// the same distribution one number in five to seven is not. The order of rows and layers is found
/// by trying which place fits.
class BaseGrid {
 public:
  BaseGrid(const TensorSource& base, const TensorSource& delta, double limit, std::int64_t heads)
      : base_(base), delta_(delta), limit_(limit), heads_(heads) {}

  /// Share of the elements of e that cannot be a difference to b; −1 when e is not of halves, or
  /// has fewer than 32 elements that are not 0.
  static double off_grid(std::span<const float> b, std::span<const float> e) {
    std::int64_t off = 0, counted = 0;
    for (std::size_t i = 0; i < std::min(b.size(), e.size()); ++i) {
      if (e[i] == 0) continue;
      const float base = to_float(to_half(b[i]));
      if (to_float(to_half(e[i])) != e[i]) return -1;
      const float target = to_float(to_half(base + e[i]));
      const double unit = std::min(spacing(base), spacing(target));
      ++counted;
      off += std::fmod(static_cast<double>(e[i]), unit) != 0;
    }
    return counted < 32 ? -1 : static_cast<double>(off) / static_cast<double>(counted);
  }

  [[nodiscard]] GridVerdict judge(std::int64_t layers) const {
    GridVerdict verdict;
    std::vector<std::int64_t> rest_off, rotary_off;
    std::int64_t judged = 0;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      double qk = -1, rest = -1;
      for (const std::string_view part : parts) {
        const double share = share_of(layer, layer, part, false);
        double& worst = is_rotary(part) ? qk : rest;
        worst = std::max(worst, share);
      }
      if (rest < 0 && qk < 0) continue;
      ++judged;
      verdict.worst = std::max({verdict.worst, qk, rest});
      if (rest > limit_) {
        rest_off.push_back(layer);
      } else if (qk > limit_) {
        rotary_off.push_back(layer);
      }
    }
    verdict.applies = judged > 0;
    explain_rotary(verdict, rotary_off);
    std::vector<std::int64_t> left;
    for (const std::int64_t layer : rest_off) {
      const std::int64_t place = place_of(layer, layers);
      if (place >= 0) {
        verdict.swapped.emplace_back(layer, place);
      } else {
        left.push_back(layer);
      }
    }
    if (!left.empty() && rows_elsewhere(left.front(), "self_attn.v_proj.weight")) {
      verdict.shuffled = llama_names::of_layer(left.front(), "self_attn.v_proj.weight") +
                         (left.size() > 1 ? " and others" : "");
    } else if (static_cast<std::int64_t>(left.size()) == judged && judged > 0) {
      verdict.another_base = true;
    } else {
      verdict.unexplained.insert(verdict.unexplained.end(), left.begin(), left.end());
    }
    return verdict;
  }

 private:
  static constexpr std::array<std::string_view, 7> parts{
      "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
      "self_attn.o_proj.weight", "mlp.gate_proj.weight",    "mlp.up_proj.weight",
      "mlp.down_proj.weight"};
  static bool is_rotary(std::string_view part) {
    return part.find("q_proj") != part.npos || part.find("k_proj") != part.npos;
  }

  /// Of halves at |x|: 2^(exponent − 10), at least 2^−24.
  static double spacing(float x) {
    const int exponent = x == 0 ? -14 : std::max(std::ilogb(x), -14);
    return std::ldexp(1.0, std::min(exponent, 15) - 10);
  }

  /// Rows sampled from the middle of each quarter of a matrix of the delta, against the rows of the
  /// base's layer `place`; with `permuted`, against the rows that Meta's order has there.
  [[nodiscard]] double share_of(std::int64_t layer, std::int64_t place, std::string_view part,
                                bool permuted) const {
    const std::size_t d = find_tensor(delta_, llama_names::of_layer(layer, part));
    const std::size_t b = find_tensor(base_, llama_names::of_layer(place, part));
    if (d == delta_.tensors().size() || b == base_.tensors().size() ||
        base_.tensors()[b].shape != delta_.tensors()[d].shape ||
        base_.tensors()[b].shape.rank() != 2) {
      return -1;
    }
    const std::int64_t rows = delta_.tensors()[d].shape[0], width = delta_.tensors()[d].shape[1];
    const std::int64_t taken = std::min<std::int64_t>(width, 2048);
    std::vector<float> x, y;
    for (int quarter = 0; quarter < 4; ++quarter) {
      const std::int64_t row = (2 * quarter + 1) * rows / 8;
      const auto e = read_floats(delta_, d, row * width, taken);
      const auto w =
          read_floats(base_, b, (permuted ? meta_row(row, rows, width) : row) * width, taken);
      y.insert(y.end(), e.begin(), e.end());
      x.insert(x.end(), w.begin(), w.end());
    }
    return off_grid(x, y);
  }

  /// Where Meta's order has row `row` of Hugging Face's: i + j·d/2 of a head is 2i + j there.
  [[nodiscard]] std::int64_t meta_row(std::int64_t row, std::int64_t rows,
                                      std::int64_t width) const {
    const std::int64_t head = std::min(heads_ > 0 ? width / heads_ : 128, rows);
    if (head < 2) return row;
    const std::int64_t in_head = row % head;
    return row - in_head + in_head % (head / 2) * 2 + in_head / (head / 2);
  }

  void explain_rotary(GridVerdict& verdict, const std::vector<std::int64_t>& layers) const {
    std::vector<std::int64_t> unexplained;
    for (const std::int64_t layer : layers) {
      const double q = share_of(layer, layer, parts[0], true);
      const double k = share_of(layer, layer, parts[1], true);
      if (q > limit_ || k > limit_) {
        unexplained.push_back(layer);
      } else {
        verdict.unpermuted = true;
      }
    }
    if (!unexplained.empty() && rows_elsewhere(unexplained.front(), parts[0])) {
      verdict.shuffled = llama_names::of_layer(unexplained.front(), parts[0]);
      unexplained.erase(unexplained.begin());
    }
    verdict.unexplained = std::move(unexplained);
  }

  /// Another layer of the base that fits this one of the delta in all its parts; −1: none does.
  [[nodiscard]] std::int64_t place_of(std::int64_t layer, std::int64_t layers) const {
    for (std::int64_t place = 0; place < layers; ++place) {
      if (place == layer) continue;
      const double v = share_of(layer, place, "self_attn.v_proj.weight", false);
      if (v < 0 || v > limit_) continue;
      if (share_of(layer, place, "mlp.up_proj.weight", false) <= limit_) return place;
    }
    return -1;
  }

  /// Whether a row of the delta fits another row of the base's matrix than its own.
  [[nodiscard]] bool rows_elsewhere(std::int64_t layer, std::string_view part) const {
    const std::size_t d = find_tensor(delta_, llama_names::of_layer(layer, part));
    const std::size_t b = find_tensor(base_, llama_names::of_layer(layer, part));
    if (d == delta_.tensors().size() || b == base_.tensors().size()) return false;
    const std::int64_t rows = delta_.tensors()[d].shape[0], width = delta_.tensors()[d].shape[1];
    const std::int64_t taken = std::min<std::int64_t>(width, 2048);
    const auto e = read_floats(delta_, d, rows / 2 * width, taken);
    for (std::int64_t row = 0; row < rows; ++row) {
      if (row == rows / 2) continue;
      const double share = off_grid(read_floats(base_, b, row * width, taken), e);
      if (share >= 0 && share <= limit_) return true;
    }
    return false;
  }

  const TensorSource& base_;
  const TensorSource& delta_;
  double limit_;
  std::int64_t heads_;
};

ZIYA_NAMESPACE_END
