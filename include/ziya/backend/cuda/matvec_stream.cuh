// SPDX-License-Identifier: Apache-2.0
// Products of one token with 16-bit weights: a block per multiprocessor, whose warps have the next
// rows on their way through shared memory while they multiply, add up and write.
#pragma once

#include <algorithm>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/row_norm.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int stream_warps = 24;  // of a block, the only one on its multiprocessor
inline constexpr int row_warps = 4;      // that share a row
inline constexpr int row_groups = stream_warps / row_warps;
inline constexpr int stream_stages = 10;  // packs of a thread under way

/// A warp's packs of the rows that its group has, which lie all groups apart; gated: of `up` behind
/// each.
template <class T>
class RowStream {
 public:
  const int begin, end;  ///< packs of a row

  __device__ RowStream(const MatvecArguments<T, T>& a, uint4* ring)
      : begin(packs(a) * share() / row_warps),
        end(packs(a) * (share() + 1) / row_warps),
        a_(a),
        ring_(ring + threadIdx.x),
        pack_(begin) {
    seek();
#pragma unroll 1
    for (int stage = 0; stage < stream_stages; ++stage) fetch(stage);
  }
  /// The thread's next pack, if there is one in its part of the row.
  __device__ Pack<T> take() {
    wait_for_copies<stream_stages - 1>();
    const uint4 bits = ring_[stage_ * 32 * stream_warps];
    fetch(stage_);
    stage_ = stage_ + 1 == stream_stages ? 0 : stage_ + 1;
    return *reinterpret_cast<const Pack<T>*>(&bits);
  }

  static __device__ int group() { return static_cast<int>(threadIdx.x) / 32 / row_warps; }
  static __device__ int share() { return static_cast<int>(threadIdx.x) / 32 % row_warps; }
  static __device__ int row_of(int turn) {
    return (turn * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x)) * row_groups +
           group();
  }
  /// The part that holds a row, which becomes the row's number there.
  static __device__ int locate(const MatvecArguments<T, T>& a, int& row) {
    int index = 0;
    while (index + 1 < matvec_parts && row >= static_cast<int>(a.parts[index].rows)) {
      row -= static_cast<int>(a.parts[index++].rows);
    }
    return index;
  }

 private:
  static constexpr int elements = 16 / sizeof(T);
  static __device__ int packs(const MatvecArguments<T, T>& a) {
    return static_cast<int>(a.columns) / elements;
  }
  __device__ void seek() {
    int row = row_of(turn_);
    const int index = locate(a_, row);
    from_ = row < a_.parts[index].rows ? a_.parts[index].w + row * a_.columns : nullptr;
  }
  __device__ void fetch(int stage) {
    if (from_ != nullptr) {
      const int p = pack_ + static_cast<int>(threadIdx.x) % 32;
      if (p < end) {
        copy_wide(ring_ + stage * 32 * stream_warps, from_ + std::int64_t{p} * elements);
      }
      pack_ += 32;
      if (pack_ >= end) {
        pack_ = begin;
        if (a_.up != nullptr && !up_) {
          up_ = true;
          from_ += a_.up - a_.parts[0].w;
        } else {
          up_ = false;
          ++turn_;
          seek();
        }
      }
    }
    commit_copies();
  }

  const MatvecArguments<T, T>& a_;
  uint4* ring_;
  int pack_, turn_ = 0, stage_ = 0;
  bool up_ = false;
  const T* from_ = nullptr;  ///< the row under way
};

/// Bytes of shared memory.
template <class T>
int stream_bytes(std::int64_t columns) {
  return 32 * stream_warps * stream_stages * 16 +
         norm_spans(columns) * static_cast<int>(256 * sizeof(T) + sizeof(float));
}

/// y = x · wᵀ for several weights, one after another; gated: of `up` too; of the normalised x with
/// `a.norm`.
template <class T>
ZIYA_KERNEL void __launch_bounds__(32 * stream_warps) matvec_stream(MatvecArguments<T, T> a) {
  extern __shared__ __align__(16) std::byte shared[];
  __shared__ float sums[2][row_groups][2][row_warps];
  auto* const ring = reinterpret_cast<uint4*>(shared);
  auto* const x = reinterpret_cast<Eight<T>*>(ring + 32 * stream_warps * stream_stages);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int columns = static_cast<int>(a.columns), spans = norm_spans(columns);
  const int group = RowStream<T>::group(), weights = a.up == nullptr ? 1 : 2;
  RowStream<T> stream(a, ring);
  Eight<float> factors;
  if (a.norm != nullptr) factors = load_eight<true>(a.norm, warp * 32 + lane, columns);
  wait_for_previous();
  release_next();

  auto* const squares = reinterpret_cast<float*>(x + spans * 32);
  // Asked for together: they wait behind the weights that are under way.
  constexpr int ahead = 3;
  Eight<T> next[ahead];
#pragma unroll
  for (int n = 0; n < ahead; ++n) {
    next[n] = load_eight<true>(a.x, (warp + n * stream_warps) * 32 + lane, columns);
  }
#pragma unroll 1  // code that runs once is waited for
  for (int span = warp; span < spans; span += stream_warps) {
    const Eight<T> eight = next[0];
#pragma unroll
    for (int n = 1; n < ahead; ++n) next[n - 1] = next[n];
    next[ahead - 1] = load_eight<true>(a.x, (span + ahead * stream_warps) * 32 + lane, columns);
    x[span * 32 + lane] = eight;
    if (a.norm == nullptr) continue;
    const float sum = span_squares(eight);
    if (lane == 0) squares[span] = sum;
  }
  __syncthreads();
  if (a.norm != nullptr) {
    const float inverse = inverse_rms(squares, columns, a.eps);
#pragma unroll 1
    for (int span = warp; span < spans; span += stream_warps) {
      if (span != warp) factors = load_eight<true>(a.norm, span * 32 + lane, columns);
      Eight<T>& eight = x[span * 32 + lane];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        eight[i] = normalised<T>(widen(eight[i]), inverse, factors[i]);
      }
    }
    __syncthreads();
  }

  for (int turn = 0;; ++turn) {
    int in_part = RowStream<T>::row_of(turn);
    const auto& part = a.parts[RowStream<T>::locate(a, in_part)];
    if (in_part >= part.rows) break;
    const bool finishes = turn % row_warps == RowStream<T>::share() && lane == 0;
    const std::uint32_t there = finishes ? y_bits(a, part, in_part, 0) : 0;
    for (int weight = 0; weight < weights; ++weight) {
      float sum = 0;
      for (int pack = stream.begin; pack < stream.end; pack += 32) {
        const Pack<T> w = stream.take();
        if (pack + lane >= stream.end) continue;
        const Pack<T> own = reinterpret_cast<const Pack<T>*>(x)[pack + lane];
#pragma unroll
        for (int i = 0; i < static_cast<int>(16 / sizeof(T)); ++i) {
          sum = fmaf(widen(own.at[i]), widen(w.at[i]), sum);
        }
      }
      sum = warp_sum(sum);
      if (lane == 0) sums[turn % 2][group][weight][RowStream<T>::share()] = sum;
    }
    asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(32 * row_warps) : "memory");
    if (!finishes) continue;
    float totals[2] = {};
#pragma unroll
    for (int weight = 0; weight < 2; ++weight) {
#pragma unroll
      for (int n = 0; n < row_warps; ++n) totals[weight] += sums[turn % 2][group][weight][n];
    }
    finish_row(a, part, in_part, 0, a.up == nullptr ? totals[0] : silu(totals[0]) * totals[1],
               from_y_bits(a, there));
  }
}

/// Whether `matvec_stream` takes a product.
template <class T>
ZIYA_HIDDEN bool stream_takes(const Context<Cuda>& ctx, const MatvecArguments<T, T>& a) {
  return sizeof(T) == 2 && a.tokens == 1 && !a.made && ctx.capability() >= 9 && packs_fit(a) &&
         a.columns % 8 == 0 && alignment_of(a.norm) == 16 &&
         stream_bytes<T>(a.columns) <= ctx.shared_memory() - 1024;  // beside what is static
}

template <class T>
ZIYA_HIDDEN void run_stream(Context<Cuda>& ctx, const MatvecArguments<T, T>& a) {
  std::int64_t rows = 0;
  for (const auto& part : a.parts) rows += part.rows;
  const auto kernel = matvec_stream<T>;
  // More than half of what a multiprocessor has: two blocks on one would leave another without.
  const int bytes = std::max(stream_bytes<T>(a.columns), ctx.shared_memory() / 2 + 1024);
  (void)ctx.resident_blocks(reinterpret_cast<const void*>(kernel), 32 * stream_warps, bytes);
  const std::int64_t blocks =
      std::min<std::int64_t>((rows + row_groups - 1) / row_groups, ctx.multiprocessors());
  launch(ctx, "matmul", kernel, dim3(static_cast<unsigned>(blocks)), dim3(32 * stream_warps),
         static_cast<std::size_t>(bytes), a);
}

}  // namespace cuda
ZIYA_NAMESPACE_END
