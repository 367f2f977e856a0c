// SPDX-License-Identifier: Apache-2.0
// The panels that a warp reads, on their way through shared memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/panel.cuh"
#include "ziya/backend/cuda/panels.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int panel_row_count = static_cast<int>(panel_rows);

/// Bands of 16 rows of all weights of a product, numbered one after another.
template <class T>
struct Bands {
  const MatvecArguments<T, std::byte>& a;

  __device__ int of_part(int i) const {
    return static_cast<int>((static_cast<unsigned>(a.parts[i].rows) + panel_row_count - 1) /
                            panel_row_count);
  }
  __device__ int count() const {
    int all = 0;
    for (int i = 0; i < matvec_parts; ++i) all += of_part(i);
    return all;
  }
  /// The part that holds a band, which becomes the band's number there.
  __device__ int locate(int& band) const {
    int index = 0;
    while (index + 1 < matvec_parts && band >= of_part(index)) band -= of_part(index++);
    return index;
  }
};

/// Equal shares, of which the first ones have one more: blocks would take long to divide.
struct Shares {
  int each = 0, more = 0;

  __device__ int begin(int i) const { return i * each + min(i, more); }
  __device__ int count(int i) const { return each + (i < more ? 1 : 0); }
};
inline Shares shares_of(std::int64_t all, std::int64_t count) {
  return {static_cast<int>(all / count), static_cast<int>(all % count)};
}

/// Panels of a warp that are under way.
template <class Block>
inline constexpr int panel_stages = Panel<Block>::bytes < 1200   ? 5
                                    : Panel<Block>::bytes < 2000 ? 4
                                                                 : 3;
template <class Block>
inline constexpr int panel_ring = panel_stages<Block>* Panel<Block>::bytes;  // bytes of a warp

/// A block takes the bands that lie a grid apart; a warp has the same columns of all of them, so
/// that its stream of panels does not end with a band. With `a.up`, a band of it follows each.
template <class T, class Block>
class PanelStream {
 public:
  using Form = Panel<Block>;
  static constexpr int stages = panel_stages<Block>;
  const int weights, panels, begin, end, bands;

  /// @param shares of a band's panels, by warps
  __device__ PanelStream(const MatvecArguments<T, std::byte>& a, std::byte* ring, int warp,
                         const Shares& shares)
      : weights(a.up == nullptr ? 1 : 2),
        panels(static_cast<int>((static_cast<unsigned>(a.columns) + Form::columns - 1) /
                                Form::columns)),
        begin(shares.begin(warp)),
        end(shares.begin(warp + 1)),
        bands(Bands<T>{a}.count()),
        a_(a),
        ring_(ring),
        band_(static_cast<int>(blockIdx.x)),
        panel_(begin) {}

  /// Weights do not depend on the work before: they may be under way before it ends.
  __device__ void start() {
    seek();
#pragma unroll 1
    for (int stage = 0; stage < stages; ++stage) fetch(stage);
  }
  /// The next panel, which must have been asked for.
  __device__ void take(Form& panel) {
    wait_for_copies<stages - 1>();
    __syncwarp();
    panel.load(ring_ + stage_ * Form::bytes, lane());
    __syncwarp();
    fetch(stage_);
    stage_ = stage_ + 1 == stages ? 0 : stage_ + 1;
    panel.open();
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  /// To the first panel of a band.
  __device__ void seek() {
    int band = band_;
    const int index = Bands<T>{a_}.locate(band);
    last_ = band_ - band + Bands<T>{a_}.of_part(index);
    source_ = a_.parts[index].w + (std::int64_t{band} * panels + begin) * Form::bytes;
  }
  /// From behind a warp's last panel of a band to its first one of the next.
  __device__ void next_band() {
    if (weights == 2 && !up_) {
      up_ = true;
      source_ += (a_.up - a_.parts[0].w) - std::int64_t{end - begin} * Form::bytes;
      return;
    }
    band_ += static_cast<int>(gridDim.x);
    if (band_ >= last_ && band_ < bands) return seek();
    source_ += std::int64_t{static_cast<int>(gridDim.x) * panels - (end - begin)} * Form::bytes;
    if (weights == 2) up_ = false, source_ -= a_.up - a_.parts[0].w;
  }
  __device__ void fetch(int stage) {
    if (band_ < bands && begin < end) {
#pragma unroll
      for (int first = 0; first < Form::bytes; first += 512) {
        const int at = first + lane() * 16;
        if (at < Form::bytes) copy_async(ring_ + stage * Form::bytes + at, source_ + at, true);
      }
      source_ += Form::bytes;
      if (++panel_ == end) {
        panel_ = begin;
        next_band();
      }
    }
    commit_copies();
  }

  const MatvecArguments<T, std::byte>& a_;
  std::byte* ring_;
  int band_, panel_, stage_ = 0;
  int last_ = 0;     ///< the band behind the part's last one
  bool up_ = false;  ///< the band under way is of `up`
  const std::byte* source_ = nullptr;
};

/// Sums of a band from each warp: [warps, of gate and then of up][rows][slots].
template <int Slots>
using BandSums = float[panel_rows][Slots];

/// y of a band, all threads of the block. total(first, row, token): the sum over the warps whose
/// sums begin with number `first`.
template <class T, class Total>
__device__ inline void finish_band(const MatvecArguments<T, std::byte>& a, int band, int warps,
                                   const Total& total) {
  constexpr int rows = panel_row_count;
  const auto& part = a.parts[Bands<T>{a}.locate(band)];
  for (int i = static_cast<int>(threadIdx.x); i < rows * static_cast<int>(a.tokens);
       i += static_cast<int>(blockDim.x)) {
    const int token = i / rows, in_band = i % rows;
    const std::int64_t row = band * panel_rows + in_band;
    if (row >= part.rows) continue;
    const float there = there_of(a, part, row, token);
    float sum = total(0, in_band, token);
    if (a.up != nullptr) sum = silu(sum) * total(warps, in_band, token);
    finish_row(a, part, row, token, sum, there);
  }
}

/// How many warps share the columns of a weight, with little left over.
inline int panel_sharing(std::int64_t panels, int least, int most) {
  int best = least;
  double best_use = 0;
  for (int n = least; n <= most; ++n) {
    const double use = static_cast<double>(panels) / static_cast<double>((panels + n - 1) / n * n);
    if (use >= best_use) best = n, best_use = use;
  }
  return best;
}
/// Bands of all parts.
template <class T>
std::int64_t bands_in(const MatvecArguments<T, std::byte>& a) {
  std::int64_t bands = 0;
  for (const auto& part : a.parts) bands += (part.rows + panel_rows - 1) / panel_rows;
  return bands;
}

}  // namespace cuda
ZIYA_NAMESPACE_END
