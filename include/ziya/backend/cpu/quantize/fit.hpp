// SPDX-License-Identifier: Apache-2.0
// The scale, or the scale and offset, with which few integers come closest to some numbers.
#pragma once

#include <cmath>
#include <initializer_list>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN
namespace quantize {

/// Sums run in so many independent chains, which compilers turn into vectors.
inline constexpr int chains = 8;

/// v cut to [low, high] and rounded to the nearest integer; NaN becomes low. |low|, |high| < 2²².
inline float nearest_integer(float v, float low, float high) {
  constexpr float shift = 12582912.0f;  // 1.5 · 2²³: adding it leaves no bits for a fraction
  v = v > low ? v : low;
  v = v < high ? v : high;
  return (v + shift) - shift;
}

/// 1 / scale, or 0 where there is no scale.
inline float inverse(float scale) { return scale != 0 ? 1 / scale : 0; }

inline float sum_of(const float (&parts)[chains]) {
  return ((parts[0] + parts[4]) + (parts[2] + parts[6])) +
         ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}

/// x ≈ scale · q + offset with an error Σ w (x − scale · q − offset)².
struct Fit {
  float scale = 0, offset = 0, error = 0;
};

/// Rounds x with `from` and takes the integers it gives to their best scale (and, if `with_offset`,
/// best offset) by least squares. Works on residuals, so that errors far below Σ w x² stay exact.
template <int n, bool with_offset>
Fit improved(const float* x, const float* w, Fit from, float low, float high) {
  float rr[chains] = {}, rq[chains] = {}, qq[chains] = {}, r1[chains] = {}, q1[chains] = {},
        ww[chains] = {};
  const float inverse_scale = inverse(from.scale);
  for (int i = 0; i < n; i += chains) {
    for (int c = 0; c < chains; ++c) {
      const float q = nearest_integer((x[i + c] - from.offset) * inverse_scale, low, high);
      const float r = x[i + c] - (from.scale * q + from.offset);
      const float wr = w[i + c] * r, wq = w[i + c] * q;
      rr[c] += wr * r;
      rq[c] += wr * q;
      qq[c] += wq * q;
      if constexpr (with_offset) r1[c] += wr, q1[c] += wq, ww[c] += w[i + c];
    }
  }
  const float srr = sum_of(rr), srq = sum_of(rq), sqq = sum_of(qq);
  if constexpr (with_offset) {
    const float sr1 = sum_of(r1), sq1 = sum_of(q1), sw = sum_of(ww);
    const float determinant = sw * sqq - sq1 * sq1;
    if (determinant > 1e-6f * sw * sqq) {
      const float a = (sw * srq - sq1 * sr1) / determinant;
      const float b = (sqq * sr1 - sq1 * srq) / determinant;
      return {from.scale + a, from.offset + b, srr - a * srq - b * sr1};
    }
    const float b = sw > 0 ? sr1 / sw : 0;
    return {from.scale, from.offset + b, srr - b * sr1};
  }
  if (!(sqq > 0)) return {from.scale, from.offset, srr};
  return {from.scale + srq / sqq, from.offset, srr - srq * srq / sqq};
}

/// Σ w (x − scale · q − offset)² with the nearest q.
template <int n>
float error_of(const float* x, const float* w, float scale, float offset, float low, float high) {
  float rr[chains] = {};
  const float inverse_scale = inverse(scale);
  for (int i = 0; i < n; i += chains) {
    for (int c = 0; c < chains; ++c) {
      const float q = nearest_integer((x[i + c] - offset) * inverse_scale, low, high);
      const float r = x[i + c] - (scale * q + offset);
      rr[c] += w[i + c] * r * r;
    }
  }
  return sum_of(rr);
}

/// Lloyd's iteration from `best`: round, solve, until nothing is gained.
template <int n, bool with_offset>
Fit settled(const float* x, const float* w, Fit best, float low, float high, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const Fit next = improved<n, with_offset>(x, w, best, low, high);
    if (!(next.error < best.error)) break;
    best = next;
  }
  return best;
}

/// Integers in [−half, half − 1] times a scale of either sign: the largest |x| is placed on −half
/// first and then further out or in, on both sides of zero.
/// @param reach how far out and in, in integers
template <int n>
Fit fit_symmetric(const float* x, const float* w, float half, float reach, int steps) {
  float extreme = 0;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  if (extreme == 0) return {};
  const float low = -half, high = half - 1;
  Fit best = improved<n, false>(x, w, {-extreme / half, 0, 0}, low, high);
  for (int step = 0; step <= steps; ++step) {
    const float place =
        half + reach * (0.4f - static_cast<float>(step) / static_cast<float>(steps));
    for (const float sign : {-1.0f, 1.0f}) {
      const Fit fit = improved<n, false>(
          x, w, {sign * extreme / (sign < 0 ? place : place - 1), 0, 0}, low, high);
      if (fit.error < best.error) best = fit;
    }
  }
  return settled<n, false>(x, w, best, low, high, 4);
}

/// Integers in [0, top] times a scale plus an offset, for which both ends of the range of x are
/// moved inwards in `steps` steps of `width` of the range.
/// @param negative the offset must not be above zero, and the scale not below
template <int n, bool negative>
Fit fit_affine(const float* x, const float* w, float top, float width, int steps) {
  float low = x[0], high = x[0];
  for (int i = 1; i < n; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  if (negative && low > 0) low = 0;
  if (negative && high < 0) high = 0;
  const float range = high - low;
  if (!(range > 0)) return {0, low, 0};
  const auto step_from = [&](Fit from) {
    Fit fit = improved<n, true>(x, w, from, 0, top);
    if (negative && !(fit.offset <= 0 && fit.scale >= 0)) {
      fit = improved<n, false>(x, w, {from.scale, from.offset < 0 ? from.offset : 0, 0}, 0, top);
      if (fit.scale < 0) fit = {0, 0, error_of<n>(x, w, 0, 0, 0, top)};
    }
    return fit;
  };
  Fit best = step_from({range / top, low, 0});
  for (int a = 0; a <= steps; ++a) {
    for (int b = 0; b <= steps - a; ++b) {
      const float from = low + range * width * static_cast<float>(a);
      const float to = high - range * width * static_cast<float>(b);
      const Fit fit = step_from({(to - from) / top, from, 0});
      if (fit.error < best.error) best = fit;
    }
  }
  for (int round = 0; round < 5; ++round) {
    const Fit next = step_from(best);
    if (!(next.error < best.error)) break;
    best = next;
  }
  return best;
}

}  // namespace quantize
ZIYA_NAMESPACE_END
