// SPDX-License-Identifier: Apache-2.0
// The next tokens of several sequences, drawn by a device in one call.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/random.hpp"
#include "ziya/core/token_draw.hpp"
#include "ziya/core/view.hpp"
#include "ziya/generate/device_draw.hpp"
#include "ziya/generate/sampler_state.hpp"
#include "ziya/ops/draw_tokens.hpp"

ZIYA_NAMESPACE_BEGIN

/// A policy that knows how a device may choose the token that `sample` would choose.
template <class P>
concept DeviceDrawnPolicy = requires(const P policy) {
  { policy.device_draw() } -> std::same_as<const DeviceDraw&>;
};

/// Rows of logits whose tokens a device draws where the logits are; what it leaves, and all rows of
/// the CPU, the policies sample. Its vectors are kept, so that a token allocates nothing here.
template <class Device>
class TokenDraws {
 public:
  /// Nothing is asked for of `rows` rows.
  void reset(std::size_t rows) {
    if constexpr (ops::draws_tokens<Device>) {
      draws_.assign(rows, {.on_host = true});
      ids_.assign(rows, -1);
      after_.resize(rows);
      changes_.clear();
      failed_ = nullptr;
    }
  }
  /// Row `row` shall be drawn as `policy` samples from it for `state`, which stays as it is but for
  /// its buffers.
  /// @param ahead tokens at the end of the history that are guesses: each took a random number more
  template <class Policy>
  void ask(std::size_t row, const Policy& policy, SamplerState& state, std::size_t ahead = 0) {
    if constexpr (ops::draws_tokens<Device> && DeviceDrawnPolicy<Policy>) {
      draws_[row] = policy.device_draw().next(changes_, after_[row], state, ahead);
    }
  }
  /// Draws what was asked for. What goes wrong, `take` throws: it is an error of those rows only.
  /// @param logits (rows, n)
  void run(Context<Device>& ctx, View<const float, Device> logits) {
    if constexpr (ops::draws_tokens<Device>) {
      bool all_on_host = true;
      for (const TokenDraw& draw : draws_) all_on_host = all_on_host && draw.on_host;
      if (all_on_host) return;
      try {
        ops::draw_tokens(ctx, ids_, logits, draws_, changes_);
      } catch (...) {
        failed_ = std::current_exception();
      }
    }
  }
  /// The id of a row, for whose sake the random numbers of `state` move on; none where the device
  /// left it to the policy.
  [[nodiscard]] std::optional<std::int32_t> take(std::size_t row, SamplerState& state) const {
    if constexpr (ops::draws_tokens<Device>) {
      if (failed_ && !draws_[row].on_host) std::rethrow_exception(failed_);
      if (ids_[row] < 0) return std::nullopt;
      state.random = after_[row];
      return ids_[row];
    } else {
      return std::nullopt;
    }
  }

 private:
  std::vector<TokenDraw> draws_;
  std::vector<ScoreChange> changes_;
  std::vector<Random> after_;  ///< of each row, when its token is taken
  std::vector<std::int32_t> ids_;
  std::exception_ptr failed_;
};

/// The next token of one row: the device's draw, or else what `policy` samples.
/// @param logits (n)
template <class Device, class Policy>
std::int32_t next_token(Context<Device>& ctx, View<const float, Device> logits,
                        const Policy& policy, SamplerState& state) {
  TokenDraws<Device> draws;
  draws.reset(1);
  draws.ask(0, policy, state);
  draws.run(ctx, logits.reshape(Shape{1, logits.elements()}));
  const auto id = draws.take(0, state);
  return id ? *id : policy.sample(ctx, logits, state);
}

ZIYA_NAMESPACE_END
