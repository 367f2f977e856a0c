// SPDX-License-Identifier: Apache-2.0
// Blocks of 256 elements from floats, with the least squared error that a search finds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/quantize/decode_256.hpp"
#include "ziya/backend/cpu/quantize/encode_32.hpp"
#include "ziya/backend/cpu/quantize/fit.hpp"
#include "ziya/config.hpp"
#include "ziya/core/blocks.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace quantize {

// Two levels: every group is fitted by itself, the groups' scales (and minima) are rounded to a
// short integer times one 16-bit number, and then the short integers and the 16-bit numbers are
// improved in turn, always judged by the error of the elements.

/// x = d · scale[g] · q − dmin · min[g], q in [0, top], scale and min in [0, limit].
template <int size, int count>
struct AffineGroups {
  float d = 0, dmin = 0;
  int scale[count] = {}, min[count] = {};

  [[nodiscard]] float group_scale(int g) const { return d * static_cast<float>(scale[g]); }
  [[nodiscard]] float group_offset(int g) const { return -dmin * static_cast<float>(min[g]); }

  /// The best integers of one group among the neighbours of `scale` and `min`; returns the error.
  float choose(int g, const float* x, const float* w, float top, int limit) {
    float best = error_of<size>(x, w, group_scale(g), group_offset(g), 0, top);
    const int scale_before = scale[g], min_before = min[g];
    for (int s = std::max(0, scale_before - 1); s <= std::min(limit, scale_before + 1); ++s) {
      for (int m = std::max(0, min_before - 1); m <= std::min(limit, min_before + 1); ++m) {
        if (s == scale_before && m == min_before) continue;
        const float error =
            error_of<size>(x, w, d * static_cast<float>(s), -dmin * static_cast<float>(m), 0, top);
        if (error < best) best = error, scale[g] = s, min[g] = m;
      }
    }
    return best;
  }

  /// d and dmin by least squares over the whole block, for the integers as they are.
  void solve(const float* x, const float* w, float top) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;  // x ≈ d · a − dmin · b
    for (int g = 0; g < count; ++g) {
      const float inverse_scale = inverse(group_scale(g)), offset = group_offset(g);
      float qq[chains] = {}, q1[chains] = {}, ww[chains] = {}, xq[chains] = {}, x1[chains] = {};
      for (int i = g * size; i < (g + 1) * size; i += chains) {
        for (int c = 0; c < chains; ++c) {
          const float q = nearest_integer((x[i + c] - offset) * inverse_scale, 0, top);
          const float wq = w[i + c] * q;
          qq[c] += wq * q;
          q1[c] += wq;
          ww[c] += w[i + c];
          xq[c] += wq * x[i + c];
          x1[c] += w[i + c] * x[i + c];
        }
      }
      const double s = scale[g], m = min[g];
      aa += s * s * static_cast<double>(sum_of(qq));
      ab += s * m * static_cast<double>(sum_of(q1));
      bb += m * m * static_cast<double>(sum_of(ww));
      ax += s * static_cast<double>(sum_of(xq));
      bx += m * static_cast<double>(sum_of(x1));
    }
    const double determinant = aa * bb - ab * ab;
    if (determinant > 1e-9 * aa * bb) {
      d = static_cast<float>((ax * bb - ab * bx) / determinant);
      dmin = static_cast<float>((ab * ax - aa * bx) / determinant);
    } else if (aa > 0) {
      d = static_cast<float>((ax + static_cast<double>(dmin) * ab) / aa);
    }
  }

  /// Rounds d and dmin to 16 bits, takes the fits of the groups to integers and improves them.
  float settle(const float* x, const float* w, const Fit* fits, float top, int limit) {
    d = to_float(finite_half(d));
    dmin = to_float(finite_half(dmin));
    float error = 0;
    const auto bound = static_cast<float>(limit);
    for (int g = 0; g < count; ++g) {
      scale[g] = static_cast<int>(nearest_integer(fits[g].scale * inverse(d), 0, bound));
      min[g] = static_cast<int>(nearest_integer(-fits[g].offset * inverse(dmin), 0, bound));
      error += choose(g, x + g * size, w + g * size, top, limit);
    }
    return error;
  }
};

/// @param ends how many other ratios of the largest scale to `limit` are tried
template <int size, int count>
AffineGroups<size, count> fit_affine_groups(const float* x, const float* w, int top, int limit,
                                            float width, int steps, int ends) {
  Fit fits[count];
  float largest = 0, deepest = 0;
  for (int g = 0; g < count; ++g) {
    fits[g] =
        fit_affine<size, true>(x + g * size, w + g * size, static_cast<float>(top), width, steps);
    largest = std::max(largest, fits[g].scale);
    deepest = std::max(deepest, -fits[g].offset);
  }
  AffineGroups<size, count> best;
  float best_error = 0;
  const auto highest = static_cast<float>(top);
  for (int end = 0; end <= ends; ++end) {
    AffineGroups<size, count> groups;
    const float ratio = static_cast<float>(limit) - 0.4f * static_cast<float>(end);
    groups.d = largest / ratio;
    groups.dmin = deepest / static_cast<float>(limit);
    float error = groups.settle(x, w, fits, highest, limit);
    for (int round = 0; round < 3; ++round) {
      AffineGroups<size, count> next = groups;
      next.solve(x, w, highest);
      if (!(next.d > 0) || !(next.dmin >= 0)) break;
      const float d = next.d, dmin = next.dmin;
      next.d = to_float(finite_half(d));
      next.dmin = to_float(finite_half(dmin));
      float next_error = 0;
      for (int g = 0; g < count; ++g) {
        next_error += next.choose(g, x + g * size, w + g * size, highest, limit);
      }
      if (!(next_error < error)) break;
      groups = next;
      error = next_error;
    }
    if (end == 0 || error < best_error) best = groups, best_error = error;
  }
  return best;
}

/// x = d · scale[g] · q, q in [−half, half − 1], scale in [−limit, limit − 1].
template <int size, int count>
struct SymmetricGroups {
  float d = 0;
  int scale[count] = {};

  [[nodiscard]] float group_scale(int g) const { return d * static_cast<float>(scale[g]); }

  float choose(int g, const float* x, const float* w, float half, int limit) {
    float best = error_of<size>(x, w, group_scale(g), 0, -half, half - 1);
    const int before = scale[g];
    for (int s = std::max(-limit, before - 1); s <= std::min(limit - 1, before + 1); s += 2) {
      const float error = error_of<size>(x, w, d * static_cast<float>(s), 0, -half, half - 1);
      if (error < best) best = error, scale[g] = s;
    }
    return best;
  }
};

template <int size, int count>
SymmetricGroups<size, count> fit_symmetric_groups(const float* x, const float* w, int half,
                                                  int limit, float reach, int steps, int ends) {
  Fit fits[count];
  float extreme = 0;
  for (int g = 0; g < count; ++g) {
    fits[g] =
        fit_symmetric<size>(x + g * size, w + g * size, static_cast<float>(half), reach, steps);
    if (std::fabs(fits[g].scale) > std::fabs(extreme)) extreme = fits[g].scale;
  }
  SymmetricGroups<size, count> best;
  float best_error = 0;
  const auto highest = static_cast<float>(half);
  const auto bound = static_cast<float>(limit);
  for (int end = 0; end <= ends; ++end) {
    SymmetricGroups<size, count> groups;
    const float ratio = bound - 0.4f * static_cast<float>(end);
    groups.d = to_float(finite_half(-extreme / ratio));
    float error = 0;
    for (int round = 0; round < 4; ++round) {
      SymmetricGroups<size, count> next = groups;
      if (round > 0) {  // d by least squares
        double up = 0, down = 0;
        for (int g = 0; g < count; ++g) {
          const float inverse_scale = inverse(groups.group_scale(g));
          float xq[chains] = {}, qq[chains] = {};
          for (int i = g * size; i < (g + 1) * size; i += chains) {
            for (int c = 0; c < chains; ++c) {
              const float q = nearest_integer(x[i + c] * inverse_scale, -highest, highest - 1);
              xq[c] += w[i + c] * q * x[i + c];
              qq[c] += w[i + c] * q * q;
            }
          }
          const double s = groups.scale[g];
          up += s * static_cast<double>(sum_of(xq));
          down += s * s * static_cast<double>(sum_of(qq));
        }
        if (!(down > 0)) break;
        next.d = to_float(finite_half(static_cast<float>(up / down)));
      }
      float next_error = 0;
      for (int g = 0; g < count; ++g) {
        if (round == 0) {
          next.scale[g] =
              static_cast<int>(nearest_integer(fits[g].scale * inverse(next.d), -bound, bound - 1));
        }
        next_error += next.choose(g, x + g * size, w + g * size, highest, limit);
      }
      if (round > 0 && !(next_error < error)) break;
      groups = next;
      error = next_error;
    }
    if (end == 0 || error < best_error) best = groups, best_error = error;
  }
  return best;
}

/// scale_min's inverse.
inline void pack_scale_min(const int (&scale)[8], const int (&min)[8], std::uint8_t (&packed)[12]) {
  std::memset(packed, 0, sizeof packed);
  for (int j = 0; j < 4; ++j) {
    packed[j] = static_cast<std::uint8_t>(scale[j] | (scale[j + 4] >> 4) << 6);
    packed[j + 4] = static_cast<std::uint8_t>(min[j] | (min[j + 4] >> 4) << 6);
    packed[j + 8] = static_cast<std::uint8_t>((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
  }
}

template <int size, int count>
void affine_codes(const AffineGroups<size, count>& groups, const float* x, int top,
                  std::uint8_t (&codes)[256]) {
  for (int g = 0; g < count; ++g) {
    round_codes<size>(x + g * size, groups.group_scale(g), groups.group_offset(g), 0, top,
                      codes + g * size);
  }
}

/// Four elements that lie 32 apart share a byte.
inline void pack_quarters(const std::uint8_t (&codes)[256], std::uint8_t (&quants)[64]) {
  for (int i = 0; i < 64; ++i) {
    const std::uint8_t* from = codes + i / 32 * 128 + i % 32;
    quants[i] = static_cast<std::uint8_t>((from[0] & 3) | (from[32] & 3) << 2 |
                                          (from[64] & 3) << 4 | (from[96] & 3) << 6);
  }
}

/// Two elements that lie 32 apart share a byte.
inline void pack_pairs(const std::uint8_t (&codes)[256], std::uint8_t (&quants)[128]) {
  for (int i = 0; i < 128; ++i) {
    const std::uint8_t* from = codes + i / 32 * 64 + i % 32;
    quants[i] = static_cast<std::uint8_t>((from[0] & 15) | (from[32] & 15) << 4);
  }
}

/// @param x (256), finite   @param w (256) weights of the squared errors, not negative
inline void encode(blocks::Q2_K& block, const float* x, const float* w) {
  const auto groups = fit_affine_groups<16, 16>(x, w, 3, 15, 0.05f, 4, 3);
  std::uint8_t codes[256];
  affine_codes(groups, x, 3, codes);
  block.d = to_half(groups.d);
  block.dmin = to_half(groups.dmin);
  for (int g = 0; g < 16; ++g) {
    block.scales[g] = static_cast<std::uint8_t>(groups.scale[g] | groups.min[g] << 4);
  }
  pack_quarters(codes, block.quants);
}

inline void encode(blocks::Q4_K& block, const float* x, const float* w) {
  const auto groups = fit_affine_groups<32, 8>(x, w, 15, 63, 0.02f, 4, 0);
  std::uint8_t codes[256];
  affine_codes(groups, x, 15, codes);
  block.d = to_half(groups.d);
  block.dmin = to_half(groups.dmin);
  pack_scale_min(groups.scale, groups.min, block.scales);
  pack_pairs(codes, block.quants);
}

inline void encode(blocks::Q5_K& block, const float* x, const float* w) {
  const auto groups = fit_affine_groups<32, 8>(x, w, 31, 63, 0.01f, 4, 0);
  std::uint8_t codes[256];
  affine_codes(groups, x, 31, codes);
  block.d = to_half(groups.d);
  block.dmin = to_half(groups.dmin);
  pack_scale_min(groups.scale, groups.min, block.scales);
  pack_pairs(codes, block.quants);
  std::memset(block.high, 0, sizeof block.high);
  for (int i = 0; i < 256; ++i) {
    block.high[i % 32] = static_cast<std::uint8_t>(block.high[i % 32] | (codes[i] >> 4) << i / 32);
  }
}

inline void encode(blocks::Q3_K& block, const float* x, const float* w) {
  const auto groups = fit_symmetric_groups<16, 16>(x, w, 4, 32, 2.0f, 8, 3);
  std::uint8_t codes[256];
  std::memset(block.scales, 0, sizeof block.scales);
  for (int g = 0; g < 16; ++g) {
    round_codes<16>(x + g * 16, groups.group_scale(g), 0, -4, 3, codes + g * 16);
    const int scale = groups.scale[g] + 32;
    std::uint8_t& low = block.scales[g % 8];
    std::uint8_t& high = block.scales[8 + g % 4];
    low = static_cast<std::uint8_t>(low | (scale & 15) << (g / 8 * 4));
    high = static_cast<std::uint8_t>(high | (scale >> 4) << (g / 4 * 2));
  }
  block.d = to_half(groups.d);
  pack_quarters(codes, block.quants);
  std::memset(block.high, 0, sizeof block.high);
  for (int i = 0; i < 256; ++i) {
    block.high[i % 32] = static_cast<std::uint8_t>(block.high[i % 32] | (codes[i] >> 2) << i / 32);
  }
}

inline void encode(blocks::Q6_K& block, const float* x, const float* w) {
  const auto groups = fit_symmetric_groups<16, 16>(x, w, 32, 128, 2.4f, 8, 0);
  std::uint8_t codes[256];
  for (int g = 0; g < 16; ++g) {
    round_codes<16>(x + g * 16, groups.group_scale(g), 0, -32, 31, codes + g * 16);
    block.scales[g] = static_cast<std::int8_t>(groups.scale[g]);
  }
  block.d = to_half(groups.d);
  for (int i = 0; i < 64; ++i) {  // elements 64 apart share a byte of low bits
    for (int part = 0; part < 2; ++part) {
      const std::uint8_t* from = codes + part * 128 + i;
      block.quants[part * 64 + i] =
          static_cast<std::uint8_t>((from[0] & 15) | (from[64] & 15) << 4);
    }
  }
  for (int i = 0; i < 64; ++i) {  // elements 32 apart share a byte of high bits
    const std::uint8_t* from = codes + i / 32 * 128 + i % 32;
    block.high[i] = static_cast<std::uint8_t>(from[0] >> 4 | (from[32] >> 4) << 2 |
                                              (from[64] >> 4) << 4 | (from[96] >> 4) << 6);
  }
}

}  // namespace quantize
ZIYA_NAMESPACE_END
