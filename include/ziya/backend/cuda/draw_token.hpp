// SPDX-License-Identifier: Apache-2.0
// draw_token on a GPU: the id alone crosses the bus.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <cstdint>
#include <span>

#include "ziya/backend/cuda/context.hpp"
#include "ziya/core/token_draw.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace backend {

template <class T>
std::int32_t draw_token(Context<Cuda>& ctx, View<const T, Cuda> logits,
                        std::span<const ScoreChange> changes, const TokenDraw& draw);

#if !defined(__CUDACC__)
extern template std::int32_t draw_token(Context<Cuda>&, View<const float, Cuda>,
                                        std::span<const ScoreChange>, const TokenDraw&);
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/draw_token.cuh"
#endif

#endif
