// SPDX-License-Identifier: Apache-2.0
// Products on a GPU: own kernels for a few tokens, cuBLASLt for many.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <span>
#include "ziya/backend/cuda/context.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/weight.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

/// @param y of x's type, or float
template <class T, class Y>
void matmul(Context<Cuda>& ctx, View<Y, Cuda> y, View<const T, Cuda> x, const Weight<Cuda>& w);
template <class T>
void matmul_add(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x, const Weight<Cuda>& w);
template <class T>
void matmul_many(Context<Cuda>& ctx, std::span<const View<T, Cuda>> ys, View<const T, Cuda> x,
                 std::span<const Weight<Cuda>* const> ws);
template <class T>
void matmul_silu_mul(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x,
                     const Weight<Cuda>& gate, const Weight<Cuda>& up);
template <class T>
void norm_matmul_many(Context<Cuda>& ctx, std::span<const View<T, Cuda>> ys, View<const T, Cuda> x,
                      View<const float, Cuda> norm, float eps,
                      std::span<const Weight<Cuda>* const> ws);
template <class T>
void gated_mlp(Context<Cuda>& ctx, View<T, Cuda> y, View<const T, Cuda> x,
               View<const float, Cuda> norm, float eps, const Weight<Cuda>& gate,
               const Weight<Cuda>& up, const Weight<Cuda>& down);

#if !defined(__CUDACC__)
#define ZIYA_INSTANCES(T)                                                                      \
  extern template void matmul(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,              \
                              const Weight<Cuda>&);                                            \
  extern template void matmul_add(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,          \
                                  const Weight<Cuda>&);                                        \
  extern template void matmul_many(Context<Cuda>&, std::span<const View<T, Cuda>>,             \
                                   View<const T, Cuda>, std::span<const Weight<Cuda>* const>); \
  extern template void matmul_silu_mul(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,     \
                                       const Weight<Cuda>&, const Weight<Cuda>&);              \
  extern template void norm_matmul_many(                                                       \
      Context<Cuda>&, std::span<const View<T, Cuda>>, View<const T, Cuda>,                     \
      View<const float, Cuda>, float, std::span<const Weight<Cuda>* const>);                   \
  extern template void gated_mlp(Context<Cuda>&, View<T, Cuda>, View<const T, Cuda>,           \
                                 View<const float, Cuda>, float, const Weight<Cuda>&,          \
                                 const Weight<Cuda>&, const Weight<Cuda>&);
ZIYA_INSTANCES(float)
ZIYA_INSTANCES(Half)
ZIYA_INSTANCES(BFloat16)
#undef ZIYA_INSTANCES
extern template void matmul(Context<Cuda>&, View<float, Cuda>, View<const Half, Cuda>,
                            const Weight<Cuda>&);
extern template void matmul(Context<Cuda>&, View<float, Cuda>, View<const BFloat16, Cuda>,
                            const Weight<Cuda>&);
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/matmul.cuh"
#endif

#endif
