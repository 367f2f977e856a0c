// SPDX-License-Identifier: Apache-2.0
// One test body for both devices and every type of activations.
#pragma once

#include <catch2/catch.hpp>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <type_traits>
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
/// The same of a model's logits.
template <class T>
constexpr double logit_tolerance = std::is_same_v<T, float>  ? model_tolerance
                                   : std::is_same_v<T, Half> ? half_model_tolerance
                                                             : bfloat16_model_tolerance;

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

/// Where a body runs, and the type of its activations: a test case each, so that those of the CPU
/// run where there is no GPU.
template <class D, class Activations>
struct Place {
  using Device = D;
  using T = Activations;
};
using OnCpu = Place<Cpu, float>;
using OnGpuF32 = Place<Cuda, float>;
using OnGpuF16 = Place<Cuda, Half>;
using OnGpuBf16 = Place<Cuda, BFloat16>;

#define ZIYA_TEST_ON_DEVICES(name, tags) \
  TEMPLATE_TEST_CASE(name, tags, OnCpu, OnGpuF32, OnGpuF16, OnGpuBf16)

/// body(ctx, T{}) there.   @param isa of the CPU; none: the machine's best
template <class At, class Body>
void on_device(Body&& body, std::optional<ziya::Isa> isa = {}) {
  if constexpr (std::is_same_v<typename At::Device, Cpu>) {
    Context<Cpu> ctx({.threads = 2, .isa = isa});
    body(ctx, typename At::T{});
  } else {
    if (!gpu()) return;
    Context<Cuda> ctx;
    body(ctx, typename At::T{});
  }
}

}  // namespace test
