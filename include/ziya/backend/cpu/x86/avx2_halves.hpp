// SPDX-License-Identifier: Apache-2.0
// Sums of halves with AVX2 and F16C.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <immintrin.h>

#include <cstddef>

#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx2 {

/// out[i] = fp16(a[i] + b[i]) for i below the largest multiple of 8 that is not above `count`,
/// which is returned. A sum that is NaN is 0x7e00 with the sign of a where that is NaN, else of b,
/// else negative. `out` may be `a` or `b`.
ZIYA_TARGET_AVX2 inline std::size_t add_halves(Half* out, const Half* a, const Half* b,
                                               std::size_t count) {
  const __m128i infinity = _mm_set1_epi16(0x7c00), quiet = _mm_set1_epi16(0x7e00);
  const __m128i magnitude = _mm_set1_epi16(0x7fff);
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i));
    const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i));
    const __m128i sum = _mm256_cvtps_ph(_mm256_add_ps(_mm256_cvtph_ps(x), _mm256_cvtph_ps(y)),
                                        _MM_FROUND_TO_NEAREST_INT);
    const __m128i of_x = _mm_cmpgt_epi16(_mm_and_si128(x, magnitude), infinity);
    const __m128i of_y = _mm_cmpgt_epi16(_mm_and_si128(y, magnitude), infinity);
    const __m128i signs = _mm_blendv_epi8(_mm_blendv_epi8(_mm_set1_epi16(-1), y, of_y), x, of_x);
    const __m128i is_nan = _mm_cmpgt_epi16(_mm_and_si128(sum, magnitude), infinity);
    const __m128i nan = _mm_or_si128(_mm_andnot_si128(magnitude, signs), quiet);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm_blendv_epi8(sum, nan, is_nan));
  }
  return i;
}

}  // namespace avx2
ZIYA_NAMESPACE_END
#endif
