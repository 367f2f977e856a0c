// SPDX-License-Identifier: Apache-2.0
// draw_tokens on a GPU: the ids alone cross the bus, together.
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
void draw_tokens(Context<Cuda>& ctx, std::span<std::int32_t> ids, View<const T, Cuda> logits,
                 std::span<const TokenDraw> draws, std::span<const ScoreChange> changes);

#if !defined(__CUDACC__)
extern template void draw_tokens(Context<Cuda>&, std::span<std::int32_t>, View<const float, Cuda>,
                                 std::span<const TokenDraw>, std::span<const ScoreChange>);
#endif

}  // namespace backend
ZIYA_NAMESPACE_END

#if defined(__CUDACC__)
#include "ziya/backend/cuda/draw_tokens.cuh"
#endif

#endif
