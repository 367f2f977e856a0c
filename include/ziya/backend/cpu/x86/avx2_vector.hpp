// SPDX-License-Identifier: Apache-2.0
// Vectors of 8 floats with AVX2, FMA and F16C: loads of every stored type, arithmetic, sums in a
// fixed tree.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx2 {

inline constexpr std::int64_t lanes = 8;

ZIYA_TARGET_AVX2 inline __m256i mask(std::int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
ZIYA_TARGET_AVX2 inline __m256 zero() { return _mm256_setzero_ps(); }
ZIYA_TARGET_AVX2 inline __m256 set(float value) { return _mm256_set1_ps(value); }
ZIYA_TARGET_AVX2 inline __m256 fma(__m256 a, __m256 b, __m256 c) {
  return _mm256_fmadd_ps(a, b, c);
}
ZIYA_TARGET_AVX2 inline __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 subtract(__m256 a, __m256 b) { return _mm256_sub_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 multiply(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 divide(__m256 a, __m256 b) { return _mm256_div_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 min(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 max(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
ZIYA_TARGET_AVX2 inline __m256 round(__m256 v) { return _mm256_round_ps(v, 8); }
ZIYA_TARGET_AVX2 inline __m256 scale_by_power(__m256 v, __m256 n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
ZIYA_TARGET_AVX2 inline __m256 zero_below(__m256 x, float limit, __m256 v) {
  return _mm256_and_ps(_mm256_cmp_ps(x, set(limit), _CMP_NLT_UQ), v);
}
ZIYA_TARGET_AVX2 inline __m256 first_lanes(__m256 v, std::int64_t count) {
  return _mm256_and_ps(_mm256_castsi256_ps(mask(count)), v);
}
/// The sums of lanes l and l + 4.
ZIYA_TARGET_AVX2 inline __m128 fold(__m256 v) {
  return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}
ZIYA_TARGET_AVX2 inline float sum(__m256 v) {
  const __m128 four = fold(v);
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
ZIYA_TARGET_AVX2 inline float largest_lane(__m256 v) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
/// y[n] = sum of the n-th, by the same additions.
ZIYA_TARGET_AVX2 inline void store_sums(float* y, __m256 v0, __m256 v1, __m256 v2, __m256 v3) {
  const __m128 a = fold(v0), b = fold(v1), c = fold(v2), d = fold(v3);
  const __m128 ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
  const __m128 cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
  _mm_storeu_ps(y, _mm_add_ps(_mm_shuffle_ps(ab, cd, _MM_SHUFFLE(2, 0, 2, 0)),
                              _mm_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 1, 3, 1))));
}

ZIYA_TARGET_AVX2 inline __m256 load(const float* p) { return _mm256_loadu_ps(p); }
ZIYA_TARGET_AVX2 inline __m256 load(const float* p, std::int64_t count) {
  return _mm256_maskload_ps(p, mask(count));
}
ZIYA_TARGET_AVX2 inline __m128i load_bits(const void* p, std::int64_t count) {
  alignas(16) std::uint16_t bits[8] = {};
  __builtin_memcpy(bits, p, static_cast<std::size_t>(count) * 2);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bits));
}
ZIYA_TARGET_AVX2 inline __m256 load(const Half* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
ZIYA_TARGET_AVX2 inline __m256 load(const Half* p, std::int64_t count) {
  return _mm256_cvtph_ps(load_bits(p, count));
}
ZIYA_TARGET_AVX2 inline __m256 widen(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
ZIYA_TARGET_AVX2 inline __m256 load(const BFloat16* p) {
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
ZIYA_TARGET_AVX2 inline __m256 load(const BFloat16* p, std::int64_t count) {
  return widen(load_bits(p, count));
}
ZIYA_TARGET_AVX2 inline void store(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
ZIYA_TARGET_AVX2 inline void store(float* p, __m256 v, std::int64_t count) {
  _mm256_maskstore_ps(p, mask(count), v);
}

}  // namespace avx2
ZIYA_NAMESPACE_END
#endif
