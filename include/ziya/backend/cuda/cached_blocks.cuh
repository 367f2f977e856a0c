// SPDX-License-Identifier: Apache-2.0
// Keys and values in q8_0 on a GPU: how a head of a token lies, is written and read.
#pragma once

#include <cstdint>

#include "ziya/backend/cuda/device.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// A cached number over the scale of the `block_quants` that it belongs to.
struct Quant {
  std::int8_t value;
};
inline constexpr int block_quants = 32;

template <class C>
inline constexpr bool in_blocks = std::is_same_v<C, Quant>;

/// A head of a cached token: its elements, and their scales where they have some.
template <class C>
struct CachedHead {
  C* at;
};
template <>
struct CachedHead<Quant> {
  Quant* at;
  Half* scales;
};

/// The head that begins `elements` behind the page that lies `page` bytes behind `from`; `scales`:
/// CachedKeysValues::scales.
template <class C>
__device__ inline CachedHead<C> cached_head(const std::byte* from, std::int64_t page,
                                            std::int64_t elements, std::int64_t scales) {
  auto* base = const_cast<std::byte*>(from);
  if constexpr (in_blocks<C>) {
    return {reinterpret_cast<Quant*>(base + page) + elements,
            reinterpret_cast<Half*>(base + scales) + (page + elements) / block_quants};
  } else {
    return {reinterpret_cast<C*>(base + page) + elements};
  }
}

/// The scale of element `i`, past the first-level cache.
__device__ inline Half load_scale(const CachedHead<Quant>& head, int i) {
  return {__ldcg(&head.scales[i / block_quants].bits)};
}

/// Eight quants as floats: a byte, 128 more, becomes the last one of 2²³.
__device__ inline void widen_pack(float (&values)[8], const Pack<Quant, 8>& pack) {
  const auto& words = reinterpret_cast<const uint2&>(pack);
  const unsigned raised[2] = {words.x ^ 0x80808080u, words.y ^ 0x80808080u};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const unsigned bits = __byte_perm(raised[i / 4], 0x4b000000u, 0x7650u + i % 4);
    values[i] = __uint_as_float(bits) - 8388736.0f;
  }
}

/// Eight quants of a block, of which four threads with adjacent lanes have eight numbers each, and
/// its scale. As `quantize::encode_nearest`, to the bit: the largest becomes ±127, and a block with
/// NaN or infinity NaN.
__device__ inline Pack<Quant, 8> encode_nearest(const float (&x)[8], Half& scale) {
  int largest = 0;
#pragma unroll
  for (const float value : x) largest = max(largest, __float_as_int(value) & 0x7fffffff);
  const unsigned together = 0xfu << (threadIdx.x % 32 & ~3u);
#pragma unroll
  for (int apart = 2; apart > 0; apart /= 2) {
    largest = max(largest, __shfl_xor_sync(together, largest, apart));
  }
  const bool finite = largest < 0x7f800000;
  scale = finite ? narrow<Half>(fminf(__fdiv_rn(__int_as_float(largest), 127.0f), 65504.0f))
                 : Half{0x7e00};
  const float step = widen(scale), inverse = finite && step != 0 ? __frcp_rn(step) : 0.0f;
  Pack<Quant, 8> result;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float v = __fmul_rn(x[i], inverse);
    v = v > -127.0f ? v : -127.0f;  // of NaN too
    v = v < 127.0f ? v : 127.0f;
    result.at[i].value = static_cast<std::int8_t>(__float2int_rn(v));
  }
  return result;
}

/// f(C{}) with the element type of a cache of type `dtype`.   @throws ArgumentError for other types
template <class F>
ZIYA_HIDDEN void with_cached(DType dtype, F&& f) {
  if (dtype == DType::q8_0) return f(Quant{});
  with_stored(dtype, f);
}

/// Writes what a thread has of a block: eight quants from `element` on, the first one its scale.
__device__ inline void store_block(const CachedHead<Quant>& head, int element,
                                   const Pack<Quant, 8>& quants, Half scale) {
  *reinterpret_cast<Pack<Quant, 8>*>(head.at + element) = quants;
  if (element % block_quants == 0) head.scales[element / block_quants] = scale;
}

}  // namespace cuda
ZIYA_NAMESPACE_END
