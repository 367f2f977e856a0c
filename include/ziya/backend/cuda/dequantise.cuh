// SPDX-License-Identifier: Apache-2.0
// Kernels that put quantised blocks into panels and read them back.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "ziya/backend/cuda/dequantise.hpp"
#include "ziya/backend/cuda/device.cuh"
#include "ziya/backend/cuda/panel.cuh"
#include "ziya/backend/cuda/stored_blocks.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline constexpr int panel_threads = 256;

/// A warp per panel.
template <class Block>
ZIYA_KERNEL void make_panels(std::byte* to, const Block* from, std::int64_t rows,
                             std::int64_t columns, std::int64_t count) {
  using Form = Panel<Block>;
  const std::int64_t index = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (index >= count) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t panels = (columns + Form::columns - 1) / Form::columns;
  const std::int64_t row = index / panels * panel_rows + lane / 4;
  const std::int64_t first = index % panels * Form::blocks, row_blocks = columns / Form::elements;
  Form::store(to + index * Form::bytes, lane, [&](int r, int i) -> const Block* {
    if (row + 8 * r >= rows || first + i >= row_blocks) return nullptr;
    return from + (row + 8 * r) * row_blocks + first + i;
  });
}

/// In instructions of 16 bytes at most.
template <class T, int N>
__device__ inline void store_pack(T* to, const Pack<T, N>& pack) {
  constexpr int size = static_cast<int>(sizeof pack), step = size < 16 ? size : 16;
#pragma unroll
  for (int at = 0; at < size; at += step) {
    using Part = Pack<std::uint32_t, step / 4>;
    reinterpret_cast<Part*>(to)[at / step] = reinterpret_cast<const Part*>(&pack)[at / step];
  }
}

/// Adjacent panels that a warp asks for before it turns the first one into numbers.
template <class Block>
inline constexpr int read_together = Panel<Block>::super ? 2 : 4;

/// Rows of a weight in panels: all of them, or those that `ids` name. Grid: (bands or tokens, parts
/// of their panels).
template <class T, class Block>
ZIYA_KERNEL void read_panels(T* y, std::int64_t y_stride, bool aligned, const std::byte* from,
                             std::int64_t rows, std::int64_t columns, const std::int32_t* ids) {
  using Form = Panel<Block>;
  release_next();
  wait_for_previous();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const std::int64_t panels = (columns + Form::columns - 1) / Form::columns;
  const std::int64_t wanted = ids == nullptr ? -1 : ids[blockIdx.x];
  const std::int64_t band = wanted < 0 ? blockIdx.x : wanted / panel_rows;
  for (std::int64_t begin = (blockIdx.y * warps + warp) * read_together<Block>; begin < panels;
       begin += gridDim.y * warps * read_together<Block>) {
    Form forms[read_together<Block>];
#pragma unroll
    for (int i = 0; i < read_together<Block>; ++i) {
      const std::int64_t panel = min(begin + i, panels - 1);
      forms[i].load(from + (band * panels + panel) * Form::bytes, lane);
    }
#pragma unroll
    for (int i = 0; i < read_together<Block>; ++i) {
      if (begin + i >= panels) break;
      forms[i].open();
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const std::int64_t row = band * panel_rows + lane / 4 + 8 * r;
        if (row >= rows || (wanted >= 0 && row != wanted)) continue;
        T* to = y + (wanted < 0 ? row : std::int64_t{blockIdx.x}) * y_stride;
#pragma unroll
        for (int group = 0; group < Form::groups; ++group) {
          const std::int64_t column = (begin + i) * Form::columns + 32 * group;
          if (column >= columns) break;
          float values[8];
          forms[i].values(values, r, group);
          constexpr int run = Form::run;
#pragma unroll
          for (int e = 0; e < 8; e += run) {
            Pack<T, run> pack;
#pragma unroll
            for (int k = 0; k < run; ++k) pack.at[k] = narrow<T>(values[e + k]);
            T* at = to + column + Form::column(0, lane % 4, e);
            if (aligned) {
              store_pack(at, pack);
            } else {
              for (int k = 0; k < run; ++k) at[k] = pack.at[k];
            }
          }
        }
      }
    }
  }
}

/// The same of plain numbers, all rows.   @param scales of the rows, or null
template <class T, class W>
ZIYA_KERNEL void convert_rows(T* y, std::int64_t y_stride, const W* from, const float* scales,
                              std::int64_t columns) {
  release_next();
  wait_for_previous();
  const float scale = scales == nullptr ? 1 : scales[blockIdx.x];
  const W* row = from + blockIdx.x * columns;
  T* to = y + blockIdx.x * y_stride;
  for (std::int64_t j = threadIdx.x; j < columns; j += blockDim.x) {
    to[j] = narrow<T>(widen(row[j]) * scale);
  }
}

/// y = rows of quantised `w`, those that `ids` on the GPU names or all.
template <class T>
ZIYA_HIDDEN void read_quantised(Context<Cuda>& ctx, View<T, Cuda> y, const Weight<Cuda>& w,
                                const std::int32_t* ids) {
  with_panels(w.dtype, [&](auto block) {
    using Block = decltype(block);
    const dim3 grid(
        ids == nullptr ? blocks_for(w.rows, panel_rows) : static_cast<unsigned>(y.rows()),
        std::min(
            blocks_for(panels_in(w.dtype, w.columns), panel_threads / 32 * read_together<Block>),
            65535u));
    launch(ctx, "dequantise", read_panels<T, Block>, grid, dim3(panel_threads), 0, y.data(),
           y.row_stride(), whole_packs(y.data(), y.row_stride(), w.columns), w.data, w.rows,
           w.columns, ids);
  });
}

}  // namespace cuda
namespace backend {

template <class T>
void dequantise(Context<Cuda>& ctx, View<T, Cuda> y, const Weight<Cuda>& w) {
  if (is_quantised(w.dtype)) return cuda::read_quantised<T>(ctx, y, w, nullptr);
  const auto convert = [&](auto element) {
    using W = decltype(element);
    cuda::launch(ctx, "convert", cuda::convert_rows<T, W>, dim3(static_cast<unsigned>(w.rows)),
                 dim3(256), 0, y.data(), y.row_stride(), reinterpret_cast<const W*>(w.data),
                 w.row_scales, w.columns);
  };
  if (w.dtype == DType::f8_e4m3) return convert(cuda::Float8{});
  cuda::with_stored(w.dtype, convert);
}

template <class Device>
Weight<Device> quantised_on(const Weight<Cpu>& weight, Staging<Device>& staging) {
  static_assert(std::is_same_v<Device, Cuda>);
  const auto make = [](std::int64_t bytes) {
    return std::make_shared<Tensor<std::byte, Cuda>>(Shape{bytes});
  };
  auto memory = make(cuda::bytes_on_gpu(weight.dtype, weight.rows, weight.columns));
  std::byte* data = memory->data();
  const DType dtype = weight.dtype;
  const std::int64_t columns = weight.columns, row_bytes = weight.row_bytes();
  const auto order = [=](const std::byte* stored, std::size_t begin, std::size_t count,
                         cudaStream_t stream) {
    const auto rows = static_cast<std::int64_t>(count) / row_bytes;
    const auto first = static_cast<std::int64_t>(begin) / row_bytes;
    const std::int64_t panels =
        (rows + cuda::panel_rows - 1) / cuda::panel_rows * cuda::panels_in(dtype, columns);
    cuda::with_panels(dtype, [&](auto block) {
      using Block = decltype(block);
      cuda::make_panels<Block>
          <<<cuda::blocks_for(panels * 32, cuda::panel_threads), cuda::panel_threads, 0, stream>>>(
              data + cuda::bytes_on_gpu(dtype, first, columns),
              reinterpret_cast<const Block*>(stored), rows, columns, panels);
    });
    cuda::check(cudaGetLastError(), "panels");
  };
  if (weight.bytes() != 0) {
    staging.copy_in_order(weight.data, static_cast<std::size_t>(weight.bytes()),
                          static_cast<std::size_t>(cuda::panel_rows * row_bytes), order,
                          weight.owner);
  }
  return {weight.dtype, weight.rows, weight.columns, data, std::move(memory)};
}

}  // namespace backend
ZIYA_NAMESPACE_END
