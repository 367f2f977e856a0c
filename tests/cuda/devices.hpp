// SPDX-License-Identifier: Apache-2.0
// One test body for both devices and every type of activations.
#pragma once

#include <catch2/catch.hpp>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "ziya/backend/cpu/context.hpp"
#include "ziya/backend/cuda/context.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/model/weights_on.hpp"

namespace test {

using ziya::BFloat16;
using ziya::Context;
using ziya::Cpu;
using ziya::Cuda;
using ziya::DType;
using ziya::Half;
using ziya::Shape;
using ziya::Tensor;
using ziya::Weight;

/// Whether there is a GPU; says that the test is skipped where there is none. With
/// ZIYA_REQUIRE_GPU set, that is a failure.
inline bool gpu() {
  if (ziya::cuda::device_count() > 0) return true;
  if (std::getenv("ZIYA_REQUIRE_GPU") != nullptr) FAIL("there is no NVIDIA GPU");
  std::cout << "SKIPPED: there is no NVIDIA GPU\n";
  return false;
}

template <class T>
T from_float(float value) {
  if constexpr (std::is_same_v<T, Half>) {
    return ziya::to_half(value);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return ziya::to_bfloat16(value);
  } else {
    return value;
  }
}

template <class T>
constexpr double tolerance = std::is_same_v<T, float>  ? op_tolerance
                             : std::is_same_v<T, Half> ? half_tolerance
                                                       : bfloat16_tolerance;

/// `values` rounded to T on a device; `values` becomes what is there.
template <class T, class Device>
Tensor<T, Device> on(std::vector<float>& values, const Shape& shape) {
  Tensor<T> host(shape);
  for (std::size_t i = 0; i < values.size(); ++i) {
    host.data()[i] = from_float<T>(values[i]);
    values[i] = ziya::to_float(host.data()[i]);
  }
  return host.template to<Device>();
}

/// Memory in which every element that an op should write is wrong beforehand.
template <class T, class Device>
Tensor<T, Device> poisoned(const Shape& shape) {
  std::vector<float> values(static_cast<std::size_t>(shape.elements()), -77);
  return on<T, Device>(values, shape);
}

template <class T, class Device>
std::vector<float> values_of(const Tensor<T, Device>& tensor) {
  const Tensor<T> host = tensor.template to<Cpu>();
  std::vector<float> values;
  for (std::int64_t i = 0; i < host.elements(); ++i) {
    values.push_back(ziya::to_float(host.data()[i]));
  }
  return values;
}

/// body(ctx, T{}) on the CPU in 32 bits and on the GPU in every type.
template <class Body>
void on_both_devices(Body&& body) {
  if (!gpu()) return;
  {
    INFO("CPU, f32");
    Context<Cpu> ctx({.threads = 2});
    body(ctx, float{});
  }
  Context<Cuda> ctx;
  {
    INFO("GPU, f32");
    body(ctx, float{});
  }
  {
    INFO("GPU, f16");
    body(ctx, Half{});
  }
  INFO("GPU, bf16");
  body(ctx, BFloat16{});
}

template <class Device>
Device device_of(const Context<Device>&) {
  return {};
}

}  // namespace test
