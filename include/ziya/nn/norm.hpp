// SPDX-License-Identifier: Apache-2.0
// Root-mean-square normalisation with its weight.
#pragma once

#include <string>

#include "ziya/config.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/ops/rms_norm.hpp"

ZIYA_NAMESPACE_BEGIN
namespace nn {

/// y = x / rms(x) * weight; the weight is held in float whatever it was stored as (it is small).
template <class Device>
struct RmsNorm {
  Tensor<float, Device> weight;  ///< (hidden)
  float eps = 1e-6f;

  template <class T>
  void forward(Context<Device>& ctx, View<T, Device> y, In<T, Device> x) const {
    ops::rms_norm(ctx, y, x, weight.view(), eps);
  }
  template <class F>
  void visit(const std::string& name, F&& f) const {
    f(name + ".weight", Weight<Device>{DType::f32, 1, weight.elements(),
                                       reinterpret_cast<const std::byte*>(weight.data()), nullptr});
  }
};

}  // namespace nn
ZIYA_NAMESPACE_END
