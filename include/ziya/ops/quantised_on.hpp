// SPDX-License-Identifier: Apache-2.0
// Matrices copied to another device in the form in which its kernels read them.
#pragma once

#include <cstdint>

#include "ziya/backend/cuda/dequantise.hpp"
#include "ziya/backend/cuda/float8.hpp"
#include "ziya/backend/cuda/panels.hpp"
#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/staging.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

/// The same elements on `Device`.
/// @param w (rows, columns), of a quantised type
/// @throws ShapeError when blocks do not divide the rows; BackendError
template <class Device>
Weight<Device> quantised_on(const Weight<Cpu>& w, [[maybe_unused]] Staging<Device>& staging) {
  check_weight("quantised_on", w);
#if ZIYA_WITH_CUDA
  return backend::quantised_on<Device>(w, staging);
#else
  static_assert(sizeof(Device) == 0, "this program has no other device than the CPU");
#endif
}

#if ZIYA_WITH_CUDA
/// The same in f8_e4m3: each row times 448 over its largest |element|, rounded to nearest.
/// @param w (rows, columns), f32, f16 or bf16
/// @throws BackendError ZIYA-157 where the GPU has no such numbers; ArgumentError for another type
template <class Device>
Weight<Device> float8_on(const Weight<Cpu>& w, Staging<Device>& staging) {
  check_weight("float8_on", w);
  return backend::float8_on<Device>(w, staging);
}

/// Bytes of `w` there: quantised types are made up to whole panels.
inline std::int64_t bytes_on_gpu(const Weight<Cpu>& w) {
  return cuda::bytes_on_gpu(w.dtype, w.rows, w.columns);
}
#endif

}  // namespace ops
ZIYA_NAMESPACE_END
