// SPDX-License-Identifier: Apache-2.0
// Tokens drawn from rows of logits where they lie.
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "ziya/backend/cuda/draw_tokens.hpp"
#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/token_draw.hpp"
#include "ziya/core/view.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// Whether a device draws tokens itself; on the CPU the processors do.
template <class Device>
inline constexpr bool draws_tokens = ZIYA_WITH_CUDA&& std::is_same_v<Device, Cuda>;

/// ids[i] = the id at quantile `draws[i].uniform` of softmax(scores of row i) after the processors
/// of `draws[i]`, or the best; all rows in one launch. −1 where the host has to decide: logits that
/// are no distribution, more equal scores than a block sorts, a top_p that takes more than 2048
/// tokens to fill, and where the draw says so.
/// @param ids (rows)   @param logits (rows, n)   @param draws (rows)
/// @param changes of all rows; those of one row have ids of any order, each once
/// @throws ShapeError
template <class Device>
void draw_tokens([[maybe_unused]] Context<Device>& ctx, std::span<std::int32_t> ids,
                 View<const float, Device> logits, std::span<const TokenDraw> draws,
                 [[maybe_unused]] std::span<const ScoreChange> changes) {
  static_assert(draws_tokens<Device>, "only a GPU draws tokens");
  check_extent("draw_tokens", "number of ids", std::ssize(ids), logits.rows());
  check_extent("draw_tokens", "number of draws", std::ssize(draws), logits.rows());
#if ZIYA_WITH_CUDA
  backend::draw_tokens(ctx, ids, logits, draws, changes);
#endif
}

}  // namespace ops
ZIYA_NAMESPACE_END
