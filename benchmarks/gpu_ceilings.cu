// SPDX-License-Identifier: Apache-2.0
// Ceilings of a GPU.
#include "gpu_ceilings.hpp"

#include <algorithm>
#include <vector>

#include "ziya/backend/cuda/device.cuh"

namespace gpu {
namespace {

using ziya::BFloat16;
using ziya::Context;
using ziya::Cuda;
using ziya::DType;
using ziya::Shape;
using ziya::Tensor;

__global__ void read_all(const uint4* from, std::int64_t count, unsigned* never) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  unsigned sum = 0;
  for (; i + 3 * step < count; i += 4 * step) {
    uint4 now[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) now[k] = __ldcs(from + i + k * step);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum ^= now[k].x ^ now[k].y ^ now[k].z ^ now[k].w;
  }
  if (sum == 0x12345678u) *never = sum;  // so that the reads are needed
}

template <class T>
__global__ void fill(T* to, std::int64_t count) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    unsigned state = static_cast<unsigned>(i) * 2654435761u;
    state ^= state >> 15;
    state *= 2246822519u;
    const float value = (static_cast<float>(state >> 8) / 16777216.0f - 0.5f) * 2;
    if constexpr (std::is_same_v<T, ziya::cuda::Float8>) {
      to[i] = ziya::cuda::narrow_pair(value * ziya::cuda::float8_largest, 0).at[0];
    } else {
      to[i] = ziya::cuda::narrow<T>(value);
    }
  }
}

}  // namespace

Timer::Timer(cudaStream_t stream) : stream_(stream) {
  ziya::cuda::check(cudaEventCreate(&begin_), "timer");
  ziya::cuda::check(cudaEventCreate(&end_), "timer");
}
Timer::~Timer() {
  (void)cudaEventDestroy(begin_);
  (void)cudaEventDestroy(end_);
}
void Timer::begin() { ziya::cuda::check(cudaEventRecord(begin_, stream_), "timer"); }
double Timer::end() {
  ziya::cuda::check(cudaEventRecord(end_, stream_), "timer");
  ziya::cuda::check(cudaEventSynchronize(end_), "timer");
  float milliseconds = 0;
  ziya::cuda::check(cudaEventElapsedTime(&milliseconds, begin_, end_), "timer");
  return milliseconds / 1e3;
}

double read_bandwidth(Context<Cuda>& ctx) {
  const auto free = static_cast<std::int64_t>(ziya::Memory<Cuda>::room().free);
  const std::int64_t bytes = std::min(std::int64_t{4} << 30, free / 2 / 4096 * 4096);
  Tensor<std::byte, Cuda> memory(Shape{bytes + 256});
  ziya::cuda::check(cudaMemset(memory.data(), 1, static_cast<std::size_t>(bytes)), "fill");
  Timer timer(ctx.stream());
  double best = 1e9;
  for (int blocks : {4, 8, 16}) {
    for (int pass = 0; pass < 8; ++pass) {
      timer.begin();
      read_all<<<static_cast<unsigned>(ctx.multiprocessors() * blocks), 256, 0, ctx.stream()>>>(
          reinterpret_cast<const uint4*>(memory.data()), bytes / 16,
          reinterpret_cast<unsigned*>(memory.data() + bytes));
      best = std::min(best, timer.end());
    }
  }
  return static_cast<double>(bytes) / best;
}

namespace {

template <class T, class Y = T>
double rate_of(Context<Cuda>& ctx, DType dtype) {
  constexpr std::int64_t n = 8192;
  Tensor<T, Cuda> x(Shape{n, n}), w(Shape{n, n});
  Tensor<Y, Cuda> y(Shape{n, n});
  Tensor<float, Cuda> scales(Shape{n});
  for (auto* operand : {&x, &w}) {
    fill<<<1024, 256, 0, ctx.stream()>>>(operand->data(), n * n);
  }
  fill<<<1, 256, 0, ctx.stream()>>>(scales.data(), n);
  const ziya::cuda::Product product{dtype, ziya::dtype_of<Y>, false, n, n, n, n, n, n};
  const auto run = [&] {
    (void)ctx.products().run(ctx.stream(), product, y.data(), x.data(), w.data(),
                             {scales.data(), scales.data()});
  };
  for (int i = 0; i < 5; ++i) run();
  Timer timer(ctx.stream());
  std::vector<double> times;
  for (int i = 0; i < 10; ++i) {
    timer.begin();
    run();
    times.push_back(timer.end());
  }
  std::sort(times.begin(), times.end());
  return 2.0 * n * n * n / times[times.size() / 2];
}

}  // namespace

double matrix_rate(Context<Cuda>& ctx, DType dtype) {
  if (dtype == DType::f8_e4m3) return rate_of<ziya::cuda::Float8, BFloat16>(ctx, dtype);
  if (dtype == DType::f32) return rate_of<float>(ctx, dtype);
  return dtype == DType::f16 ? rate_of<ziya::Half>(ctx, dtype) : rate_of<BFloat16>(ctx, dtype);
}

}  // namespace gpu
