// SPDX-License-Identifier: Apache-2.0
// Panels of quantised weights on their way to the warps of a block, for products of few tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/panel.cuh"
#include "ziya/backend/cuda/panel_stream.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

/// A block takes the bands that lie a grid apart, in groups: of all bands of a group 256 columns
/// for each warp, then of all bands the next ones, a turn each, so that a warp keeps x of its
/// columns. What the warps take at a time lies side by side, which the memory likes. With `a.up`, a
/// band of it follows each. All warps go through the same stages; what is beyond the columns is not
/// copied.
/// @tparam Stages of a warp that are under way, or 0: what is best for one token
template <class T, class Block, int Stages>
class TurnStream {
 public:
  using Form = Panel<Block>;
  static constexpr int of_turn = 256 / Form::columns;                          ///< panels of a turn
  static constexpr int of_stage = of_turn * Form::bytes < 3500 ? of_turn : 1;  ///< panels
  static constexpr int stage_bytes = of_stage * Form::bytes;
  static constexpr int stages = Stages > 0 ? Stages : stage_bytes < 2000 ? 4 : 3;
  static constexpr int ring = stages * stage_bytes;  ///< bytes of a warp

  const int panels, warp, warps, turns, weights;

  static int turns_in(std::int64_t panels, int warps) {
    return std::max(static_cast<int>((panels + of_turn * warps - 1) / (of_turn * warps)), 1);
  }
  /// @param ring of the block   @param room bands of a group
  __device__ TurnStream(const MatvecArguments<T, std::byte>& a, std::byte* ring, int warp,
                        int warps, int turns, int room)
      : panels(static_cast<int>((static_cast<unsigned>(a.columns) + Form::columns - 1) /
                                Form::columns)),
        warp(warp),
        warps(warps),
        turns(turns),
        weights(a.up == nullptr ? 1 : 2),
        a_(a),
        bands_(Bands<T>{a}.count()),
        span_(room * static_cast<int>(gridDim.x)),
        slot_bytes_(warps * stage_bytes),
        to_(ring + warp * stage_bytes),
        band_(static_cast<int>(blockIdx.x)),
        first_(band_) {}

  /// The k-th panel of a turn, which may lie beyond the columns.
  [[nodiscard]] __device__ int panel(int turn, int k) const {
    return ((turn * (of_turn / of_stage) + k / of_stage) * warps + warp) * of_stage + k % of_stage;
  }

  /// The first column of a turn's group.
  [[nodiscard]] __device__ int column(int turn, int group) const {
    return panel(turn, group / Form::groups) * Form::columns + group % Form::groups * 32;
  }

  /// Weights do not depend on the work before: they may be under way before it ends. All but
  /// the last stage, which `fill` asks for, once and before a panel is taken: behind x, as x waits
  /// for what was asked for before.
  __device__ void start() {
    seek();
#pragma unroll 1
    for (int slot = 0; slot < stages - 1; ++slot) fetch(slot * slot_bytes_);
  }
  __device__ void fill() { fetch((stages - 1) * slot_bytes_); }
  /// The next stage, which must have been asked for. Panels beyond the columns are what was there.
  __device__ void take(Form (&stage)[of_stage]) {
    wait_for_copies<stages - 1>();
    __syncwarp();
#pragma unroll
    for (int n = 0; n < of_stage; ++n) stage[n].load(to_ + at_ + n * Form::bytes, lane());
    __syncwarp();
    fetch(at_);
    at_ = at_ + slot_bytes_ == stages * slot_bytes_ ? 0 : at_ + slot_bytes_;
#pragma unroll
    for (int n = 0; n < of_stage; ++n) stage[n].open();
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  /// To the stage that is asked for next.
  __device__ void seek() {
    panel_ = panel(turn_, 0);
    int band = band_;
    const int index = Bands<T>{a_}.locate(band);
    limit_ = min(min(bands_, first_ + span_), band_ - band + Bands<T>{a_}.of_part(index));
    source_ = a_.parts[index].w + (std::int64_t{band} * panels + panel_) * Form::bytes;
  }
  /// From a stage that has been asked for to the next one.
  __device__ void advance() {
    if constexpr (of_stage < of_turn) {
      step_ ^= 1;
      const bool second = (step_ & 1) != 0;
      panel_ += second ? warps : -warps;
      source_ += second ? slot_bytes_ : -slot_bytes_;
      if (second) return;
    }
    if (a_.up != nullptr) {
      step_ ^= 2;
      const bool up = (step_ & 2) != 0;
      source_ += up ? a_.up - a_.parts[0].w : a_.parts[0].w - a_.up;
      if (up) return;
    }
    band_ += static_cast<int>(gridDim.x);
    source_ += std::int64_t{static_cast<int>(gridDim.x) * panels} * Form::bytes;
    if (band_ < limit_) return;
    if (band_ >= bands_ || band_ >= first_ + span_) {  // the group's end
      if (++turn_ == turns) turn_ = 0, first_ += span_;
      band_ = first_;
    }
    seek();
  }
  /// Asks for the next stage, to byte `at` of the ring.
  __device__ void fetch(int at) {
    if (band_ < bands_) {
      const auto copy = [&](int bytes) {
#pragma unroll
        for (int first = 0; first < stage_bytes; first += 512) {
          const int to = first + lane() * 16;
          if (first + 512 <= bytes || to < bytes) {
            copy_async(to_ + at + to, source_ + to, true);
          }
        }
      };
      if (panel_ + of_stage <= panels) {
        copy(stage_bytes);
      } else if (panel_ < panels) {
        copy(Form::bytes);
      }
      advance();
    }
    commit_copies();
  }

  const MatvecArguments<T, std::byte>& a_;
  const int bands_, span_;  ///< bands; those from a group's first one to the next group's
  const int slot_bytes_;    ///< of a stage of all warps
  std::byte* const to_;     ///< the warp's part of a slot
  int band_, first_;        ///< of what is asked for next; the group's first band
  int turn_ = 0, panel_ = 0;
  int limit_ = 0;  ///< the band behind the last one that a step leads to
  /// Bits: whether it is a turn's second stage; whether the band is of `up`. One register.
  int step_ = 0;
  const std::byte* source_ = nullptr;
  int at_ = 0;  ///< byte of the ring where the next stage lies
};

}  // namespace cuda
ZIYA_NAMESPACE_END
