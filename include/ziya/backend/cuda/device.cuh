// SPDX-License-Identifier: Apache-2.0
// What kernels share: element types, wide loads, sums over a block, and how they are launched.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ziya/backend/cuda/context.hpp"
#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(Half value) { return __half2float(__ushort_as_half(value.bits)); }
__device__ inline float widen(BFloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
/// Rounds to nearest, ties to even.
template <class T>
__device__ inline T narrow(float value) {
  if constexpr (std::is_same_v<T, Half>) {
    return Half{__half_as_ushort(__float2half_rn(value))};
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return BFloat16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
  } else {
    return value;
  }
}

/// Elements that one instruction moves.
template <class T, int N = 16 / sizeof(T)>
struct alignas(N * sizeof(T)) Pack {
  T at[N];
};

/// E4M3, an element of DType::f8_e4m3 without its scale.
struct Float8 {
  std::uint8_t bits;
};
inline constexpr float float8_largest = 448;
__device__ inline float widen(Float8 value) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(value.bits, __NV_E4M3)));
}
/// Round to nearest, ties to even; beyond 448 becomes 448, NaN stays NaN.
__device__ inline Pack<Float8, 2> narrow_pair(float a, float b) {
  const auto bits = __nv_cvt_float2_to_fp8x2(float2{a, b}, __NV_SATFINITE, __NV_E4M3);
  return {{{static_cast<std::uint8_t>(bits & 0xff)}, {static_cast<std::uint8_t>(bits >> 8)}}};
}

/// A pack as floats.
template <class T, int N>
__device__ inline void widen_pack(float (&values)[N], const Pack<T, N>& pack) {
  if constexpr (std::is_same_v<T, Float8>) {
    const auto* pairs = reinterpret_cast<const __nv_fp8x2_storage_t*>(&pack);
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const float2 two =
          __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(pairs[i / 2], __NV_E4M3)));
      values[i] = two.x, values[i + 1] = two.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = widen(pack.at[i]);
  }
}

/// Read once: does not displace what the first-level cache holds.
template <class T>
__device__ inline Pack<T> load_once(const T* from) {
  uint4 bits;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "l"(from));
  return *reinterpret_cast<Pack<T>*>(&bits);
}

/// 16 bytes from global to shared memory, under way until `wait_for_copies`; zeros where there are
/// none.
__device__ inline void copy_async(void* to, const void* from, bool present) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = present ? 16 : 0;  // what is not copied becomes zero
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
               : "memory");
}
/// The same; the second-level cache takes 128 bytes around them, which others will want.
__device__ inline void copy_wide(void* to, const void* from) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(address), "l"(from)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// Waits until the work before this kernel is done and its results can be seen. Every kernel calls
/// it before it touches what another kernel wrote or reads.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// Lets blocks of the next kernel start, up to where they wait.
__device__ inline void release_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(~0u, value, apart);
  return value;
}
__device__ inline float warp_max(float value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    value = fmaxf(value, __shfl_xor_sync(~0u, value, apart));
  }
  return value;
}

/// 2^value to 22 bits; 0 for −infinity.
__device__ inline float power_of_two(float value) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

/// One value per thread → the combination of all, known to all; warps in order. Whole warps only.
template <class Combine>
__device__ inline float block_combine(float value, float neutral, Combine combine) {
  __shared__ float partial[32];
  __syncthreads();  // a use before this one has been read
  value = combine(value);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32;
  return combine(lane < blockDim.x / 32 ? partial[lane] : neutral);
}
__device__ inline float block_sum(float value) {
  return block_combine(value, 0.0f, [](float v) { return warp_sum(v); });
}
__device__ inline float block_max(float value) {
  return block_combine(value, -INFINITY, [](float v) { return warp_max(v); });
}

/// Starts a kernel behind the work of the context; on compute capability 9 and later its blocks may
/// be brought to the multiprocessors before that work ends, and `cluster` of them are together.
template <class... Parameters, class... Arguments>
ZIYA_HIDDEN void launch_clusters(Context<Cuda>& ctx, const char* name,
                                 void (*kernel)(Parameters...), dim3 grid, dim3 cluster, dim3 block,
                                 std::size_t shared, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = ctx.stream();
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = cluster.x;
  attributes[1].val.clusterDim.y = cluster.y;
  attributes[1].val.clusterDim.z = cluster.z;
  config.attrs = attributes;
  const bool alone = cluster.x * cluster.y * cluster.z == 1;
  config.numAttrs = ctx.capability() < 9 ? 0 : alone ? 1 : 2;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}
/// The same with blocks that have nothing to do with each other.
template <class... Parameters, class... Arguments>
ZIYA_HIDDEN void launch(Context<Cuda>& ctx, const char* name, void (*kernel)(Parameters...),
                        dim3 grid, dim3 block, std::size_t shared, Arguments&&... arguments) {
  launch_clusters(ctx, name, kernel, grid, dim3(1), block, shared, arguments...);
}

/// f(T{}) with the element type of plain `dtype`.   @throws ArgumentError for other types
template <class F>
ZIYA_HIDDEN void with_stored(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::f16) return f(Half{});
  if (dtype == DType::bf16) return f(BFloat16{});
  throw ArgumentError("ZIYA-153",
                      "cuda: type " + std::string(name(dtype)) + " is not one of f32, f16, bf16");
}

/// Whether rows at `data`, `stride` elements apart and `columns` long, are whole packs.
template <class T>
ZIYA_HIDDEN bool whole_packs(const T* data, std::int64_t stride, std::int64_t columns) {
  constexpr std::int64_t size = 16 / sizeof(T);
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride % size == 0 &&
         columns % size == 0;
}

inline unsigned blocks_for(std::int64_t count, std::int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace cuda
ZIYA_NAMESPACE_END
