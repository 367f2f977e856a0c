// SPDX-License-Identifier: Apache-2.0
// Kernel of draw_tokens: one block per row does what the processors do on the CPU, in their order
// and with their roundings.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/draw_tokens.hpp"
#include "ziya/backend/cuda/top_k.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int draw_threads = 1024;
inline constexpr int most_sorted = 2048;  ///< candidates that are sorted; more are the host's work

struct DrawMemory {
  unsigned long long keys[most_sorted];  ///< (score, id), best first, of equals the higher id
  double weights[most_sorted];           ///< e^(score − highest); or sums of parts of the row
  unsigned counts[256];
  unsigned prefix, left, size;
};

/// The float whose `ordered_bits` these are.
__device__ inline float value_of(unsigned ordered) {
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}
__device__ inline float score_of(unsigned long long key) {
  return value_of(static_cast<unsigned>(key >> 32));
}

/// The greatest rank of a row, 0 where all is masked; `wrong` when one is infinite or no number.
template <class T>
__device__ inline unsigned long long best_of(const T* row, int count, int& wrong) {
  constexpr int together = 8;  // of a thread, under way
  unsigned long long greatest = 0;
  for (int first = static_cast<int>(threadIdx.x); first < count; first += together * draw_threads) {
    float scores[together];
#pragma unroll
    for (int n = 0; n < together; ++n) {
      const int i = first + n * draw_threads;
      scores[n] = i < count ? static_cast<float>(row[i]) : -INFINITY;
    }
#pragma unroll
    for (int n = 0; n < together; ++n) {
      wrong |= !(scores[n] < INFINITY);
      const unsigned long long rank = rank_of(scores[n], first + n * draw_threads);
      if (scores[n] != -INFINITY && rank > greatest) greatest = rank;
    }
  }
  return block_greatest<draw_threads>(greatest);
}

/// The `k`-th greatest `ordered_bits` of a row, by eight bits at a time.
__device__ inline unsigned kth_greatest(DrawMemory& memory, const float* row, int count, int k) {
  if (threadIdx.x == 0) memory.prefix = 0, memory.left = static_cast<unsigned>(k);
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) memory.counts[threadIdx.x] = 0;
    __syncthreads();
    const unsigned prefix = memory.prefix;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += draw_threads) {
      const unsigned bits = ordered_bits(row[i]);
      if (shift == 24 || bits >> (shift + 8) == prefix) {
        atomicAdd(&memory.counts[bits >> shift & 255], 1u);
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned digit = 255, left = memory.left;
      while (digit > 0 && memory.counts[digit] < left) left -= memory.counts[digit--];
      memory.prefix = prefix << 8 | digit;
      memory.left = left;
    }
    __syncthreads();
  }
  return memory.prefix;
}

/// Sorts what is at least `least` and not masked. @returns how many; −1 when there are too many
__device__ inline int sort_list(DrawMemory& memory, const float* row, int count, unsigned least) {
  if (threadIdx.x == 0) memory.size = 0;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += draw_threads) {
    const unsigned bits = ordered_bits(row[i]);
    if (bits < least || row[i] == -INFINITY) continue;
    const unsigned place = atomicAdd(&memory.size, 1u);
    if (place < most_sorted) {
      memory.keys[place] = static_cast<unsigned long long>(bits) << 32 | static_cast<unsigned>(i);
    }
  }
  __syncthreads();
  const auto size = static_cast<int>(memory.size);
  if (size > most_sorted) return -1;
  int padded = 2;
  while (padded < size) padded *= 2;
  for (int i = size + static_cast<int>(threadIdx.x); i < padded; i += draw_threads) {
    memory.keys[i] = 0;
  }
  for (int length = 2; length <= padded; length *= 2) {
    for (int apart = length / 2; apart > 0; apart /= 2) {
      __syncthreads();
      for (int pair = static_cast<int>(threadIdx.x); pair < padded / 2; pair += draw_threads) {
        const int a = pair / apart * 2 * apart + pair % apart, b = a + apart;
        const bool descending = (a & length) == 0;
        const unsigned long long first = memory.keys[a], second = memory.keys[b];
        if ((first < second) == descending) memory.keys[a] = second, memory.keys[b] = first;
      }
    }
  }
  __syncthreads();
  return size;
}

/// weights[i] of the list, by all threads.
__device__ inline void weigh_list(DrawMemory& memory, int size, float temperature) {
  const double highest = __fdiv_rn(score_of(memory.keys[0]), temperature);
  for (int i = static_cast<int>(threadIdx.x); i < size; i += draw_threads) {
    memory.weights[i] = exp(__fdiv_rn(score_of(memory.keys[i]), temperature) - highest);
  }
  __syncthreads();
}

/// weights[t] = Σ e^(row[i] − highest) over the t-th part of the row; their sum.
__device__ inline double weigh_row(DrawMemory& memory, const float* row, int count,
                                   double highest) {
  const int part = (count + draw_threads - 1) / draw_threads;
  const int begin = static_cast<int>(threadIdx.x) * part, end = min(count, begin + part);
  double sum = 0;
  for (int i = begin; i < end; ++i) sum += exp(row[i] - highest);
  memory.weights[threadIdx.x] = sum;
  __syncthreads();
  double total = 0;
  for (int t = 0; t < draw_threads; ++t) total += memory.weights[t];
  return total;
}

/// The tokens that `mass` of the probability keeps of a list. @returns how many, −1: more than the
/// list has
__device__ inline int keep_mass(const DrawMemory& memory, int size, double mass, double total,
                                bool whole) {
  double above = 0;
  int kept = 0;
  while (kept < size && (kept < 1 || !(above >= mass * total))) above += memory.weights[kept++];
  return whole || above >= mass * total ? kept : -1;
}

__device__ inline int quantile_of_list(const DrawMemory& memory, int size, double uniform) {
  double total = 0;
  for (int i = 0; i < size; ++i) total += memory.weights[i];
  double left = uniform * total;
  int chosen = 0;
  for (int i = 0; i < size; ++i) {
    if (memory.weights[i] > 0) chosen = i;
    if ((left -= memory.weights[i]) < 0) break;
  }
  return static_cast<int>(static_cast<unsigned>(memory.keys[chosen]));
}

__device__ inline int quantile_of_row(const DrawMemory& memory, const float* row, int count,
                                      double highest, double total, double uniform) {
  const int part = (count + draw_threads - 1) / draw_threads;
  double left = uniform * total;
  int t = 0;
  while (t + 1 < draw_threads && left - memory.weights[t] >= 0) left -= memory.weights[t++];
  int chosen = -1;
  for (int i = t * part; i < count; ++i) {
    const double weight = exp(row[i] - highest);
    if (weight > 0) chosen = i;
    if ((left -= weight) < 0) break;
  }
  return chosen;
}

/// ids[block] = the id, or −1 for what the host has to decide.
/// @param logits (blocks, count), `stride` apart   @param scores (blocks, count) scratch
template <class T>
ZIYA_KERNEL void draw_rows(std::int32_t* ids, float* __restrict__ scores,
                           const T* __restrict__ all_logits, std::int64_t stride, int count,
                           const TokenDraw* draws, const ScoreChange* all_changes) {
  release_next();
  wait_for_previous();
  __shared__ DrawMemory memory;
  const int lane = static_cast<int>(threadIdx.x);
  const TokenDraw draw = draws[blockIdx.x];
  const T* logits = all_logits + blockIdx.x * stride;
  const ScoreChange* changes = all_changes + draw.first_change;
  float* row = scores + std::int64_t{blockIdx.x} * count;
  std::int32_t* out = ids + blockIdx.x;
  if (lane == 0) *out = -1;
  if (draw.on_host) return;
  int wrong = 0;
  const bool unchanged = draw.best && draw.changes == 0;
  for (int i = lane; i < count && !unchanged; i += draw_threads) {
    row[i] = logits[i];
    wrong |= !(row[i] < INFINITY);
  }
  if (__syncthreads_or(wrong)) return;
  for (int i = lane; i < draw.changes; i += draw_threads) {
    const auto [id, repeated, amount] = changes[i];
    if (id < 0 || id >= count) continue;
    float score = row[id];
    if (repeated) {
      score = score < 0 ? __fmul_rn(score, draw.repetition_penalty)
                        : __fdiv_rn(score, draw.repetition_penalty);
    }
    row[id] = __fadd_rn(score, amount);
  }
  __syncthreads();
  if (!draw.best && !draw.temperature_last && draw.temperature != 1) {
    for (int i = lane; i < count; i += draw_threads) row[i] = __fdiv_rn(row[i], draw.temperature);
    __syncthreads();
  }
  const unsigned long long greatest =
      unchanged ? best_of(logits, count, wrong) : best_of(row, count, wrong);
  if (__syncthreads_or(wrong) || greatest == 0) return;
  if (draw.best) {
    if (lane == 0) *out = static_cast<std::int32_t>(~static_cast<unsigned>(greatest));
    return;
  }

  float temperature = draw.temperature_last ? draw.temperature : 1.0f;
  double highest = score_of(greatest);
  const bool narrowed = draw.top_k > 0 && draw.top_k < count;
  const bool cut = draw.top_p < 1;
  if (narrowed || cut) {
    const int wanted = narrowed ? draw.top_k : most_sorted;
    const bool whole = narrowed || count <= wanted;
    const unsigned least = count <= wanted ? 0u : kth_greatest(memory, row, count, wanted);
    double total = 0;
    if (!narrowed) {
      total = weigh_row(memory, row, count, highest);
      __syncthreads();
    }
    int size = sort_list(memory, row, count, least);
    if (size < 0) return;
    weigh_list(memory, size, 1);
    if (cut) {
      if (narrowed) {
        for (int i = 0; i < size; ++i) total += memory.weights[i];
      }
      size = keep_mass(memory, size, draw.top_p, total, whole);
      if (size < 0) return;
    }
    __syncthreads();
    weigh_list(memory, size, temperature);
    if (lane == 0) *out = quantile_of_list(memory, size, draw.uniform);
    return;
  }
  if (temperature != 1) {
    for (int i = lane; i < count; i += draw_threads) row[i] = __fdiv_rn(row[i], temperature);
    highest = __fdiv_rn(static_cast<float>(highest), temperature);
    __syncthreads();
  }
  const double total = weigh_row(memory, row, count, highest);
  if (lane == 0) *out = quantile_of_row(memory, row, count, highest, total, draw.uniform);
}

}  // namespace cuda
namespace backend {

template <class T>
void draw_tokens(Context<Cuda>& ctx, std::span<std::int32_t> ids, View<const T, Cuda> logits,
                 std::span<const TokenDraw> draws, std::span<const ScoreChange> changes) {
  Workspace<Cuda>::Scope scope(ctx.workspace());
  const std::int64_t rows = logits.rows(), count = logits.columns();
  const auto scores = ctx.workspace().template take<float>(Shape{rows, count});
  const auto places = ctx.workspace().template take<std::int32_t>(Shape{rows});
  // Both cross the bus together.
  const auto changes_at = static_cast<std::ptrdiff_t>(draws.size_bytes());
  std::vector<std::byte> packed(draws.size_bytes() + changes.size_bytes());
  std::ranges::copy(std::as_bytes(draws), packed.begin());
  std::ranges::copy(std::as_bytes(changes), packed.begin() + changes_at);
  const auto there = ctx.workspace().template take<std::byte>(Shape{std::ssize(packed)});
  cuda::check(cudaMemcpyAsync(there.data(), packed.data(), packed.size(), cudaMemcpyHostToDevice,
                              ctx.stream()),
              "draw_tokens");
  cuda::launch(ctx, "draw_tokens", cuda::draw_rows<T>, dim3(static_cast<unsigned>(rows)),
               dim3(cuda::draw_threads), 0, places.data(), scores.data(), logits.data(),
               logits.row_stride(), static_cast<int>(count),
               reinterpret_cast<const TokenDraw*>(there.data()),
               reinterpret_cast<const ScoreChange*>(there.data() + changes_at));
  cuda::check(cudaMemcpyAsync(ids.data(), places.data(), ids.size_bytes(), cudaMemcpyDeviceToHost,
                              ctx.stream()),
              "draw_tokens");
  ctx.synchronize();
}

}  // namespace backend
ZIYA_NAMESPACE_END
