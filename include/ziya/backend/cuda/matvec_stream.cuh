// SPDX-License-Identifier: Apache-2.0
// Products of one token with 16-bit weights: a block per multiprocessor, whose warps have the next
// rows on their way through shared memory while they multiply, add up and write.
#pragma once

#include <algorithm>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/matvec.cuh"
#include "ziya/backend/cuda/mma.cuh"
#include "ziya/backend/cuda/row_norm.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int stream_warps = 24;  // of a block, the only one on its multiprocessor
inline constexpr int row_warps = 4;      // that share a row
inline constexpr int row_groups = stream_warps / row_warps;
inline constexpr int stream_batch = 3;   // packs of a thread that come together
inline constexpr int stream_stages = 4;  // batches under way, the last of them behind x

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
        slot_(ring_) {
    seek();
#pragma unroll 1
    for (int stage = 1; stage < stream_stages; ++stage) fetch();
  }
  /// Asks for the last stage, once and before packs are taken, behind x: x waits for what was asked
  /// for before.
  __device__ void fill() { fetch(); }
  /// The thread's next packs, of which those in its part of the row count.
  __device__ void take(uint4 (&bits)[stream_batch]) {
    wait_for_copies<stream_stages - 1>();
#pragma unroll
    for (int i = 0; i < stream_batch; ++i) bits[i] = slot_[i * 32 * stream_warps];
    fetch();
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
    row_ = row < a_.parts[index].rows ? a_.parts[index].w + row * a_.columns : nullptr;
    from_begin();
  }
  __device__ void from_begin() {
    left_ = end - begin;
    from_ = row_ + (begin + static_cast<int>(threadIdx.x) % 32) * elements;
  }
  __device__ void fetch() {
    if (row_ != nullptr) {
      const int own = left_ - static_cast<int>(threadIdx.x) % 32;
#pragma unroll
      for (int i = 0; i < stream_batch; ++i) {
        if (own > 32 * i) copy_wide(slot_ + i * 32 * stream_warps, from_ + i * 32 * elements);
      }
      from_ += 32 * stream_batch * elements;
      left_ -= 32 * stream_batch;
      if (left_ <= 0) {
        if (a_.up != nullptr && !up_) {
          up_ = true;
          row_ += a_.up - a_.parts[0].w;
          from_begin();
        } else {
          up_ = false;
          ++turn_;
          seek();
        }
      }
    }
    commit_copies();
    slot_ += stream_batch * 32 * stream_warps;
    if (slot_ == ring_ + stream_stages * stream_batch * 32 * stream_warps) slot_ = ring_;
  }

  const MatvecArguments<T, T>& a_;
  uint4 *ring_, *slot_;
  int left_ = 0;  ///< packs of the row under way that the warp has not asked for
  int turn_ = 0;
  bool up_ = false;
  const T *row_ = nullptr, *from_ = nullptr;
};

/// Adds w · x of a pack of each lane to its diagonal: of a product of 16 × 16 and 16 × 8 on the
/// tensor cores, row g of w meets column g of x in lanes 4 g … 4 g + 3, and there only with its
/// own.
template <class T>
__device__ inline void multiply_packs(float (&even)[4], float (&odd)[4], const uint4& w,
                                      const uint4& x) {
  const unsigned first[4] = {w.x, 0, w.y, 0}, second[4] = {w.z, 0, w.w, 0};
  multiply<T>(even, first, x.x, x.y);
  multiply<T>(odd, second, x.z, x.w);
}
/// The sum of the diagonal, in all lanes.
__device__ inline float diagonal_sum(const float (&even)[4], const float (&odd)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float own = lane / 4 % 2 == 0 ? even[0] + odd[0] : even[1] + odd[1];
  return warp_sum(lane % 4 == lane / 8 ? own : 0.0f);
}

/// Bytes of shared memory.
template <class T>
int stream_bytes(std::int64_t columns) {
  return 32 * stream_warps * stream_batch * stream_stages * 16 +
         norm_spans(columns) * static_cast<int>(256 * sizeof(T) + sizeof(float));
}

/// y = x · wᵀ for several weights, one after another; gated: of `up` too; of the normalised x with
/// `a.norm`.
template <class T>
ZIYA_KERNEL void __launch_bounds__(32 * stream_warps) matvec_stream(MatvecArguments<T, T> a) {
  extern __shared__ __align__(16) std::byte shared[];
  __shared__ float sums[2][row_groups][2][row_warps];
  auto* const ring = reinterpret_cast<uint4*>(shared);
  auto* const x =
      reinterpret_cast<Eight<T>*>(ring + 32 * stream_warps * stream_batch * stream_stages);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int columns = static_cast<int>(a.columns), spans = norm_spans(columns);
  const int group = RowStream<T>::group(), weights = a.up == nullptr ? 1 : 2;
  RowStream<T> stream(a, ring);
  Eight<float> factors;
  if (a.norm != nullptr) factors = load_eight<true>(a.norm, warp * 32 + lane, columns);
  wait_for_previous();
  release_next();

  auto* const squares = reinterpret_cast<float*>(x + spans * 32);
  // Asked for together, because they wait behind the weights that are under way.
  constexpr int ahead = 3;
  Eight<T> next[ahead];
#pragma unroll
  for (int n = 0; n < ahead; ++n) {
    next[n] = load_eight<true>(a.x, (warp + n * stream_warps) * 32 + lane, columns);
  }
  stream.fill();
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
      float even[4] = {}, odd[4] = {};
      for (int pack = stream.begin; pack < stream.end; pack += 32 * stream_batch) {
        uint4 w[stream_batch];
        stream.take(w);
#pragma unroll
        for (int i = 0; i < stream_batch; ++i) {
          const int p = pack + 32 * i + lane;
          uint4 own{};
          if (p < stream.end) {
            own = reinterpret_cast<const uint4*>(x)[p];
          } else {
            w[i] = own;
          }
          multiply_packs<T>(even, odd, w[i], own);
        }
      }
      const float sum = diagonal_sum(even, odd);
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
