// SPDX-License-Identifier: Apache-2.0
// Vectors of 16 floats with AVX-512: loads of every stored type, arithmetic, e^x, sums in a fixed
// tree.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

inline constexpr std::int64_t lanes = 16;
// The unmasked forms of some intrinsics start from an undefined vector, which g++ 12 warns about in
// every program; with a mask of all lanes the instruction is the same.
inline constexpr __mmask16 all = 0xffff;

ZIYA_TARGET_AVX512 inline __mmask16 mask(std::int64_t count) {
  return static_cast<__mmask16>((1u << count) - 1u);
}
ZIYA_TARGET_AVX512 inline __m512 zero() { return _mm512_setzero_ps(); }
ZIYA_TARGET_AVX512 inline __m512 set(float value) { return _mm512_set1_ps(value); }
ZIYA_TARGET_AVX512 inline __m512 fma(__m512 a, __m512 b, __m512 c) {
  return _mm512_fmadd_ps(a, b, c);
}
ZIYA_TARGET_AVX512 inline __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
ZIYA_TARGET_AVX512 inline __m512 subtract(__m512 a, __m512 b) { return _mm512_sub_ps(a, b); }
ZIYA_TARGET_AVX512 inline __m512 multiply(__m512 a, __m512 b) { return _mm512_mul_ps(a, b); }
ZIYA_TARGET_AVX512 inline __m512 divide(__m512 a, __m512 b) { return _mm512_div_ps(a, b); }
ZIYA_TARGET_AVX512 inline __m512 min(__m512 a, __m512 b) { return _mm512_maskz_min_ps(all, a, b); }
ZIYA_TARGET_AVX512 inline __m512 max(__m512 a, __m512 b) { return _mm512_maskz_max_ps(all, a, b); }
ZIYA_TARGET_AVX512 inline __m512 round(__m512 v) { return _mm512_maskz_roundscale_ps(all, v, 8); }
ZIYA_TARGET_AVX512 inline __m512 scale_by_power(__m512 v, __m512 n) {
  return _mm512_maskz_scalef_ps(all, v, n);
}
ZIYA_TARGET_AVX512 inline __m512 zero_below(__m512 x, float limit, __m512 v) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, set(limit), _CMP_NLT_UQ), v);
}
ZIYA_TARGET_AVX512 inline __m512 first_lanes(__m512 v, std::int64_t count) {
  return _mm512_maskz_mov_ps(mask(count), v);
}
/// The sums of lanes l, l + 4, l + 8, l + 12.
ZIYA_TARGET_AVX512 inline __m128 fold(__m512 v) {
  const __m512d pairs = _mm512_castps_pd(v);
  const __m256 eight = _mm256_add_ps(_mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, pairs, 0)),
                                     _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, pairs, 1)));
  return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}
ZIYA_TARGET_AVX512 inline float sum(__m512 v) {
  const __m128 four = fold(v);
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
ZIYA_TARGET_AVX512 inline float largest_lane(__m512 v) {
  const __m512d pairs = _mm512_castps_pd(v);
  const __m256 eight = _mm256_max_ps(_mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, pairs, 0)),
                                     _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, pairs, 1)));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
/// Part r of the result: four numbers whose sum, as that of fold(v[r]), is the sum of v[r].
ZIYA_TARGET_AVX512 inline __m512 fold(const __m512 (&v)[4]) {
  const __m512 ab = add(_mm512_maskz_shuffle_f32x4(all, v[0], v[1], 0x44),
                        _mm512_maskz_shuffle_f32x4(all, v[0], v[1], 0xee));
  const __m512 cd = add(_mm512_maskz_shuffle_f32x4(all, v[2], v[3], 0x44),
                        _mm512_maskz_shuffle_f32x4(all, v[2], v[3], 0xee));
  return add(_mm512_maskz_shuffle_f32x4(all, ab, cd, 0x88),
             _mm512_maskz_shuffle_f32x4(all, ab, cd, 0xdd));
}
/// y[t · stride + r] = sum of column t of v[r], by the same additions.
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline void store_sums(float* y, std::int64_t,
                                                                 const __m512 (&v)[4][1]) {
  for (int r = 0; r < 4; ++r) y[r] = sum(v[r][0]);
}
template <int T>
[[gnu::always_inline]] ZIYA_TARGET_AVX512 inline void store_sums(float* y, std::int64_t stride,
                                                                 const __m512 (&v)[4][T]) {
  static_assert(T % 2 == 0);
  __m512 pairs[T / 2];
#pragma GCC unroll 4
  for (int t = 0; t < T; t += 2) {
    const __m512 a = fold({v[0][t], v[1][t], v[2][t], v[3][t]});
    const __m512 b = fold({v[0][t + 1], v[1][t + 1], v[2][t + 1], v[3][t + 1]});
    const __m512d da = _mm512_castps_pd(a), db = _mm512_castps_pd(b);
    pairs[t / 2] = add(_mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, da, db)),
                       _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, da, db)));
  }
  // part r, number t of the sums below, to number r, part t
  const __m512i turned = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
#pragma GCC unroll 4
  for (int t = 0; t < T; t += 4) {
    const __m512 a = pairs[t / 2], b = pairs[std::min(t / 2 + 1, T / 2 - 1)];
    const __m512 sums = _mm512_maskz_permutexvar_ps(
        all, turned,
        add(_mm512_maskz_shuffle_ps(all, a, b, 0x88), _mm512_maskz_shuffle_ps(all, a, b, 0xdd)));
    float* to = y + t * stride;
    _mm_storeu_ps(to, _mm512_castps512_ps128(sums));
    _mm_storeu_ps(to + stride, _mm512_maskz_extractf32x4_ps(0xf, sums, 1));
    if (t + 4 <= T) {
      _mm_storeu_ps(to + 2 * stride, _mm512_maskz_extractf32x4_ps(0xf, sums, 2));
      _mm_storeu_ps(to + 3 * stride, _mm512_maskz_extractf32x4_ps(0xf, sums, 3));
    }
  }
}

/// e^x = 2^n · e^r with n = round(x / ln 2); e^r by its Taylor polynomial of degree 7, whose error
/// is below 1e-8 for |r| ≤ ln 2 / 2. 0 below −87.3. The bounds are the
/// first operands, because min and max give the second when either is NaN.
ZIYA_TARGET_AVX512 inline __m512 exp(__m512 x) {
  const __m512 bounded = min(set(88.37f), max(set(-87.33f), x));
  const __m512 n = round(multiply(bounded, set(1.44269504f)));
  const __m512 r = fma(n, set(2.12194440e-4f), fma(n, set(-0.693359375f), bounded));
  __m512 p = set(1.0f / 5040);
  p = fma(p, r, set(1.0f / 720));
  p = fma(p, r, set(1.0f / 120));
  p = fma(p, r, set(1.0f / 24));
  p = fma(p, r, set(1.0f / 6));
  p = fma(p, r, set(0.5f));
  p = fma(p, r, set(1.0f));
  p = fma(p, r, set(1.0f));
  return zero_below(x, -87.33f, scale_by_power(p, n));
}

ZIYA_TARGET_AVX512 inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
ZIYA_TARGET_AVX512 inline __m512 load(const float* p, std::int64_t count) {
  return _mm512_maskz_loadu_ps(mask(count), p);
}
ZIYA_TARGET_AVX512 inline __m512 load(const Half* p) {
  return _mm512_maskz_cvtph_ps(all, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
ZIYA_TARGET_AVX512 inline __m512 load(const Half* p, std::int64_t count) {
  return _mm512_maskz_cvtph_ps(all, _mm256_maskz_loadu_epi16(mask(count), p));
}
ZIYA_TARGET_AVX512 inline __m512 widen(__m256i bits) {
  return _mm512_castsi512_ps(
      _mm512_maskz_slli_epi32(all, _mm512_maskz_cvtepu16_epi32(all, bits), 16));
}
ZIYA_TARGET_AVX512 inline __m512 load(const BFloat16* p) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
ZIYA_TARGET_AVX512 inline __m512 load(const BFloat16* p, std::int64_t count) {
  return widen(_mm256_maskz_loadu_epi16(mask(count), p));
}
ZIYA_TARGET_AVX512 inline void store(float* p, __m512 v) { _mm512_storeu_ps(p, v); }
ZIYA_TARGET_AVX512 inline void store(float* p, __m512 v, std::int64_t count) {
  _mm512_mask_storeu_ps(p, mask(count), v);
}

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
