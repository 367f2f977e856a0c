// SPDX-License-Identifier: Apache-2.0
// A token drawn from a row of logits where they lie.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>

#include "ziya/backend/cuda/draw_token.hpp"
#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/token_draw.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// Whether a device draws tokens itself; on the CPU the processors do.
template <class Device>
inline constexpr bool draws_tokens = ZIYA_WITH_CUDA&& std::is_same_v<Device, Cuda>;

/// The id at quantile `draw.uniform` of softmax(scores) after the processors of `draw`, or the
/// best. None where the host has to decide: logits that are no distribution, more equal scores than
/// a block sorts, a top_p that takes more than 2048 tokens to fill.
/// @param logits (n)   @param changes ids of any order, each once
template <class Device>
std::optional<std::int32_t> draw_token([[maybe_unused]] Context<Device>& ctx,
                                       [[maybe_unused]] View<const float, Device> logits,
                                       [[maybe_unused]] std::span<const ScoreChange> changes,
                                       [[maybe_unused]] const TokenDraw& draw) {
#if ZIYA_WITH_CUDA
  const std::int32_t id = backend::draw_token(ctx, logits, changes, draw);
  return id < 0 ? std::nullopt : std::optional(id);
#else
  static_assert(sizeof(Device) == 0, "this program has no other device than the CPU");
  return std::nullopt;
#endif
}

}  // namespace ops
ZIYA_NAMESPACE_END
